"""How many users a second the statistics of a warm start take in, on one thread.

    python -m simulations.benchmarks.statistics [--users 20000] [--events 10] [--items 17000]
        [--features 256] [--own 200] [--before FOLDER]

Users choose items by a power law; descriptors are dense features of falling size and a direction of
their own for the first items. Seconds are the process's own (CPU time), the best of three. FOLDER
is a checkout of another version, which takes turns with this one. The last line is what this
machine's float64 matrix product does: a sum over users as one product of their states and targets
takes 2 (T - 1) F² operations a user.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

__all__ = ["measure"]

REPEATS = 3


def measure(users: int, events: int, items: int, features: int, own: int) -> dict[str, float]:
    """Return users a second by statistic."""
    from shared.data.histories import Histories  # noqa: PLC0415 of the version that is measured
    from shared.models.moments import moment_sum, popularity_sum  # noqa: PLC0415

    random = np.random.default_rng(0)
    sizes = np.geomspace(2, 0.05, features)
    table = np.concatenate(
        [random.standard_normal((items, features)) * sizes, np.eye(items, own)], axis=1
    ).astype(np.float32)
    chosen = (random.pareto(1.0, users * events) * items / 50).astype(np.int64) % items + 1
    histories = Histories.from_lists(chosen.reshape(users, events).tolist())
    few = histories.select(np.arange(min(100, users)))
    actions: dict[str, Callable[[Histories], object]] = {
        "popularity": lambda given: popularity_sum(given, items, 0.5),
        "moment": lambda given: moment_sum(given, table, 0.75),
    }
    rates = {}
    for name, action in actions.items():
        action(few)  # what is done once
        seconds = []
        for _ in range(REPEATS):
            started = time.process_time()
            action(histories)
            seconds.append(time.process_time() - started)
        rates[name] = users / min(seconds)
    return rates


def product_rate(rows: int = 4096, columns: int = 456) -> float:
    """Return the operations a second of a float64 matrix product."""
    left = np.random.default_rng(0).standard_normal((rows, columns))
    seconds = []
    for _ in range(REPEATS + 1):
        started = time.process_time()
        _ = left.T @ left[::-1]
        seconds.append(time.process_time() - started)
    return 2.0 * rows * columns**2 / min(seconds)


def main() -> None:
    """Measure this version and another one in processes that take turns, or be one of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for name, value in {
        "users": 20_000,
        "events": 10,
        "items": 17_000,
        "features": 256,
        "own": 200,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = [options.users, options.events, options.items, options.features, options.own]
    if options.child:
        sys.stdout.write(json.dumps(measure(*sizes)) + "\n")
        return
    folders = {"now": Path(__file__).parents[2]}
    if options.before:
        folders["before"] = options.before.resolve()
    for version, folder in folders.items():
        done = subprocess.run(
            [sys.executable, "-W", "ignore", __file__, *sys.argv[1:], "--child"],
            capture_output=True,
            text=True,
            check=True,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        )
        for name, rate in json.loads(done.stdout).items():
            sys.stdout.write(f"{name}: {rate:,.0f} users a second {version}\n")
    sys.stdout.write(f"matrix product: {product_rate() / 1e9:.1f} billion operations a second\n")


if __name__ == "__main__":
    main()
