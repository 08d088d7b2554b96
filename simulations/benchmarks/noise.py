"""Time cryptographic noise against torch's own generator, on one thread.

    python -m simulations.benchmarks.noise [--normals 1000000] [--repeats 21]

Prints milliseconds a million normals and the ratio to `torch.randn` (medians; taken in turn).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch

from shared.privacy.noise import SystemRandom, noised


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--normals", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=21)
    options = parser.parse_args()
    torch.set_num_threads(1)
    milliseconds = _measured(_variants(options.normals), options.repeats, options.normals)
    reference = milliseconds["torch.randn, float32"]
    for name, value in milliseconds.items():
        sys.stdout.write(f"{name:<28}{value:7.2f} ms a million{value / reference:7.2f}\n")


def _variants(count: int) -> dict[str, Callable[[], object]]:
    random, total = SystemRandom(), torch.randn(count)
    return {
        "torch.randn, float32": lambda: torch.randn(count),
        "torch.randn, float64": lambda: torch.randn(count, dtype=torch.float64),
        "SystemRandom.normal": lambda: random.normal((count,)),
        "sum + torch's noise": lambda: total + 3.0 * torch.randn(count),
        "noised(sum), SystemRandom": lambda: noised(total, 3.0, random),
    }


def _measured(
    variants: dict[str, Callable[[], object]], repeats: int, count: int
) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats + 1):
        for name, run in variants.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    warm = {name: times[1:] for name, times in seconds.items()}
    return {name: statistics.median(times) / count * 1e9 for name, times in warm.items()}


if __name__ == "__main__":
    main()
