"""What commands of `sotto-node` share: options, and a ledger opened with a hint of what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click
import typer
from click.core import ParameterSource

from client.ledger.ledger import Ledger
from client.site.site import Site
from shared.errors import LedgerError

__all__ = ["JsonOption", "SiteOption", "YesOption", "no_options_before", "opened"]

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
"""Where site.toml lies; its default in a signature is `Path()`."""
JsonOption = Annotated[
    bool, typer.Option("--json", help="As data, on stdout; null stands for infinity.")
]
"""Whether to print JSON."""
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
"""Whether to go ahead without a question."""


def no_options_before(context: typer.Context) -> bool:
    """Whether a command of the group follows, which reads its own options.

    Raises:
        click.UsageError: options stand before it, where they would be without effect.
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


def opened(site: Site) -> Ledger:
    """The site's ledger, checked.

    Raises:
        LedgerError: it does not open; the message names the commands that put it right.
    """
    try:
        return site.open_ledger()
    except LedgerError as error:
        raise LedgerError(
            f"{error} The commands for that: sotto-node budget restore, and at worst "
            "sotto-node budget write-off; each explains itself before it does anything."
        ) from error
