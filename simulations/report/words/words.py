"""What a report says: every sentence follows from the numbers, and stays neutral where they do."""

from __future__ import annotations

import math
from collections.abc import Sequence

from simulations.report.figures.curves import MOST_LINES
from simulations.report.figures.frontier import Frontier, Line, Point
from simulations.report.models import look
from simulations.report.numbers.shares import CHANCE, Share, differ, paired_p
from simulations.report.numbers.users import Gain, Part
from simulations.report.reading.audits import Audit, Membership
from simulations.report.reading.runs import Exposure, Run
from simulations.report.reading.sweeps import Sweep

__all__ = [
    "area",
    "audit_notes",
    "audits",
    "budget",
    "chance",
    "epsilon_text",
    "exposure",
    "frontier",
    "frontier_notes",
    "gains",
    "membership",
    "models",
    "number",
    "parts",
]

# --- small parts of sentences --------------------------------------------------------------------


def number(value: float | None, digits: int = 2) -> str:
    """A number, or "none"."""
    if value is None:
        return "none"
    return "∞" if math.isinf(value) else f"{value:.{digits}f}"


def chance(p: float) -> str:
    """A p-value, no more exactly than anybody can use."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def epsilon_text(value: float) -> str:
    """An ε that was asked for."""
    return "none" if math.isinf(value) else f"{value:g}"


def _hit(share: Share) -> str:
    return f"{share.value:.1%} of users ({share.count:,} of {share.users:,})"


# --- a sweep -------------------------------------------------------------------------------------


def frontier(found: Frontier) -> str:
    """What the best line does between its ends, and against the most popular at the same ε."""
    line = found.lines[0]
    private = [point for point in line.points if math.isfinite(point.epsilon)]
    text = [f"Among the settings, {line.variant} ends highest."] if line.variant else []
    if len(private) > 1:
        first, last = private[0], private[-1]
        text.append(
            f"From ε = {first.epsilon:g} to ε = {last.epsilon:g}, NDCG@10 goes from "
            f"{_value(first)} to {_value(last)}."
        )
    elif private:
        text.append(f"At ε = {private[0].epsilon:g}, NDCG@10 is {_value(private[0])}.")
    if len(private) < len(line.points):
        text.append(f"Without privacy it is {_value(line.points[-1])}.")
    rival = next((one for one in found.baselines if one.model == "popularity_private"), None)
    if private and rival is not None:
        text.append(_against(private, rival))
    return " ".join(text)


def _value(point: Point) -> str:
    several = len(point.values) > 1
    return f"{point.mean:.4f} ± {point.spread:.4f}" if several else f"{point.mean:.4f}"


def _against(private: Sequence[Point], rival: Line) -> str:
    """Compares where both were measured: above only if further apart than both spreads."""
    others = {point.epsilon: point for point in rival.points}
    pairs = [(point, others[point.epsilon]) for point in private if point.epsilon in others]
    above = [p for p, q in pairs if p.mean - q.mean > p.spread + q.spread]
    below = [p for p, q in pairs if q.mean - p.mean > p.spread + q.spread]
    if len(above) == len(pairs):
        return "It is above the most popular items, counted under the same ε, at each ε measured."
    listed = ", ".join(f"{point.epsilon:g}" for point in above)
    start = f"It is above the most popular items under the same ε at ε = {listed}" if above else ""
    if below:
        worse = ", ".join(f"{point.epsilon:g}" for point in below)
        return (
            f"{start}, and below them at ε = {worse}."
            if start
            else (f"It is below the most popular items under the same ε at ε = {worse}.")
        )
    if start:
        return f"{start}; elsewhere the two are within their spread."
    return "It and the most popular items under the same ε are within their spread at each ε."


def frontier_notes(found: Frontier, sweep: Sweep) -> tuple[str, ...]:
    """What a reader must know of the figure."""
    notes = []
    if all(len(point.values) == 1 for line in found.lines for point in line.points):
        notes.append("One seed each: how much these figures vary by chance is not known.")
    if len(found.lines) > MOST_LINES:
        notes.append(
            f"The figure shows {MOST_LINES} of {len(found.lines)} settings; the table has all."
        )
    if sweep.unfinished:
        some = ", ".join(f"{name} ({status})" for name, status in sweep.unfinished[:5])
        more = len(sweep.unfinished) - 5
        rest = f" and {more} more" if more > 0 else ""
        notes.append(f"Not in these figures, for they have not ended: {some}{rest}.")
    known = dict.fromkeys(line.model for line in (*found.lines, *found.baselines))
    return (*notes, *(f"{look(model).label}: {look(model).meaning}" for model in known))


# --- audits --------------------------------------------------------------------------------------


def audits(found: Sequence[Audit]) -> str:
    """The verdict of all."""
    violated = [audit for audit in found if audit.violated]
    if violated:
        names = ", ".join(audit.name for audit in violated)
        return f"VIOLATED ({names}). {' '.join(r for audit in violated for r in audit.reasons)}"
    bounds = [(one.lower_bound, one.name, audit) for audit in found for one in audit.observers]
    if not bounds:
        return "No observer made a guess: nothing is proven, and nothing disproven."
    bound, name, audit = max(bounds, key=lambda one: one[0])
    text = (
        f"No violation was found. The strongest proof is ε ≥ {bound:.2f} ({name}, confidence "
        f"{audit.confidence:.0%}), where ε ≤ {number(audit.epsilon)} is claimed."
    )
    return " ".join([text, *(_too_weak(audit) for audit in found if _too_weak(audit))])


def _too_weak(audit: Audit) -> str:
    """A sentence for an audit whose guesses could not have disproven the claim."""
    most = max((one.largest_provable for one in audit.observers), default=0.0)
    if audit.epsilon is None or most >= audit.epsilon:
        return ""
    return (
        f"The guesses of {audit.name} could not have shown one: even if all were right, they would "
        f"prove no more than {most:.2f}."
    )


def audit_notes(found: Sequence[Audit]) -> tuple[str, ...]:
    """The books, the reasons and the blind spots."""
    notes = []
    for audit in found:
        start = f"{audit.name}: " if len(found) > 1 else ""
        books = audit.books
        if books is None:
            notes.append(f"{start}The ledger was not compared with what was seen leaving.")
        else:
            notes.append(
                f"{start}{books.seen:,} releases were seen leaving; by {books.accountant} they "
                f"cost ε = {number(books.recomputed, 3)}, and the ledger states "
                f"{number(books.ledger, 3)}: "
                + ("they contradict." if books.violated else "they agree.")
            )
        if not audit.violated:
            notes += [f"{start}{reason}" for reason in audit.reasons]
        notes += [f"{start}What it could not have seen: {spot}" for spot in audit.blind_spots]
    return tuple(notes)


def membership(found: Membership) -> str:
    """At the strictest rate that was measured."""
    if not found.rates:
        return area(found)
    rate = min(found.rates, key=lambda one: one.fpr)
    text = (
        f"While {rate.fpr:.1%} of others are taken for members, {rate.tpr:.2%} of members are "
        f"recognised (95% interval {rate.low:.2%} to {rate.high:.2%})"
    )
    if rate.low > rate.fpr:
        return f"{text}: more than guessing would."
    return f"{text}: no better than guessing, as far as can be told."


def area(found: Membership) -> str:
    """The whole curve in a number."""
    return (
        f"Area under the curve: {found.auc:.3f} (95% interval {found.auc_low:.3f} to "
        f"{found.auc_high:.3f}); .5 is guessing. {found.members:,} members and "
        f"{found.non_members:,} others were tried."
    )


# --- a run ---------------------------------------------------------------------------------------


def models(run: Run) -> str:
    """The federated model against the most popular items under the same rules."""
    own, rival = "federated", "popularity_private" if run.private else "popularity"
    shares = {
        name: Share(round(run.models[name]["hr@10"] * run.tested), run.tested)
        for name in (own, rival)
        if name in run.models
    }
    if own not in shares:
        return "There is no federated model in this run."
    text = f"The federated model hits {_hit(shares[own])}"
    if rival not in shares:
        return f"{text}."
    text += f"; “{look(rival).label}” hits {_hit(shares[rival])}"
    if run.evaluation is None:
        return f"{text}."
    p = paired_p(run.evaluation.ranks[own], run.evaluation.ranks[rival])
    return f"{text}. {_beyond(p)}"


def _beyond(p: float) -> str:
    test = f"{chance(p)}, McNemar's exact test"
    if p < CHANCE:
        return f"The difference is beyond chance ({test})."
    return f"There is no difference beyond chance ({test})."


def budget(run: Run) -> str:
    """The worst organisation and its limit."""
    worst = run.worst
    steps = sum(release.steps for release in worst.releases)
    limit = "" if run.cap is None else f" of at most {run.cap:g}"
    who = (
        f"Each of the {len(run.organisations)} organisations"
        if len(run.organisations) > 1
        and len({round(one.epsilon or 0, 6) for one in run.organisations}) == 1
        else worst.name
    )
    return f"{who} has spent ε = {number(worst.epsilon)}{limit}, with {steps:,} noised sums."


def gains(found: Sequence[Gain]) -> str:
    """All users first, then how many organisations gain."""
    every, *each = found
    more = sum(one.together.count > one.alone.count for one in each)
    return (
        f"Together {_hit(every.together)} are hit, alone {every.alone.value:.1%} "
        f"({every.alone.count:,}). {_beyond(every.p)} {more} of {len(each)} organisations have "
        "more hits together."
    )


def parts(found: Sequence[Part], what: str) -> str:
    """Whether the federated model serves the parts alike."""
    shares = [(part.label, part.share["federated"]) for part in found]
    apart = differ([share for _, share in shares])
    if apart is None:
        return "There are too few hits to tell whether the federated model serves them alike."
    (low, least), (high, most) = (
        min(shares, key=lambda one: one[1].value),
        max(shares, key=lambda one: one[1].value),
    )
    unit = " events" if what == "events" else ""
    if not apart:
        return (
            "The federated model serves them alike, as far as can be told: shares from "
            f"{least.value:.1%} to {most.value:.1%} are within chance (χ² test at 5%)."
        )
    return (
        f"The federated model hits {_hit(most)} with {high}{unit}, and {_hit(least)} with "
        f"{low}{unit}: the parts differ beyond chance (χ² test at 5%)."
        if what == "events"
        else f"The federated model hits {_hit(most)} in the group “{high}”, and {_hit(least)} in "
        f"“{low}”: the groups differ beyond chance (χ² test at 5%)."
    )


def exposure(run: Run, found: Exposure) -> str:
    """The head of the catalogue, in lists and in life."""
    own = found.models.get("federated")
    if own is None:
        return "There is no federated model in this run."
    figures = run.models["federated"]
    text = (
        f"The most popular tenth of the catalogue fills {own[0]:.0%} of the federated model's "
        f"places; users chose from it {found.chosen[0]:.0%} of the time."
    )
    if "coverage@10" in figures:
        text += f" {figures['coverage@10']:.1%} of the catalogue is shown to anyone at all."
    return text
