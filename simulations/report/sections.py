"""The parts of a page: a figure, the sentence that it comes to, and the table of its numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from simulations.report import texts, words
from simulations.report.audits import Audit
from simulations.report.canvas import Picture
from simulations.report.curves import budget_picture, frontier_picture, roc_picture
from simulations.report.models import look
from simulations.report.numbers import (
    BASELINES,
    Part,
    by_activity,
    by_group,
    comparison,
    frontier,
    gains,
    spending,
)
from simulations.report.rows import (
    Row,
    audit_picture,
    exposure_picture,
    gain_picture,
    hits_picture,
    part_rows,
)
from simulations.report.runs import Evaluation, Run
from simulations.report.shares import Share
from simulations.report.sweeps import Sweep

__all__ = ["Section", "Table", "audit_sections", "budget_section", "run_sections", "sweep_sections"]

SHOWN = ("federated", *BASELINES)
"""The models of figures that look at parts of the users."""


@dataclass(frozen=True, slots=True)
class Table:
    """Numbers as text.

    Attributes:
        head: names of the columns.
        rows: one text a column.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One part of a page.

    Attributes:
        key: its anchor.
        title: a question or a name.
        takeaway: the one sentence, from the numbers.
        about: how to read the figure.
        picture: None where there is nothing to show.
        table: what the figure shows, as numbers.
        notes: further sentences.
    """

    key: str
    title: str
    takeaway: str
    about: str = ""
    picture: Picture | None = None
    table: Table | None = None
    notes: tuple[str, ...] = ()


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    return Table(tuple(head), tuple(tuple(row) for row in rows))


def _missing(key: str, title: str, why: str) -> Section:
    return Section(key=key, title=title, takeaway=why)


# --- a sweep -------------------------------------------------------------------------------------


def sweep_sections(sweep: Sweep) -> list[Section]:
    """Utility against ε."""
    found, hit_rates = frontier(sweep), frontier(sweep, "hr@10")
    hit = {
        (line.model, line.variant, point.epsilon): point
        for line in (*hit_rates.lines, *hit_rates.baselines)
        for point in line.points
    }
    rows = []
    for line in (*found.lines, *found.baselines):
        for point in line.points:
            other = hit.get((line.model, line.variant, point.epsilon))
            rows.append(
                (
                    look(line.model).label + (f", {line.variant}" if line.variant else ""),
                    words.epsilon_text(point.epsilon),
                    f"{len(point.values)}",
                    f"{point.mean:.4f}",
                    f"{point.spread:.4f}" if len(point.values) > 1 else "one seed",
                    f"{other.mean:.4f}" if other else "",
                )
            )
    return [
        Section(
            key="utility",
            title="How good are recommendations at each ε?",
            takeaway=words.frontier(found),
            about=texts.FRONTIER,
            picture=frontier_picture(found, "NDCG@10"),
            table=_table(
                ("model", "ε", "seeds", "NDCG@10, mean", "standard deviation", "HR@10, mean"), rows
            ),
            notes=words.frontier_notes(found, sweep),
        )
    ]


# --- an audit ------------------------------------------------------------------------------------


def audit_sections(audits: Sequence[Audit]) -> list[Section]:
    """What attacks could show, or a sentence that nobody tried."""
    if not audits:
        return [_missing("audit", "Does the claim hold under attack?", texts.NO_AUDIT)]
    several = len(audits) > 1
    found = [
        Section(
            key="audit",
            title="Does the claim hold under attack?",
            takeaway=words.audits(audits),
            about=texts.AUDIT,
            picture=audit_picture(audits) if any(audit.observers for audit in audits) else None,
            table=_audit_table(audits),
            notes=words.audit_notes(audits),
        )
    ]
    for number, audit in enumerate(audits, start=1):
        suffix = f": {audit.name}" if several else ""
        found.append(_membership(audit, f"membership-{number}", suffix))
    return found


def _audit_table(audits: Sequence[Audit]) -> Table:
    rows = []
    for audit in audits:
        for one in audit.observers:
            estimate = one.estimate
            rows.append(
                (
                    audit.name,
                    one.name,
                    one.sees,
                    f"{one.canaries:,}",
                    f"{one.correct:,} of {one.guesses:,}",
                    f"{one.lower_bound:.3f}",
                    f"{one.largest_provable:.3f}",
                    words.number(audit.epsilon),
                    f"{estimate.epsilon:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"
                    if estimate
                    else "none",
                    "violated" if one.violated else "consistent",
                )
            )
    head = "audit|observer|sees|canaries|right guesses|proven ε|most provable|claimed ε"
    return _table((*head.split("|"), "estimate", "verdict"), rows)


def _membership(audit: Audit, key: str, suffix: str) -> Section:
    title = f"Can one tell who was in the training data?{suffix}"
    found = audit.membership
    if found is None:
        return _missing(key, title, texts.NO_MEMBERSHIP)
    picture = roc_picture(found, audit.epsilon, audit.delta)
    return Section(
        key=key,
        title=title,
        takeaway=words.membership(found),
        about=texts.MEMBERSHIP,
        picture=Picture(key, picture.draw, picture.height, picture.narrow_height),
        table=_table(
            ("false positives", "true positives", "95% interval"),
            [
                (f"{one.fpr:.2%}", f"{one.tpr:.3%}", f"{one.low:.3%} to {one.high:.3%}")
                for one in found.rates
            ],
        ),
        notes=(words.area(found),),
    )


# --- a run ---------------------------------------------------------------------------------------


def run_sections(run: Run, *, compared: bool) -> list[Section]:
    """Whom one run serves, and how well.

    Args:
        run: the run.
        compared: whether another section compares its models already.
    """
    found = [] if compared else [_models(run)]
    if run.evaluation is None:
        return [*found, _missing("users", "Who is served well?", texts.NO_EVALUATION), _places(run)]
    models = [model for model in SHOWN if model in run.evaluation.ranks]
    found.append(_gains(run.evaluation))
    found.append(
        _parts("activity", "Does activity matter?", by_activity(run.evaluation, models), "events")
    )
    if not run.evaluation.groups:
        found.append(_missing("groups", "Are groups served alike?", texts.NO_GROUPS))
    for number, group in enumerate(run.evaluation.groups, start=1):
        parts = by_group(run.evaluation, group, models)
        found.append(_parts(f"group-{number}", f"Does {group} matter?", parts, group))
    return [*found, _places(run)]


def _models(run: Run) -> Section:
    found = comparison(run)
    figures = list(found[0].figures)
    return Section(
        key="models",
        title="How good are the recommendations?",
        takeaway=words.models(run),
        about=texts.MODELS,
        picture=hits_picture(
            "models", [Row(look(one.model).label, {one.model: one.share}) for one in found]
        ),
        table=_table(
            ("model", *figures, "users hit", "95% interval"),
            [
                (
                    look(one.model).label,
                    *(f"{one.figures[name]:.4f}" for name in figures),
                    f"{one.share.count:,} of {one.share.users:,}",
                    _interval(one.share),
                )
                for one in found
            ],
        ),
        notes=tuple(f"{look(one.model).label}: {look(one.model).meaning}" for one in found),
    )


def budget_section(run: Run) -> Section:
    """What each organisation spent."""
    title = "How much of the budget is spent?"
    found = spending(run)
    if not found:
        return _missing("budget", title, texts.NO_BUDGET)
    if not all(math.isfinite(epsilon) for line in found for epsilon in line.epsilon):
        return _missing("budget", title, texts.INFINITE)
    releases = [
        (
            one.name,
            f"{one.population:,}",
            str(release.kind),
            f"{release.steps:,}",
            f"{release.noise_multiplier:.4g}",
            f"{release.sample_rate:.4g}",
            words.number(one.epsilon),
        )
        for one in run.organisations
        for release in one.releases
    ]
    head = "organisation|users|kind|noised sums|noise multiplier|sample rate|ε of all"
    return Section(
        key="budget",
        title=title,
        takeaway=words.budget(run),
        about=texts.BUDGET,
        picture=budget_picture(found, run.cap),
        table=_table(head.split("|"), releases),
    )


def _gains(found: Evaluation) -> Section:
    title = "Who gains from training together?"
    each = gains(found)
    if not each:
        return _missing("gain", title, texts.NO_ALONE)
    head = "organisation|users|hit alone|hit together|NDCG@10 alone|NDCG@10 together|chance"
    return Section(
        key="gain",
        title=title,
        takeaway=words.gains(each),
        about=texts.GAIN,
        picture=gain_picture(each),
        table=_table(
            head.split("|"),
            [
                (
                    one.name or "all users",
                    f"{one.alone.users:,}",
                    f"{one.alone.count:,} ({one.alone.value:.1%})",
                    f"{one.together.count:,} ({one.together.value:.1%})",
                    f"{one.alone_ndcg:.4f}",
                    f"{one.together_ndcg:.4f}",
                    words.chance(one.p),
                )
                for one in each
            ],
        ),
    )


def _parts(key: str, title: str, parts: Sequence[Part], what: str) -> Section:
    if len(parts) < 2:
        return _missing(key, title, texts.ALL_ALIKE)
    head = (
        "training events" if what == "events" else what,
        "users",
        "model",
        "hit",
        "95% interval",
    )
    rows = [
        (
            part.label,
            f"{part.users:,}",
            look(model).label,
            f"{share.count:,} ({share.value:.1%})",
            _interval(share),
            f"{part.ndcg[model]:.4f}",
        )
        for part in parts
        for model, share in part.share.items()
    ]
    return Section(
        key=key,
        title=title,
        takeaway=words.parts(parts, what),
        about=texts.ACTIVITY if what == "events" else texts.GROUPS,
        picture=hits_picture(key, part_rows(parts)),
        table=_table((*head, "NDCG@10"), rows),
    )


def _places(run: Run) -> Section:
    title = "Is it all about the most popular?"
    found = run.exposure
    if found is None:
        return _missing("exposure", title, texts.NO_EXPOSURE)
    models = [model for model in SHOWN if model in found.models]
    shares = {"what users chose": found.chosen}
    shares |= {look(model).label: found.models[model] for model in found.models}
    return Section(
        key="exposure",
        title=title,
        takeaway=words.exposure(run, found),
        about=texts.EXPOSURE,
        picture=exposure_picture(found, models),
        table=_table(
            ("tenth of the catalogue", *shares),
            [
                (_tenth(place), *(f"{of[place]:.1%}" for of in shares.values()))
                for place in range(len(found.chosen))
            ],
        ),
    )


def _tenth(place: int) -> str:
    names = {0: "most popular", 9: "least popular"}
    return names.get(place, f"{place + 1}")


def _interval(share: Share) -> str:
    low, high = share.interval
    return f"{low:.1%} to {high:.1%}"
