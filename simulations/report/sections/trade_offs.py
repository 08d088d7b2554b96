"""The sections about what accuracy is given up for: groups, rare items, calibration, diversity."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from simulations.experiment.curves import CurvePoint, Curves
from simulations.report.figures.curves import MOST_LINES
from simulations.report.figures.trade_offs import Panel, PanelCurve, trade_off_picture
from simulations.report.sections.section import Section, Table, table

__all__ = ["trade_off_sections"]

_FAIRNESS = (
    "Each point is the federated model's lists at one strength, figures exact and of the events "
    "that are asked for. Logit adjustment by τ takes a part of popularity out of the scores. "
    "Weights of groups make users of some groups count more in training; each such point is a run."
)
_RERANK = (
    "Each point is the lists of one method at one strength, chosen from the same scores; nothing "
    "is trained again. Rare are the five least popular tenths of the catalogue."
)
Value = Callable[[CurvePoint], float | None]


def trade_off_sections(measured: Sequence[Curves]) -> list[Section]:
    """Return a section for each file of curves."""
    sections = []
    for number, one in enumerate(measured, start=1):
        fair = one.kind == "fairness"
        key = f"{one.kind}-{number}"
        sections.append(
            Section(
                key=key,
                title=f"What do {'groups and rare items' if fair else 'other lists'} cost?",
                takeaway=" ".join([_rare(one), *(_groups(one) if fair else [])]),
                about=_FAIRNESS if fair else _RERANK,
                picture=trade_off_picture(key, _panels(one)),
                table=_table(one),
                notes=(_setting(one),),
            )
        )
    return sections


def _panels(measured: Curves) -> list[Panel]:
    """Return exposure beside the worst group, or beside calibration."""
    rare = _panel(measured, "places of the five rarest tenths", lambda point: point.exposure_rare)
    if measured.kind == "rerank":
        panels = [rare]
        if measured.plain.calibration_error is not None:
            title = "calibration error (nats)"
            panels.append(_panel(measured, title, lambda point: point.calibration_error))
        return panels
    return [_panel(measured, "NDCG@10 of the worst group", lambda point: point.worst[0]), rare]


def _panel(measured: Curves, title: str, value: Value) -> Panel:
    plain = measured.plain.ndcg, value(measured.plain) or 0.0
    curves = []
    for curve in measured.curves[: MOST_LINES + 1]:
        runs = curve.name == "weights of groups"  # each is a run of its own, not a strength
        points = [(point.ndcg, value(point) or 0.0) for point in curve.points]
        curves.append(PanelCurve(curve.name, points if runs else [plain, *points], not runs))
    return Panel(title, plain, curves)


def _rare(measured: Curves) -> str:
    """Say what twice the exposure of rare items costs, at the least."""
    plain = measured.plain
    doubled = [
        (point.ndcg, curve.name, point)
        for curve in measured.curves
        for point in curve.points
        if point.exposure_rare >= 2 * plain.exposure_rare > 0
    ]
    if not doubled:
        return "Nothing that was measured doubles the places that rare items get."
    ndcg, name, point = max(doubled, key=lambda one: one[0])
    return (
        f"Rare items get {point.exposure_rare:.1%} instead of {plain.exposure_rare:.1%} of all "
        f"places with {name}, {_stated(point)}, for {_price(ndcg, plain.ndcg)}."
    )


def _groups(measured: Curves) -> list[str]:
    """Say for the first table what serves its worst group best."""
    plain = measured.plain
    if plain.worst[0] is None:
        return []
    tried = [
        (point.worst[0], curve.name, point)
        for curve in measured.curves
        for point in curve.points
        if point.worst[0] is not None
    ]
    if not tried:
        return []
    worst, name, point = max(tried, key=lambda one: one[0])
    if worst <= plain.worst[0]:
        return [
            f"Nothing that was measured serves the worst group better ({plain.tables[0].worst}: "
            f"{plain.worst[0]:.4f})."
        ]
    return [
        f"The worst group has {worst:.4f} ({point.tables[0].worst}) instead of "
        f"{plain.worst[0]:.4f} ({plain.tables[0].worst}) with {name}, {_stated(point)}, "
        f"for {_price(point.ndcg, plain.ndcg)}."
    ]


def _stated(point: CurvePoint) -> str:
    return point.setting if "=" in point.setting else f"strength {point.setting}"


def _price(ndcg: float, before: float) -> str:
    """Say how NDCG@10 changes.

    >>> _price(0.19, 0.2), _price(0.202, 0.2)
    ('5.0% less NDCG@10', '1.0% more NDCG@10')
    """
    change = ndcg / before - 1 if before else 0.0
    return f"{abs(change):.1%} {'less' if change < 0 else 'more'} NDCG@10"


def _change(figure: float, before: float) -> str:
    return f"{figure / before - 1:+z.1%}" if before else "no"


def _setting(measured: Curves) -> str:
    run = measured.run
    epsilon = "no privacy" if run.epsilon is None else f"ε = {run.epsilon:g}, {run.trust}"
    stated = f"{run.data}, {run.users:,} users, {run.split} events, {epsilon}, seed {run.seed}."
    if not measured.plain.tables:
        return stated
    return f"{stated} The figure's groups: {measured.plain.tables[0].table}."


def _table(measured: Curves) -> Table:
    plain = measured.plain
    rows = [("none", plain)]
    rows += [(curve.name, point) for curve in measured.curves for point in curve.points]
    names = [f"worst of {one.table}" for one in plain.tables]
    other = () if measured.kind == "fairness" else ("calibration error", "distance")
    return table(
        ("method", "strength", "NDCG@10", "change", "coverage", "rare", *other, *names),
        [
            (
                name,
                "" if point is plain else point.setting,
                f"{point.ndcg:.4f}",
                "" if point is plain else _change(point.ndcg, plain.ndcg),
                *map(_number, (point.coverage, point.exposure_rare)),
                *(map(_number, (point.calibration_error, point.distance)) if other else ()),
                *(
                    f"{_number(figure)} {one.worst or ''}".rstrip()
                    for figure, one in zip(point.worst, point.tables, strict=True)
                ),
            )
            for name, point in rows
        ],
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
