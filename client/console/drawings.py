"""Pictures as SVG: attributes and classes alone, since a page allows no style of its own.

Each has a title and a description, which a screen reader reads in its place; the page has the same
figures as a table or a sentence beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from html import escape

from markupsafe import Markup

__all__ = [
    "Bar",
    "Step",
    "bars",
    "curve",
    "difference_bar",
    "gauge",
    "heat",
    "parts_bar",
    "staircase",
]

_KINDS = {"train": "train", "evaluate": "evaluate", "statistics": "statistics"}


@dataclass(frozen=True, slots=True)
class Step:
    """An answer, or several, as a step of a staircase.

    Attributes:
        run: whose answer it is.
        at: when it left.
        before: ε spent before it.
        after: ε spent with it.
        kind: "train", "evaluate" or "statistics".
        label: read when it is pointed at.
    """

    run: str
    at: datetime
    before: float
    after: float
    kind: str
    label: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of a figure.

    Attributes:
        label: what it is of.
        value: >= 0.
        half_width: of its interval; None for none.
        main: whether it stands out.
    """

    label: str
    value: float
    half_width: float | None = None
    main: bool = False


def curve(
    key: str,
    points: Sequence[tuple[datetime, float]],
    *,
    limit: float,
    future: Sequence[tuple[datetime, float]] = (),
    wide: bool = True,
    description: str = "",
) -> Markup:
    """Draw ε over time as steps, with the limit, and refreshes that may follow.

    Args:
        key: makes ids of this picture its own.
        points: time and ε after each charge, oldest first; at least one of finite ε.
        limit: policy.max_epsilon; infinite for none.
        future: time and ε after each refresh that fits.
        wide: for a wide page or a narrow one.
        description: what it shows, in words.
    """
    width, height = (760, 330) if wide else (360, 300)
    left, right, top, bottom = 46, 18, 26, 40
    finite = [(at, value) for at, value in points if math.isfinite(value)]
    times = [at for at, _ in [*finite, *future]]
    first, last = min(times), max(times)
    span = max((last - first).total_seconds(), 1.0)
    largest = max(value for _, value in [*finite, *future])
    top_value = max(largest, limit if math.isfinite(limit) else 0.0) * 1.12

    def x(at: datetime) -> float:
        share = (at - first).total_seconds() / span
        return left + 14 + share * (width - left - right - 28)

    def y(value: float) -> float:
        return height - bottom - value / top_value * (height - top - bottom)

    kind = "wide" if wide else "narrow"
    parts = [_open(key, width, height, f"picture {kind}", "Privacy spent over time", description)]
    for value in _ticks(top_value, 5 if wide else 4):
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" {_ys(y(value))}/>')
        parts.append(_text(left - 8, y(value) + 4, f"{value:g}", "end"))
    parts.append(_text(left - 38, top - 12, "ε", "start"))
    for at, anchor in _dates(first, last, 4 if wide else 2):
        parts.append(_text(x(at), height - bottom + 20, _date(at, span), anchor))
    if math.isfinite(limit):
        parts.append(f'<line class="limit" x1="{left}" x2="{width - right}" {_ys(y(limit))}/>')
        words = f"your limit: {limit:g}"
        parts.append(_text(left + 6, y(limit) - 7, words, "start", "limit-text"))
    steps = [(x(finite[0][0]), y(0.0))]
    for at, value in finite:
        steps += [(x(at), steps[-1][1]), (x(at), y(value))]
    if not future:
        steps.append((width - right, steps[-1][1]))
    parts.append(f'<polyline class="spent" points="{_points(steps)}"/>')
    if future:
        coming = [steps[-1]]
        for at, value in future:
            coming += [(x(at), coming[-1][1]), (x(at), y(value))]
        parts.append(f'<polyline class="coming" points="{_points(coming)}"/>')
        for at, value in future:
            label = f"refresh on {at.astimezone(UTC):%Y-%m-%d}: ε = {value:.3g} by then"
            parts.append(_dot(x(at), y(value), "coming-dot", label))
    return Markup("".join([*parts, "</svg>"]))  # noqa: S704 each text in it is escaped


def staircase(
    key: str, steps: Sequence[Step], *, limit: float, wide: bool = True, description: str = ""
) -> Markup:
    """Draw what each answer added to ε, one step each, in order and side by side by run.

    Answers of a run are minutes apart, and runs weeks: so steps are equally wide, and each run says
    when it began.

    Args:
        key: makes ids of this picture its own.
        steps: oldest first; at least one, all of finite ε.
        limit: policy.max_epsilon; drawn where it is near.
        wide: for a wide page or a narrow one.
        description: what it shows, in words.
    """
    width, height = (760, 300) if wide else (360, 280)
    left, right, top, bottom = 46, 8, 26, 40
    top_value = steps[-1].after * 1.15
    if limit <= 1.5 * steps[-1].after:
        top_value = max(top_value, limit * 1.12)
    each = min((width - left - right - 8) / len(steps), 90.0)

    def y(value: float) -> float:
        return height - bottom - value / top_value * (height - top - bottom)

    kind = "wide" if wide else "narrow"
    parts = [_open(key, width, height, f"picture {kind}", "What each answer cost", description)]
    parts.append(_text(left - 38, top - 12, "ε", "start"))
    runs, labelled = [step.run for step in steps], -1000.0
    for number, step in enumerate(steps):
        x = left + 8 + each * number
        if number == 0 or step.run != runs[number - 1]:
            size = each * next(
                (n for n, run in enumerate(runs[number:]) if run != step.run), len(steps) - number
            )
            shade = "run-shade" if len(set(runs[:number])) % 2 else "run-plain"
            parts.append(
                f'<rect class="{shade}" x="{x:.1f}" y="{top}" width="{size:.1f}" '
                f'height="{height - top - bottom}"/>'
            )
            if x - labelled > 92:
                labelled = x
                day = f"{step.at.astimezone(UTC):%d %b %Y}"
                parts.append(_text(x, height - bottom + 20, day, "start"))
    for value in _ticks(top_value, 5 if wide else 4):
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" {_ys(y(value))}/>')
        parts.append(_text(left - 8, y(value) + 4, f"{value:g}", "end"))
    if limit < top_value:
        parts.append(f'<line class="limit" x1="{left}" x2="{width - right}" {_ys(y(limit))}/>')
        parts.append(_text(left + 6, y(limit) - 7, f"your limit: {limit:g}", "start", "limit-text"))
    for number, step in enumerate(steps):
        x, high = left + 8 + each * number, y(step.after)
        size = max(y(step.before) - high, 3.0)
        parts.append(
            f'<rect class="step {_KINDS.get(step.kind, "train")}" x="{x + 0.08 * each:.1f}" '
            f'y="{high:.1f}" width="{0.84 * each:.1f}" height="{size:.1f}" rx="1">'
            f"<title>{escape(step.label)}</title></rect>"
        )
    return Markup("".join([*parts, "</svg>"]))  # noqa: S704 each text in it is escaped


def gauge(key: str, spent: float, limit: float) -> Markup:
    """Draw the spent part of a limit as a bar.

    Args:
        key: makes ids of this picture its own.
        spent: ε; may be infinite.
        limit: > 0; may be infinite.
    """
    share = 1.0 if spent == math.inf else 0.0 if limit == math.inf else min(1.0, spent / limit)
    words = f"{share:.0%} of your limit is spent"
    level = " full" if share >= 0.9 else ""
    body = (
        '<rect class="track" x="0" y="0" width="400" height="18" rx="9"/>'
        f'<rect class="fill{level}" x="0" y="0" width="{max(share * 400, 0):.1f}" height="18" '
        'rx="9"/>'
    )
    opened = _open(key, 400, 18, "gauge", "Budget", words)
    return Markup(f"{opened}{body}</svg>")  # noqa: S704 as above


def bars(key: str, title: str, rows: Sequence[Bar]) -> Markup:
    """Draw one figure of several models as horizontal bars, with their values.

    Args:
        key: makes ids of this picture its own.
        title: of the figure.
        rows: one each model.
    """
    width, row, top = 400, 42, 4
    height = top + row * len(rows)
    largest = max((bar.value + (bar.half_width or 0.0) for bar in rows), default=0.0) or 1.0
    scale = (width - 74) / largest
    words = "; ".join(f"{bar.label} {bar.value:.4f}" for bar in rows)
    parts = [_open(key, width, height, "bars", title, words)]
    for number, bar in enumerate(rows):
        y = top + row * number
        kind, length = "bar main" if bar.main else "bar", max(bar.value * scale, 0.5)
        parts.append(_text(0, y + 13, bar.label, "start", "name"))
        parts.append(
            f'<rect class="{kind}" x="0" y="{y + 19}" width="{length:.1f}" height="14" rx="2"/>'
        )
        end = length
        if bar.half_width:
            low = max(0.0, bar.value - bar.half_width) * scale
            end = (bar.value + bar.half_width) * scale
            parts.append(f'<line class="interval" x1="{low:.1f}" x2="{end:.1f}" {_ys(y + 26)}/>')
            for at in (low, end):
                parts.append(
                    f'<line class="interval" x1="{at:.1f}" x2="{at:.1f}" y1="{y + 22}" '
                    f'y2="{y + 30}"/>'
                )
        parts.append(_text(end + 7, y + 31, f"{bar.value:.4f}", "start", "value"))
    return Markup("".join([*parts, "</svg>"]))  # noqa: S704 as above


def parts_bar(popularity: float, federated: float, home: float) -> Markup:
    """Draw the three parts of a score; a part below zero is an outline.

    Decorative: the page has the figures beside it.
    """
    whole = abs(popularity) + abs(federated) + abs(home) or 1.0
    parts, at = ['<svg class="parts" viewBox="0 0 100 8" preserveAspectRatio="none" '], 0.0
    parts.append('aria-hidden="true" focusable="false">')
    for name, value in (("popularity", popularity), ("federated", federated), ("home", home)):
        size = 100 * abs(value) / whole
        sign = " below" if value < 0 else ""
        parts.append(
            f'<rect class="part {name}{sign}" x="{at:.2f}" y="0" width="{size:.2f}" height="8"/>'
        )
        at += size
    return Markup("".join([*parts, "</svg>"]))  # noqa: S704 as above


def difference_bar(difference: float, largest: float) -> Markup:
    """Draw by how much the score falls without an event: to the right; if it rises, to the left.

    Decorative: the page has the figure beside it.
    """
    size = 0.0 if largest <= 0 else 48 * min(1.0, abs(difference) / largest)
    at, kind = (50.0, "more") if difference >= 0 else (50 - size, "less")
    return Markup(  # noqa: S704 numbers alone
        '<svg class="difference" viewBox="0 0 100 10" preserveAspectRatio="none" '
        'aria-hidden="true" focusable="false">'
        '<line class="zero" x1="50" x2="50" y1="0" y2="10"/>'
        f'<rect class="{kind}" x="{at:.2f}" y="2" width="{size:.2f}" height="6"/></svg>'
    )


def heat(weights: Sequence[float | None]) -> Markup:
    """Draw attention over a history as a strip, oldest first; what is not read is empty.

    Decorative: the page has the figures beside it.
    """
    largest = max((weight for weight in weights if weight is not None), default=0.0) or 1.0
    cells = []
    for number, weight in enumerate(weights):
        kind = "unread" if weight is None else "cell"
        dark = 1.0 if weight is None else 0.06 + 0.94 * weight / largest
        cells.append(
            f'<rect class="{kind}" x="{number}" y="0" width="1" height="10" '
            f'fill-opacity="{dark:.3f}"/>'
        )
    return Markup(  # noqa: S704 numbers alone
        f'<svg class="heat" viewBox="0 0 {max(1, len(weights))} 10" preserveAspectRatio="none" '
        f'aria-hidden="true" focusable="false">{"".join(cells)}</svg>'
    )


def _open(key: str, width: int, height: int, kind: str, title: str, description: str) -> str:
    return (
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-labelledby="{key}-title {key}-desc"><title id="{key}-title">{escape(title)}</title>'
        f'<desc id="{key}-desc">{escape(description)}</desc>'
    )


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _dot(x: float, y: float, kind: str, label: str) -> str:
    return (
        f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"><title>{escape(label)}</title>'
        "</circle>"
    )


def _ys(y: float) -> str:
    return f'y1="{y:.1f}" y2="{y:.1f}"'


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _ticks(largest: float, about: int) -> list[float]:
    """Return round numbers from 0 up to `largest`, about so many.

    >>> _ticks(8.4, 5)
    [0.0, 2.0, 4.0, 6.0, 8.0]
    """
    rough = largest / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(one * power for one in (1, 2, 5, 10) if one * power >= rough)
    return [round(step * number, 10) for number in range(int(largest / step) + 1)]


def _dates(first: datetime, last: datetime, about: int) -> list[tuple[datetime, str]]:
    """Return times at which the axis is labelled, evenly spread, with each text's anchor."""
    if last - first < timedelta(seconds=60):
        return [(first, "start")]
    span = last - first
    anchors = ["start", *["middle"] * (about - 2), "end"]
    return [(first + span * number / (about - 1), anchors[number]) for number in range(about)]


def _date(at: datetime, seconds: float) -> str:
    moment = at.astimezone(UTC)
    return f"{moment:%d %b %Y}" if seconds > 3 * 86_400 else f"{moment:%d %b %H:%M}"
