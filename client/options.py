"""Options that commands of `sotto-node` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["JsonOption", "SiteOption"]

SiteOption = Annotated[
    Path,
    typer.Option(
        "--site", envvar="SOTTO_SITE", help="The site's folder, or its site.toml.", metavar="FOLDER"
    ),
]
"""Where site.toml lies; its default in a signature is `Path(".")`."""
JsonOption = Annotated[bool, typer.Option("--json", help="As data, on stdout.")]
"""Whether to print JSON."""
