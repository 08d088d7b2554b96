from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from client.ledger.anchor import Anchor, default_anchor
from client.ledger.ledger import Ledger
from client.ledger.outbox import Outbox
from shared.errors import LedgerError
from shared.outcomes import Refusal
from tests.client.ledger.entries import Reopen, answered, body, charge, entry, release


def test_an_older_copy_put_back_is_an_error(
    file: Path, ledger: Ledger, reopened: Reopen, tmp_path: Path
) -> None:
    charge(ledger, entry(1))
    shutil.copy(file, tmp_path / "older")
    answered(ledger, 2)
    shutil.copy(file, tmp_path / "newest")
    shutil.copy(tmp_path / "older", file)
    for use in (reopened, ledger.releases, ledger.verify):
        with pytest.raises(LedgerError, match=r"older copy|another file than a moment ago"):
            use()
    shutil.copy(tmp_path / "newest", file)
    assert reopened().releases() == ledger.releases() == [release(steps=2)]


def test_another_ledger_of_the_same_users_is_an_error(
    file: Path, ledger: Ledger, reopened: Reopen, tmp_path: Path
) -> None:
    charge(ledger, entry(1))
    other = Ledger.create(tmp_path / "other", "users", tmp_path / "other.json")
    charge(other, entry(1))
    shutil.copy(other.path, file)
    with pytest.raises(LedgerError, match=r"its anchor .* knows of 2 of ledger"):
        reopened()


def test_a_missing_anchor_is_an_error_and_is_not_created_again(
    anchor: Path, ledger: Ledger, reopened: Reopen
) -> None:
    charge(ledger, entry())
    anchor.unlink()
    for use in (reopened, ledger.releases):
        with pytest.raises(LedgerError, match=r"anchor is missing.*must be written off"):
            use()
    assert not anchor.exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:-20],
        lambda text: text.replace('"entries": 2', '"entries": 1'),
        lambda text: text.replace('"users"', '"others"'),
        lambda text: "[]",
        lambda text: "{}",
        lambda text: '{"anchor": {}, "sha256": ""}',
    ],
)
def test_a_damaged_anchor_is_an_error(
    anchor: Path, ledger: Ledger, reopened: Reopen, damage: Callable[[str], str]
) -> None:
    charge(ledger, entry())
    anchor.write_text(damage(anchor.read_text()))
    with pytest.raises(LedgerError, match=r"anchor cannot be read.*must be written off"):
        reopened()


def test_an_older_anchor_put_back_is_an_error(
    anchor: Path, ledger: Ledger, reopened: Reopen
) -> None:
    charge(ledger, entry(1))
    old = anchor.read_bytes()
    charge(ledger, entry(2))
    charge(ledger, entry(3))
    anchor.write_bytes(old)
    with pytest.raises(LedgerError, match="larger of the two"):
        reopened()


def test_a_kill_between_ledger_and_anchor_is_repaired(
    anchor: Path, ledger: Ledger, reopened: Reopen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger is one entry ahead, whether it is a charge, an answer or a refusal."""

    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    acts: list[Callable[[], object]] = [
        lambda: charge(ledger, entry(1)),
        lambda: ledger.keep_answer(entry(1), body(1)),
        lambda: ledger.refuse(Refusal.POLICY, {"kind": "train"}),
    ]
    for number, act in enumerate(acts, start=2):
        before = anchor.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(Anchor, "save", kill)
            with pytest.raises(Killed):
                act()
        assert anchor.read_bytes() == before
        assert reopened().verify() == number
        assert Anchor.load(anchor).entries == number
    assert reopened().releases() == [release()]
    assert reopened().answer(entry(1)) == body(1)


def test_a_kill_before_the_entry_is_committed_leaves_nothing(
    anchor: Path, ledger: Ledger, reopened: Reopen, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    charge(ledger, entry(1))
    before = anchor.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Outbox, "put", kill)  # within the transaction
        with pytest.raises(Killed):
            ledger.keep_answer(entry(1), body())
    assert anchor.read_bytes() == before
    assert ledger.verify() == reopened().verify() == 2
    assert ledger.keep_answer(entry(1), body(2)) == body(2)


def test_a_ledger_from_before_an_entry_that_never_reached_the_anchor_is_accepted(
    file: Path,
    anchor: Path,
    ledger: Ledger,
    reopened: Reopen,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody acted on the entry: the charge raised, so nothing was computed from it."""
    shutil.copy(file, tmp_path / "older")
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda _: Path("/").write_bytes(b""))
        with pytest.raises(LedgerError, match="cannot be written"):
            charge(ledger, entry(1))
    shutil.copy(tmp_path / "older", file)
    assert reopened().releases() == []


def test_the_anchor_is_written_whole_or_not_at_all(
    anchor: Path, ledger: Ledger, reopened: Reopen, monkeypatch: pytest.MonkeyPatch
) -> None:
    charge(ledger, entry(1))

    def half(handle: int) -> None:
        os.ftruncate(handle, os.fstat(handle).st_size // 2)
        raise OSError(28, "No space left on device")

    before = anchor.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", half)
        with pytest.raises(LedgerError, match="No space left"):
            charge(ledger, entry(2))
        with pytest.raises(LedgerError, match="No space left"):
            ledger.releases()
    assert anchor.read_bytes() == before
    assert reopened().releases() == [release(steps=2)], "charged, for nothing: never too little"


def test_the_default_anchor_is_in_the_state_folder_by_user_base(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    ours, theirs = default_anchor("Shop: Berlin/2"), default_anchor("Shop: Berlin-2")
    assert ours.parent == tmp_path / "sotto" / "anchors"
    assert ours.name.startswith("shop-berlin-2-")
    assert ours != theirs
    assert default_anchor("客户").name.startswith("users-")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_anchor("a").parent == tmp_path / "home/.local/state/sotto/anchors"
