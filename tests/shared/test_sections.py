from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, field, replace
from enum import StrEnum
from typing import Annotated, Any

import numpy as np
import pytest

from shared.errors import ConfigError, SiteError
from shared.sections import (
    Choice,
    Fraction,
    ListOf,
    NonNegativeInt,
    NonNegativeNumber,
    OptionalOf,
    PositiveInt,
    PositiveNumber,
    Require,
    ShareAboveZero,
    ShareBelowOne,
    Unchecked,
    Value,
    flatten,
    parse_sections,
    section,
    values_of,
)


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@section("inner")
class Inner:
    number: PositiveNumber = 1.0
    colour: Choice[Colour] = Colour.RED


@section("deeper")
class Extended(Inner):
    more: int = 0


@section()
class Outer:
    must: int
    inner: Inner = field(default_factory=Inner)
    limit: OptionalOf[Annotated[float, Require(lambda x: x > 0, "choose more")]] = None
    colours: ListOf[Choice[Colour]] = ()
    ids: ListOf[int] = ()
    text: Annotated[str, Require(str.isprintable, "choose another")] = ""
    array: Annotated[Any, Unchecked] = None


@section("wide", SiteError)
class Wide:
    positive_int: PositiveInt = 1
    int_from_zero: NonNegativeInt = 0
    positive: PositiveNumber = 1.0
    from_zero: NonNegativeNumber = 0.0
    above_zero: ShareAboveZero = 1.0
    below_one: ShareBelowOne = 0.0
    fraction: Fraction = 0.0


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("positive_int", [1, 2**70], [0, -1]),
        ("int_from_zero", [0, 7], [-1]),
        ("positive", [5e-324, 1e308, 1], [0.0, -1.0, math.inf, -math.inf, math.nan]),
        ("from_zero", [0.0, 0, 1e308], [-5e-324, math.inf, -math.inf, math.nan]),
        ("above_zero", [5e-324, 1.0, 1], [0.0, 1.0000001, math.inf, math.nan]),
        ("below_one", [0.0, 0.9999999], [-5e-324, 1.0, math.inf, math.nan]),
        ("fraction", [0.0, 1.0], [-5e-324, 1.0000001, math.inf, math.nan]),
    ],
)
def test_a_constraint_type_holds_its_range(key: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert getattr(Wide(**{key: value}), key) == value
    for value in bad:
        with pytest.raises(SiteError, match=rf"^wide\.{key} = {value}: choose .*\.$"):
            Wide(**{key: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"must": "1"}, "must = '1' does not fit: it takes a whole number."),
        ({"must": True}, "must = True does not fit: it takes a whole number."),
        ({"must": 1.0}, "must = 1.0 does not fit: it takes a whole number."),
        ({"must": np.int64(1)}, "must = np.int64(1) does not fit: it takes a whole number."),
        ({"limit": "x"}, "limit = 'x' does not fit: it takes a number or 'none'."),
        ({"limit": -1}, "limit = -1.0: choose more."),
        ({"colours": "red,green"}, "colours = 'green' does not fit: it takes 'red' or 'blue'."),
        ({"colours": 3}, "colours = 3 does not fit: it takes a list of 'red' or 'blue'."),
        ({"ids": "1,x"}, "ids = 'x' does not fit: it takes a whole number."),
        ({"text": "\n" * 200}, f"text = {chr(10) * 100!r}: choose another."),
        ({"inner": {"number": 1.0}}, "inner = {'number': 1.0} does not fit: it takes a Inner."),
        ({"mustt": 1}, "unknown configuration key 'mustt' = 1: did you mean 'must'?"),
    ],
)
def test_a_message_has_key_value_and_remedy(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Outer(**{"must": 1} | changes)
    assert str(caught.value) == message
    assert caught.value.__suppress_context__, "pydantic's own text repeats every value"


def test_a_section_is_a_frozen_dataclass() -> None:
    texts: dict[str, Any] = {"limit": "none", "colours": "blue, red", "ids": "3,17"}
    outer = Outer(must=1, **texts)
    assert (outer.limit, outer.colours) == (None, (Colour.BLUE, Colour.RED))
    assert outer.ids == (3, 17)
    assert type(outer.colours[0]) is Colour
    assert replace(outer, must=2).must == 2
    with pytest.raises(ConfigError, match="must = 'x'"):
        replace(outer, must="x")  # type: ignore[arg-type]
    with pytest.raises(FrozenInstanceError):
        outer.must = 2  # type: ignore[misc]


def test_a_section_extends_another_under_its_own_name() -> None:
    assert Extended(number=2).number == 2.0
    with pytest.raises(ConfigError, match=r"^deeper\.number = 0\.0: choose"):
        Extended(number=0)
    assert values_of(Inner, Extended(number=3.0, more=4)) == {"number": 3.0, "colour": Colour.RED}


def test_what_is_unchecked_is_passed_on() -> None:
    array = np.ones(3)
    assert Outer(must=1, array=array).array is array


def test_flat_entries_build_nested_sections() -> None:
    flat: dict[str, Value] = {"must": 3, "inner.number": 2, "inner.colour": "blue", "limit": "none"}
    outer = parse_sections(Outer, flat)
    assert outer == Outer(must=3, inner=Inner(number=2.0, colour=Colour.BLUE))
    assert parse_sections(Inner, {"number": 2}) == Inner(number=2.0)
    assert flatten(outer.inner) == {"number": 2.0, "colour": "blue"}
    with pytest.raises(ConfigError, match=r"^inner\.number = nan: choose"):
        parse_sections(Outer, {"must": 3, "inner.number": math.nan})
    with pytest.raises(ConfigError, match=r"^'must' is not set, and it has no default: state it"):
        parse_sections(Outer, {})
    with pytest.raises(ConfigError, match=r"did you mean 'inner\.number'\?"):
        parse_sections(Outer, {"must": 3, "inner.numbre": 1})
