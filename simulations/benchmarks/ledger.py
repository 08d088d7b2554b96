"""Time a long ledger: durable charges, ε, start-up and verification.

    python -m simulations.benchmarks.ledger [--entries 100000] [--folder PATH] [--json]

Fills a ledger with that many entries (half charges, half answers, one form), opens it anew, and
charges and answers further rounds of it. Medians; every charge and answer is on disk, with its
anchor, when it is counted. Choose a folder on the disk that matters: fsync decides.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from client.ledger.anchor import Anchor
from client.ledger.balance import Balance, EntryType
from client.ledger.ledger import Entry, Ledger
from client.ledger.limits import Limits
from client.ledger.outbox import Outbox, summarise
from client.ledger.store import append_entry, entry_text, open_database
from shared.privacy.release import Release, ReleaseKind

DELTA = 1e-5
FORM = Release(kind=ReleaseKind.TRAIN, noise_multiplier=4.0, sample_rate=0.01, steps=1)
BODY = save({"w": np.ones((1000, 64), np.float32)})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--charges", type=int, default=50)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        figures = measure(Path(folder), options.entries, options.charges)
    if options.json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    for name, value in figures.items():
        sys.stdout.write(f"{name:36}{value:12.4g}\n")


def measure(folder: Path, entries: int, charges: int) -> dict[str, float]:
    """Return the seconds of each operation on a ledger of that length."""
    place = folder / "ledger.sqlite", "users", folder / "anchor.json"
    filled(Ledger.create(*place), entries)
    start = seconds(lambda: Ledger(*place))
    ledger = Ledger(*place)
    figures = {
        "entries": float(entries),
        "fsync_median_seconds": statistics.median(
            seconds(lambda: _sync(folder)) for _ in range(50)
        ),
        "megabytes": place[0].stat().st_size / 1e6,
        "start_up_seconds": start,
        "verify_seconds": seconds(ledger.verify),
        "epsilon_after_first_seconds": seconds(lambda: ledger.epsilon_after(FORM, DELTA)),
        "epsilon_after_again_seconds": seconds(lambda: ledger.epsilon_after(FORM, DELTA)),
    }
    paid, kept = [], []
    for number in range(entries + 1, entries + 1 + charges):
        entry = Entry(run="r", round=number, release=FORM)
        paid.append(seconds(partial(ledger.charge, entry, Limits(max_epsilon=1e6, delta=DELTA))))
        kept.append(seconds(partial(ledger.keep_answer, entry, BODY)))
    return figures | {
        "charge_median_seconds": statistics.median(paid),
        "charge_largest_seconds": max(paid),
        "answer_median_seconds": statistics.median(kept),
    }


def filled(ledger: Ledger, entries: int) -> None:
    """Append rounds in one transaction, since only the length matters here."""
    balance = Balance()
    with open_database(ledger.path) as database:
        for row in database.execute("SELECT seq, body, hash FROM entries").fetchall():
            balance.apply(*row)
        database.execute("BEGIN IMMEDIATE")
        for number in range(1, entries // 2 + 1):
            entry = Entry(run="r", round=number, release=FORM, request="0" * 64)
            append_entry(database, balance, entry_text(EntryType.CHARGE, entry.fields))
            about = {"run": "r", "kind": "train", "round": number} | summarise(BODY)
            append_entry(database, balance, entry_text(EntryType.ANSWER, about))
        Outbox(database).put(balance.entries, BODY)
        database.execute("COMMIT")
    Anchor.of(balance).save(ledger.anchor)


def _sync(folder: Path) -> None:
    """Write and sync one page, to measure the disk."""
    with (folder / "page").open("wb") as file:
        file.write(bytes(4096))
        file.flush()
        os.fsync(file.fileno())


def seconds(work: Callable[[], object]) -> float:
    """Return the seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
