"""How long a simulation takes to measure its models, and how much memory.

    python -m simulations.benchmarks.measuring [--users 50000] [--items 17000] [--events 9]
        [--organisations 8] [--before FOLDER] [--json] [SETTING=VALUE ...]

Makes interactions: items by a power law, every second one near the user's last one, and histories
of geometric length. Runs `sotto-lab simulate` on them in a process of its own, on one thread.
FOLDER is a checkout of another version, which then measures the same data. Figures that differ
are listed. Memory is the process's peak.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["write_data"]


def write_data(folder: Path, users: int, items: int, events: int) -> None:
    """Write a data folder of random interactions."""
    random = np.random.default_rng(0)
    lengths = 3 + random.geometric(1 / max(1, events - 3), users) - 1
    user = np.repeat(np.arange(users), lengths)
    item = (random.pareto(0.9, len(user)) * items / 200).astype(np.int64) % items
    near = random.random(len(user)) < 0.5
    near[np.concatenate([[0], np.cumsum(lengths)[:-1]])] = False
    for place in np.flatnonzero(near):
        item[place] = (item[place - 1] * 31 + random.integers(1, 20)) % items
    folder.mkdir(parents=True)
    columns = {"user_id": user, "item_id": item, "timestamp": 1_600_000_000 + np.arange(len(user))}
    pq.write_table(pa.table(columns), folder / "interactions.parquet")
    titles = [f"kind{number % 97} maker{number % 501} thing{number}" for number in range(items)]
    pq.write_table(
        pa.table({"item_id": np.arange(items), "title": titles}), folder / "items.parquet"
    )


def main() -> None:
    """Make the data, and measure it with one or two versions."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    sizes = {"users": 50_000, "items": 17_000, "events": 9, "organisations": 8}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("settings", nargs="*")
    options = parser.parse_args()
    folders = {"now": Path(__file__).parents[2]}
    if options.before:
        folders["before"] = options.before.resolve()
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary) / "data"
        write_data(data, options.users, options.items, options.events)
        results = {}
        for version, folder in folders.items():
            out = Path(temporary) / version
            results[version] = _simulate(folder, data, out, options.organisations, options.settings)
            _print(version, results[version], as_json=options.json)
    if len(results) > 1:
        _compare(results["now"], results["before"])


def _simulate(
    folder: Path, data: Path, out: Path, organisations: int, settings: list[str]
) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-m", "simulations", "simulate", "--json"]
    command += ["--data", str(data), "--out", str(out), "--organisations", str(organisations)]
    command += ["--epsilon", "8", "--delta", "1e-6"]
    command += [f"--set={setting}" for setting in settings]
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=folder,
        env=os.environ | threads | {"PYTHONPATH": str(folder)},
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _print(version: str, result: dict[str, Any], *, as_json: bool) -> None:
    cost = result["cost"]
    if as_json:
        sys.stdout.write(json.dumps({"version": version, **cost}) + "\n")
        return
    seconds = cost["seconds"]
    sys.stdout.write(
        f"{version}: {seconds['evaluate']:.0f} s to measure {len(result['evaluation']['models'])} "
        f"models, {seconds['total']:.0f} s in total; {cost['peak_rss_bytes'] / 1e9:.2f} GB\n"
    )
    sys.stdout.flush()


def _compare(now: dict[str, Any], before: dict[str, Any]) -> None:
    models = {
        name: result["evaluation"]["models"] for name, result in (("now", now), ("b", before))
    }
    both = [name for name in models["now"] if name in models["b"]]
    for name in both:
        if models["now"][name] != models["b"][name]:
            sys.stdout.write(f"{name} differs: {models['now'][name]}, {models['b'][name]}\n")
    sys.stdout.write(f"{len(both)} models were compared\n")


if __name__ == "__main__":
    main()
