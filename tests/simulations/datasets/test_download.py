"""Downloads are verified, unpacked completely or not at all, and explained where they fail."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import MappingProxyType

import pytest

from shared.errors import FetchError
from simulations.datasets import download
from simulations.datasets.download import SOURCES, fetch
from simulations.datasets.load import load
from tests.simulations.datasets.test_load import MOVIES_DAT, RATINGS_DAT, histories


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, Path]]:
    """A web server on this machine: its address and its folder."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    served = tmp_path_factory.mktemp("served")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served))) as web:
        thread = Thread(target=web.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{web.server_address[1]}", served
        web.shutdown()
        thread.join()


def archive(**extra: str) -> bytes:
    content = {"movies.dat": MOVIES_DAT, "ratings.dat": RATINGS_DAT, "README": ""}
    content["users.dat"] = "7::F::1::3::04711\n"
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as file:
        for name, text in content.items():
            file.writestr(f"ml-1m/{name}", text.encode("latin-1"))
        for name, text in extra.items():
            file.writestr(name, text)
    return package.getvalue()


def publish(
    server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, content: bytes, digest: str = ""
) -> None:
    address, served = server
    (served / "tiny.zip").write_bytes(content)
    digest = digest or hashlib.md5(content).hexdigest()
    source = replace(SOURCES["ml-1m"], url=f"{address}/tiny.zip", digest=digest)
    monkeypatch.setattr(download, "SOURCES", MappingProxyType({"ml-1m": source}))


def test_the_published_checksum_is_on_record() -> None:
    source = SOURCES["ml-1m"]
    assert (source.algorithm, source.digest) == ("md5", "c4d9eecfca2ab87c1945afe126590906")
    assert source.url == "https://files.grouplens.org/datasets/movielens/ml-1m.zip"


def test_fetch_downloads_verifies_and_unpacks(
    server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    content = archive(**{"../evil": "x", "ml-1m/../../evil": "x", "/evil": "x", "other": "x"})
    publish(server, monkeypatch, content)
    seen: list[tuple[int, int | None]] = []
    made = fetch("ml-1m", tmp_path / "new", progress=lambda *step: seen.append(step))
    assert made == tmp_path / "new" / "ml-1m"
    assert seen[-1] == (len(content), len(content))
    files = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    expected = ["README", "movies.dat", "ratings.dat", "users.dat"]
    assert files == [f"new/ml-1m/{name}" for name in expected]
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["ml-1m"]
    assert histories(load(made)) == {"7": [2, 1]}


def test_fetch_from_a_mirror_with_another_checksum(
    server: tuple[str, Path], tmp_path: Path
) -> None:
    address, served = server
    (served / "mirror.zip").write_bytes(archive())
    url, sha256 = f"{address}/mirror.zip", hashlib.sha256(archive()).hexdigest()
    with pytest.raises(FetchError, match="md5"):
        fetch("ml-1m", tmp_path, url=url)
    assert fetch("ml-1m", tmp_path, url=url, sha256=sha256.upper()).is_dir()


@pytest.mark.parametrize(
    ("content", "digest", "problem"),
    [
        (archive(), "0" * 32, f"not {'0' * 32}"),
        (archive()[:-30], "", "damaged"),
        (b"no zip", "", "damaged"),
        (archive().replace(b"users.dat", b"_sers.dat"), "", "lacks a file.*users"),
    ],
)
def test_what_is_not_the_archive_leaves_nothing_behind(
    server: tuple[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    content: bytes,
    digest: str,
    problem: str,
) -> None:
    publish(server, monkeypatch, content, digest)
    with pytest.raises(FetchError, match=problem):
        fetch("ml-1m", tmp_path)
    assert not list(tmp_path.iterdir())


def test_fetch_never_replaces_a_folder(tmp_path: Path) -> None:
    (tmp_path / "ml-1m").mkdir()
    with pytest.raises(FetchError, match="already there"):
        fetch("ml-1m", tmp_path)


def test_fetch_without_a_network(server: tuple[str, Path], tmp_path: Path) -> None:
    address, _ = server
    with pytest.raises(FetchError, match=r"404.*give a mirror"):
        fetch("ml-1m", tmp_path, url=f"{address}/none.zip")
    with pytest.raises(FetchError, match="could not be downloaded"):
        fetch("ml-1m", tmp_path, url="http://127.0.0.1:9/ml-1m.zip")
    assert not list(tmp_path.iterdir())


def test_fetch_refuses_other_names_addresses_and_folders(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"'ml-2m'\. Known are: ml-1m"):
        fetch("ml-2m", tmp_path)
    with pytest.raises(FetchError, match="not a web address"):
        fetch("ml-1m", tmp_path, url=Path(__file__).as_uri())
    (tmp_path / "file").touch()
    with pytest.raises(FetchError, match="could not be written"):
        fetch("ml-1m", tmp_path / "file", url="http://127.0.0.1:9/")
