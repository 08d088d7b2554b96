from __future__ import annotations

import math
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

import client.ledger.recovery
import client.ledger.store
from client.ledger.anchor import Anchor
from client.ledger.balance import EntryType
from client.ledger.ledger import Entry, Ledger
from client.ledger.limits import Limits
from client.ledger.recovery import restore, write_off
from client.ledger.store import database_files
from shared.errors import BudgetExceeded, LedgerError
from shared.privacy.release import Release, ReleaseKind

DELTA = 1e-3


def release(steps: int = 1, noise: float = 2.0) -> Release:
    return Release(kind=ReleaseKind.TRAIN, noise_multiplier=noise, sample_rate=0.5, steps=steps)


def charge(ledger: Ledger, number: int, noise: float = 2.0, limit: float = math.inf) -> None:
    entry = Entry(run="r", round=number, release=release(noise=noise))
    ledger.charge(entry, Limits(max_epsilon=limit, delta=DELTA))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Three charges of two forms, one answer, and a copy from before the last charge."""
    (tmp_path / "site").mkdir()
    made = Ledger.create(tmp_path / "site" / "ledger", "users", tmp_path / "state" / "anchor")
    charge(made, 1)
    made.keep_answer(
        Entry(run="r", round=1, release=release()), save({"w": np.ones(2, np.float32)})
    )
    charge(made, 2)
    shutil.copy(made.path, tmp_path / "older")
    shutil.copy(made.anchor, tmp_path / "older anchor")
    charge(made, 3, noise=4.0)
    charge(made, 4, noise=4.0)
    return made


ALL = [release(2), release(2, noise=4.0)]


def again(ledger: Ledger) -> tuple[Path, str, Path]:
    return ledger.path, ledger.user_base, ledger.anchor


def broken(ledger: Ledger) -> None:
    with pytest.raises(LedgerError):
        Ledger(*again(ledger))


@pytest.mark.parametrize("what", ["missing", "truncated", "garbage", "rolled back", "another"])
def test_a_lost_ledger_is_replaced_without_losing_a_charge(
    ledger: Ledger, tmp_path: Path, what: str
) -> None:
    content = {"truncated": ledger.path.read_bytes()[:4096], "garbage": b"garbage" * 999}
    if what == "missing":
        ledger.path.unlink()
    elif what == "rolled back":
        shutil.copy(tmp_path / "older", ledger.path)
    elif what == "another":
        other = Ledger.create(tmp_path / "site" / "other", "users", tmp_path / "other anchor")
        for number in range(1, 9):
            charge(other, number)
        other.path.replace(ledger.path)
    else:
        ledger.path.write_bytes(content[what])
    before = ledger.path.read_bytes() if ledger.path.exists() else None
    broken(ledger)
    new = restore(*again(ledger))
    assert new.releases() == Ledger(*again(ledger)).releases() == ALL
    assert new.verify() == 3
    assert [r.type for r in new.history()] == [
        EntryType.OPENED,
        EntryType.CARRIED,
        EntryType.CARRIED,
    ]
    aside = [path for path in ledger.path.parent.iterdir() if "set-aside" in path.name]
    assert [path.read_bytes() for path in aside] == ([before] if before else [])
    charge(new, 1)
    assert new.releases() == [release(3), ALL[1]], "a lost round is a new one, and is paid for"


def test_an_older_anchor_is_updated_from_the_ledger(ledger: Ledger, tmp_path: Path) -> None:
    shutil.copy(tmp_path / "older anchor", ledger.anchor)
    broken(ledger)
    entries = ledger.path.read_bytes()
    assert restore(*again(ledger)).releases() == ALL
    assert ledger.path.read_bytes() == entries
    assert Anchor.load(ledger.anchor).entries == 6


def test_restoring_an_intact_ledger_changes_nothing(ledger: Ledger) -> None:
    before = ledger.path.read_bytes(), ledger.anchor.read_bytes()
    assert restore(*again(ledger)).releases() == ALL
    assert (ledger.path.read_bytes(), ledger.anchor.read_bytes()) == before


def test_without_an_anchor_nothing_is_restored(ledger: Ledger) -> None:
    ledger.anchor.unlink()
    with pytest.raises(LedgerError, match="must be written off"):
        restore(*again(ledger))
    broken(ledger)


def test_a_folder_that_is_not_there_is_an_error(ledger: Ledger, tmp_path: Path) -> None:
    for put_right in (restore, partial(write_off, reason="r")):
        with pytest.raises(LedgerError, match="cannot be opened"):
            put_right(tmp_path / "nowhere" / "ledger", "users", ledger.anchor)
    assert Ledger(*again(ledger)).releases() == ALL


def test_other_users_anchor_restores_nothing(ledger: Ledger) -> None:
    ledger.path.unlink()
    with pytest.raises(LedgerError, match="the anchor of 'users', not of 'others'"):
        restore(ledger.path, "others", ledger.anchor)
    assert not ledger.path.exists()


@pytest.mark.parametrize("point", ["_set_aside", "create_database", "Anchor.save", "Path.replace"])
@pytest.mark.parametrize("lost", [True, False])
def test_a_kill_while_restoring_loses_no_charge(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, lost: bool
) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: object, **__: object) -> None:
        raise Killed

    if lost:
        ledger.path.unlink()
    else:
        shutil.copy(tmp_path / "older", ledger.path)
    whole = Anchor.save

    def save_then_die(anchor: Anchor, file: Path) -> None:
        whole(anchor, file)
        raise Killed

    with monkeypatch.context() as patch:
        if point == "Anchor.save":
            patch.setattr(Anchor, "save", save_then_die)
        elif point == "Path.replace":
            patch.setattr(Path, "replace", kill)
        else:
            patch.setattr(client.ledger.recovery, point, kill)
        with pytest.raises(Killed):
            restore(*again(ledger))
    broken(ledger)
    assert restore(*again(ledger)).releases() == ALL


def test_a_kill_while_setting_up_is_repaired_by_restoring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    whole = Anchor.save

    def save_then_die(anchor: Anchor, file: Path) -> None:
        whole(anchor, file)
        raise Killed

    place = tmp_path / "ledger", "users", tmp_path / "anchor"
    with monkeypatch.context() as patch:
        patch.setattr(Anchor, "save", save_then_die)
        with pytest.raises(Killed):
            Ledger.create(*place)
    with pytest.raises(LedgerError, match="restore it from the anchor"):
        Ledger.create(*place)
    assert restore(*place).releases() == []


@pytest.mark.parametrize("lost", ["anchor", "both", "neither"])
def test_a_budget_that_is_written_off_stays_spent(ledger: Ledger, lost: str) -> None:
    if lost != "neither":
        ledger.anchor.unlink()
    if lost == "both":
        ledger.path.unlink()
    new = write_off(*again(ledger), reason="the disk burnt")
    for found in (new, Ledger(*again(ledger))):
        assert found.spent(DELTA) == math.inf
        for limit in (8.0, 1e9):
            with pytest.raises(BudgetExceeded, match="ε = inf"):
                charge(found, 9, limit=limit)
    assert new.history()[0].fields["reason"] == "the disk burnt"
    charge(new, 9, limit=math.inf)  # public data alone: there is nothing to protect
    new.path.unlink()
    assert restore(*again(ledger)).spent(DELTA) == math.inf


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes another user's files")
def test_root_keeps_the_owners_of_ledger_and_anchor(tmp_path: Path) -> None:
    """As `sotto-node trust` does, where the app runs as a user of its own."""
    made = Ledger.create(tmp_path / "ledger.sqlite", "users", tmp_path / "anchor.json")
    for place in (made.path, made.anchor):
        os.chown(place, 65534, 65534)
    made.trust("0" * 64, "sotto/sotto", "0.1.0")
    for place in (made.anchor, *database_files(made.path)):
        assert not place.exists() or place.stat().st_uid == 65534, place
