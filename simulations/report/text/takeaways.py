"""Sentences computed from the numbers; they claim a difference only where a test shows one."""

from __future__ import annotations

import math
from collections.abc import Sequence

from simulations.experiment.joining import describe_joining
from simulations.experiment.result_json import Exposure, Joining
from simulations.report.figures.curves import MOST_LINES
from simulations.report.figures.frontier import Frontier, Line, Point
from simulations.report.models import look
from simulations.report.numbers.shares import SIGNIFICANCE, Share, differ, paired_p
from simulations.report.numbers.users import Gain, Part
from simulations.report.reading.audits import Audit, Membership
from simulations.report.reading.runs import Run
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
    """Return a number as text, or "none"."""
    if value is None:
        return "none"
    return "∞" if math.isinf(value) else f"{value:.{digits}f}"


def chance(p: float) -> str:
    """Return a p-value as text, rounded to two digits."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def epsilon_text(value: float) -> str:
    """Return the ε of a setting as text; "none" without privacy."""
    return "none" if math.isinf(value) else f"{value:g}"


def _hit(share: Share) -> str:
    return f"{share.value:.1%} of users ({share.count:,} of {share.users:,})"


# --- a sweep -------------------------------------------------------------------------------------


def frontier(data: Frontier) -> str:
    """Describe the best line between its ends, and against the most popular items at the same ε."""
    line = data.lines[0]
    private = [point for point in line.points if math.isfinite(point.epsilon)]
    text = (
        [f"At the largest ε, the best of the settings is {line.variant}."] if line.variant else []
    )
    if len(private) > 1:
        first, last = private[0], private[-1]
        text.append(
            f"NDCG@10 is {_value(first)} at ε = {first.epsilon:g}, and {_value(last)} at "
            f"ε = {last.epsilon:g}."
        )
    elif private:
        text.append(f"At ε = {private[0].epsilon:g}, NDCG@10 is {_value(private[0])}.")
    if len(private) < len(line.points):
        text.append(f"Without privacy it is {_value(line.points[-1])}.")
    rival = next((one for one in data.baselines if one.model == "popularity_private"), None)
    if private and rival is not None:
        text.append(_against(private, rival))
    return " ".join([*text, *_joined(data)])


def _joined(data: Frontier) -> list[str]:
    """Return by how much joining with the best settings changes NDCG@10 at home at each ε."""
    lines = {
        line.model: {point.epsilon: point for point in line.points}
        for line in data.baselines
        if line.variant in ("", data.lines[0].variant)
    }
    home, joined = lines.get("home", {}), lines.get("federated_home", {})
    gains = [
        f"{joined[epsilon].mean / home[epsilon].mean - 1:+z.1%} at ε = {epsilon_text(epsilon)}"
        for epsilon in sorted(home.keys() & joined.keys())
        if home[epsilon].mean > 0 and math.isfinite(epsilon)
    ]
    return [f"At home, joining changes NDCG@10 by {', '.join(gains)}."] if gains else []


def _value(point: Point) -> str:
    several = len(point.values) > 1
    return f"{point.mean:.4f} ± {point.spread:.4f}" if several else f"{point.mean:.4f}"


def _against(private: Sequence[Point], rival: Line) -> str:
    """Compare where both were measured; a difference must exceed the sum of both deviations."""
    others = {point.epsilon: point for point in rival.points}
    pairs = [(point, others[point.epsilon]) for point in private if point.epsilon in others]
    above = [p for p, q in pairs if p.mean - q.mean > p.spread + q.spread]
    below = [p for p, q in pairs if q.mean - p.mean > p.spread + q.spread]
    if len(above) == len(pairs):
        return "It is above the most popular items, counted under the same ε, at every measured ε."
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
        return f"{start}; elsewhere the difference is within the standard deviations."
    return (
        "Its difference from the most popular items under the same ε is within the standard "
        "deviations at every ε."
    )


def frontier_notes(data: Frontier, sweep: Sweep) -> tuple[str, ...]:
    """Return notes on the seeds, the lines that are not drawn, and unfinished runs."""
    notes = []
    if all(len(point.values) == 1 for line in data.lines for point in line.points):
        notes.append("Each point is one seed, so the variation by chance is unknown.")
    if len(data.lines) > MOST_LINES:
        notes.append(
            f"The figure shows {MOST_LINES} of {len(data.lines)} settings; the table has all."
        )
    if any(line.variant for line in data.baselines):
        notes.append("Models adapted at home are in the table, one for each of the settings.")
    if sweep.unfinished:
        some = ", ".join(f"{name} ({status})" for name, status in sweep.unfinished[:5])
        more = len(sweep.unfinished) - 5
        rest = f" and {more} more" if more > 0 else ""
        notes.append(f"Not included, because they have not finished: {some}{rest}.")
    shown = dict.fromkeys(line.model for line in (*data.lines, *data.baselines))
    return (*notes, *(f"{look(model).label}: {look(model).meaning}" for model in shown))


# --- audits --------------------------------------------------------------------------------------


def audits(results: Sequence[Audit]) -> str:
    """Return the verdict of all audits."""
    violated = [audit for audit in results if audit.violated]
    if violated:
        names = ", ".join(audit.name for audit in violated)
        return f"VIOLATED ({names}). {' '.join(r for audit in violated for r in audit.reasons)}"
    bounds = [(one.lower_bound, one, audit) for audit in results for one in audit.observers]
    if not bounds:
        return "No observer made a guess, so the claim was not tested."
    bound, observer, audit = max(bounds, key=lambda one: one[0])
    text = (
        f"No violation was found. The highest proved lower bound is ε ≥ {bound:.2f} "
        f"({observer.name}, confidence {audit.confidence:.0%}); the claim is "
        f"ε ≤ {number(audit.claimed(observer))}."
    )
    return " ".join([text, *(_too_weak(audit) for audit in results if _too_weak(audit))])


def _too_weak(audit: Audit) -> str:
    """Return a sentence for an audit whose guesses could not have disproved the claim."""
    most = max((one.largest_provable for one in audit.observers), default=0.0)
    if audit.epsilon is None or most >= audit.epsilon:
        return ""
    return (
        f"The guesses of {audit.name} could not have shown a violation: even if all were right, "
        f"they would prove at most ε = {most:.2f}."
    )


def audit_notes(results: Sequence[Audit]) -> tuple[str, ...]:
    """Return the comparison with the ledger, the reasons and the limitations of each audit."""
    notes = []
    for audit in results:
        start = f"{audit.name}: " if len(results) > 1 else ""
        books = audit.books
        if books is None:
            notes.append(f"{start}The ledger was not compared with the observed releases.")
        else:
            notes.append(
                f"{start}{books.seen:,} releases left the organisation; by {books.accountant} they "
                f"cost ε = {number(books.recomputed, 3)}, and the ledger states "
                f"{number(books.ledger, 3)}: "
                + ("the two contradict." if books.violated else "the two agree.")
            )
        if not audit.violated:
            notes += [f"{start}{reason}" for reason in audit.reasons]
        notes += [f"{start}What it could not have detected: {spot}" for spot in audit.blind_spots]
    return tuple(notes)


def membership(attack: Membership) -> str:
    """Describe the attack at the smallest false positive rate that was measured."""
    if not attack.rates:
        return area(attack)
    rate = min(attack.rates, key=lambda one: one.fpr)
    text = (
        f"At a false positive rate of {rate.fpr:.1%}, {rate.tpr:.2%} of the members are recognised "
        f"(95% interval {rate.low:.2%} to {rate.high:.2%})"
    )
    if rate.low > rate.fpr:
        return f"{text}: more than by guessing."
    return f"{text}: no evidence that this is better than guessing."


def area(attack: Membership) -> str:
    """Describe the area under the curve."""
    return (
        f"Area under the curve: {attack.auc:.3f} (95% interval {attack.auc_low:.3f} to "
        f"{attack.auc_high:.3f}); 0.5 is guessing. The attack was tried on {attack.members:,} "
        f"members and {attack.non_members:,} others."
    )


# --- a run ---------------------------------------------------------------------------------------


def models(run: Run) -> str:
    """Compare the federated model with the most popular items under the same privacy."""
    own, rival = "federated", "popularity_private" if run.private else "popularity"
    shares = {
        name: Share(round(run.models[name]["hr@10"] * run.tested), run.tested)
        for name in (own, rival)
        if name in run.models
    }
    if own not in shares:
        return "This run has no federated model."
    joined = f"{describe_joining(run.joining)[0]} " if run.joining else ""
    text = f"{joined}The federated model has a hit for {_hit(shares[own])}"
    if rival not in shares:
        return f"{text}."
    text += f"; “{look(rival).label}” has one for {_hit(shares[rival])}"
    if run.evaluation is None:
        return f"{text}."
    p = paired_p(run.evaluation.ranks[own], run.evaluation.ranks[rival])
    return f"{text}. {_significance(p)}"


def _significance(p: float) -> str:
    test = f"{chance(p)}, McNemar's exact test"
    if p < SIGNIFICANCE:
        return f"The difference is statistically significant ({test})."
    return f"The difference is not statistically significant ({test})."


def budget(run: Run) -> str:
    """Return the highest ε that an organisation has spent, and its limit."""
    worst = run.worst
    steps = sum(release.steps for release in worst.releases)
    limit = "" if run.cap is None else f" of at most {run.cap:g}"
    who = (
        f"Each of the {len(run.organisations)} organisations"
        if len(run.organisations) > 1
        and len({round(one.epsilon or 0, 6) for one in run.organisations}) == 1
        else worst.name
    )
    return f"{who} has spent ε = {number(worst.epsilon)}{limit} on {steps:,} noised sums."


def gains(results: Sequence[Gain], joining: Sequence[Joining]) -> str:
    """Compare what organisations get at home with the federated model and without it.

    Args:
        results: all users, then each organisation.
        joining: the same in result.json.
    """
    if joining:
        return " ".join(describe_joining(joining))
    every, *each = results
    more = sum(one.together.count > one.separate.count for one in each)
    return (
        f"The federated model, adapted at home, has a hit for {_hit(every.together)}, own data "
        f"alone for {every.separate.value:.1%} ({every.separate.count:,}). "
        f"{_significance(every.p)} {more} of {len(each)} organisations have more hits by joining."
    )


def parts(groups: Sequence[Part], what: str) -> str:
    """Describe whether the federated model serves groups of users alike.

    Args:
        groups: of users.
        what: "events", or the name of the grouping.
    """
    shares = [(part.label, part.share["federated"]) for part in groups]
    apart = differ([share for _, share in shares])
    if apart is None:
        return "There are too few hits to test whether the model serves these users alike."
    (low, least), (high, most) = (
        min(shares, key=lambda one: one[1].value),
        max(shares, key=lambda one: one[1].value),
    )
    unit = " events" if what == "events" else ""
    if not apart:
        return (
            f"The federated model's shares of hits, from {least.value:.1%} to {most.value:.1%}, do "
            "not differ significantly (χ² test at 5%)."
        )
    return (
        f"The federated model has a hit for {_hit(most)} with {high}{unit}, and for {_hit(least)} "
        f"with {low}{unit}: the difference is significant (χ² test at 5%)."
        if what == "events"
        else f"The federated model has a hit for {_hit(most)} in the group “{high}”, and for "
        f"{_hit(least)} in “{low}”: the difference is significant (χ² test at 5%)."
    )


def exposure(run: Run, shares: Exposure) -> str:
    """Compare the most popular tenth of the catalogue in the lists and in what users chose."""
    own = shares.models.get("federated")
    if own is None:
        return "This run has no federated model."
    figures = run.models["federated"]
    text = (
        f"The most popular tenth of the catalogue takes {own[0]:.0%} of the positions in the "
        f"federated model's lists; {shares.chosen[0]:.0%} of the users' next items are from it."
    )
    if "coverage@10" in figures:
        text += f" {figures['coverage@10']:.1%} of the catalogue is shown to at least one user."
    return text
