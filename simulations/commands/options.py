"""Options that several commands of sotto-lab share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from simulations.experiment.partition import Scheme

__all__ = [
    "CatalogueOption",
    "ConfigOption",
    "DataOption",
    "DeltaOption",
    "EpsilonOption",
    "OrganisationsOption",
    "PartitionOption",
    "PublicOption",
    "SeedOption",
    "SetOption",
    "number",
    "paths",
]

DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Folder with interactions.* and items.* (CSV or Parquet), or MovieLens's own files. "
        "Without it: the embedded MovieLens latest-small.",
    ),
]
CatalogueOption = Annotated[
    Path | None,
    typer.Option(
        "--catalogue",
        help="Folder that `sotto-lab items encode` or `sotto-server pretrain` wrote for these "
        "items. Without it: tf-idf.",
    ),
]
PublicOption = Annotated[
    Path | None,
    typer.Option(
        "--public",
        help="Folder of public interactions, with the same item ids.",
    ),
]
EpsilonOption = Annotated[
    str | None,
    typer.Option(
        help="Privacy budget ε of each organisation's users; 'none' trains without privacy."
    ),
]
DeltaOption = Annotated[
    float | None,
    typer.Option(help="δ of the claim; below 1 / the users of the largest organisation."),
]
OrganisationsOption = Annotated[int | None, typer.Option(help="Number of organisations.")]
PartitionOption = Annotated[
    str | None,
    typer.Option(
        metavar="[" + "|".join(Scheme) + "|COLUMN]",
        help="How users are assigned: evenly, skewed by size or taste, or by a column of the data "
        "that names their organisation.",
    ),
]
SeedOption = Annotated[
    int | None, typer.Option(help="Random seed of partition, weights, samples and noise.")
]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="TOML file of settings.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting, as section.key=value."),
]


def paths(**given: Path | None) -> dict[str, Any]:
    """Return folders as settings of the section `lab`; None means not given."""
    return {
        f"lab.{key}": None if path is None else str(path.resolve()) for key, path in given.items()
    }


def number(text: str | None) -> float | str | None:
    """Return ε as a number; other text is left for the settings to check."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text
