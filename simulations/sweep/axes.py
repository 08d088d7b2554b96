"""Settings that vary in a sweep: their values, as typed and as a run's name shows them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from shared.errors import ConfigError
from shared.sections import Value
from simulations.experiment.config import plain_value

__all__ = ["EPSILON", "PATHS", "RECIPE", "SEED", "Axis", "label", "parse_axes", "run_name"]

EPSILON, SEED, RECIPE = "privacy.epsilon", "seed", "recipe"
PATHS = ("lab.data", "lab.catalogue", "lab.public", "lab.queries", "lab.friends")
"""Settings that are paths."""
_LONGEST_NAME = 200
_UNSAFE = re.compile(r"[^\w.+-]+")


@dataclass(frozen=True, slots=True)
class Axis:
    """A setting that varies.

    Attributes:
        key: `section.name`.
        values: all different, as a configuration holds them.
    """

    key: str
    values: tuple[Value, ...]


def parse_axes(epsilons: str | None, seeds: str | None, grid: Iterable[str]) -> tuple[Axis, ...]:
    """Return the axes of the options.

    Args:
        epsilons: as in "1,2,none".
        seeds: as in "0,1,2".
        grid: `section.key=v1,v2` texts.

    Raises:
        ConfigError: a text has another form, or repeats a value.
    """
    texts = [(f"--epsilons {epsilons}", EPSILON, epsilons), (f"--seeds {seeds}", SEED, seeds)]
    for entry in grid:
        key, equals, values = entry.partition("=")
        if not equals:
            raise ConfigError(f"--grid {entry!r} does not fit: write --grid section.key=v1,v2.")
        texts.append((f"--grid {entry}", key.strip(), values))
    return tuple(_axis(shown, key, text) for shown, key, text in texts if text is not None)


def _axis(shown: str, key: str, text: str) -> Axis:
    values = [plain_value(part.strip()) for part in text.split(",")]
    if "" in values:
        raise ConfigError(f"{shown}: a value is missing; separate values with commas.")
    if key == EPSILON:
        values = [float(value) if type(value) is int else value for value in values]
    if key in PATHS:
        values = [str(Path(str(value)).resolve()) for value in values]
    if len(set(values)) < len(values):
        raise ConfigError(f"{shown}: a value is repeated; leave one out.")
    return Axis(key, tuple(values))


def run_name(values: Mapping[str, Value]) -> str:
    """Return the name of a run's folder, from its varied values."""
    if not values:
        return "run"
    short = {key: key.rpartition(".")[2] for key in values}
    repeated = [last for last in short.values() if list(short.values()).count(last) > 1]
    parts = [
        f"{key if short[key] in repeated else short[key]}={_UNSAFE.sub('-', label(key, value))}"
        for key, value in values.items()
    ]
    name = ",".join(parts)
    if len(name) > _LONGEST_NAME:
        raise ConfigError(f"a run's folder would be '{name}', which is too long: vary less.")
    return name


def label(key: str, value: Value) -> str:
    """Return a value as a run's name and a table show it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return Path(str(value)).name if key in PATHS else str(value)
