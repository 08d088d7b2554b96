"""Time the process of a request, with the fork server's libraries loaded and without.

    python -m simulations.benchmarks.executor [--repeats 5]

Each process loads the node's app, as `client.node.worker` does before it answers. Prints the
seconds until it has, with and without the libraries in the fork server, and their ratio (medians).
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import subprocess
import sys
import time

_PRELOADED = ["client.app", "client.node.worker"]


def main() -> None:
    """Measure; with --child, be the measured process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--child", choices=["cold", "warm"])
    options = parser.parse_args()
    if options.child:
        sys.stdout.write(f"{_seconds(_PRELOADED if options.child == 'warm' else [])}\n")
        return
    seconds: dict[str, list[float]] = {"cold": [], "warm": []}
    for _ in range(options.repeats):
        for child, times in seconds.items():
            command = [sys.executable, "-m", __spec__.name, "--child", child]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            times.append(float(done.stdout))
    cold, warm = (statistics.median(times) for times in seconds.values())
    sys.stdout.write(
        f"libraries loaded by each request: {cold:.2f} s\n"
        f"libraries in the fork server:     {warm:.2f} s\n"
        f"ratio: {cold / warm:.0f}\n"
    )


def _seconds(preloaded: list[str]) -> float:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(preloaded)
    first = context.Process(target=_nothing)  # until the fork server is there
    first.start()
    first.join()
    began = time.perf_counter()
    process = context.Process(target=_load)
    process.start()
    process.join()
    return time.perf_counter() - began


def _nothing() -> None:
    """Do nothing."""


def _load() -> None:
    """Import the app again, as from a bundle."""
    import client.node.worker  # noqa: PLC0415 what a request's process starts with

    for name in [name for name in sys.modules if name.partition(".")[0] in ("client", "shared")]:
        del sys.modules[name]
    import client.app  # noqa: F401, PLC0415


if __name__ == "__main__":
    main()
