"""Options that several commands of sotto-lab share."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from shared.config import Trust
from shared.rerank.settings import Method
from shared.sections import Value
from simulations.experiment.config import Engine
from simulations.experiment.partition import Scheme

__all__ = [
    "CatalogueOption",
    "ConfigOption",
    "DataOption",
    "DeltaOption",
    "EngineOption",
    "EpsilonOption",
    "OrganisationsOption",
    "PartitionOption",
    "PublicOption",
    "RerankOption",
    "RerankStrengthOption",
    "RoundsOption",
    "SeedOption",
    "SetOption",
    "TrustOption",
    "settings_from",
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
TrustOption = Annotated[
    Trust | None,
    typer.Option(
        help="'local': each organisation adds the whole noise and trusts nobody. "
        "'secure-aggregation': each adds a share of it, and the coordinator sees the sum alone."
    ),
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
RoundsOption = Annotated[int | None, typer.Option(help="Rounds of training.")]
EngineOption = Annotated[
    Engine | None, typer.Option(help="Runs the apps in this process or on Ray.")
]
SeedOption = Annotated[
    int | None, typer.Option(help="Random seed of partition, weights, samples and noise.")
]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="TOML file of settings.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting, as section.key=value."),
]

RerankOption = Annotated[
    Method | None,
    typer.Option(
        help="Also measure lists that are put into another order, and what that costs: calibrated, "
        "diverse, or with a share of exposure for rare items."
    ),
]
RerankStrengthOption = Annotated[
    float | None,
    typer.Option(help="How strongly, from 0 to 1.", show_default="the method's own"),
]

# The setting that each option states.
_KEYS = {
    "data": "lab.data",
    "catalogue": "lab.catalogue",
    "public": "lab.public",
    "organisations": "lab.organisations",
    "partition": "lab.partition",
    "engine": "lab.engine",
    "rounds": "training.rounds",
    "epsilon": "privacy.epsilon",
    "delta": "privacy.delta",
    "trust": "privacy.trust",
    "seed": "seed",
    "rerank": "rerank.method",
    "rerank_strength": "rerank.strength",
}


def settings_from(**options: Value | Path | None) -> dict[str, Any]:
    """Return options by the key of their setting; a folder as an absolute path, ε as a number.

    Args:
        options: by name, as in the command line; None means not given.

    >>> settings_from(epsilon="4", rounds=None)
    {'privacy.epsilon': 4.0, 'training.rounds': None}
    """
    return {_KEYS[name]: _setting(name, value) for name, value in options.items()}


def _setting(name: str, value: Value | Path | None) -> Value | None:
    if isinstance(value, Path):
        return str(value.resolve())
    if name == "epsilon" and isinstance(value, str):
        with suppress(ValueError):  # other text is left for the settings to check
            return float(value)
    return value
