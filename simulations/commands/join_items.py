"""sotto-lab items join: the union of several organisations' catalogues."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared.data.domains import join
from shared.errors import ConfigError
from shared.system.command_line import output, write_json
from simulations.datasets.load import items_file, load_items

__all__ = ["join_command"]


def join_command(
    *,
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER...", help="Folders with items.* or movies.*, two or more."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the union; absent or empty.")],
    domain: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of a catalogue's domain, once for each, in their order.",
            show_default="the folder's name",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Join catalogues that share no item, for organisations of different ones to train together.

    For example: sotto-lab items join films books --out union
    """
    names = domain or [folder.resolve().name for folder in folders]
    if len(names) != len(folders):
        raise ConfigError(
            f"--domain is given {len(names)} times, for {len(folders)} folders: name each, or none."
        )
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"two domains are called {twice!r}: name each with --domain.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is not an empty folder: name another with --out, or remove it.")
    parts = {name: load_items(folder) for name, folder in zip(names, folders, strict=True)}
    files = {name: items_file(folder) for name, folder in zip(names, folders, strict=True)}
    union = join(parts, files)
    union.save(out)
    counts = {name: union.domains.count(name) for name in dict.fromkeys(union.domains)}
    if as_json:
        write_json({"folder": str(out), "items": len(union), "domains": counts})
        return
    listed = ", ".join(f"{count:,} of {name}" for name, count in counts.items())
    output.print(f"{len(union):,} items, {listed}, written to {out}", soft_wrap=True, markup=False)
    output.print(
        f"Next: sotto-lab items encode --data {out} --out CATALOGUE, with --words or --encoder",
        soft_wrap=True,
        markup=False,
    )
