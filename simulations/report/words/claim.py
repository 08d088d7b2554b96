"""The claim in plain words, and what it does not cover."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from simulations.report.reading.audits import Audit
from simulations.report.reading.runs import Run
from simulations.report.reading.sweeps import Sweep

__all__ = ["Card", "Claim", "cards", "claim_of_run", "claim_of_sweep", "contradicted", "surest"]


@dataclass(frozen=True, slots=True)
class Claim:
    """What stands first on a page.

    Attributes:
        holds: whether something is claimed, and no audit disproves it.
        title: the heading.
        headline: one sentence.
        meaning: what it means, paragraph by paragraph.
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
    """How sure an observer can become, from a toss-up, that someone took part: e^ε / (1 + e^ε).

    Bayes' rule with the likelihood ratio that pure ε-DP allows (Wasserman & Zhou, JASA 105, 2010,
    theorem 2.4); never rounded up to certainty.

    >>> surest(1.0), surest(8.0), surest(40.0)
    ('73.1%', '99.97%', 'over 99.999%')
    """
    rest = 100 / (1 + math.exp(min(epsilon, 700.0)))
    if rest < 0.001:
        return "over 99.999%"
    digits = 1 if rest >= 1 else math.ceil(-math.log10(rest)) + 1 - (rest < 0.1) * 1
    return f"{100 - rest:.{digits}f}%"


def claim_of_run(run: Run) -> Claim:
    """What one run promises."""
    if not run.private:
        return _none("This run added no noise.")
    worst, several = run.worst, len(run.organisations) > 1
    epsilon = worst.epsilon or 0.0
    if math.isinf(epsilon):
        return _none("Something left an organisation of this run without noise.")
    who = f"each of the {len(run.organisations)} organisations" if several else "the organisation"
    return Claim(
        holds=True,
        title="The claim",
        headline=(
            f"Whoever sees everything that {who} sent can learn only so much about any one of its "
            f"users: ε = {epsilon:.2f}, at δ = {run.delta:g}."
        ),
        meaning=(_meaning(epsilon, run.delta),),
        covers=_covers(),
        leaves_out=(*_sum_of(run), *_always()),
    )


def claim_of_sweep(sweep: Sweep, detail: Run) -> Claim:
    """What the runs of a sweep promise, one by one."""
    every = sorted({row.epsilon for row in sweep.rows if math.isfinite(row.epsilon)})
    if not every:
        return _none("No run of this sweep added noise.")
    runs, low, high = len(sweep.runs), every[0], every[-1]
    spread = f"from ε = {low:g} to ε = {high:g}" if len(every) > 1 else f"at ε = {low:g}"
    without = any(math.isinf(row.epsilon) for row in sweep.rows)
    extra = " Runs marked “none” added no noise, and promise nothing." if without else ""
    return Claim(
        holds=True,
        title="The claim",
        headline=(
            f"{runs} run{'s' * (runs != 1)}, {spread}: whoever sees everything that an "
            "organisation sent in a run can learn only so much about any one of its users as that "
            f"run's ε allows.{extra}"
        ),
        meaning=tuple(_meaning(one, detail.delta) for one in dict.fromkeys((low, high))),
        covers=_covers(),
        leaves_out=(
            "Several runs on the same people: each run's claim is for that run alone, and whoever "
            "publishes more than one adds their ε up. Choosing the best of many runs by their "
            "results costs ε too.",
            *_always(),
        ),
    )


def contradicted(found: Claim, audits: Sequence[Audit]) -> Claim:
    """The claim as it stands after these audits: unchanged, unless one disproves it."""
    violated = [audit.name for audit in audits if audit.violated]
    if not violated or not found.holds:
        return found
    return replace(
        found,
        holds=False,
        title="The claim is violated",
        headline=(
            f"VIOLATED. What was claimed cannot be true: an audit disproves it "
            f"({', '.join(violated)}). The claim was: {found.headline}"
        ),
    )


def _none(why: str) -> Claim:
    return Claim(
        holds=False,
        title="Nothing is claimed",
        headline=f"NO PRIVACY. {why}",
        meaning=(
            "Nothing here limits what the coordinator, or anyone who sees what was sent or the "
            "published model, can learn about a person. Fit for public data only.",
        ),
        covers=(),
        leaves_out=(),
    )


def _meaning(epsilon: float, delta: float) -> str:
    return (
        f"At ε = {epsilon:.3g}, someone who thought it a toss-up whether a given person is among "
        f"the users, and then saw all that was sent, can be at most {surest(epsilon)} sure, but "
        f"for a chance of the order of δ = {delta:g}. Without noise they might be certain."
    )


def _covers() -> tuple[tuple[str, str], ...]:
    return (
        (
            "Organisation",
            "a partner that holds its own users' data and gives them to nobody: not to the other "
            "organisations, nor to the coordinator, who only combines their answers.",
        ),
        (
            "ε (epsilon)",
            "how much an observer may learn about one person: 0 is nothing at all, and each step "
            "up lets the odds of a guess about the person grow by a factor of 2.7 more.",
        ),
        (
            "δ (delta)",
            "the chance that this limit is missed: smaller than one in the number of an "
            "organisation's users.",
        ),
        (
            "Who is protected",
            "each user, with their whole history at one organisation: as if it had been there or "
            "not been there at all (add or remove one user).",
        ),
        (
            "From whom",
            "the coordinator, and whoever sees all that an organisation sent, now or later, "
            "whatever else they know. Nobody's good will is needed: each organisation adds its own "
            "noise.",
        ),
    )


def _sum_of(run: Run) -> tuple[str, ...]:
    if len(run.organisations) < 2:
        return ()
    total = sum(one.epsilon or 0.0 for one in run.organisations)
    return (
        "The same person at several organisations: what they lose adds up. Someone who is a user "
        f"of all {len(run.organisations)} could lose up to ε = {total:.1f}.",
    )


def _always() -> tuple[str, ...]:
    return (
        "What an organisation does with its own data at home, and what is public anyway.",
        "Facts about many people at once: that those who like one film like another is what a "
        "recommender is for, and it may be said of you though you never took part.",
        "These files. A simulation draws its noise from a seed, so that it can be repeated; a real "
        "organisation draws it from its operating system. The exact figures on this page exist "
        "because the data are a benchmark.",
    )


def cards(run: Run, audits: Sequence[Audit]) -> list[Card]:
    """Headline figures of one run."""
    found = [_spent(run)]
    own = run.models.get("federated", {})
    rival = "popularity_private" if run.private else "popularity"
    if "hr@10" in own:
        found.append(
            Card(f"{own['hr@10']:.1%}", "HR@10", "users whose next item is among the ten shown")
        )
        found.append(
            Card(
                f"{own['ndcg@10']:.4f}",
                "NDCG@10",
                "the same, where a hit counts less the further down it is; 1 is best",
            )
        )
    other = run.models.get(rival, {}).get("ndcg@10", 0.0)
    if own and other > 0:
        same = " counted at the same ε" if run.private else ""
        found.append(
            Card(
                f"{own['ndcg@10'] / other:.2g} ×",
                "the most popular",
                f"NDCG@10, compared with showing everybody the most popular items{same}",
            )
        )
    if "coverage@10" in own:
        found.append(Card(f"{own['coverage@10']:.1%}", "coverage@10", "of the catalogue is shown"))
    if audits:
        found.append(_verdict(audits))
    return found


def _spent(run: Run) -> Card:
    if not run.private:
        return Card("none", "privacy", "no noise was added: any ε may have leaked", good=False)
    worst = run.worst
    alike = len({round(one.epsilon or 0, 2) for one in run.organisations}) == 1
    who = "by each organisation" if alike else f"by {worst.name}, which spent most"
    return Card(f"{worst.epsilon:.2f}", "ε spent", f"{who}, at δ = {run.delta:g}")


def _verdict(audits: Sequence[Audit]) -> Card:
    violated = any(audit.violated for audit in audits)
    number = f"{len(audits)} audit{'s' * (len(audits) > 1)}"
    if violated:
        return Card("✗ violated", "audit", f"{number}: the claim cannot be true", good=False)
    return Card("✓ consistent", "audit", f"{number}: no attack disproved the claim", good=True)
