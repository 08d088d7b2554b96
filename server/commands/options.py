"""What commands of `sotto-server` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["JsonOption", "ServerOption", "YesOption"]

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
"""Where server.toml lies; its default in a signature is `Path()`."""
JsonOption = Annotated[bool, typer.Option("--json", help="As data, on stdout.")]
"""Whether to print JSON."""
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
"""Whether to go ahead without a question."""
