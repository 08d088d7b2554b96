"""The sections about recommendations: how good they are, and for which users."""

from __future__ import annotations

from collections.abc import Sequence

from simulations.experiment.result_json import Joining
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
from simulations.report.sections.section import Section, missing, table
from simulations.report.text import explanations, takeaways

__all__ = ["run_sections", "sweep_sections"]

SHOWN = ("federated", *BASELINES)
"""The models in figures about groups of users."""


def sweep_sections(sweep: Sweep) -> list[Section]:
    """Return the section on utility against ε."""
    ndcg, hit_rates = frontier(sweep), frontier(sweep, "hr@10")
    hit = {
        (line.model, line.variant, point.epsilon): point
        for line in (*hit_rates.lines, *hit_rates.baselines)
        for point in line.points
    }
    rows = []
    for line in (*ndcg.lines, *ndcg.baselines):
        for point in line.points:
            other = hit.get((line.model, line.variant, point.epsilon))
            rows.append(
                (
                    look(line.model).label + (f", {line.variant}" if line.variant else ""),
                    takeaways.epsilon_text(point.epsilon),
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
            takeaway=takeaways.frontier(ndcg),
            about=explanations.FRONTIER,
            picture=frontier_picture(ndcg, "NDCG@10"),
            table=table(
                ("model", "ε", "seeds", "NDCG@10, mean", "standard deviation", "HR@10, mean"), rows
            ),
            notes=takeaways.frontier_notes(ndcg, sweep),
        )
    ]


def run_sections(run: Run, *, compared: bool) -> list[Section]:
    """Return the sections on how well one run serves its users.

    Args:
        run: the run.
        compared: whether another section already compares its models.
    """
    sections = [] if compared else [_models(run)]
    if run.evaluation is None:
        no_users = missing("users", "Which users are served well?", explanations.NO_EVALUATION)
        return [*sections, no_users, _exposure(run)]
    models = [model for model in SHOWN if model in run.evaluation.ranks]
    sections.append(_gains(run.evaluation, run.joining))
    sections.append(
        _parts(
            "activity",
            "Are active and inactive users served alike?",
            by_activity(run.evaluation, models),
            "events",
        )
    )
    if not run.evaluation.groups:
        sections.append(missing("groups", "Are groups served alike?", explanations.NO_GROUPS))
    for number, group in enumerate(run.evaluation.groups, start=1):
        parts = by_group(run.evaluation, group, models)
        sections.append(
            _parts(f"group-{number}", f"Is every group of “{group}” served alike?", parts, group)
        )
    return [*sections, _exposure(run)]


def _models(run: Run) -> Section:
    compared = comparison(run)
    figures = list(compared[0].figures)
    return Section(
        key="models",
        title="How good are the recommendations?",
        takeaway=takeaways.models(run),
        about=explanations.MODELS,
        picture=hits_picture(
            "models", [Row(look(one.model).label, {one.model: one.share}) for one in compared]
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
                for one in compared
            ],
        ),
        notes=tuple(f"{look(one.model).label}: {look(one.model).meaning}" for one in compared),
    )


def _gains(evaluation: Evaluation, joining: Sequence[Joining]) -> Section:
    title = "Who gains by joining?"
    each = gains(evaluation)
    if not each:
        return missing("gain", title, explanations.NO_HOME)
    head = "organisation|users|hit alone|hit joined|NDCG@10 alone|NDCG@10 joined|p-value"
    return Section(
        key="gain",
        title=title,
        takeaway=takeaways.gains(each, joining),
        about=explanations.GAIN,
        picture=gain_picture(each),
        table=table(
            head.split("|"),
            [
                (
                    one.name or "all users",
                    f"{one.separate.users:,}",
                    f"{one.separate.count:,} ({one.separate.value:.1%})",
                    f"{one.together.count:,} ({one.together.value:.1%})",
                    f"{one.separate_ndcg:.4f}",
                    f"{one.together_ndcg:.4f}",
                    takeaways.chance(one.p),
                )
                for one in each
            ],
        ),
    )


def _parts(key: str, title: str, parts: Sequence[Part], what: str) -> Section:
    if len(parts) < 2:
        return missing(key, title, explanations.ALL_ALIKE)
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
        takeaway=takeaways.parts(parts, what),
        about=explanations.ACTIVITY if what == "events" else explanations.GROUPS,
        picture=hits_picture(key, part_rows(parts)),
        table=table((*head, "NDCG@10"), rows),
    )


def _exposure(run: Run) -> Section:
    title = "Are only the most popular items recommended?"
    exposure = run.exposure
    if exposure is None:
        return missing("exposure", title, explanations.NO_EXPOSURE)
    models = [model for model in SHOWN if model in exposure.models]
    shares = {"what users chose": exposure.chosen}
    shares |= {look(model).label: exposure.models[model] for model in exposure.models}
    return Section(
        key="exposure",
        title=title,
        takeaway=takeaways.exposure(run, exposure),
        about=explanations.EXPOSURE,
        picture=exposure_picture(exposure, models),
        table=table(
            ("tenth of the catalogue", *shares),
            [
                (_tenth(place), *(f"{of[place]:.1%}" for of in shares.values()))
                for place in range(len(exposure.chosen))
            ],
        ),
    )


def _tenth(place: int) -> str:
    names = {0: "most popular", 9: "least popular"}
    return names.get(place, f"{place + 1}")


def _interval(share: Share) -> str:
    low, high = share.interval
    return f"{low:.1%} to {high:.1%}"
