"""Time a training step with and without `keep_freed_memory`, in two processes in turn.

    python -m simulations.benchmarks.memory [--items 3883] [--users 64] [--repeats 5]

Prints seconds a step with and without, and their ratio (medians; interleaved processes).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

import torch

from client.compute.memory import keep_freed_memory
from shared.models.attention import AttentionRecommender
from shared.models.attention_config import AttentionConfig
from shared.models.losses import loss_per_user, next_item_pairs


def main() -> None:
    """Measure; with --child, be the measured process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--items", type=int, default=3883)
    parser.add_argument("--users", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--child", choices=["kept", "returned"])
    options = parser.parse_args()
    if options.child:
        sys.stdout.write(f"{_step(options.child == 'kept', options.items, options.users)}\n")
        return
    seconds: dict[str, list[float]] = {"returned": [], "kept": []}
    for _ in range(options.repeats):
        for child, times in seconds.items():
            times.append(_child(child, options.items, options.users))
    returned, kept = (statistics.median(times) for times in seconds.values())
    sys.stdout.write(
        f"freed memory returned: {returned:.3f} s a step\n"
        f"freed memory kept:     {kept:.3f} s a step\n"
        f"ratio: {returned / kept:.2f}\n"
    )


def _child(kind: str, items: int, users: int) -> float:
    command = [sys.executable, "-m", __spec__.name, "--child", kind]
    command += ["--items", str(items), "--users", str(users)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _step(kept: bool, items: int, users: int, steps: int = 8) -> float:
    if kept:
        keep_freed_memory()
    torch.manual_seed(0)
    model = AttentionRecommender(AttentionConfig(items=items, layers=2)).train()
    inputs, targets = next_item_pairs(torch.randint(1, items + 1, (users, 51)))
    times = []
    for _ in range(steps):
        started = time.perf_counter()
        loss_per_user(model(inputs), targets).sum().backward()
        times.append(time.perf_counter() - started)
    return statistics.median(times[2:])


if __name__ == "__main__":
    main()
