"""An empty ledger, its files, and a way to open it again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from client.ledger.ledger import Ledger


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "site").mkdir()
    return tmp_path / "site" / "ledger.sqlite"


@pytest.fixture
def anchor(tmp_path: Path) -> Path:
    return tmp_path / "state" / "anchors" / "users.json"


@pytest.fixture
def ledger(file: Path, anchor: Path) -> Ledger:
    return Ledger.create(file, "users", anchor)


@pytest.fixture
def reopened(file: Path, anchor: Path) -> Callable[[], Ledger]:
    """The ledger as another process finds it."""
    return lambda: Ledger(file, "users", anchor)
