"""What `sotto-lab calibrate` prints: noise over signal and rounds that fit, as tables or JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from shared.system.command_line import output, table_of
from simulations.calibrate.numbers import Calibration, Fit, NoisedSum
from simulations.experiment.config import SimulationConfig

__all__ = ["calibration_data", "print_tables"]


def calibration_data(calibrations: Sequence[Calibration], room: Sequence[Fit]) -> dict[str, Any]:
    """Return the tables as plain data, for `--json`."""
    return {
        "budgets": [
            {
                "epsilon": one.epsilon,
                "delta": one.delta,
                "features": one.features,
                "own_items": one.own_items,
                "plan": one.plan,
                "sums": [_figures(noised) for noised in one.sums],
            }
            for one in calibrations
        ],
        "rounds_that_fit": [asdict(fit) for fit in room],
    }


def _figures(noised: NoisedSum) -> dict[str, Any]:
    return asdict(noised) | {
        "noise_per_number": noised.per_number,
        "noise_norm": noised.noise_norm,
        "signal_at_most": {"smallest": noised.signal[0], "largest": noised.signal[1]},
        "noise_over_signal": {
            "smallest_alone": noised.single[0],
            "largest_alone": noised.single[1],
            "together": noised.together,
            "central": noised.central,
        },
    }


def print_tables(
    config: SimulationConfig, calibrations: Sequence[Calibration], room: Sequence[Fit]
) -> None:
    """Print the noise of each sum at each ε, and how many rounds fit."""
    populations = calibrations[0].sums[0].populations
    users = sorted({min(populations), max(populations)})
    output.print(
        f"{len(populations)} organisations of {' to '.join(f'{n:,}' for n in users)} users, "
        f"δ = {calibrations[0].delta:g}; of the data, only the list of items was read"
    )
    for one in calibrations:
        if chosen := " ".join(_chosen(one)):
            output.print(f"ε = {one.epsilon:g}: {chosen}", soft_wrap=True)
    output.print(_noise_table(calibrations))
    output.print(
        "noise: its norm, σ C √numbers. signal: the largest norm of the sum, if all users' "
        "contributions point in one direction. The last three columns are noise over signal: for "
        "one organisation, for all with their own noise, and for one trusted party with all users. "
        "Far above 1, only what many users share in few directions can be learned.\n",
        soft_wrap=True,
    )
    output.print(_room_table(config, room))


def _chosen(one: Calibration) -> list[str]:
    """Return what follows from the noise: directions of transitions, and rounds."""
    said = []
    if one.features:
        said.append(
            f"Transitions are learned in {one.features:,} features and in directions of their own "
            f"of {one.own_items:,} items at most."
        )
    return [*said, one.plan] if one.plan else said


def _noise_table(calibrations: Sequence[Calibration]) -> Table:
    names = (
        "ε",
        "sum",
        "times",
        "numbers",
        "σ",
        "noise",
        "signal",
        "single",
        "together",
        "central",
    )
    table = table_of(*names)
    for column in (*table.columns[:1], *table.columns[2:]):
        column.justify = "right"
    for one in calibrations:
        for place, noised in enumerate(one.sums):
            table.add_row(
                f"{one.epsilon:g}" if place == 0 else "",
                noised.name,
                f"{noised.times:,}",
                f"{noised.numbers:,}",
                _short(noised.noise_multiplier),
                _short(noised.noise_norm),
                _pair(noised.signal),
                _pair(noised.single),
                _short(noised.together),
                _short(noised.central),
                end_section=place == len(one.sums) - 1,
            )
    return table


def _pair(both: tuple[float, float]) -> str:
    low, high = sorted(both)
    return _short(low) if math.isclose(low, high) else f"{_short(low)}–{_short(high)}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _room_table(config: SimulationConfig, room: Sequence[Fit]) -> Table:
    share = config.warm_start.share
    after = f", after statistics with {share:g} of ε" if share else ""
    steps = config.training.local_steps
    instead = " instead of the plan's" if config.training.planned else ""
    output.print(
        f"Rounds that fit{instead}, of {steps} step{'s' * (steps > 1)} at sample rate "
        f"{config.training.sample_rate:g}{after}:",
        soft_wrap=True,
    )
    noises = sorted({fit.noise_multiplier for fit in room})
    table = table_of("ε", *(f"σ = {noise:.3g}" for noise in noises))
    for column in table.columns:
        column.justify = "right"
    for epsilon in dict.fromkeys(fit.epsilon for fit in room):
        fits_at = {fit.noise_multiplier: fit for fit in room if fit.epsilon == epsilon}
        cells = [f"{fits_at[n].rounds:,}{' or more' * fits_at[n].more}" for n in noises]
        table.add_row(f"{epsilon:g}", *cells)
    return table
