"""A data set small enough to train on in a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

USERS, ITEMS, EVENTS = 24, 18, 8
GENRES = ("Comedy", "Drama", "Horror")


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users who walk through the catalogue in small steps, as two CSV files."""
    folder = tmp_path_factory.mktemp("data") / "tiny"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = ["user_id,item_id,timestamp"]
    for user in range(USERS):
        steps = rng.integers(1, 3, size=EVENTS).cumsum() + rng.integers(ITEMS)
        rows += [f"u{user},i{step % ITEMS},{time}" for time, step in enumerate(steps)]
    (folder / "interactions.csv").write_text("\n".join(rows) + "\n")
    items = [
        f"i{item},{GENRES[item % 3]} story {item % 5} ({1980 + item}),{GENRES[item % 3]}"
        for item in range(ITEMS)
    ]
    (folder / "items.csv").write_text("\n".join(["item_id,title,genres", *items]) + "\n")
    return folder


TINY_SETTINGS = (
    "model.feature_size=4",
    "warm_start.own_items=3",
    "model.max_length=5",
    "training.rounds=4",
    "training.sample_rate=0.5",
)
"""Assignments that make a run on `tiny_data` take a second."""
