"""What a page shows of the recommendations: what they are worth, and to whom."""

from __future__ import annotations

from collections.abc import Sequence

from simulations.report.figures.curves import frontier_picture
from simulations.report.figures.frontier import BASELINES, frontier
from simulations.report.figures.rows import (
    Row,
    exposure_picture,
    gain_picture,
    hits_picture,
    part_rows,
)
from simulations.report.models import look
from simulations.report.numbers.shares import Share
from simulations.report.numbers.users import Part, by_activity, by_group, comparison, gains
from simulations.report.reading.runs import Evaluation, Run
from simulations.report.reading.sweeps import Sweep
from simulations.report.sections import Section, missing, table
from simulations.report.words import texts, words

__all__ = ["run_sections", "sweep_sections"]

SHOWN = ("federated", *BASELINES)
"""The models of figures that look at parts of the users."""


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
            table=table(
                ("model", "ε", "seeds", "NDCG@10, mean", "standard deviation", "HR@10, mean"), rows
            ),
            notes=words.frontier_notes(found, sweep),
        )
    ]


def run_sections(run: Run, *, compared: bool) -> list[Section]:
    """Whom one run serves, and how well.

    Args:
        run: the run.
        compared: whether another section compares its models already.
    """
    found = [] if compared else [_models(run)]
    if run.evaluation is None:
        return [*found, missing("users", "Who is served well?", texts.NO_EVALUATION), _places(run)]
    models = [model for model in SHOWN if model in run.evaluation.ranks]
    found.append(_gains(run.evaluation))
    found.append(
        _parts("activity", "Does activity matter?", by_activity(run.evaluation, models), "events")
    )
    if not run.evaluation.groups:
        found.append(missing("groups", "Are groups served alike?", texts.NO_GROUPS))
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
        table=table(
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


def _gains(found: Evaluation) -> Section:
    title = "Who gains from training together?"
    each = gains(found)
    if not each:
        return missing("gain", title, texts.NO_ALONE)
    head = "organisation|users|hit alone|hit together|NDCG@10 alone|NDCG@10 together|chance"
    return Section(
        key="gain",
        title=title,
        takeaway=words.gains(each),
        about=texts.GAIN,
        picture=gain_picture(each),
        table=table(
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
        return missing(key, title, texts.ALL_ALIKE)
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
        table=table((*head, "NDCG@10"), rows),
    )


def _places(run: Run) -> Section:
    title = "Is it all about the most popular?"
    found = run.exposure
    if found is None:
        return missing("exposure", title, texts.NO_EXPOSURE)
    models = [model for model in SHOWN if model in found.models]
    shares = {"what users chose": found.chosen}
    shares |= {look(model).label: found.models[model] for model in found.models}
    return Section(
        key="exposure",
        title=title,
        takeaway=words.exposure(run, found),
        about=texts.EXPOSURE,
        picture=exposure_picture(found, models),
        table=table(
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
