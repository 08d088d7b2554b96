"""sotto-lab pretrain: learn item features from public interactions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from server.commands.pretrain import save_pretrained, tell_pretrained
from server.warm_start.public import text_size
from shared.config import ModelConfig
from simulations.datasets.load import load, load_items
from simulations.experiment.public_knowledge import text_catalogue, translate_histories

__all__ = ["pretrain_command"]


def pretrain_command(
    *,
    public: Annotated[
        Path, typer.Option(help="Folder of public interactions, in a form that --data takes.")
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for the catalogue and the public interactions.")
    ],
    data: Annotated[
        Path,
        typer.Option(help="Folder with the items (CSV or Parquet), or with MovieLens's own files."),
    ],
    catalogue: Annotated[
        Path | None, typer.Option(help="Folder of `items encode`. Without it: tf-idf.")
    ] = None,
    size: Annotated[
        int, typer.Option(help="Features of an item, >= 2.")
    ] = ModelConfig().feature_size,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Learn item features from public interactions, before any federation.

    For example: sotto-lab pretrain --data my-data --public public-data --out catalogue
    """
    items = load_items(data)
    histories = translate_histories(load(public), items)
    text = text_catalogue(items, "" if catalogue is None else str(catalogue), text_size(size))
    tell_pretrained(save_pretrained(text, histories, size, out), histories, out, as_json=as_json)
