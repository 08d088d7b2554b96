import re

from shared.outcomes import Outcome, Refusal


def test_every_refusal_has_a_sentence_of_its_own() -> None:
    sentences = [refusal.sentence for refusal in Refusal]
    assert len(set(sentences)) == len(Refusal)
    assert all(re.fullmatch(r"[a-z' ]{20,}", sentence) for sentence in sentences)


def test_every_refusal_counts_as_an_outcome_of_its_own() -> None:
    outcomes = [Outcome.of(refusal) for refusal in Refusal]
    assert outcomes == [outcome for outcome in Outcome if outcome.startswith("refused-")]


def test_what_may_succeed_later_is_asked_for_again() -> None:
    assert {outcome for outcome in Outcome if outcome.retryable} == {
        Outcome.MISSING,
        Outcome.ABSENT,
        Outcome.FAILED,
        Outcome.REFUSED_FAILED,
        Outcome.REFUSED_DROPPED,
    }
