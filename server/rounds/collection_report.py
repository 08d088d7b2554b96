"""How each organisation counted in a collection: for the status, the audit log and error messages.

`server.rounds.replies` decides how a reply counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from server.state.attempts import Charges
from shared.outcomes import Outcome

__all__ = ["CollectionReport", "Verdict"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How an organisation's part in a collection counts.

    Attributes:
        outcome: see the table of `server.rounds.collection`.
        reason: in our own words; "" for a valid reply.
    """

    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionReport:
    """The result of a collection, or of an attempt at it.

    Attributes:
        name: of the collection.
        round: of training, 1-based; 0 for a statistic.
        attempts: made so far.
        needed: valid replies that are a quorum.
        verdicts: by organisation.
        late: organisations that answered an earlier request after its collection had ended.
        seconds: since the first request.
        bytes_up: size of the arrays received.
        bytes_down: size of the arrays sent.
        sum_attempt: under secure aggregation, the number of the last attempt; its valid replies are
            the organisations in the sum. 0 where each answers for itself.
        left_at_step: of that attempt, the step that an organisation did not answer, 1 to 5; who
            left after step 3 is in the sum.
        charges: under secure aggregation, what each organisation may have charged in the whole run.
    """

    name: str
    round: int
    attempts: int
    needed: int
    verdicts: Mapping[str, Verdict]
    late: tuple[str, ...]
    seconds: float
    bytes_up: int
    bytes_down: int
    sum_attempt: int = 0
    left_at_step: Mapping[str, int] = field(default_factory=dict)
    charges: Mapping[str, Charges] = field(default_factory=dict)

    @property
    def valid(self) -> int:
        """Number of valid replies."""
        return sum(verdict.outcome is Outcome.VALID for verdict in self.verdicts.values())

    @property
    def failures(self) -> str:
        """Organisations without a valid reply, each with its reason, as text."""
        return "; ".join(
            f"{name}: {verdict.reason}"
            for name, verdict in self.verdicts.items()
            if verdict.outcome is not Outcome.VALID
        )
