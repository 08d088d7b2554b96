"""What `sotto-node console` refuses before it listens, and what it prints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.client.serving.service.running import publish

if TYPE_CHECKING:
    from tests.conftest import Sites

    Command = Callable[..., int]


def test_where_it_may_not_listen_is_said(
    sites: Sites, tmp_path: Path, sotto_node: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    site = sites.make()
    for words, expected in (
        (["--address", "0.0.0.0:9473"], "beyond this machine: give --certificate and --key"),
        (["--address", "192.0.2.7:0"], "beyond this machine"),
        (["--address", "9473"], "give host:port"),
        (["--certificate", tmp_path / "crt"], "TLS needs both"),
        (["--certificate", tmp_path / "crt", "--key", tmp_path / "key"], "no pair"),
        ([tmp_path / "none"], "there is no such folder"),
        (["--before", tmp_path / "none"], "--before"),
    ):
        assert sotto_node("console", *words, "--site", site) == 2, words
        error = " ".join(capsys.readouterr().err.split())
        assert expected in error, (words, error)
        assert "Traceback" not in error


def test_it_prints_an_address_and_ends_when_told(sites: Sites, tmp_path: Path) -> None:
    """By a process of its own: the address holds the token, and nothing else opens the page."""
    publish(sites, tmp_path / "published")
    site = sites.make("alpha", {"serve.model": str(tmp_path / "published")})
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", "from client.cli import main; main()", "console"),
            *("--site", str(site), "--address", "127.0.0.1:0", "--json"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        address = json.loads(process.stdout.readline())["url"]
        origin = address.partition("/?")[0]
        with httpx.Client(trust_env=False, timeout=20) as client:
            assert client.get(f"{origin}/left").status_code == 401
            assert client.get(address).status_code == 200
            assert "No" in client.get(f"{origin}/left").text
            assert "alpha" in client.get(f"{origin}/").text
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    assert b"Traceback" not in error
    assert not list(site.glob("*.html"))
