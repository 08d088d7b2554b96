"""Entries of a ledger for tests, what they cost, and a way to edit the file."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from client.ledger.ledger import Entry, Ledger
from client.ledger.limits import Limits
from shared.privacy.accounting.accountant import epsilon
from shared.privacy.release import Release, ReleaseKind

DELTA = 1e-3
NOISE = 2.0

Reopen = Callable[[], Ledger]
"""Opens the ledger as another process would."""


def release(
    steps: int = 1, noise_multiplier: float = NOISE, kind: ReleaseKind = ReleaseKind.TRAIN
) -> Release:
    return Release(kind=kind, noise_multiplier=noise_multiplier, sample_rate=0.5, steps=steps)


def entry(number: int = 1, run: str = "r", request: str = "", **changes: Any) -> Entry:  # noqa: ANN401
    return Entry(run=run, round=number, release=release(**changes), request=request)


def body(value: float = 0.0) -> bytes:
    return save({"w": np.full((2, 3), value, np.float32), "b": np.zeros(4, np.float32)})


def charge(ledger: Ledger, what: Entry, max_epsilon: float = math.inf) -> None:
    ledger.charge(what, Limits(max_epsilon=max_epsilon, delta=DELTA))


def answered(ledger: Ledger, number: int, run: str = "r", value: float = 0.0) -> bytes:
    charge(ledger, entry(number, run))
    return ledger.keep_answer(entry(number, run), body(value))


def cost(steps: int) -> float:
    return epsilon([release(steps)], DELTA)


def altered(file: Path, *statements: str) -> None:
    """Edits the file as somebody would who takes the triggers out first."""
    with sqlite3.connect(file) as database:
        names = database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        for (name,) in names.fetchall():
            database.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            database.execute(statement)
    database.close()
