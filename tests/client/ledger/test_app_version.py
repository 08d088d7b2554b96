from __future__ import annotations

from pathlib import Path

import pytest

import client.ledger.app_version
from client.ledger.app_version import app_fingerprint


def test_the_fingerprint_is_of_every_source_file_that_a_node_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("client/a.py", "shared/models/b.py", "server/c.py", "client/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1")
    monkeypatch.setattr(client.ledger.app_version, "__file__", str(tmp_path / "client/ledger/a.py"))
    now = app_fingerprint.__wrapped__
    before = now()
    assert len(before) == 64
    (tmp_path / "server/c.py").write_text("x = 2")
    (tmp_path / "client/notes.txt").write_text("x = 2")
    assert now() == before
    (tmp_path / "shared/models/b.py").write_text("x = 2")
    changed = now()
    assert changed != before
    (tmp_path / "shared/models/b.py").rename(tmp_path / "shared/models/d.py")
    assert now() not in (before, changed)


def test_the_fingerprint_is_that_of_this_checkout() -> None:
    assert app_fingerprint() == app_fingerprint.__wrapped__()
