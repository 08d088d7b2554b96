"""`sotto-node recommend --users all` for a million users, killed half-way and started again.

    python -m simulations.benchmarks.batch [--users 1000000] [--items 500] [--events 5] [--k 10]
        [--kills 1] [--json]

Makes random interactions and a model of random weights with one attention layer. The command runs
in a process of its own, on one thread; it is killed (SIGKILL) when as many blocks are finished as a
random number says, and typed again. Then the file is read: every user once, as many items each,
none of them seen, and not one block computed twice. Memory is the peak resident set of each
process, PyTorch's code included.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from shared.config import ModelConfig
from shared.data.catalogue import Catalogue
from shared.models.attention import build

__all__ = ["main", "measure"]

_WIDTH, _LENGTH, _SEED, _BLOCK = 32, 50, 7, 8192
_COMMAND = (sys.executable, "-c", "from client.cli import main; main()")


def write_data(folder: Path, users: int, items: int, events: int) -> None:
    """Write a published folder, and interactions in random order of users."""
    draw = torch.Generator().manual_seed(_SEED)
    names = tuple(f"i{number}" for number in range(items))
    blank: tuple[tuple[str, ...], ...] = ((),) * items
    features = torch.randn(items, _WIDTH, generator=draw)
    catalogue = Catalogue(names, names, blank, (None,) * items, features)
    recommender = build(ModelConfig(feature_size=_WIDTH, max_length=_LENGTH), catalogue)
    with torch.no_grad():
        recommender.feature_out.weight.normal_(std=0.1, generator=draw)
    recommender.save_pretrained(folder / "published" / "model")
    catalogue.save(folder / "published" / "catalogue")
    random = np.random.default_rng(_SEED)
    ids = pa.array(names)
    with pq.ParquetWriter(folder / "events.parquet", _SCHEMA) as writer:
        for round_number in range(events):  # each user once, so that all have as many
            user = random.permutation(users)
            columns = {
                "user_id": user,
                "item_id": ids.take(pa.array(random.integers(0, items, users))),
                "timestamp": np.full(users, 1_600_000_000 + round_number),
            }
            writer.write_table(pa.table(columns, schema=_SCHEMA))


_SCHEMA = pa.schema([("user_id", pa.int64()), ("item_id", pa.string()), ("timestamp", pa.int64())])


def run(folder: Path, k: int, stop_after: int | None) -> dict[str, Any]:
    """Run the command, or kill it once so many blocks are there; return what it took."""
    out = folder / "lists.parquet"
    words = ["recommend", "--model", folder / "published", "--users", "all", "--k", k, "--json"]
    words += ["--data", folder / "events.parquet", "--out", out]
    begin = time.monotonic()
    process = subprocess.Popen(
        [*_COMMAND, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, _peak(process.pid))
        if stop_after is not None and _blocks(out) >= stop_after:
            process.send_signal(signal.SIGKILL)
            process.wait()
        time.sleep(0.1)
    assert process.stdout is not None
    printed = process.stdout.read()
    killed = process.returncode == -signal.SIGKILL
    assert killed if stop_after is not None else process.returncode == 0, printed
    return {
        "killed": killed,
        "seconds": round(time.monotonic() - begin, 1),
        "peak_mb": peak // 1024,
        "blocks": None if not killed else _blocks(out),
        "stray": printed.partition("{")[0],
        "summary": None if killed else json.loads(printed[printed.index("{") :]),
    }


def _blocks(out: Path) -> int:
    """Return how many finished blocks there are."""
    return len(list(out.with_name(f"{out.name}.parts").glob(f"*{out.suffix}")))


def _peak(pid: int) -> int:
    """Return the peak resident set of a process in KiB; 0 where it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    return max((int(line.split()[1]) for line in text.splitlines() if "VmHWM" in line), default=0)


def check(folder: Path, users: int, k: int) -> None:
    """Check the file: each user once, k different items each, none of the history.

    Raises:
        AssertionError: it is not so.
    """
    listed = pq.read_table(folder / "lists.parquet", columns=["user", "rank", "item"])
    user = listed["user"].cast(pa.int64()).to_numpy()
    number = {name: place for place, name in enumerate(listed["item"].unique().to_pylist())}
    assert len(user) == users * k, "there are other rows"
    assert np.array_equal(np.bincount(user, minlength=users), np.full(users, k))
    assert (listed["rank"].to_numpy().reshape(users, k) == np.arange(1, k + 1)).all()
    given = pq.read_table(folder / "events.parquet", columns=["user_id", "item_id"])
    for name in given["item_id"].unique().to_pylist():
        number.setdefault(name, len(number))

    def pairs(who: np.ndarray, items: pa.ChunkedArray) -> np.ndarray:
        encoded = items.combine_chunks().dictionary_encode()
        places = np.array([number[name] for name in encoded.dictionary.to_pylist()])
        keys: np.ndarray = who * len(number) + places[encoded.indices.to_numpy()]
        return keys

    shown = pairs(user, listed["item"])
    assert len(np.unique(shown)) == len(shown), "an item is in a list twice"
    seen = pairs(given["user_id"].to_numpy(), given["item_id"])
    assert not np.isin(shown, seen).any(), "an item of the history was recommended"


def measure(users: int, items: int, events: int, k: int, kills: int) -> dict[str, Any]:
    """Return what each run of the command took, and check what it wrote."""
    random = np.random.default_rng(_SEED)
    blocks = -(-users // _BLOCK)
    stops = np.sort(random.integers(blocks // 4, max(blocks // 4 + 1, 3 * blocks // 4), kills))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_data(folder, users, items, events)
        load = os.getloadavg()[0]
        runs = [run(folder, k, int(stop)) for stop in stops]
        runs.append(run(folder, k, None))
        check(folder, users, k)
        done = runs[-1]["summary"]
        assert done["users"] == users
        assert not kills or done["resumed"] >= runs[-2]["blocks"] * _BLOCK - _BLOCK
        megabytes = (folder / "lists.parquet").stat().st_size // 2**20
        return {"load": load, "runs": runs, "file_mb": megabytes, "rows": users * k}


def main() -> None:
    """Measure, and print a line a run, or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--events", type=int, default=5)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--kills", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    result = measure(given.users, given.items, given.events, given.k, given.kills)
    if given.json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    for one in result["runs"]:
        end = f"killed after {one['blocks']} blocks" if one["killed"] else str(one["summary"])
        sys.stdout.write(f"{one['seconds']:.0f} s, {one['peak_mb']:,} MB at the peak: {end}\n")
    sys.stdout.write(
        f"{result['rows']:,} rows, {result['file_mb']} MB, load {result['load']:.1f}\n"
    )


if __name__ == "__main__":
    main()
