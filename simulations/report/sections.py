"""A part of a page: a figure, the sentence that it comes to, and the table of its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from simulations.report.figures.canvas import Picture

__all__ = ["Section", "Table", "missing", "table"]


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


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table of any rows."""
    return Table(tuple(head), tuple(tuple(row) for row in rows))


def missing(key: str, title: str, why: str) -> Section:
    """A part that has nothing to show, and says why."""
    return Section(key=key, title=title, takeaway=why)
