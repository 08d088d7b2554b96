"""sotto-lab calibrate: noise-to-signal ratios and rounds at some budgets, before any training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from shared.errors import ConfigError
from shared.sections import Value
from shared.system.command_line import messages, write_json
from simulations.calibrate.numbers import STEP, Calibration, calibrate, fits, items_of
from simulations.calibrate.plot import draw
from simulations.calibrate.print_calibration import calibration_data, print_tables
from simulations.commands.options import (
    ConfigOption,
    DataOption,
    DeltaOption,
    RoundsOption,
    SetOption,
    settings_from,
)
from simulations.experiment.config import read_settings

__all__ = ["calibrate_command"]

LADDER = (5.0, 10.0, 20.0, 40.0)
"""Noise multipliers to try where none is given and no training step is planned."""


def calibrate_command(  # noqa: PLR0913 each is a command-line option
    *,
    population: Annotated[
        str, typer.Option(help="Declared users of an organisation: 755, or of each: 900,400.")
    ],
    epsilons: Annotated[
        str | None, typer.Option(help="Budgets, for example 1,2,4,8. Default: the recipe's.")
    ] = None,
    delta: DeltaOption = None,
    organisations: Annotated[
        int | None, typer.Option(help="Number of organisations. Default: the recipe's.")
    ] = None,
    rounds: RoundsOption = None,
    sample_rate: Annotated[
        float | None, typer.Option(help="Probability that a user is in a step, q.")
    ] = None,
    participation: Annotated[
        int | None, typer.Option(help="Expected users in a step, q N, instead of q.")
    ] = None,
    clip_norm: Annotated[
        float | None, typer.Option(help="Largest norm of a user's gradient, C.")
    ] = None,
    items: Annotated[
        int | None, typer.Option(help="Number of items. Default: the length of --data's list.")
    ] = None,
    dimension: Annotated[
        int | None, typer.Option(help="Trained parameters. Default: the recipe's.")
    ] = None,
    noise_multipliers: Annotated[
        str | None,
        typer.Option(help="Noise multipliers for the table of rounds, for example 5,10."),
    ] = None,
    data_folder: DataOption = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw a figure: a file name in .png, .svg or .pdf.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the noise that a budget requires, and how many rounds fit, before any training.

    For example, a recipe at four budgets:

    sotto-lab calibrate --config simulations/recipes/ml-1m-dpsgd.toml --population 755
    --epsilons 1,2,4,8

    DP-SGD without statistics, with 100,000 parameters:

    sotto-lab calibrate --population 755 --organisations 8 --epsilons 2,8 --delta 1e-5
    --rounds 60 --sample-rate .1 --dimension 100000 --set warm_start.share=0
    """
    sizes = _whole_numbers("--population", population)
    if participation is not None:
        sample_rate = _rate(sample_rate, participation, sizes)
    options = settings_from(
        data=data_folder,
        organisations=_organisations(organisations, sizes),
        delta=delta,
        rounds=rounds,
    ) | {"training.sample_rate": sample_rate, "training.clip_norm": clip_norm}
    targets = [None] if epsilons is None else _numbers("--epsilons", epsilons)
    configs = [
        read_settings(config, options | {"privacy.epsilon": target}, assignments or [])
        for target in targets
    ]
    populations = sizes * (configs[0].lab.organisations if len(sizes) == 1 else 1)
    count = items_of(configs[0]) if items is None else items
    calibrations = [calibrate(one, populations, count, dimension) for one in configs]
    noises = _noises(noise_multipliers, calibrations)
    room = [fit for one in configs for fit in fits(one, noises)]
    if plot is not None:
        draw(calibrations, room, plot)
        messages.print(f"Figure written to {plot}", soft_wrap=True)
    if as_json:
        write_json(calibration_data(calibrations, room))
    else:
        print_tables(configs[0], calibrations, room)


def _organisations(given: int | None, sizes: Sequence[int]) -> int | None:
    if len(sizes) == 1:
        return given
    if given not in (None, len(sizes)):
        raise ConfigError(
            f"--organisations {given} with {len(sizes)} populations: give one for each, or one "
            "that all have."
        )
    return len(sizes)


def _rate(sample_rate: float | None, participation: int, sizes: Sequence[int]) -> float:
    if sample_rate is not None:
        raise ConfigError("--participation and --sample-rate set the same value: leave one out.")
    if len(set(sizes)) > 1:
        raise ConfigError(
            "--participation with several populations: all have the same sample rate. State "
            "--sample-rate."
        )
    if not 1 <= participation <= sizes[0]:
        raise ConfigError(f"--participation {participation}: choose from 1 to {sizes[0]} users.")
    return participation / sizes[0]


def _whole_numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{option} {text}: give whole numbers, as in 755 or 900,400.") from error
    if min(numbers) < 1:
        raise ConfigError(f"{option} {text}: give numbers of 1 or more.")
    return numbers


def _numbers(option: str, text: str) -> list[Value]:
    try:
        return sorted({float(part) for part in text.split(",")})
    except ValueError as error:
        raise ConfigError(f"{option} {text}: give numbers, as in 1,2,4,8.") from error


def _noises(given: str | None, calibrations: Sequence[Calibration]) -> list[float]:
    """Return the given noise multipliers, or those of the planned rounds at each ε."""
    if given is not None:
        return [float(number) for number in _numbers("--noise-multipliers", given)]
    steps = {one.sums[-1].noise_multiplier for one in calibrations if one.sums[-1].name == STEP}
    return sorted(steps) or list(LADDER)
