"""Errors, exit codes, consoles and JSON of every command line of the project.

| what happened                        | exit code |
|--------------------------------------|-----------|
| done                                 | 0         |
| a check failed (`failed`)            | 1         |
| an error, which the message explains | 2         |
| Ctrl-C                               | 130       |

Results go to stdout, messages to stderr. Neither reads markup or emoji codes: fingerprints, keys
and names are printed as they are. A style is an argument (`style=`, or a `Text`).
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

import click
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shared.errors import SottoError

__all__ = [
    "INTERRUPTED",
    "command_group",
    "confirm",
    "failed",
    "messages",
    "output",
    "run",
    "table_of",
    "write_json",
]

INTERRUPTED = 130
"""What typer returns after Ctrl-C: 128 + SIGINT."""
ERROR, FAILED = 2, 1

messages = Console(stderr=True, highlight=False, markup=False, emoji=False)
"""For messages. Text is printed as it is: names, paths and fingerprints may look like markup, and
Rich takes `:CD:` for an emoji."""
output = Console(highlight=False, markup=False, emoji=False)
"""For results that people read; JSON goes through `write_json`."""


def command_group(about: str, *, runs_alone: bool = False) -> typer.Typer:
    """Make a group of commands whose errors `run` reports.

    Args:
        about: shown by `--help`.
        runs_alone: whether the group does something without a subcommand, too.
    """
    return typer.Typer(
        help=about,
        no_args_is_help=not runs_alone,
        invoke_without_command=runs_alone,
        add_completion=False,
        pretty_exceptions_enable=False,
    )


def run(app: typer.Typer, *, interrupted: str = "") -> NoReturn:
    """Run the command that was typed, and exit with its exit code.

    Args:
        app: all commands.
        interrupted: advice that is printed after Ctrl-C.
    """
    try:
        code = app(standalone_mode=False) or 0
    except SottoError as error:
        messages.print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
        sys.exit(ERROR)
    except click.Abort:  # a question that was answered with Ctrl-C or the end of the input
        code = INTERRUPTED
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    if code == INTERRUPTED:
        messages.print("; ".join(filter(None, ("\ninterrupted", interrupted))))
    sys.exit(code)


def failed() -> NoReturn:
    """Exit with code 1, for a check that failed."""
    raise typer.Exit(FAILED)


def confirm(question: str) -> bool:
    """Ask on stderr; anything but "y" or "yes" means no, and so does the end of the input."""
    messages.print(f"{question} [y/N] ", end="", markup=False)
    agreed = sys.stdin.readline().strip().lower() in ("y", "yes")
    if not agreed:
        messages.print("Nothing was changed. (Without a terminal, answer with --yes.)")
    return agreed


def table_of(*columns: str) -> Table:
    """Return an empty table that wraps long cells instead of cutting them off."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def write_json(value: object) -> None:
    """Print data on stdout; numbers that are not finite become null, as JSON has none."""
    sys.stdout.write(json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:  # noqa: ANN401 whatever JSON holds
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
