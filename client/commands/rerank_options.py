"""Options that say in which order lists are shown, and the settings that hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from client.commands.own_source import site_in
from shared.rerank.settings import Method, RerankConfig, changed

__all__ = ["RerankOption", "RerankStrengthOption", "StatedRerank"]

RerankOption = Annotated[
    Method | None,
    typer.Option("--rerank", help="Order of lists.", show_default="the site's rerank.method"),
]
RerankStrengthOption = Annotated[
    float | None,
    typer.Option(
        "--rerank-strength",
        help="How strongly, from 0 to 1.",
        show_default="the site's, or the method's",
    ),
]


@dataclass(frozen=True, slots=True)
class StatedRerank:
    """What the options say of the order of lists."""

    method: Method | None
    strength: float | None

    def settings(self, folder: Path) -> RerankConfig:
        """Return those of a site's folder, if it is one, with what is stated.

        Raises:
            ConfigError: the strength is out of range, or no method has it.
            SiteError: site.toml cannot be read.
        """
        site = site_in(folder)
        own = RerankConfig() if site is None else site.rerank
        return changed(own, self.method, self.strength)
