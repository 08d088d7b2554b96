"""Settings as checked dataclasses: constraint types, `section.key` form, and error messages.

`@section("training")` makes a class a frozen, keyword-only dataclass whose values pydantic checks
strictly when it is built. A value that does not fit raises one of our own errors:

| given            | message                                                                       |
|------------------|-------------------------------------------------------------------------------|
| `clip_norm=0`    | training.clip_norm = 0.0: choose a finite number above 0.                     |
| `clip_norm="1"`  | training.clip_norm = '1' does not fit: it takes a number.                     |
| `decay="step"`   | training.decay = 'step' does not fit: it takes 'constant' or 'linear'.        |
| `round=3`        | unknown configuration key 'training.round' = 3: did you mean '...?            |
| nothing          | 'privacy.delta' is not set, and it has no default: state it.                  |

A field's type states its constraint. The constraint types stand below, so that both sides of a
message, a partner's file and a run's settings share them.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, TypeVar, dataclass_transform

import pydantic.dataclasses
from pydantic import BeforeValidator, ConfigDict, GetCoreSchemaHandler, Strict, ValidationError
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, core_schema

from shared.errors import ConfigError, SottoError

__all__ = [
    "LONGEST_NAME",
    "Choice",
    "Fraction",
    "ListOf",
    "NonNegativeInt",
    "NonNegativeNumber",
    "OptionalOf",
    "PositiveInt",
    "PositiveNumber",
    "Require",
    "ShareAboveZero",
    "ShareBelowOne",
    "TextsOf",
    "Unchecked",
    "Value",
    "flat_tables",
    "flatten",
    "is_name",
    "nested_tables",
    "parse_sections",
    "section",
    "values_of",
]

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)
Value = int | float | bool | str
"""What a Flower run config can hold."""
LONGEST_NAME = 100
"""Most characters of an organisation's name, and of a run's."""
_OUT_OF_RANGE = "out_of_range"
_LONGEST = 100
"""Characters of a value that a message shows."""


# --- constraint types ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Require:
    """A condition on a field's value, used in `Annotated`; NaN must fail it.

    Attributes:
        holds: whether a value of the right type is allowed.
        remedy: what to do otherwise, as a clause without a full stop.
    """

    holds: Callable[[Any], bool]
    remedy: str

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Check the condition after pydantic has checked the type."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, value: T) -> T:
        if not self.holds(value):
            raise PydanticCustomError(
                _OUT_OF_RANGE, "out of range", {"value": value, "remedy": self.remedy}
            )
        return value


def is_name(text: str) -> bool:
    r"""Return whether `text` can name an organisation: names are logged and shown on terminals.

    >>> [is_name(text) for text in ("Bücher & Co", " ", "two\nlines")]
    [True, False, False]
    """
    return bool(text.strip()) and text.isprintable() and len(text) <= LONGEST_NAME


class Unchecked:
    """Marks a field, in `Annotated`, that pydantic passes through: arrays are checked elsewhere."""

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: object) -> CoreSchema:
        """Accept anything."""
        return core_schema.any_schema()


def _none_from_text(value: object) -> object:
    return None if value == "none" else value


def _split(value: object) -> object:
    """Split a text at its commas; whole numbers become int."""
    if not isinstance(value, str):
        return value
    parts = (part.strip() for part in value.split(",") if part)
    return tuple(int(part) if part.isascii() and part.isdigit() else part for part in parts)


def _split_texts(value: object) -> object:
    """Split a text at its commas into texts; a number is the text of one."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (str(value),)
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


# Each is stated as what must hold, since NaN fails every comparison.
PositiveInt = Annotated[int, Require(lambda n: n >= 1, "choose a whole number >= 1")]
NonNegativeInt = Annotated[int, Require(lambda n: n >= 0, "choose a whole number >= 0")]
PositiveNumber = Annotated[
    float, Require(lambda x: 0 < x < math.inf, "choose a finite number above 0")
]
NonNegativeNumber = Annotated[
    float, Require(lambda x: 0 <= x < math.inf, "choose a finite number >= 0")
]
ShareAboveZero = Annotated[float, Require(lambda x: 0 < x <= 1, "choose a number in (0, 1]")]
ShareBelowOne = Annotated[float, Require(lambda x: 0 <= x < 1, "choose a number in [0, 1)")]
Fraction = Annotated[float, Require(lambda x: 0 <= x <= 1, "choose a number in [0, 1]")]
Choice = Annotated[E, Strict(strict=False)]
"""A StrEnum, given as itself or as its text."""
OptionalOf = Annotated[T | None, BeforeValidator(_none_from_text)]
"""A value or None; None is written as the text "none"."""
ListOf = Annotated[tuple[T, ...], BeforeValidator(_split)]
"""A tuple, or a text of its parts with commas between."""

TextsOf = Annotated[tuple[str, ...], BeforeValidator(_split_texts)]
"""A tuple of texts, or one text with commas between them; numbers stay texts."""


# --- sections ------------------------------------------------------------------------------------


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
def section(
    prefix: str = "", error: type[SottoError] = ConfigError
) -> Callable[[type[T]], type[T]]:
    """Make a class a frozen, keyword-only dataclass whose values are checked when it is built.

    Defaults are not checked. `__post_init__` runs after the values are checked: it is the place for
    conditions on several fields.

    Args:
        prefix: the table that messages name before a key; "" for none.
        error: raised for a value that does not fit; takes the message alone.
    """
    dotted = f"{prefix}." if prefix else ""

    def decorate(cls: type[T]) -> type[T]:
        checked = pydantic.dataclasses.dataclass(
            frozen=True, slots=True, kw_only=True, config=ConfigDict(strict=True, extra="forbid")
        )(cls)
        build = checked.__init__

        @functools.wraps(build)
        def init(self: object, **values: object) -> None:
            try:
                build(self, **values)
            except ValidationError as invalid:
                problem = invalid.errors(include_url=False)[0]
                # Without the original, which repeats every value that was given.
                raise error(_message(checked, problem, dotted)) from None

        checked.__init__ = init  # type: ignore[method-assign]
        return typing.cast(type[T], checked)

    return decorate


def parse_sections(cls: type[T], flat: Mapping[str, Value]) -> T:
    """Build the section `cls`, whose fields may be sections, from `section.key` entries.

    Raises:
        ConfigError: an unknown key, a missing one without default, or a value that does not fit.
    """
    keys = _keys(cls)
    for key, value in flat.items():
        if key not in keys:
            raise ConfigError(_unknown(key, value, keys))
    return _build(cls, flat, "")


def flatten(config: object, without: Collection[str] = ()) -> dict[str, Value]:
    """Return the `section.key` entries of a dataclass made of values and dataclasses.

    Args:
        config: the dataclass.
        without: names of its own fields to leave out.
    """
    flat: dict[str, Value] = {}
    for item in dataclasses.fields(typing.cast(Any, config)):
        if item.name in without:
            continue
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            flat |= {f"{item.name}.{key}": inner for key, inner in flatten(value).items()}
        else:
            flat[item.name] = "none" if value is None else _plain(value)
    return flat


def flat_tables(tables: Mapping[str, object], prefix: str = "") -> dict[str, Value]:
    """Return the `section.key` entries of nested tables, as a TOML file has them.

    Raises:
        ConfigError: a value is neither a table nor a plain value.

    >>> flat_tables({"seed": 1, "model": {"heads": 2}})
    {'seed': 1, 'model.heads': 2}
    """
    flat: dict[str, Value] = {}
    for key, value in tables.items():
        if isinstance(value, Mapping):
            flat |= flat_tables(value, f"{prefix}{key}.")
        elif isinstance(value, int | float | bool | str):
            flat[prefix + key] = value
        else:
            raise ConfigError(f"'{prefix}{key}' = {value!r}: a plain value is wanted.")
    return flat


def nested_tables(flat: Mapping[str, Value]) -> dict[str, Any]:
    """Return `section.key` entries as nested tables, the inverse of `flat_tables`.

    >>> nested_tables({"seed": 1, "model.heads": 2})
    {'seed': 1, 'model': {'heads': 2}}
    """
    tables: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        table = tables
        for part in sections:
            table = table.setdefault(part, {})
        table[name] = value
    return tables


def values_of(cls: type, source: object) -> dict[str, Any]:
    """Return the fields of the dataclass `cls`, by name, with the values that `source` has."""
    return {item.name: getattr(source, item.name) for item in dataclasses.fields(cls)}


def _plain(value: Value | tuple[Value, ...]) -> Value:
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    return str(value) if isinstance(value, StrEnum) else value


@functools.lru_cache
def _hints(cls: type) -> Mapping[str, Any]:
    """Return the types of a class's fields; to evaluate them takes longer than to check a file."""
    return typing.get_type_hints(cls)


def _keys(cls: type) -> list[str]:
    keys: list[str] = []
    for name, kind in _hints(cls).items():
        nested = isinstance(kind, type) and dataclasses.is_dataclass(kind)
        inner = [f"{name}.{key}" for key in _keys(kind)] if nested else []
        keys += inner or [name]
    return keys


def _build(cls: type[T], flat: Mapping[str, Value], prefix: str) -> T:
    arguments: dict[str, object] = {}
    hints = _hints(typing.cast(type, cls))
    for item in dataclasses.fields(typing.cast(Any, cls)):
        key, kind = prefix + item.name, hints[item.name]
        if dataclasses.is_dataclass(kind):
            arguments[item.name] = _build(typing.cast(type, kind), flat, key + ".")
        elif key in flat:
            arguments[item.name] = flat[key]
        elif item.default is dataclasses.MISSING:
            raise ConfigError(_missing(key))
    return cls(**arguments)


# --- messages ------------------------------------------------------------------------------------


def _message(cls: type, problem: ErrorDetails, prefix: str) -> str:
    """Say what is wrong with one field of `cls`, with its key, value and remedy."""
    name, *place = problem["loc"]
    key, value = f"{prefix}{name}", problem["input"]
    match problem["type"]:
        case "missing":
            return _missing(key)
        case "unexpected_keyword_argument":
            return _unknown(key, value, [prefix + name for name in _keys(cls)])
        case "out_of_range":
            context = problem["ctx"]
            return f"{key} = {_shown(context['value'])}: {context['remedy']}."
    kind = _hints(cls)[str(name)]
    if place:  # one part of a list
        kind = typing.get_args(kind)[0]
    return f"{key} = {value!r} does not fit: it takes {_describe(kind)}."


def _missing(key: str) -> str:
    return f"'{key}' is not set, and it has no default: state it."


def _unknown(key: str, value: object, keys: Iterable[str]) -> str:
    same = [known for known in keys if known.rpartition(".")[2] == key]
    near = same or difflib.get_close_matches(key, keys, n=1)
    meant = " or ".join(f"'{one}'" for one in near)
    hint = f"did you mean {meant}?" if near else f"known keys: {', '.join(keys)}."
    return f"unknown configuration key '{key}' = {value!r}: {hint}"


def _shown(value: object) -> str:
    return repr(value[:_LONGEST]) if isinstance(value, str) else str(value)


def _describe(kind: Any) -> str:  # noqa: ANN401 a type form
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return " or ".join(map(_describe, typing.get_args(kind)))
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(f"'{text}'" for text in typing.get_args(kind))
    if kind is type(None):
        return "'none'"
    if typing.get_origin(kind) is tuple:
        return f"a list of {_describe(typing.get_args(kind)[0])}"
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return " or ".join(f"'{name}'" for name in kind)
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return names.get(kind, f"a {getattr(kind, '__name__', kind)}")
