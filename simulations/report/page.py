"""The page: what was read, computed and said, in one file that needs nothing else."""

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
from simulations.report.sections import Section
from simulations.report.words.claim import Card, Claim

__all__ = ["Chapter", "Page", "commands_of", "facts_of", "rendered"]


@dataclass(frozen=True, slots=True)
class Chapter:
    """Some sections below one heading.

    Attributes:
        title: the heading.
        about: what they are of.
        sections: in order.
    """

    title: str
    about: str
    sections: tuple[Section, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """All that the template shows.

    Attributes:
        title: of the page.
        lead: what this is, in a sentence.
        claim: stands first.
        cards: headline figures, and `cards_of` says of what.
        chapters: the figures.
        protocol: how it was measured.
        facts: name and value.
        files: settings, as name and content.
        commands: that make it again, in order.
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
        """Every figure, in order."""
        sections = [section for chapter in self.chapters for section in chapter.sections]
        return [section.picture for section in sections if section.picture is not None]


def rendered(page: Page) -> str:
    """The whole HTML."""
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
    """Escaped, with what stands in backticks as code, and formulas that no line end tears."""
    whole = re.sub(r"(\b|[εδ]) ([=≥≤<±]) ", "\\1\u00a0\\2\u00a0", text)
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", escape(whole)))  # noqa: S704 escaped


def _svgs(section: Section) -> Markup:
    """Both drawings of a section's figure; a style sheet shows the one that fits."""
    if section.picture is None:
        return Markup()
    # The sentence below the figure says what it comes to, and the table has the numbers.
    label = escape(f"Figure: {section.title} {section.takeaway}", quote=True)
    drawn = (inline_svg(section.picture, narrow=narrow, label=label) for narrow in (False, True))
    return Markup("".join(drawn))  # noqa: S704 ours, and the label is escaped


def facts_of(run: Run) -> tuple[tuple[str, str], ...]:
    """What was trained on, and with what."""
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
        ("organisations", f"{len(run.organisations)} {spread}"),
        ("seed", str(run.seed)),
        ("time", f"{run.seconds:,.0f} s in all"),
        ("versions", ", ".join(f"{name} {version}" for name, version in run.versions.items())),
    )


def commands_of(arguments: Sequence[Any]) -> str:
    """A command as one types it."""
    return shlex.join(["sotto-lab", *map(str, arguments)])
