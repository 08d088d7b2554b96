"""sotto-node trust: one bundle runs, and no other, whoever changes what."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import client.bundle.trust
from client.bundle.trust import install, read_trusted, verify_trusted
from client.ledger.balance import EntryType
from shared.errors import BundleError, LedgerError
from tests.client.bundles import APP, bundle
from tests.flower_internals import flower_module

if TYPE_CHECKING:
    from tests.client.partner import Partner

FIRST = bundle()
SECOND = bundle({"client/app.py": "app = repr\n", "client/more.py": ""})


def fingerprint(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def site(partner: Partner) -> Partner:
    """A site, and two bundles beside it."""
    partner.init()
    (partner.folder / "first.fab").write_bytes(FIRST)
    (partner.folder / "second.fab").write_bytes(SECOND)
    return partner


def trust(partner: Partner, name: str, *options: object) -> tuple[int, str, str]:
    return partner.types("trust", partner.folder / name, "--site", partner.site, *options)


def answers(partner: Partner, text: str) -> None:
    partner.patch.setattr(sys, "stdin", io.StringIO(text))


# --- the command -------------------------------------------------------------------------------


def test_trust_shows_the_content_and_asks(site: Partner) -> None:
    answers(site, "y\n")
    code, out, err = trust(site, "first.fab")
    assert code == 0
    assert f"fingerprint  {fingerprint(FIRST)}" in out
    assert "sotto/sotto 0.1.0, ClientApp client.app:app" in out
    flat = "".join(out.split())
    for path, text in APP.items():
        assert path in out
        assert fingerprint(text.encode()) in flat
    assert "Let this node run this bundle and no other?" in err
    assert verify_trusted(site.loaded).bundle.fingerprint == fingerprint(FIRST)


@pytest.mark.parametrize("said", ["n\n", "", "\n"])
def test_without_a_yes_nothing_is_trusted(site: Partner, said: str) -> None:
    answers(site, said)
    code, _, err = trust(site, "first.fab")
    assert code == 1
    assert "Nothing was changed" in err
    assert read_trusted(site.loaded.flower_home) is None
    assert site.loaded.open_ledger().trusted_fingerprint() == ""


def test_the_coordinators_fingerprint_needs_no_question(site: Partner) -> None:
    code, *_ = trust(site, "first.fab", "--fingerprint", fingerprint(FIRST).upper())
    assert code == 0
    assert verify_trusted(site.loaded).bundle.fingerprint == fingerprint(FIRST)


@pytest.mark.parametrize("told", ["", "0" * 64, fingerprint(FIRST)[:16]])
def test_another_fingerprint_is_refused(site: Partner, told: str) -> None:
    code, _, err = trust(site, "first.fab", "--fingerprint", told, "--yes")
    assert code == 2
    assert fingerprint(FIRST) in err
    assert "not the bundle that the coordinator announced" in err
    assert read_trusted(site.loaded.flower_home) is None


def test_a_bundle_that_is_refused_leaves_everything_as_it_was(site: Partner) -> None:
    trust(site, "first.fab", "--yes")
    (site.folder / "odd.fab").write_bytes(SECOND[:-1])
    code, _, err = trust(site, "odd.fab", "--yes")
    assert code == 2
    assert "no whole zip archive" in err
    assert verify_trusted(site.loaded).bundle.fingerprint == fingerprint(FIRST)


def test_a_new_bundle_replaces_the_old_one_and_lists_the_changes(site: Partner) -> None:
    trust(site, "first.fab", "--yes")
    code, out, _ = trust(site, "second.fab", "--yes")
    assert code == 0
    assert f"replaces     {fingerprint(FIRST)}: 1 changed, 1 added" in out
    assert "changed  client/app.py" in out
    assert "added    client/more.py" in out
    found = verify_trusted(site.loaded)
    assert found.bundle.fingerprint == fingerprint(SECOND)
    assert [place.name for place in found.folder.parent.iterdir()] == [found.folder.name]


def test_as_data(site: Partner) -> None:
    trust(site, "first.fab", "--yes")
    code, out, _ = trust(site, "second.fab", "--yes", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["fingerprint"] == fingerprint(SECOND)
    assert told["replaces"] == fingerprint(FIRST)
    assert told["changes"] == [["changed", "client/app.py"], ["added", "client/more.py"]]
    assert {file["path"] for file in told["files"]} == {*APP, "client/more.py"}


def test_the_list_has_what_was_trusted_before(site: Partner) -> None:
    trust(site, "first.fab", "--yes")
    trust(site, "second.fab", "--yes")
    code, out, _ = site.types("trust", "--list", "--site", site.site)
    assert code == 0
    assert f"This node runs {fingerprint(SECOND)}" in out
    code, out, _ = site.types("trust", "--list", "--site", site.site, "--json")
    told = json.loads(out)
    assert [entry["bundle"] for entry in told["history"]] == [
        fingerprint(FIRST),
        fingerprint(SECOND),
    ]
    assert (told["trusted"], told["problem"]) == (fingerprint(SECOND), None)


def test_the_list_exits_with_1_where_nothing_would_run(site: Partner) -> None:
    code, out, _ = site.types("trust", "--list", "--site", site.site)
    assert code == 1
    assert "no app bundle is trusted yet" in out


@pytest.mark.parametrize("arguments", [[], ["first.fab", "--list"]])
def test_one_bundle_or_the_list(site: Partner, arguments: list[str]) -> None:
    code, _, err = site.types("trust", *arguments, "--site", site.site)
    assert code == 2
    assert "name one bundle" in err


def test_site_toml_stays_as_it_was(site: Partner) -> None:
    before = (site.site / "site.toml").read_bytes()
    trust(site, "first.fab", "--yes")
    assert (site.site / "site.toml").read_bytes() == before


# --- the audit log -----------------------------------------------------------------------------


def test_every_change_is_in_the_ledger(site: Partner) -> None:
    for name in ("first.fab", "second.fab", "first.fab"):
        trust(site, name, "--yes")
    ledger = site.loaded.open_ledger()
    noted = [r.fields["bundle"] for r in ledger.history() if r.type is EntryType.TRUSTED]
    assert noted == [fingerprint(FIRST), fingerprint(SECOND), fingerprint(FIRST)]
    assert ledger.trusted_fingerprint() == fingerprint(FIRST)
    assert ledger.verify() == 4
    assert ledger.spent(1e-4) == 0


def test_without_a_ledger_nothing_is_trusted(site: Partner) -> None:
    trust(site, "first.fab", "--yes")
    site.loaded.anchor_file.unlink()
    code, _, err = trust(site, "second.fab", "--yes")
    assert code == 2
    assert "anchor is missing" in err
    found = read_trusted(site.loaded.flower_home)
    assert found is not None
    assert found.bundle.fingerprint == fingerprint(FIRST)
    with pytest.raises(LedgerError):
        verify_trusted(site.loaded)


def test_a_crash_after_the_ledger_leaves_nothing_that_runs(site: Partner) -> None:
    trust(site, "first.fab", "--yes")

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with site.patch.context() as patch:
        patch.setattr("client.commands.trust.install", crash)
        assert trust(site, "second.fab", "--yes")[0] == 130
    with pytest.raises(BundleError, match="the ledger says"):
        verify_trusted(site.loaded)
    trust(site, "second.fab", "--yes")
    assert verify_trusted(site.loaded).bundle.fingerprint == fingerprint(SECOND)


def test_after_a_restore_the_bundle_must_be_trusted_again(site: Partner) -> None:
    trust(site, "first.fab", "--yes")
    site.loaded.ledger_file.unlink()
    assert site.types("budget", "restore", "--site", site.site, "--yes")[0] == 0
    with pytest.raises(BundleError, match="the ledger says none is trusted"):
        verify_trusted(site.loaded)


# --- what is installed -------------------------------------------------------------------------


def test_a_bundle_is_unpacked_read_only_where_flower_looks(tmp_path: Path) -> None:
    found = install(tmp_path / "flower", FIRST)
    assert (
        found.folder == tmp_path / "flower" / "apps" / f"sotto.sotto.0.1.0.{fingerprint(FIRST)[:8]}"
    )
    for place in (found.folder.parent, found.folder, *found.folder.rglob("*")):
        assert not stat.S_IMODE(place.stat().st_mode) & 0o222, place
    assert not found.changeable
    assert (found.folder / "client" / "app.py").read_text() == APP["client/app.py"]
    assert not (found.folder / ".info").exists()


def test_installing_again_repairs_the_app(tmp_path: Path) -> None:
    found = install(tmp_path, FIRST)
    changed(found.folder / "client" / "app.py", b"evil")
    with pytest.raises(BundleError, match="not as in the bundle"):
        found.check()
    install(tmp_path, FIRST).check()


def test_flower_finds_the_app_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's own installer takes the folder for the bundle's, and leaves it alone."""
    found = install(tmp_path, FIRST)
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    assert flower_module("cli.install").install_from_fab(FIRST, skip_prompt=True) == found.folder
    found.check()


def changed(file: Path, content: bytes) -> None:
    """As root can: permissions do not matter."""
    if not file.parent.exists():
        file.parent.parent.chmod(0o700)
        file.parent.mkdir()
    file.parent.chmod(0o700)
    if file.exists():
        file.chmod(0o600)
    file.write_bytes(content)


TAMPERED = {
    "a byte of a file": lambda app: changed(app / "client/app.py", b"app = prinT\n"),
    "a file more": lambda app: changed(app / "client/sitecustomize.py", b""),
    "compiled code": lambda app: changed(app / "client/__pycache__/app.cpython-311.pyc", b""),
    "a file less": lambda app: (
        (app / "client").chmod(0o700),
        (app / "client/__init__.py").unlink(),
    ),
    "a link in place of a file": lambda app: (
        (app / "client").chmod(0o700),
        (app / "client/app.py").rename(app.parent.parent / "moved"),
        (app / "client/app.py").symlink_to(app.parent.parent / "moved"),
    ),
    "a link more": lambda app: (app.chmod(0o700), (app / "shared").symlink_to(os.sep)),
}


@pytest.mark.parametrize("tamper", TAMPERED.values(), ids=TAMPERED)
def test_a_changed_app_does_not_run(site: Partner, tamper: object) -> None:
    trust(site, "first.fab", "--yes")
    folder = verify_trusted(site.loaded).folder
    tamper(folder)  # type: ignore[operator]
    with pytest.raises(BundleError, match="not as in the bundle that was trusted"):
        verify_trusted(site.loaded)


def test_a_changed_stored_bundle_does_not_run(site: Partner) -> None:
    trust(site, "first.fab", "--yes")
    changed(site.loaded.flower_home / client.bundle.trust.STORED, SECOND)
    with pytest.raises(BundleError, match="the ledger says"):
        verify_trusted(site.loaded)
    changed(site.loaded.flower_home / client.bundle.trust.STORED, b"")
    with pytest.raises(BundleError, match="no whole zip archive"):
        verify_trusted(site.loaded)


def test_the_bundle_that_was_sent_must_be_the_trusted_one(site: Partner) -> None:
    trust(site, "first.fab", "--yes")
    assert verify_trusted(site.loaded, fingerprint(FIRST)).bundle.fingerprint == fingerprint(FIRST)
    with pytest.raises(BundleError, match=f"sent {fingerprint(SECOND)}"):
        verify_trusted(site.loaded, fingerprint(SECOND))
