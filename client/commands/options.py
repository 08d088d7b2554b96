"""Options that the commands of `sotto-node` share, and the ledger opened with a hint for repair."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click
import typer
from click.core import ParameterSource

from client.ledger.ledger import Ledger
from client.site.site import Site
from shared.errors import LedgerError

__all__ = ["REPAIR", "JsonOption", "SiteOption", "YesOption", "open_ledger", "subcommand_follows"]

SiteOption = Annotated[
    Path,
    typer.Option(
        "--site",
        envvar="SOTTO_SITE",
        metavar="FOLDER",
        show_default="this folder",
        help="The site's folder, or its site.toml.",
    ),
]
"""The site's folder; its default in a signature is `Path()`."""
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON on stdout; null means infinity.")
]
"""Whether to print JSON."""
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
"""Whether to continue without asking."""


REPAIR = (
    "To repair it: sotto-node budget restore, or as a last resort sotto-node budget write-off. "
    "Each says what it does and asks before it changes anything."
)
"""Hint after an error of the ledger."""


def subcommand_follows(context: typer.Context) -> bool:
    """Return whether a subcommand follows, which reads its own options.

    Raises:
        click.UsageError: options are given before it, where they would have no effect.
    """
    following = context.invoked_subcommand
    typed = [
        f"--{name.removeprefix('as_')}"
        for name in context.params
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]
    if following and typed:
        raise click.UsageError(f"put {', '.join(typed)} after '{following}'.", context)
    return following is not None


def open_ledger(site: Site) -> Ledger:
    """Open and check the site's ledger.

    Raises:
        LedgerError: it does not open; the message names the commands that repair it.
    """
    try:
        return site.open_ledger()
    except LedgerError as error:
        raise LedgerError(f"{error} {REPAIR}") from error
