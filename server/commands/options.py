"""Command-line options that several commands of `sotto-server` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["JsonOption", "ServerOption"]

ServerOption = Annotated[
    Path,
    typer.Option(
        "--server",
        envvar="SOTTO_SERVER",
        metavar="FOLDER",
        show_default="this folder",
        help="The coordinator's folder, or its server.toml.",
    ),
]
"""The coordinator's folder; its default in a signature is `Path()`."""
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
"""Whether to print JSON."""
