"""HTML of the console: every value is escaped, and nothing is loaded from elsewhere."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from client.site.statement import shown

__all__ = ["ASSETS", "Templates", "asset", "percent"]

ASSETS = {"console.css": "text/css", "console.js": "text/javascript", "icon.svg": "image/svg+xml"}
"""Files that a page loads, and their types."""


class Templates:
    """Renders pages and parts of pages.

    Args:
        organisation: the partner's name, on every page.
    """

    def __init__(self, organisation: str) -> None:
        self._environment = Environment(
            loader=PackageLoader("client.console", "pages"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {
            "eps": shown,
            "percent": percent,
            "day": _day,
            "minute": _minute,
            "count": _count,
        }
        self._environment.globals["organisation"] = organisation

    def render(self, name: str, **context: Any) -> str:  # noqa: ANN401 whatever a page shows
        """Return the HTML of a template."""
        return self._environment.get_template(name).render(**context)


def asset(name: str) -> bytes:
    """Return the content of one of `ASSETS`."""
    return (files("client.console") / "assets" / name).read_bytes()


def percent(share: float) -> str:
    """Return a share as a percentage with two digits that count.

    >>> percent(0.4123), percent(0.00123), percent(-0.05), percent(0.0)
    ('41%', '0.12%', '−5%', '0%')
    """
    value = abs(100 * share)
    if value < 1e-4:
        return "0%"
    digits = 0 if value >= 10 else min(4, 1 - math.floor(math.log10(value)))
    text = f"{value:.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return f"{'−' if share < 0 else ''}{text}%"


def _day(at: datetime) -> str:
    return f"{at.astimezone(UTC):%d %B %Y}".removeprefix("0")


def _minute(at: str | datetime) -> str:
    time = datetime.fromisoformat(at) if isinstance(at, str) else at
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M}"


def _count(number: float) -> str:
    return f"{number:,}"
