"""Flower's command line, as the coordinator calls it."""

from __future__ import annotations

import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest

from server.runs import flower
from server.runs.flower import Flower, flower_environment
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


def test_flower_on_loopback_is_reached_although_a_proxy_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "example.org")
    monkeypatch.delenv("no_proxy", raising=False)
    new = NewServer(address="localhost:3", administrators="127.0.0.1:1", superlink="127.0.0.1:2")
    environment = flower_environment(make_server(tmp_path / "coordinator", new))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, environment[name])
    for host in ("127.0.0.1", "localhost", "example.org"):
        assert urllib.request.proxy_bypass(host)
    assert not urllib.request.proxy_bypass("mlflow.example")


def test_a_coordinator_that_listens_is_not_said_to_be_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        new = NewServer(address="localhost:3", administrators=address, superlink="127.0.0.1:2")
        coordinator = Flower(make_server(tmp_path / "coordinator", new))
        failed = subprocess.CompletedProcess[str]([], 1, "", "Connection to the proxy failed")
        monkeypatch.setattr(coordinator, "_call", lambda *_: failed)
        with pytest.raises(ServerError, match="Flower declined `supernode list`: Connection to"):
            coordinator.nodes()


def test_a_key_that_flower_has_registered_before_is_an_error_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = NewServer(address="localhost:3", administrators="127.0.0.1:1", superlink="127.0.0.1:2")
    coordinator = Flower(make_server(tmp_path / "coordinator", new))
    failed = subprocess.CompletedProcess[str]([], 1, "", "Public key already in use.")
    monkeypatch.setattr(coordinator, "_call", lambda *_: failed)
    with pytest.raises(ServerError, match=r"registers no key twice\. The partner makes a new one"):
        coordinator.register(tmp_path / "key.pub", "alpha")
