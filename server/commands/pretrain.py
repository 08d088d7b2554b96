"""sotto-server pretrain: what public interactions teach, beside the catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from server.warm_start.public import pretrained, save_public
from shared.config import ModelConfig
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.data.reading import read_histories
from shared.errors import ConfigError
from shared.system.command_line import output, write_json

__all__ = ["pretrain_command", "save_pretrained", "tell_pretrained"]


def pretrain_command(
    *,
    catalogue: Annotated[Path, typer.Option(help="Folder of the items, with features of text.")],
    interactions: Annotated[
        Path,
        typer.Option(help="CSV or Parquet file that everybody may know: user_id, item_id, time."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the new catalogue; name it in the run.")],
    size: Annotated[int, typer.Option(help="Features an item, >= 2.")] = ModelConfig().feature_size,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was made as data.")] = False,
) -> None:
    """Learn from public interactions before a run: features, and what to expect.

    Send the new catalogue to the partners: its features are a part of what they vet. The public
    interactions beside it are the coordinator's alone.
    """
    text = Catalogue.load(catalogue)
    public = read_histories(interactions, text)
    tell_pretrained(save_pretrained(text, public, size, out), public, out, as_json=as_json)


def save_pretrained(text: Catalogue, public: Histories, size: int, out: Path) -> Catalogue:
    """Writes the catalogue with its new features, and the interactions, into a new folder.

    Raises:
        ConfigError: the folder holds something, or the catalogue has no features.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is not an empty folder: name another with --out, or remove it.")
    made = pretrained(text, public, size)
    made.save(out)
    save_public(public, made, out)
    return made


def tell_pretrained(made: Catalogue, public: Histories, out: Path, *, as_json: bool) -> None:
    """Says what was made, to people or as JSON."""
    record = {
        "folder": str(out),
        "items": len(made),
        "features": made.feature_size,
        "public_users": len(public),
        "public_interactions": len(public.items),
        "fingerprint": made.fingerprint,
    }
    if as_json:
        write_json(record)
        return
    output.print(
        f"{len(made):,} items with {made.feature_size} features, from {len(public.items):,} "
        f"interactions of {len(public):,} public users, written to {out}\n"
        f"fingerprint {made.fingerprint}",
        soft_wrap=True,
    )
