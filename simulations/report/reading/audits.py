"""Read the audit.json of a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from simulations.experiment.result_json import Count, Document, Finite, FromZero, UnitInterval
from simulations.report.reading.documents import field_error, read_document

__all__ = ["AUDIT", "Audit", "Books", "Estimate", "Membership", "Observer", "Rate", "read_audit"]

AUDIT = "audit.json"
REMEDY = "give the folder of a finished audit, which `sotto-lab audit --out` wrote."


class Estimate(Document):
    """An estimate of ε from normal scores; not a bound.

    Attributes:
        epsilon: the estimate.
        low: of its confidence interval.
        high: of its confidence interval.
    """

    epsilon: Finite
    low: Finite
    high: Finite


class Observer(Document):
    """An attacker who guesses which canaries took part.

    Attributes:
        name: "white-box", for instance.
        sees: what it observes, as a sentence.
        canaries: synthetic users, each in the data with probability 1/2.
        guesses: number of guesses.
        correct: number of right guesses.
        lower_bound: of ε, at the audit's confidence.
        largest_provable: the bound if every guess were right.
        estimate: None where there is none.
        claimed: ε against this observer; None where it is the audit's.
        violated: whether it disproves the claim.
    """

    name: str
    sees: str
    canaries: Count
    guesses: Count
    correct: Count
    lower_bound: FromZero = Field(alias="epsilon_lower_bound")
    largest_provable: FromZero
    estimate: Estimate | None = None
    claimed: Finite | None = Field(default=None, alias="epsilon_claimed")
    violated: bool


class Books(Document):
    """The comparison of the ledger with the releases that left.

    Attributes:
        seen: number of releases.
        recomputed: their ε by an independent accountant; None if infinite.
        ledger: ε that the ledger states; None if infinite.
        accountant: name of the independent accountant.
        violated: whether the two contradict.
    """

    seen: Count
    recomputed: Finite | None = Field(default=None, alias="epsilon_recomputed")
    ledger: Finite | None = Field(default=None, alias="epsilon_ledger")
    accountant: str
    violated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """The true positive rate at one false positive rate.

    Attributes:
        fpr: false positive rate.
        tpr: true positive rate.
        low: of its confidence interval.
        high: of its confidence interval.
    """

    fpr: float
    tpr: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """Membership inference on the published model.

    Attributes:
        members: number of users in the training data.
        non_members: number of other users.
        auc: area under the curve; .5 is guessing.
        auc_low: of its confidence interval.
        auc_high: of its confidence interval.
        rates: at some false positive rates.
        fpr: of the full curve.
        tpr: of the full curve.
    """

    members: int
    non_members: int
    auc: float
    auc_low: float
    auc_high: float
    rates: tuple[Rate, ...]
    fpr: tuple[float, ...]
    tpr: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """One audit.

    Attributes:
        name: of its folder.
        epsilon: claimed; None without a claim.
        delta: claimed.
        organisation: the one with the highest ε.
        violated: the verdict.
        reasons: for the verdict, as sentences.
        confidence: of the bounds.
        observers: in the order of audit.json.
        books: None where the ledger was not compared.
        membership: None where it was not tried.
        blind_spots: what the audit could not have detected.
    """

    name: str
    epsilon: float | None
    delta: float
    organisation: str
    violated: bool
    reasons: tuple[str, ...]
    confidence: float
    observers: tuple[Observer, ...]
    books: Books | None
    membership: Membership | None
    blind_spots: tuple[str, ...]

    def claimed(self, observer: Observer) -> float | None:
        """Return the ε that is claimed against one of its observers."""
        return self.epsilon if observer.claimed is None else observer.claimed


class _Claim(Document):
    epsilon: Finite | None = None
    delta: UnitInterval
    organisation: str


class _Rate(Document):
    tpr: UnitInterval
    low: UnitInterval
    high: UnitInterval


class _Curve(Document):
    fpr: tuple[UnitInterval, ...]
    tpr: tuple[UnitInterval, ...]


class _Membership(Document):
    members: Count
    non_members: Count
    auc: UnitInterval
    auc_low: UnitInterval
    auc_high: UnitInterval
    tpr_at_fpr: dict[str, _Rate]
    roc: _Curve


class _Document(Document):
    """The fields of audit.json that a report shows."""

    claim: _Claim
    verdict: Literal["consistent", "violated"]
    reasons: tuple[str, ...] = ()
    confidence: UnitInterval
    observers: tuple[Observer, ...]
    books: Books | None = None
    membership: _Membership | None = None
    blind_spots: tuple[str, ...] = ()


def read_audit(folder: Path) -> Audit:
    """Read the audit.json of a folder.

    Raises:
        ReportError: it is missing or damaged.
    """
    file = folder / AUDIT
    document = read_document(file, _Document, REMEDY)
    return Audit(
        name=folder.resolve().name,
        epsilon=document.claim.epsilon,
        delta=document.claim.delta,
        organisation=document.claim.organisation,
        violated=document.verdict == "violated",
        reasons=document.reasons,
        confidence=document.confidence,
        observers=document.observers,
        books=document.books,
        membership=None if document.membership is None else _membership(file, document.membership),
        blind_spots=document.blind_spots,
    )


def _membership(file: Path, fields: _Membership) -> Membership:
    roc = fields.roc
    if len(roc.fpr) != len(roc.tpr):
        expected = f"a list of {len(roc.fpr)} numbers, as fpr has"
        raise field_error(file, ("membership", "roc", "tpr"), expected, list(roc.tpr))
    return Membership(
        members=fields.members,
        non_members=fields.non_members,
        auc=fields.auc,
        auc_low=fields.auc_low,
        auc_high=fields.auc_high,
        rates=tuple(_rate(file, key, rate) for key, rate in fields.tpr_at_fpr.items()),
        fpr=roc.fpr,
        tpr=roc.tpr,
    )


def _rate(file: Path, key: str, rate: _Rate) -> Rate:
    try:
        fpr = float(key)
    except ValueError:
        path = ("membership", "tpr_at_fpr", key)
        raise field_error(file, path, "a false positive rate as its name", rate) from None
    return Rate(fpr=fpr, tpr=rate.tpr, low=rate.low, high=rate.high)
