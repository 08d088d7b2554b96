"""The privacy claim in plain words, and what it does not cover."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from simulations.report.reading.audits import Audit
from simulations.report.reading.runs import Run
from simulations.report.reading.sweeps import Sweep

__all__ = ["Card", "Claim", "apply_audits", "cards", "claim_of_run", "claim_of_sweep", "surest"]


@dataclass(frozen=True, slots=True)
class Claim:
    """The first section of the page.

    Attributes:
        holds: whether something is claimed, and no audit disproves it.
        title: the heading.
        headline: one sentence.
        meaning: paragraphs that explain it.
        covers: what it covers, as name and sentence.
        leaves_out: what it does not cover.
    """

    holds: bool
    title: str
    headline: str
    meaning: tuple[str, ...]
    covers: tuple[tuple[str, str], ...]
    leaves_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Card:
    """A headline figure.

    Attributes:
        value: the figure.
        label: what it is.
        about: how to read it.
        good: True or False for a verdict, None for a figure.
    """

    value: str
    label: str
    about: str
    good: bool | None = None


def surest(epsilon: float) -> str:
    """Return the highest posterior probability that someone took part, e^ε / (1 + e^ε), as text.

    Bayes' rule with a prior of 1/2 and the likelihood ratio that pure ε-DP allows (Wasserman &
    Zhou, JASA 105, 2010, theorem 2.4); never rounded up to certainty.

    >>> surest(1.0), surest(8.0), surest(40.0)
    ('73.1%', '99.97%', 'over 99.999%')
    """
    rest = 100 / (1 + math.exp(min(epsilon, 700.0)))
    if rest < 0.001:
        return "over 99.999%"
    digits = 1 if rest >= 1 else math.ceil(-math.log10(rest)) + 1 - (rest < 0.1) * 1
    return f"{100 - rest:.{digits}f}%"


def claim_of_run(run: Run) -> Claim:
    """Return the claim of one run."""
    if not run.private:
        return _no_claim("This run added no noise.")
    worst, several = run.worst, len(run.organisations) > 1
    epsilon = worst.epsilon or 0.0
    if math.isinf(epsilon):
        return _no_claim("An organisation of this run sent something without noise.")
    who = f"each of the {len(run.organisations)} organisations" if several else "the organisation"
    return Claim(
        holds=True,
        title="The claim",
        headline=(
            f"Anyone who sees everything that {who} sent{_masks(run)} can learn only a limited "
            f"amount about any one of its users: ε = {epsilon:.2f}, at δ = {run.delta:g}."
        ),
        meaning=(_meaning(epsilon, run.delta), *_secure_aggregation(run)),
        covers=_covers(run),
        leaves_out=(*_summed_over_organisations(run), *_general_limits()),
    )


def _masks(run: Run) -> str:
    return "" if run.colluding is None else ", in sums over all organisations,"


def _secure_aggregation(run: Run) -> tuple[str, ...]:
    """Return what is to be said of secure aggregation, if the run used it."""
    if run.colluding is None:
        return ()
    everybody = max(one.epsilon_if_all_collude or 0.0 for one in run.organisations)
    others = (
        f"Up to {run.colluding} organisations may tell the coordinator all they know. If all "
        "others did, only an organisation's own noise would protect its users: "
        f"ε = {everybody:.2f}."
    )
    if run.masked:
        return (others,)
    return (
        others,
        "Masking was off: this run simulated the noise of secure aggregation alone. Each answer "
        "left by itself, with a share of the noise, so that the higher ε is what holds here.",
    )


def claim_of_sweep(sweep: Sweep, detail: Run) -> Claim:
    """Return the claim of the runs of a sweep."""
    every = sorted({row.epsilon for row in sweep.rows if math.isfinite(row.epsilon)})
    if not every:
        return _no_claim("No run of this sweep added noise.")
    runs, low, high = len(sweep.runs), every[0], every[-1]
    spread = f"from ε = {low:g} to ε = {high:g}" if len(every) > 1 else f"at ε = {low:g}"
    without = any(math.isinf(row.epsilon) for row in sweep.rows)
    extra = " Runs marked “none” added no noise and claim nothing." if without else ""
    return Claim(
        holds=True,
        title="The claim",
        headline=(
            f"{runs} run{'s' * (runs != 1)}, {spread}: anyone who sees everything that an "
            "organisation sent in one run can learn only a limited amount about any one of its "
            f"users, which that run's ε states.{extra}"
        ),
        meaning=tuple(_meaning(one, detail.delta) for one in dict.fromkeys((low, high))),
        covers=_covers(detail),
        leaves_out=(
            "Several runs on the same people: each claim is about one run. If several are "
            "published, their ε add up. Choosing the best of many runs by their results costs ε "
            "too.",
            *_general_limits(),
        ),
    )


def apply_audits(claim: Claim, audits: Sequence[Audit]) -> Claim:
    """Return the claim after these audits: unchanged, unless one disproves it."""
    violated = [audit.name for audit in audits if audit.violated]
    if not violated or not claim.holds:
        return claim
    return replace(
        claim,
        holds=False,
        title="The claim is violated",
        headline=(
            f"VIOLATED. An audit disproves the claim ({', '.join(violated)}). "
            f"The claim was: {claim.headline}"
        ),
    )


def _no_claim(why: str) -> Claim:
    return Claim(
        holds=False,
        title="Nothing is claimed",
        headline=f"NO PRIVACY. {why}",
        meaning=(
            "Nothing limits what the coordinator, or anyone who sees what was sent or the "
            "published model, can learn about a person. Suitable for public data only.",
        ),
        covers=(),
        leaves_out=(),
    )


def _meaning(epsilon: float, delta: float) -> str:
    return (
        f"At ε = {epsilon:.3g}: suppose that someone considers it 50% likely that a given person "
        "is among the users, and then sees everything that was sent. Afterwards they can be at "
        f"most {surest(epsilon)} sure, except with a probability of the order of δ = {delta:g}. "
        "Without noise they might be certain."
    )


def _covers(run: Run) -> tuple[tuple[str, str], ...]:
    return (
        (
            "Organisation",
            "a partner that keeps its own users' data. Neither the other organisations nor the "
            "coordinator get the data; the coordinator combines noised answers.",
        ),
        (
            "ε (epsilon)",
            "how much an observer may learn about one person. 0 means nothing at all; each step of "
            "1 allows the odds of a guess about the person to grow by another factor of 2.7.",
        ),
        (
            "δ (delta)",
            "roughly, the probability that this limit does not hold: smaller than 1 divided by the "
            "number of an organisation's users.",
        ),
        (
            "Who is protected",
            "each user, with their whole history at one organisation. The comparison is between "
            "data with and without that user (add or remove one user).",
        ),
        ("From whom", _LOCAL if run.colluding is None else _SECURE.format(run.colluding)),
    )


_LOCAL = (
    "the coordinator, and anyone who sees everything that an organisation sent, now or later, "
    "whatever else they know. No trust in others is needed: each organisation adds its own noise."
)
_SECURE = (
    "the coordinator together with {} of the organisations, whatever else they know, as long as "
    "they see masked answers and their sum. The noise of the others is what protects."
)


def _summed_over_organisations(run: Run) -> tuple[str, ...]:
    if len(run.organisations) < 2:
        return ()
    total = sum(one.epsilon or 0.0 for one in run.organisations)
    return (
        "The same person at several organisations: the ε add up. For someone who is a user of all "
        f"{len(run.organisations)}, the total is up to ε = {total:.1f}.",
    )


def _general_limits() -> tuple[str, ...]:
    return (
        "What an organisation does with its own data itself, and information that is public.",
        "Facts about many people at once. That people who like one film also like another is what "
        "a recommender learns, and it may be true of you even if your data was never used.",
        "These files. A simulation draws its noise from a seed, so that it can be repeated; a real "
        "organisation draws it from its operating system. This page shows exact figures, which is "
        "possible because the data is a public benchmark.",
    )


def cards(run: Run, audits: Sequence[Audit]) -> list[Card]:
    """Return the headline figures of one run."""
    shown = [_spent(run)]
    own = run.models.get("federated", {})
    rival = "popularity_private" if run.private else "popularity"
    if "hr@10" in own:
        shown.append(
            Card(
                f"{own['hr@10']:.1%}", "HR@10", "of users find their next item among the ten shown"
            )
        )
        shown.append(
            Card(
                f"{own['ndcg@10']:.4f}",
                "NDCG@10",
                "like HR@10, but a hit counts less the lower its rank; 1 is best",
            )
        )
    other = run.models.get(rival, {}).get("ndcg@10", 0.0)
    if run.joining and run.joining[0].home > 0:
        every = run.joining[0]
        shown.append(
            Card(
                f"{every.federated_home / every.home - 1:+z.1%}",
                "by joining",
                "NDCG@10 at home with the federated model, relative to own data alone, exact",
            )
        )
    elif own and other > 0:
        same = " counted at the same ε" if run.private else ""
        shown.append(
            Card(
                f"{own['ndcg@10'] / other:.2g} ×",
                "vs most popular",
                f"NDCG@10, relative to showing everybody the most popular items{same}",
            )
        )
    if "coverage@10" in own:
        shown.append(
            Card(
                f"{own['coverage@10']:.1%}",
                "coverage@10",
                "of the catalogue is shown to at least one user",
            )
        )
    if audits:
        shown.append(_verdict(audits))
    return shown


def _spent(run: Run) -> Card:
    if not run.private:
        return Card("none", "privacy", "no noise was added, so ε is unlimited", good=False)
    worst = run.worst
    alike = len({round(one.epsilon or 0, 2) for one in run.organisations}) == 1
    who = "by each organisation" if alike else f"by {worst.name}, which spent most"
    return Card(f"{worst.epsilon:.2f}", "ε spent", f"{who}, at δ = {run.delta:g}")


def _verdict(audits: Sequence[Audit]) -> Card:
    violated = any(audit.violated for audit in audits)
    number = f"{len(audits)} audit{'s' * (len(audits) > 1)}"
    if violated:
        return Card("✗ violated", "audit", f"{number}: the claim is disproved", good=False)
    return Card("✓ consistent", "audit", f"{number}: no attack disproved the claim", good=True)
