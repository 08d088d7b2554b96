"""Fields of a JSON file, checked as they are read: errors name file, field and value."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shared.errors import ReportError

__all__ = ["Fields", "read_json"]


class Fields:
    """An object of a JSON file.

    Args:
        values: the object.
        file: what errors name.
        path: of this object in the file, as errors write it.
    """

    def __init__(self, values: Mapping[str, Any], file: Path, path: str = "") -> None:
        self._values, self._file, self._path = values, file, path

    def __contains__(self, key: str) -> bool:
        """Whether there is such a field, and it is not null."""
        return self._values.get(key) is not None

    def keys(self) -> Iterator[str]:
        """The names of all fields."""
        return iter(self._values)

    def number(self, key: str, low: float = -math.inf, high: float = math.inf) -> float:
        """A finite number from `low` to `high`.

        Raises:
            ReportError: it is missing, something else, or out of range. So with the others.
        """
        value = self._values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(key, "a number")
        try:
            found = float(value)
        except OverflowError:
            found = math.inf
        if not (math.isfinite(found) and low <= found <= high):
            raise self.wrong(key, f"a number from {low:g} to {high:g}")
        return found

    def number_or_none(self, key: str) -> float | None:
        """A finite number, or None for null or nothing."""
        return self.number(key) if key in self else None

    def count(self, key: str) -> int:
        """A whole number of 0 or more."""
        value = self.number(key, low=0)
        if value != int(value):
            raise self.wrong(key, "a whole number")
        return int(value)

    def text(self, key: str) -> str:
        """A text."""
        value = self._values.get(key)
        if not isinstance(value, str):
            raise self.wrong(key, "a text")
        return value

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self._values.get(key)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def section(self, key: str) -> Fields:
        """An object."""
        value = self._values.get(key)
        if not isinstance(value, dict):
            raise self.wrong(key, "an object")
        return Fields(value, self._file, self._name(key))

    def sections(self, key: str) -> list[Fields]:
        """A list of objects."""
        value = self._values.get(key)
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            raise self.wrong(key, "a list of objects")
        name = self._name(key)
        return [Fields(one, self._file, f"{name}[{place}]") for place, one in enumerate(value)]

    def numbers(
        self, key: str, low: float = -math.inf, high: float = math.inf
    ) -> tuple[float, ...]:
        """A list of finite numbers from `low` to `high`."""
        value = self._values.get(key)
        if not isinstance(value, list):
            raise self.wrong(key, "a list of numbers")
        items = Fields({str(i): one for i, one in enumerate(value)}, self._file, self._name(key))
        return tuple(items.number(str(place), low, high) for place in range(len(value)))

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts; nothing is an empty one."""
        value = self._values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self.wrong(key, "a list of texts")
        return tuple(value)

    def _name(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def wrong(self, key: str, wanted: str) -> ReportError:
        """The error for a field that does not hold what is wanted of it."""
        shown = f"it is {self._values[key]!r:.60}" if key in self._values else "it is missing"
        return ReportError(
            f"{self._file}, field '{self._name(key)}': {wanted} is expected, but {shown}. "
            "Write it again with this version of sotto-lab."
        )


def read_json(file: Path, remedy: str) -> Fields:
    """Reads a file of schema 1.

    Args:
        file: holds one JSON object with the field `schema`.
        remedy: what to do if it is not there, as a sentence.

    Raises:
        ReportError: it is not there, is damaged, or has another schema.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ReportError(f"{file} cannot be read ({error.strerror}): {remedy}") from error
    except ValueError as error:
        raise ReportError(f"{file} is no JSON ({error}): {remedy}") from error
    if not isinstance(values, dict) or values.get("schema") != 1:
        schema = values.get("schema") if isinstance(values, dict) else None
        raise ReportError(
            f"{file} has schema {schema!r}, and this version reads 1: report on it with the "
            "version that wrote it."
        )
    return Fields(values, file)
