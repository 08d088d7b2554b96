"""Pictures of what left and of what is left, from the ledger."""

from __future__ import annotations

import math
from datetime import datetime, timedelta

from client.console.accounts import DAYS, Books
from client.console.drawings import Step, curve, gauge, staircase
from client.site.statement import shown

__all__ = ["draw_curve", "draw_gauge", "draw_steps"]


def draw_gauge(books: Books) -> str:
    """Return what is spent of the limit, as a gauge."""
    return gauge("budget-gauge", books.statement.spent, books.statement.limit)


def draw_steps(books: Books) -> list[str]:
    """Return what each answer cost, for wide and for narrow pages; nothing without noise."""
    steps: list[Step] = []
    for one in reversed(books.sent):
        if one.so_far is None or one.so_far == math.inf:
            continue
        answer = one.answer
        steps.append(
            Step(
                run=answer.run,
                at=datetime.fromisoformat(answer.at),
                before=steps[-1].after if steps else 0.0,
                after=one.so_far,
                kind=answer.kind,
                label=f"{answer.kind}, round {answer.round}: ε = {shown(one.so_far)} by then",
            )
        )
    if not steps:
        return []
    words = f"{len(steps)} steps, up to ε = {shown(steps[-1].after)}."
    return [
        staircase(
            f"left-{'wide' if wide else 'narrow'}",
            steps,
            limit=books.statement.limit,
            wide=wide,
            description=words,
        )
        for wide in (True, False)
    ]


def draw_curve(books: Books) -> list[str]:
    """Return ε over time, for wide and for narrow pages; nothing where no ε is finite."""
    statement, coming = books.statement, books.forecast
    points = [(point.at, point.epsilon) for point in books.points]
    if not any(epsilon < math.inf for _, epsilon in points):
        return []
    after: list[tuple[datetime, float]] = []
    if coming is not None:
        every = coming.pace or timedelta(days=DAYS["every month"])
        after = [(coming.last + every * n, cost) for n, cost in enumerate(coming.costs, start=1)]
    words = f"ε grew to {shown(statement.spent)} of {shown(statement.limit)}."
    if after:
        words += f" {len(after)} more refreshes would bring it to {shown(after[-1][1])}."
    return [
        curve(
            f"budget-{'wide' if wide else 'narrow'}",
            points,
            limit=statement.limit,
            future=after,
            wide=wide,
            description=words,
        )
        for wide in (True, False)
    ]
