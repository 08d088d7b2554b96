"""Bundles are read with suspicion: each row of the table in `client.bundle.fab`, and every byte."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import client.bundle.fab
from client.bundle.fab import Bundle
from shared.errors import BundleError
from tests.client.bundles import APP, PROJECT, bundle, listing, zipped

WHOLE = bundle()


def archive(
    name: str, content: bytes = b"x", mode: int = 0o100600, *, twice: bool = False
) -> bytes:
    """The small app with one more entry, listed as it is."""
    out = io.BytesIO(WHOLE)
    with zipfile.ZipFile(out, "a") as opened:
        files = {path: opened.read(path) for path in opened.namelist() if path[0] != "."}
    del opened
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as opened:
        for path, text in files.items():
            opened.writestr(path, text)
        for _ in range(1 + twice):
            info = zipfile.ZipInfo("placeholder")
            info.filename = name
            info.external_attr = mode << 16
            opened.writestr(info, content)
        opened.writestr(".info/CONTENT", listing(files | {name: content}))
    return out.getvalue()


def test_a_whole_bundle_is_read() -> None:
    found = Bundle.parse(WHOLE)
    assert found.fingerprint == hashlib.sha256(WHOLE).hexdigest()
    assert (found.app, found.version, found.clientapp) == ("sotto/sotto", "0.1.0", "client.app:app")
    assert found.files == {path: text.encode() for path, text in APP.items()}
    assert found.folder == f"sotto.sotto.0.1.0.{found.fingerprint[:8]}"
    assert found.packages == {"client"}


def test_the_listing_is_what_sha256sum_says() -> None:
    listed = {path: (size, digest) for path, size, digest in Bundle.parse(WHOLE).listing()}
    text = APP["client/app.py"].encode()
    assert listed["client/app.py"] == (len(text), hashlib.sha256(text).hexdigest())


NAMES = {
    "above": "../evil.py",
    "above, within": "client/../../evil.py",
    "absolute": "/etc/evil.py",
    "drive": "c:evil.py",
    "backslash": "client\\..\\evil.py",
    "empty part": "client//evil.py",
    "here": "./evil.py",
    "hidden": ".bashrc.py",
    "hidden below": "client/.evil.py",
    "control": "client/\x1b[2Jevil.py",
    "not ASCII": "client/\u202eyp.live",
    "dash": "client/-rf.py",
    "folder": "client/sub/",
    "nothing below": "client/ .py",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_name_that_would_be_written_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(BundleError, match=r"refused: .* is no name of a file in an app"):
        Bundle.parse(archive(name))


@pytest.mark.parametrize(
    "name",
    ["client/x.so", "client/x.pyc", "x.pth", "run.sh", "Makefile", "client/LICENSE", "a.exe"],
)
def test_a_file_of_a_foreign_kind_is_refused(name: str) -> None:
    with pytest.raises(BundleError, match="is not of a kind that belongs into an app"):
        Bundle.parse(archive(name))


def test_files_of_an_apps_kinds_are_accepted() -> None:
    more = {"README.md": "", "LICENSE": "", "client/a.yaml": "", "client/b.json": "", "c.toml": ""}
    assert set(more) < set(Bundle.parse(bundle(more)).files)


@pytest.mark.parametrize("kind", [0o120000, 0o040000, 0o010000, 0o060000])
def test_an_entry_that_is_no_plain_file_is_refused(kind: int) -> None:
    with pytest.raises(BundleError, match="is no plain file"):
        Bundle.parse(archive("client/link.py", b"/etc/passwd", kind | 0o777))


def test_an_encrypted_entry_is_refused() -> None:
    odd = bytearray(WHOLE)
    for mark, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        odd[odd.find(mark) + offset] |= 1
    with pytest.raises(BundleError, match="is encrypted"):
        Bundle.parse(bytes(odd))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_files_with_one_name_are_refused() -> None:
    for odd in (archive("client/x.py", twice=True), archive("client/APP.py")):
        with pytest.raises(BundleError, match="two files called"):
            Bundle.parse(odd)


def test_a_bundle_over_the_limits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BundleError, match=r"more than 10,485,760 bytes"):
        Bundle.parse(bundle({"big.json": os.urandom(client.bundle.fab.LARGEST)}))
    with pytest.raises(BundleError, match=r"more than 2,000 files"):
        Bundle.parse(bundle({f"f{number}.py": "" for number in range(2000)}))
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("zeros.json", bytes(60 * 1024 * 1024))
    assert len(bomb.getvalue()) < client.bundle.fab.LARGEST
    with pytest.raises(BundleError, match=r"52,428,800 bytes when unpacked"):
        Bundle.parse(bomb.getvalue())


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"not a zip", WHOLE[:-1], WHOLE[: len(WHOLE) // 2], WHOLE[100:-30]]
)
def test_bytes_that_are_no_archive_are_refused(content: bytes) -> None:
    with pytest.raises(BundleError, match="is no whole zip archive"):
        Bundle.parse(content)


def test_the_list_of_files_must_match() -> None:
    files = {path: text.encode() for path, text in APP.items()}
    for odd in (
        listing(files | {"client/more.py": b""}),
        listing({"client/app.py": files["client/app.py"]}),
        listing(files | {"client/app.py": b"another"}),
        b"nonsense",
        b"\xff\xfe",
        b"",
    ):
        with pytest.raises(BundleError, match="its own list does not fit"):
            Bundle.parse(bundle(content=odd))
    with pytest.raises(BundleError, match=r"has no \.info/CONTENT"):
        Bundle.parse(zipped(files))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"pyproject.toml": "no toml ["}, "names no app"),
        ({"pyproject.toml": "[project]\nname = 'x'"}, "names no app"),
        ({"pyproject.toml": PROJECT.replace("clientapp =", "other =")}, "names no app"),
        ({"pyproject.toml": PROJECT.replace("0.1.0", "../../x")}, "its version is"),
        ({"pyproject.toml": PROJECT.replace('name = "sotto"', 'name = "../x"')}, "its name is"),
        ({"pyproject.toml": PROJECT.replace('publisher = "sotto"', "publisher = 3")}, "publisher"),
        ({"pyproject.toml": PROJECT.replace("client.app:app", "os:system")}, "is not in it"),
        ({"pyproject.toml": PROJECT.replace("client.app:app", "client.app")}, "clientapp is"),
    ],
)
def test_an_app_must_be_named(change: dict[str, str], named: str) -> None:
    with pytest.raises(BundleError, match=named):
        Bundle.parse(bundle(change))


@given(place=st.integers(0, len(WHOLE) - 1), mask=st.integers(1, 255))
def test_a_changed_byte_is_refused_or_has_another_fingerprint(place: int, mask: int) -> None:
    odd = bytearray(WHOLE)
    odd[place] ^= mask
    try:
        found = Bundle.parse(bytes(odd))
    except BundleError:
        return
    assert found.fingerprint != Bundle.parse(WHOLE).fingerprint


@given(content=st.binary(max_size=300))
def test_any_bytes_give_a_bundle_or_an_error(content: bytes) -> None:
    told = set()
    for odd in (content, WHOLE[:200] + content + WHOLE[200:], content + WHOLE, WHOLE + content):
        try:
            Bundle.parse(odd)
        except BundleError as error:
            told.add(str(error))
    assert all("refused" in text for text in told)


def test_differences_are_listed_by_path() -> None:
    before = Bundle.parse(bundle({"client/gone.py": ""}))
    after = Bundle.parse(bundle({"client/new.py": "", "client/app.py": "app = 1"}))
    assert list(before.differences(after)) == [
        ("changed", "client/app.py"),
        ("removed", "client/gone.py"),
        ("added", "client/new.py"),
    ]
    assert list(before.differences(before)) == []


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"gone\.fab: not readable \(No such file"):
        Bundle.load(tmp_path / "gone.fab")
