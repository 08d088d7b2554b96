"""Flower's command line, as the coordinator calls it."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.runs import flower
from server.runs.flower import Flower
from server.service.setup import NewServer, make_server
from shared.errors import ServerError


def test_a_clone_in_the_current_folder_is_not_taken_for_an_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flower reads an argument that names a folder with a pyproject.toml as an app."""
    new = NewServer(address="localhost:3", administrators="127.0.0.1:1", superlink="127.0.0.1:2")
    settings = make_server(tmp_path / "coordinator", new)
    clone = tmp_path / flower._CONNECTION
    clone.mkdir()
    (clone / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    answer = Flower(settings)._call("supernode", "list", flower._CONNECTION, "--format", "json")
    assert "legacy" not in answer.stdout + answer.stderr
    with pytest.raises(ServerError, match=r"no coordinator answers at 127\.0\.0\.1:1"):
        Flower(settings).nodes()
