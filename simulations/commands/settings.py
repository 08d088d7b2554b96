"""sotto-lab settings: what can be set, its default and its meaning, read from the dataclasses."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import typing
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from rich.table import Table

from shared.sections import Value, flatten
from shared.system.command_line import output, write_json
from simulations.experiment.config import OWN_DEFAULTS, SimulationConfig

__all__ = ["Setting", "settings", "settings_command"]

_ATTRIBUTE = re.compile(r"^    (\w+): (.*(?:\n        .*)*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting.

    Attributes:
        key: `section.name`.
        default: None if it must be stated.
        meaning: a sentence or two.
    """

    key: str
    default: Value | None
    meaning: str


def settings_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List every setting that --config and --set take, with its default."""
    listed = settings()
    if as_json:
        write_json([asdict(setting) for setting in listed])
        return
    table = Table("setting", "default", "meaning")
    for setting in listed:
        default = "(state it)" if setting.default is None else json.dumps(setting.default)
        table.add_row(setting.key, default, setting.meaning)
    output.print(table)


def settings(cls: type = SimulationConfig, prefix: str = "") -> list[Setting]:
    """Return every setting of a simulation, in the order of the dataclasses."""
    meanings = _meanings(cls)
    listed: list[Setting] = []
    hints = typing.get_type_hints(cls)
    for item in dataclasses.fields(cls):
        kind, key = hints[item.name], prefix + item.name
        if dataclasses.is_dataclass(kind):
            listed += settings(typing.cast(type, kind), f"{key}.")
        else:
            default = OWN_DEFAULTS.get(key, _default(item))
            listed.append(Setting(key, default, meanings[item.name]))
    return listed


def _meanings(cls: type) -> dict[str, str]:
    """Return what the docstrings of a class, and of those it extends, say of each field."""
    texts = [inspect.cleandoc(part.__doc__ or "") for part in reversed(cls.__mro__)]
    pairs = (pair for text in texts for pair in _ATTRIBUTE.findall(text))
    return {name: " ".join(meaning.split()) for name, meaning in pairs}


def _default(item: dataclasses.Field[typing.Any]) -> Value | None:
    if item.default is dataclasses.MISSING:
        return None
    holder = dataclasses.make_dataclass("Holder", [("value", object, item.default)])
    return flatten(holder())["value"]
