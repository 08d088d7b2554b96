"""The plan of a sweep: recipes and settings that vary, stored in sweep.toml.

Every combination is one run. sweep.toml holds all settings, so later changes of a recipe's file or
of a default have no effect.
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import tomli_w

from shared.errors import CheckpointError, ConfigError
from shared.sections import Value, flatten, parse_sections
from simulations.experiment.config import SimulationConfig, read_settings
from simulations.sweep.axes import EPSILON, PATHS, RECIPE, SEED, Axis, run_name

__all__ = ["Keep", "Plan", "PlannedRun", "SweepOptions"]

_SCHEMA = 1


class Keep(StrEnum):
    """Which files of a finished run are kept."""

    RESULTS = "results"
    ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepOptions:
    """The options of a sweep that determine its runs.

    Attributes:
        recipes: TOML files of settings; several are another axis.
        options: `section.key` -> value; None means not given.
        assignments: `section.key=value` texts.
        axes: settings that vary.
        keep: which files of a finished run are kept.
        variants: name -> settings by key, of one recipe; another axis.
        variant_assignments: name -> `section.key=value` texts of that variant alone.
    """

    recipes: Sequence[Path] = ()
    options: Mapping[str, Value | None]
    assignments: Sequence[str] = ()
    axes: tuple[Axis, ...] = ()
    keep: Keep | None = None
    variants: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    variant_assignments: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Return whether no option was given."""
        given = any(value is not None for value in self.options.values())
        stated = self.recipes or self.assignments or self.axes or self.keep or self.variants
        return not (given or stated)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """One run of a sweep.

    Attributes:
        name: of its folder.
        values: this run's values of the settings that vary, by key.
        config: all its settings.
    """

    name: str
    values: Mapping[str, Value]
    config: SimulationConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All runs of a sweep.

    Attributes:
        recipes: name -> every setting, flat; axes vary some of them.
        axes: settings that vary, besides recipes.
        keep: which files of a finished run are kept.
        search: options of a search, flat; empty for a grid.
    """

    recipes: Mapping[str, Mapping[str, Value]]
    axes: tuple[Axis, ...]
    keep: Keep = Keep.RESULTS
    search: Mapping[str, Value]

    @classmethod
    def of(cls, asked: SweepOptions, search: Mapping[str, Value] | None = None) -> Plan:
        """Read the recipes and check every run's settings, before anything is run.

        Raises:
            ConfigError: a file, key or value does not fit, or two axes or runs are the same.
        """
        varied = [axis.key for axis in asked.axes]
        if len(set(varied)) < len(varied):
            twice = next(key for key in varied if varied.count(key) > 1)
            raise ConfigError(f"{twice} varies twice: give all its values in one option.")
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
        """Return the keys that vary, in the order of the runs' names."""
        recipe = [RECIPE] if len(self.recipes) > 1 else []
        middle = [axis.key for axis in self.axes if axis.key not in (EPSILON, SEED)]
        keys = {axis.key for axis in self.axes}
        return [*recipe, *([EPSILON] * (EPSILON in keys)), *middle, *([SEED] * (SEED in keys))]

    def runs(self) -> list[PlannedRun]:
        """Return every combination, ordered by seed, so that one seed is complete early.

        Raises:
            ConfigError: settings do not fit together.
        """
        by_key = {axis.key: axis.values for axis in self.axes}
        if len(self.recipes) > 1:
            by_key[RECIPE] = tuple(self.recipes)
        slow = [key for key in (SEED,) if key in by_key]
        order = slow + [key for key in self.keys if key not in slow]
        combinations = itertools.product(*(by_key[key] for key in order))
        return [self.run(dict(zip(order, values, strict=True))) for values in combinations]

    def run(self, values: Mapping[str, Value], name: str | None = None) -> PlannedRun:
        """Return one run with these values of the settings that vary.

        Raises:
            ConfigError: settings do not fit together.
        """
        recipe = str(values.get(RECIPE, next(iter(self.recipes))))
        settings = {key: value for key, value in values.items() if key != RECIPE}
        ordered = {key: values[key] for key in self.keys if key in values}
        config = parse_sections(SimulationConfig, {**self.recipes[recipe], **settings})
        _ = config.planned  # refuses here what a run would refuse later
        return PlannedRun(name=name or run_name(ordered), values=ordered or settings, config=config)

    def to_toml(self) -> str:
        """Return the text of a file that `from_toml` reads."""
        axes = [{"key": axis.key, "values": list(axis.values)} for axis in self.axes]
        table = {"schema": _SCHEMA, "keep": str(self.keep), "axes": axes}
        if self.search:
            table["search"] = dict(self.search)
        return tomli_w.dumps(table | {"recipes": self.recipes})

    @classmethod
    def from_toml(cls, file: Path) -> Plan:
        """Read the plan of an existing sweep.

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
                f"{file} is not a sweep of this version ({error}): start another in a new folder."
            ) from error

    def differences(self, other: Plan) -> list[str]:
        """Return the differences of another plan, as clauses."""
        was, now = self._flat(), other._flat()
        changed = self.recipes.keys() ^ other.recipes.keys()
        names = [
            f"recipe {name} = {'given' if name in other.recipes else 'not given'} "
            f"(was {'given' if name in self.recipes else 'not given'})"
            for name in sorted(changed)
        ]
        return names + [
            f"{key} = {_shown(now.get(key))} (was {_shown(was.get(key))})"
            for key in sorted(was.keys() | now.keys())
            if was.get(key) != now.get(key) and key.partition(": ")[0] not in changed
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


def _recipes(asked: SweepOptions) -> dict[str, dict[str, Value]]:
    """Return each recipe's complete settings; a setting that varies has its first value."""
    first = {axis.key: axis.values[0] for axis in asked.axes}
    # δ may be left out only where no run is private.
    private = [a.values for a in asked.axes if a.key == EPSILON]
    for values in private:
        first[EPSILON] = next((value for value in values if value != "none"), "none")
    recipes: dict[str, dict[str, Value]] = {}
    files: Sequence[Path | None] = asked.recipes or [None]
    for file in files:
        name = "default" if file is None else file.stem
        if name in recipes:
            raise ConfigError(f"two recipes are called '{name}': rename one of the files.")
        options = {k: v for k, v in asked.options.items() if v is not None} | first
        for variant, changes in asked.variants.items() or [(name, {})]:
            assignments = [*asked.assignments, *asked.variant_assignments.get(variant, ())]
            settings = flatten(read_settings(file, {**options, **changes}, assignments))
            for key in PATHS:
                if settings.get(key):
                    settings[key] = str(Path(str(settings[key])).resolve())
            recipes[variant] = settings
    return recipes


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_shown, value))
    if value is None:
        return "not given"
    return f"{value:g}" if isinstance(value, float) else str(value)
