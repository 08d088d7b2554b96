"""sotto-server pretrain: learn item features from public interactions before a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from server.commands.options import JsonOption
from server.warm_start.public import pretrain_features, save_public
from shared.config import ModelConfig
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.data.reading import read_histories
from shared.errors import ConfigError
from shared.system.command_line import output, write_json

__all__ = ["pretrain_command"]


def pretrain_command(
    *,
    catalogue: Annotated[
        Path, typer.Option(help="Folder that `sotto-lab items encode` wrote: items with features.")
    ],
    interactions: Annotated[
        Path,
        typer.Option(
            help="CSV or Parquet file of public interactions: user_id, item_id, timestamp."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for the new catalogue, which the run's file then names.")
    ],
    size: Annotated[
        int, typer.Option(help="Features of an item, >= 2.")
    ] = ModelConfig().feature_size,
    as_json: JsonOption = False,
) -> None:
    """Learn item features from public interactions before a run.

    Send the new catalogue to the partners: they vet its features with it. The public interactions
    beside it stay with the coordinator.
    """
    text = Catalogue.load(catalogue)
    public = read_histories(interactions, text)
    _print_result(_save_pretrained(text, public, size, out), public, out, as_json=as_json)


def _save_pretrained(text: Catalogue, public: Histories, size: int, out: Path) -> Catalogue:
    """Write the catalogue with its new features, and the interactions, into a new folder.

    Raises:
        ConfigError: the folder holds something, or the catalogue has no features.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is not an empty folder: name another with --out, or remove it.")
    catalogue = pretrain_features(text, public, size)
    catalogue.save(out)
    save_public(public, catalogue, out)
    return catalogue


def _print_result(catalogue: Catalogue, public: Histories, out: Path, *, as_json: bool) -> None:
    if as_json:
        write_json(
            {
                "folder": str(out),
                "items": len(catalogue),
                "features": catalogue.feature_size,
                "public_users": len(public),
                "public_interactions": len(public.items),
                "fingerprint": catalogue.fingerprint,
            }
        )
        return
    output.print(
        f"{len(catalogue):,} items with {catalogue.feature_size} features, from "
        f"{len(public.items):,} interactions of {len(public):,} public users, written to {out}\n"
        f"fingerprint {catalogue.fingerprint}",
        soft_wrap=True,
    )
