"""Read the audit.json of a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from simulations.report.reading.fields import Fields, read_json

__all__ = ["AUDIT", "Audit", "Books", "Estimate", "Membership", "Observer", "Rate", "read_audit"]

AUDIT = "audit.json"
REMEDY = "give the folder of a finished audit, which `sotto-lab audit --out` wrote."


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """An estimate of ε from normal scores; not a bound.

    Attributes:
        epsilon: the estimate.
        low: of its confidence interval.
        high: of its confidence interval.
    """

    epsilon: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Observer:
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
        violated: whether it disproves the claim.
    """

    name: str
    sees: str
    canaries: int
    guesses: int
    correct: int
    lower_bound: float
    largest_provable: float
    estimate: Estimate | None
    violated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """The comparison of the ledger with the releases that left.

    Attributes:
        seen: number of releases.
        recomputed: their ε by an independent accountant; None if infinite.
        ledger: ε that the ledger states; None if infinite.
        accountant: name of the independent accountant.
        violated: whether the two contradict.
    """

    seen: int
    recomputed: float | None
    ledger: float | None
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


def read_audit(folder: Path) -> Audit:
    """Read the audit.json of a folder.

    Raises:
        ReportError: it is missing or damaged.
    """
    fields = read_json(folder / AUDIT, REMEDY)
    claim, verdict = fields.section("claim"), fields.text("verdict")
    if verdict not in ("consistent", "violated"):
        raise fields.wrong("verdict", "'consistent' or 'violated'")
    return Audit(
        name=folder.resolve().name,
        epsilon=claim.number_or_none("epsilon"),
        delta=claim.number("delta", 0, 1),
        organisation=claim.text("organisation"),
        violated=verdict == "violated",
        reasons=fields.texts("reasons"),
        confidence=fields.number("confidence", 0, 1),
        observers=tuple(_observer(one) for one in fields.sections("observers")),
        books=_books(fields.section("books")) if "books" in fields else None,
        membership=_membership(fields.section("membership")) if "membership" in fields else None,
        blind_spots=fields.texts("blind_spots"),
    )


def _observer(fields: Fields) -> Observer:
    return Observer(
        name=fields.text("name"),
        sees=fields.text("sees"),
        canaries=fields.count("canaries"),
        guesses=fields.count("guesses"),
        correct=fields.count("correct"),
        lower_bound=fields.number("epsilon_lower_bound", low=0),
        largest_provable=fields.number("largest_provable", low=0),
        estimate=_estimate(fields.section("estimate")) if "estimate" in fields else None,
        violated=fields.flag("violated"),
    )


def _estimate(fields: Fields) -> Estimate:
    return Estimate(
        epsilon=fields.number("epsilon"), low=fields.number("low"), high=fields.number("high")
    )


def _books(fields: Fields) -> Books:
    return Books(
        seen=fields.count("seen"),
        recomputed=fields.number_or_none("epsilon_recomputed"),
        ledger=fields.number_or_none("epsilon_ledger"),
        accountant=fields.text("accountant"),
        violated=fields.flag("violated"),
    )


def _membership(fields: Fields) -> Membership:
    rates, roc = fields.section("tpr_at_fpr"), fields.section("roc")
    fpr, tpr = roc.numbers("fpr", 0, 1), roc.numbers("tpr", 0, 1)
    if len(fpr) != len(tpr):
        raise roc.wrong("tpr", f"a list of {len(fpr)} numbers, as fpr has")
    return Membership(
        members=fields.count("members"),
        non_members=fields.count("non_members"),
        auc=fields.number("auc", 0, 1),
        auc_low=fields.number("auc_low", 0, 1),
        auc_high=fields.number("auc_high", 0, 1),
        rates=tuple(_rate(rates, key) for key in rates.keys()),  # noqa: SIM118
        fpr=fpr,
        tpr=tpr,
    )


def _rate(rates: Fields, key: str) -> Rate:
    one = rates.section(key)
    try:
        fpr = float(key)
    except ValueError as error:
        raise rates.wrong(key, "a false positive rate as its name") from error
    return Rate(
        fpr=fpr,
        tpr=one.number("tpr", 0, 1),
        low=one.number("low", 0, 1),
        high=one.number("high", 0, 1),
    )
