"""The partner's command, and servers that a test starts itself: PostgreSQL and an S3 store."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyarrow import fs

from client.cli import main
from simulations.datasets.temporary_postgresql import Server, binaries, temporary_server
from tests.client.partner import Partner

CANARY = "c4nary/p@ss:w%rd"


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """A server whose password is the canary."""
    if binaries() is None:
        pytest.skip("PostgreSQL is not installed")
    with temporary_server(CANARY) as server:
        yield server


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """An object store with an empty bucket called `bucket`."""
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 it takes a second to import

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    store(endpoint).create_dir("bucket")
    yield endpoint
    server.stop()


def store(endpoint: str) -> fs.S3FileSystem:
    """Access to the store, to put objects there."""
    return fs.S3FileSystem(
        access_key="key",
        secret_key="secret",
        endpoint_override=endpoint.removeprefix("http://"),
        scheme="http",
        allow_bucket_creation=True,
    )


@pytest.fixture(scope="session")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A credentials file for each kind of source that asks for one."""
    folder = tmp_path_factory.mktemp("secrets")
    login = f'user = "sotto"\npassword = "{CANARY}"\n'
    keys = f'access_key_id = "key"\nsecret_access_key = "{CANARY}"\n'
    return {"postgresql": private(folder / "db", login), "s3": private(folder / "s3", keys)}


def private(path: Path, text: str) -> str:
    """A file that nobody else can read."""
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return str(path)


@pytest.fixture
def sotto_node(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Types a command; gives its exit code."""

    def typed(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["sotto-node", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        return int(left.value.code or 0)

    return typed


@pytest.fixture
def partner(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    sotto_node: Callable[..., int],
) -> Partner:
    """A partner with data, before its site is set up."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("SOTTO_SITE", raising=False)
    # Other tests run nodes meanwhile, which take the ports that a new site is given.
    monkeypatch.setattr("client.site.setup.find_free_port", lambda first: first)
    made = Partner(tmp_path, monkeypatch, capsys, sotto_node)
    made.prepare()
    return made
