"""A data set on which an audit takes seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

USERS, ITEMS, EVENTS = 120, 150, 8
GENRES = ("Comedy", "Drama", "Horror", "Western", "Musical")


@pytest.fixture(scope="session")
def walkers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users who walk through the catalogue in small steps, as two CSV files."""
    folder = tmp_path_factory.mktemp("audit") / "walkers"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = ["user_id,item_id,timestamp"]
    for user in range(USERS):
        steps = rng.integers(1, 4, size=EVENTS).cumsum() + rng.integers(ITEMS)
        rows += [f"u{user},i{step % ITEMS},{time}" for time, step in enumerate(steps)]
    (folder / "interactions.csv").write_text("\n".join(rows) + "\n")
    words = rng.permutation([f"word{number}" for number in range(60)])
    items = [
        f"i{item},{words[item % 60]} {words[(7 * item) % 60]} {words[(11 * item) % 60]},"
        f"{GENRES[item % 5]}"
        for item in range(ITEMS)
    ]
    (folder / "items.csv").write_text("\n".join(["item_id,title,genres", *items]) + "\n")
    return folder


def quick_settings(data: Path) -> list[str]:
    """Settings of a run on it at ε = 4: statistics alone."""
    return [
        f'lab.data="{data}"',
        "lab.organisations=3",
        "lab.alone=false",
        "privacy.epsilon=4",
        "privacy.delta=1e-5",
        "model.feature_size=24",
        "model.max_length=10",
        "warm_start.own_items=10",
        "training.rounds=0",
    ]


@pytest.fixture
def quick(walkers: Path) -> list[str]:
    """The same, as a fixture."""
    return quick_settings(walkers)
