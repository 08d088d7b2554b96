from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from client.ledger.ledger import Ledger
from client.ledger.outbox import ArrayForm
from shared.errors import LedgerError, Refused
from shared.outcomes import Refusal
from shared.privacy.release import ReleaseKind
from tests.client.ledger.entries import Reopen, altered, answered, body, charge, entry


def test_the_first_stored_answer_is_sent(ledger: Ledger, reopened: Reopen) -> None:
    charge(ledger, entry(1))
    assert ledger.answer(entry(1)) is None
    assert ledger.keep_answer(entry(1), body(1)) == body(1)
    assert ledger.keep_answer(entry(1), body(2)) == body(1)
    assert reopened().answer(entry(1)) == body(1)


def test_an_uncharged_answer_does_not_leave(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="not charged does not leave"):
        ledger.keep_answer(entry(1), body())
    charge(ledger, entry(1))
    with pytest.raises(LedgerError, match="not charged"):
        ledger.keep_answer(entry(1, kind=ReleaseKind.EVALUATE), body())
    assert ledger.outbox() == []


def test_the_last_two_answers_of_each_run_and_kind_are_kept(ledger: Ledger) -> None:
    for number in (1, 2, 3):
        answered(ledger, number, value=number)
    answered(ledger, 1, run="other", value=9)
    metrics = entry(1, kind=ReleaseKind.EVALUATE)
    charge(ledger, metrics)
    ledger.keep_answer(metrics, body(8))
    with pytest.raises(Refused, match="round 1 of run r; the last is 3") as caught:
        ledger.answer(entry(1))
    assert caught.value.code is Refusal.CLOSED
    assert [ledger.answer(entry(number)) for number in (2, 3, 4)] == [body(2), body(3), None]
    assert ledger.answer(entry(1, run="other")) == body(9)
    assert ledger.answer(metrics) == body(8)
    assert [sent.kept for sent in ledger.outbox()] == [False, True, True, True, True]


def test_a_round_that_was_skipped_is_closed(ledger: Ledger) -> None:
    answered(ledger, 3)
    for number in (1, 2):
        with pytest.raises(Refused) as caught:
            ledger.answer(entry(number))
        assert caught.value.code is Refusal.CLOSED


def test_a_slow_repeat_does_not_replace_a_deleted_answer(ledger: Ledger) -> None:
    """Two computations of round 1 at once: only one of them may ever leave."""
    for number in (1, 2, 3):
        answered(ledger, number, value=number)
    with pytest.raises(Refused) as caught:
        ledger.keep_answer(entry(1), body(7))
    assert caught.value.code is Refusal.CLOSED
    assert [ledger.answer(entry(number)) for number in (2, 3)] == [body(2), body(3)]


def test_the_outbox_lists_what_left(ledger: Ledger) -> None:
    for number in (1, 2, 3):
        answered(ledger, number, value=number)
    first, _, third = ledger.outbox()
    assert (first.run, first.kind, first.round, first.bytes) == ("r", "train", 1, len(body()))
    assert first.sha256 == hashlib.sha256(body(1)).hexdigest()
    assert first.arrays == (
        ArrayForm(name="b", dtype="F32", shape=(4,)),
        ArrayForm(name="w", dtype="F32", shape=(2, 3)),
    )
    assert ledger.sent_body(first.number) is None
    assert ledger.sent_body(third.number) == body(3)
    assert ledger.sent_body(99) is None


def test_an_answer_that_was_changed_does_not_leave(file: Path, ledger: Ledger) -> None:
    answered(ledger, 1)
    altered(file, "UPDATE bodies SET body = zeroblob(100)")
    for use in (lambda: ledger.answer(entry(1)), lambda: ledger.sent_body(3), ledger.verify):
        with pytest.raises(LedgerError, match="not what was stored, and nothing leaves"):
            use()


@pytest.mark.parametrize("statement", ["UPDATE layouts SET arrays = '[]'", "DELETE FROM layouts"])
def test_a_list_of_arrays_that_was_changed_is_an_error(
    file: Path, ledger: Ledger, statement: str
) -> None:
    answered(ledger, 1)
    altered(file, statement)
    for use in (ledger.outbox, ledger.verify):
        with pytest.raises(LedgerError, match=r"list of arrays .* is not what was stored"):
            use()
