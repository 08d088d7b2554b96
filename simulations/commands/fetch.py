"""sotto-lab data fetch: download a benchmark data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from shared.system.command_line import messages
from simulations.datasets import download

__all__ = ["fetch_command"]


def fetch_command(
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(download.SOURCES)}.")],
    to: Annotated[Path, typer.Option(help="Folder to put it in.")] = Path("data"),
    url: Annotated[str | None, typer.Option(help="A mirror; the checksum still applies.")] = None,
    sha256: Annotated[str | None, typer.Option(help="Another checksum to require.")] = None,
) -> None:
    """Download a benchmark from its publisher, verify its checksum, unpack it."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=messages) as progress:
        task = progress.add_task(f"fetching {name}", total=None)
        folder = download.fetch(
            name,
            to,
            url=url,
            sha256=sha256,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    messages.print(f"{name} is in {folder}. Train on it: sotto-lab simulate --data {folder} ...")
