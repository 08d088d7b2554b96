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
        help="Folder of interactions that everybody may know, with the same item ids.",
    ),
]
EpsilonOption = Annotated[
    str | None,
    typer.Option(help="Privacy budget of each organisation's users; 'none' trains without."),
]
DeltaOption = Annotated[
    float | None, typer.Option(help="δ of the claim; below 1 / users of any organisation.")
]
OrganisationsOption = Annotated[int | None, typer.Option(help="How many share the users.")]
PartitionOption = Annotated[
    Scheme | None, typer.Option(help="How users are spread: evenly, or skewed by size or taste.")
]
SeedOption = Annotated[int | None, typer.Option(help="Of partition, weights, samples and noise.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="TOML file of settings.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting, as section.key=value."),
]


def paths(**given: Path | None) -> dict[str, Any]:
    """Folders as settings of the section `lab`; None was not given."""
    return {
        f"lab.{key}": None if path is None else str(path.resolve()) for key, path in given.items()
    }


def number(text: str | None) -> float | str | None:
    """An ε as typed; what is no number is left to the settings to judge."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text
