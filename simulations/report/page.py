"""The page: one HTML file that loads nothing else."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from simulations.report.figures.canvas import Picture, inline_svg
from simulations.report.reading.runs import Run
from simulations.report.sections.section import Section
from simulations.report.text.claim import Card, Claim

__all__ = ["Chapter", "Page", "commands_of", "facts_of", "render"]


@dataclass(frozen=True, slots=True)
class Chapter:
    """Sections below one heading.

    Attributes:
        title: the heading.
        about: which run they are about; may be empty.
        sections: in order.
    """

    title: str
    about: str
    sections: tuple[Section, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Everything that the template shows.

    Attributes:
        title: of the page.
        lead: the introduction.
        claim: the privacy claim.
        cards: headline figures.
        cards_of: which run they are about; may be empty.
        chapters: sections with figures.
        protocol: of the evaluation.
        facts: name and value.
        files: settings, as name and content.
        commands: that reproduce the page, in order.
    """

    title: str
    lead: str
    claim: Claim
    cards: tuple[Card, ...]
    cards_of: str
    chapters: tuple[Chapter, ...]
    protocol: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    files: tuple[tuple[str, str], ...]
    commands: tuple[str, ...] = field(default=())

    @property
    def pictures(self) -> list[Picture]:
        """Return every figure, in order."""
        sections = [section for chapter in self.chapters for section in chapter.sections]
        return [section.picture for section in sections if section.picture is not None]


def render(page: Page) -> str:
    """Return the HTML."""
    environment = Environment(
        loader=PackageLoader("simulations.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["svgs"] = _svgs
    environment.filters["marked"] = _marked
    return environment.get_template("page.html").render(page=page)


def _marked(text: str) -> Markup:
    """Escape, mark text in backticks as code, and keep each formula on one line."""
    unbroken = re.sub(r"(\b|[εδ]) ([=≥≤<±]) ", "\\1\u00a0\\2\u00a0", text)
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", escape(unbroken)))  # noqa: S704 escaped


def _svgs(section: Section) -> Markup:
    """Return both drawings of a section's figure; the style sheet shows the one that fits."""
    if section.picture is None:
        return Markup()
    # The takeaway describes the figure, and the table has its numbers.
    label = escape(f"Figure: {section.title} {section.takeaway}", quote=True)
    drawn = (inline_svg(section.picture, narrow=narrow, label=label) for narrow in (False, True))
    return Markup("".join(drawn))  # noqa: S704 ours, and the label is escaped


def facts_of(run: Run) -> tuple[tuple[str, str], ...]:
    """Return facts about data, organisations, seed, time and versions."""
    sizes = sorted(one.population for one in run.organisations)
    spread = (
        f"of {sizes[0]:,} to {sizes[-1]:,} users"
        if sizes[0] < sizes[-1]
        else (f"of {sizes[0]:,} users")
    )
    return (
        (
            "data",
            f"{run.data}: {run.users:,} users, {run.items:,} items, "
            f"{run.interactions:,} interactions",
        ),
        *(("doubtful", warning) for warning in run.warnings),
        ("organisations", f"{len(run.organisations)} {spread}{_named(run)}"),
        ("seed", str(run.seed)),
        ("time", f"{run.seconds:,.0f} s in total"),
        ("versions", ", ".join(f"{name} {version}" for name, version in run.versions.items())),
    )


def _named(run: Run) -> str:
    """Return the organisations' names where the data give them, at most ten."""
    names = [one.name for one in run.organisations]
    if all(re.fullmatch(r"org-\d+", name) for name in names):
        return ""
    return ": " + ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


def commands_of(arguments: Sequence[Any]) -> str:
    """Return a command line of sotto-lab."""
    return shlex.join(["sotto-lab", *map(str, arguments)])
