"""A section of the page: a figure, a takeaway sentence, and the table of its numbers."""

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
        rows: each with one text a column.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One section of the page.

    Attributes:
        key: its anchor.
        title: a question or a name.
        takeaway: the main sentence, computed from the numbers.
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
    """Return a table of any rows."""
    return Table(tuple(head), tuple(tuple(row) for row in rows))


def missing(key: str, title: str, why: str) -> Section:
    """Return a section without a figure that says why there is none."""
    return Section(key=key, title=title, takeaway=why)
