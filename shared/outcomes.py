"""How an organisation's part in a round ends, and why a partner declines a request."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Outcome", "Refusal"]


class Refusal(StrEnum):
    """Why a partner declined a request: all that the coordinator learns of it.

    The order is part of the protocol (`shared.messages.refusal_reply`): new codes come last.
    """

    BUDGET = "budget"
    POLICY = "policy"
    CATALOGUE = "catalogue"
    CLOSED = "closed"
    MALFORMED = "malformed"
    FAILED = "failed"
    BUNDLE = "bundle"
    DROPPED = "dropped"

    @property
    def sentence(self) -> str:
        """The fixed sentence that goes with the code; it depends on nothing private."""
        return _SENTENCES[self]


_SENTENCES = {
    Refusal.BUDGET: "the request would exceed this organisation's privacy budget",
    Refusal.POLICY: "the request is outside this organisation's policy",
    Refusal.CATALOGUE: "this organisation holds another version of the catalogue",
    Refusal.CLOSED: "this round was answered before and its answer is no longer kept",
    Refusal.MALFORMED: "the request could not be understood",
    Refusal.FAILED: "the organisation could not complete the request",
    Refusal.BUNDLE: "this organisation has not vetted this version of the app",
    Refusal.DROPPED: "this organisation has dropped out of this attempt at a sum",
}


class Outcome(StrEnum):
    """How an organisation's part in a round ended, as the coordinator counts it.

    docs/runbook.md says what each means and what to do.
    """

    VALID = "valid"
    MISSING = "missing"
    LATE = "late"
    ABSENT = "absent"
    FAILED = "failed"
    REFUSED_BUDGET = "refused-budget"
    REFUSED_POLICY = "refused-policy"
    REFUSED_CATALOGUE = "refused-catalogue"
    REFUSED_CLOSED = "refused-closed"
    REFUSED_MALFORMED = "refused-malformed"
    REFUSED_FAILED = "refused-failed"
    REFUSED_BUNDLE = "refused-bundle"
    REFUSED_DROPPED = "refused-dropped"
    MALFORMED = "malformed"
    WRONG_SHAPE = "wrong-shape"
    NOT_FINITE = "not-finite"
    TOO_LONG = "too-long"
    STALE = "stale"

    @classmethod
    def of(cls, refusal: Refusal) -> Outcome:
        """Return the outcome that a refusal counts as."""
        return cls(f"refused-{refusal}")

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed a little later, or a new attempt at the same sum."""
        return self in (
            Outcome.MISSING,
            Outcome.ABSENT,
            Outcome.FAILED,
            Outcome.REFUSED_FAILED,
            Outcome.REFUSED_DROPPED,
        )
