"""What a sweep is asked to run: recipes, and settings that vary; written down in sweep.toml.

Every combination is one run. Settings are complete in sweep.toml: what a recipe's file or a default
says later changes nothing.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import tomli_w

from shared.errors import CheckpointError, ConfigError
from shared.sections import Value, flatten, parse_sections
from simulations.experiment.config import SimulationConfig, plain_value, read_settings

__all__ = ["Asked", "Axis", "Keep", "Plan", "PlannedRun", "label", "parse_axes"]

EPSILON, SEED, RECIPE = "privacy.epsilon", "seed", "recipe"
_PATHS = ("lab.data", "lab.catalogue", "lab.public")
_SCHEMA = 1
_LONGEST_NAME = 200
_UNSAFE = re.compile(r"[^\w.+-]+")


class Keep(StrEnum):
    """What stays of a finished run's folder."""

    RESULTS = "results"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Axis:
    """A setting that varies.

    Attributes:
        key: `section.name`.
        values: all different, as a configuration holds them.
    """

    key: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was typed, as far as it decides what is run.

    Attributes:
        recipes: TOML files of settings; several are one more axis.
        options: `section.key` -> value; None was not given.
        assignments: `section.key=value` texts.
        axes: what varies.
        keep: what stays of a finished run.
    """

    recipes: Sequence[Path] = ()
    options: Mapping[str, Value | None]
    assignments: Sequence[str] = ()
    axes: tuple[Axis, ...] = ()
    keep: Keep | None = None

    @property
    def nothing(self) -> bool:
        """Whether nothing at all was asked for."""
        given = any(value is not None for value in self.options.values())
        return not (self.recipes or given or self.assignments or self.axes or self.keep)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """One run of a sweep.

    Attributes:
        name: its folder's.
        values: what varies, by key, as this run has it.
        config: all of its settings.
    """

    name: str
    values: Mapping[str, Value]
    config: SimulationConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All runs of a sweep.

    Attributes:
        recipes: name -> every setting, flat; axes vary some of them.
        axes: what varies, besides recipes.
        keep: what stays of a finished run.
        search: of a search, its own plan, flat; empty for a grid.
    """

    recipes: Mapping[str, Mapping[str, Value]]
    axes: tuple[Axis, ...]
    keep: Keep = Keep.RESULTS
    search: Mapping[str, Value]

    @classmethod
    def of(cls, asked: Asked, search: Mapping[str, Value] | None = None) -> Plan:
        """Reads the recipes and checks every run's settings, before anything is run.

        Raises:
            ConfigError: a file, key or value does not fit, or two axes or runs are the same.
        """
        varied = [axis.key for axis in asked.axes]
        if len(set(varied)) < len(varied):
            twice = next(key for key in varied if varied.count(key) > 1)
            raise ConfigError(f"{twice} varies twice: give its values in one option.")
        plan = cls(
            recipes=_recipes(asked),
            axes=asked.axes,
            keep=asked.keep or Keep.RESULTS,
            search=search or {},
        )
        names = [run.name for run in plan.runs()]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ConfigError(
                f"two runs would be called '{twice}': give values that differ in more than case, "
                "path or punctuation."
            )
        return plan

    @property
    def keys(self) -> list[str]:
        """What varies, in the order of the runs' names."""
        recipe = [RECIPE] if len(self.recipes) > 1 else []
        middle = [axis.key for axis in self.axes if axis.key not in (EPSILON, SEED)]
        known = {axis.key for axis in self.axes}
        return [*recipe, *([EPSILON] * (EPSILON in known)), *middle, *([SEED] * (SEED in known))]

    def runs(self) -> list[PlannedRun]:
        """Every combination; the last seed comes last, so that a first picture is soon there.

        Raises:
            ConfigError: settings do not fit together.
        """
        by_key = {axis.key: axis.values for axis in self.axes}
        if len(self.recipes) > 1:
            by_key[RECIPE] = tuple(self.recipes)
        slow = [key for key in (SEED,) if key in by_key]
        order = slow + [key for key in self.keys if key not in slow]
        found = itertools.product(*(by_key[key] for key in order))
        return [self.run(dict(zip(order, values, strict=True))) for values in found]

    def run(self, values: Mapping[str, Value], name: str | None = None) -> PlannedRun:
        """One run, with these values of what varies.

        Raises:
            ConfigError: settings do not fit together.
        """
        recipe = str(values.get(RECIPE, next(iter(self.recipes))))
        settings = {key: value for key, value in values.items() if key != RECIPE}
        ordered = {key: values[key] for key in self.keys if key in values}
        config = parse_sections(SimulationConfig, {**self.recipes[recipe], **settings})
        _ = config.planned  # what a run refuses, before anything has run
        return PlannedRun(name=name or _name(ordered), values=ordered or settings, config=config)

    def to_toml(self) -> str:
        """As a file that `from_toml` reads back."""
        axes = [{"key": axis.key, "values": list(axis.values)} for axis in self.axes]
        table = {"schema": _SCHEMA, "keep": str(self.keep), "axes": axes}
        if self.search:
            table["search"] = dict(self.search)
        return tomli_w.dumps(table | {"recipes": self.recipes})

    @classmethod
    def from_toml(cls, file: Path) -> Plan:
        """What a sweep was begun with.

        Raises:
            CheckpointError: the file is not one that `to_toml` wrote.
        """
        try:
            table: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
            _ = {_SCHEMA: None}[table["schema"]]
            return cls(
                recipes=table["recipes"],
                axes=tuple(Axis(a["key"], tuple(a["values"])) for a in table.get("axes", [])),
                keep=Keep(table["keep"]),
                search=table.get("search", {}),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{file} is not a sweep of this version ({error}): begin another in a new folder."
            ) from error

    def differences(self, other: Plan) -> list[str]:
        """Where another plan says something else, as clauses."""
        was, now = self._flat(), other._flat()
        return [
            f"{key} = {_shown(now.get(key))} (was {_shown(was.get(key))})"
            for key in sorted(was.keys() | now.keys())
            if was.get(key) != now.get(key)
        ]

    def _flat(self) -> dict[str, object]:
        flat: dict[str, object] = {"keep": str(self.keep)}
        flat |= {f"search.{key}": value for key, value in self.search.items()}
        several = len(self.recipes) > 1
        for name, settings in self.recipes.items():
            flat |= {f"{name}: {key}" if several else key: settings[key] for key in settings}
        for axis in self.axes:
            for key in [f"{name}: {axis.key}" for name in self.recipes if several]:
                del flat[key]
            flat[axis.key] = axis.values
        return flat


def parse_axes(epsilons: str | None, seeds: str | None, grid: Iterable[str]) -> tuple[Axis, ...]:
    """The axes that options name.

    Args:
        epsilons: as in "1,2,none".
        seeds: as in "0,1,2".
        grid: `section.key=v1,v2` texts.

    Raises:
        ConfigError: a text is not of that form, or repeats a value.
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
        raise ConfigError(f"{shown}: a value is missing; write them with commas between.")
    if key == EPSILON:
        values = [float(value) if type(value) is int else value for value in values]
    if key in _PATHS:
        values = [str(Path(str(value)).resolve()) for value in values]
    if len(set(values)) < len(values):
        raise ConfigError(f"{shown}: a value stands there twice; leave one out.")
    return Axis(key, tuple(values))


def _recipes(asked: Asked) -> dict[str, dict[str, Value]]:
    """Each recipe's complete settings; axes whose value varies hold their first."""
    first = {axis.key: axis.values[0] for axis in asked.axes}
    # δ may stay unsaid only where no run is private.
    private = [a.values for a in asked.axes if a.key == EPSILON]
    for values in private:
        first[EPSILON] = next((value for value in values if value != "none"), "none")
    found: dict[str, dict[str, Value]] = {}
    files: Sequence[Path | None] = asked.recipes or [None]
    for file in files:
        name = "default" if file is None else file.stem
        if name in found:
            raise ConfigError(f"two recipes are called '{name}': rename one of the files.")
        options = {k: v for k, v in asked.options.items() if v is not None} | first
        settings = flatten(read_settings(file, options, asked.assignments))
        for key in _PATHS:
            if settings[key]:
                settings[key] = str(Path(str(settings[key])).resolve())
        found[name] = settings
    return found


def _name(values: Mapping[str, Value]) -> str:
    """A folder's name, of the varied values."""
    if not values:
        return "run"
    short = {key: key.rpartition(".")[2] for key in values}
    doubled = [last for last in short.values() if list(short.values()).count(last) > 1]
    parts = [
        f"{key if short[key] in doubled else short[key]}={_UNSAFE.sub('-', label(key, value))}"
        for key, value in values.items()
    ]
    name = ",".join(parts)
    if len(name) > _LONGEST_NAME:
        raise ConfigError(f"a run would be called '{name}', too long for a folder: vary less.")
    return name


def label(key: str, value: Value) -> str:
    """A value as a run's name and a table show it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return Path(str(value)).name if key in _PATHS else str(value)


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_shown, value))
    if value is None:
        return "not given"
    return f"{value:g}" if isinstance(value, float) else str(value)
