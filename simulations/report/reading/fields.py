"""Read fields of a JSON file; errors name the file, the field and its value."""

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
        path: of this object in the file, for errors.
    """

    def __init__(self, values: Mapping[str, Any], file: Path, path: str = "") -> None:
        self._values, self._file, self._path = values, file, path

    def __contains__(self, key: str) -> bool:
        """Return whether the field exists and is not null."""
        return self._values.get(key) is not None

    def keys(self) -> Iterator[str]:
        """Return the names of all fields."""
        return iter(self._values)

    def number(self, key: str, low: float = -math.inf, high: float = math.inf) -> float:
        """Return a finite number from `low` to `high`.

        Raises:
            ReportError: the field is missing, of another type, or out of range. The other methods
                raise it in the same cases.
        """
        value = self._values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(key, "a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not (math.isfinite(number) and low <= number <= high):
            raise self.wrong(key, f"a number from {low:g} to {high:g}")
        return number

    def number_or_none(self, key: str) -> float | None:
        """Return a finite number; None where the field is null or missing."""
        return self.number(key) if key in self else None

    def count(self, key: str) -> int:
        """Return a whole number of 0 or more."""
        value = self.number(key, low=0)
        if value != int(value):
            raise self.wrong(key, "a whole number")
        return int(value)

    def text(self, key: str) -> str:
        """Return a text."""
        value = self._values.get(key)
        if not isinstance(value, str):
            raise self.wrong(key, "a text")
        return value

    def flag(self, key: str) -> bool:
        """Return true or false."""
        value = self._values.get(key)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def section(self, key: str) -> Fields:
        """Return an object."""
        value = self._values.get(key)
        if not isinstance(value, dict):
            raise self.wrong(key, "an object")
        return Fields(value, self._file, self._name(key))

    def sections(self, key: str) -> list[Fields]:
        """Return a list of objects."""
        value = self._values.get(key)
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            raise self.wrong(key, "a list of objects")
        name = self._name(key)
        return [Fields(one, self._file, f"{name}[{place}]") for place, one in enumerate(value)]

    def numbers(
        self, key: str, low: float = -math.inf, high: float = math.inf
    ) -> tuple[float, ...]:
        """Return a list of finite numbers from `low` to `high`."""
        value = self._values.get(key)
        if not isinstance(value, list):
            raise self.wrong(key, "a list of numbers")
        items = Fields({str(i): one for i, one in enumerate(value)}, self._file, self._name(key))
        return tuple(items.number(str(place), low, high) for place in range(len(value)))

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts; empty where the field is missing."""
        value = self._values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self.wrong(key, "a list of texts")
        return tuple(value)

    def _name(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def wrong(self, key: str, expected: str) -> ReportError:
        """Return the error for a field whose value is not what is expected."""
        shown = f"it is {self._values[key]!r:.60}" if key in self._values else "it is missing"
        return ReportError(
            f"{self._file}, field '{self._name(key)}': {expected} is expected, but {shown}. "
            "Write it again with this version of sotto-lab."
        )


def read_json(file: Path, remedy: str) -> Fields:
    """Read a file of schema 1.

    Args:
        file: holds one JSON object with the field `schema`.
        remedy: what to do if the file cannot be read, as a sentence.

    Raises:
        ReportError: the file is missing or damaged, or has another schema.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ReportError(f"{file} cannot be read ({error.strerror}): {remedy}") from error
    except ValueError as error:
        raise ReportError(f"{file} is not valid JSON ({error}): {remedy}") from error
    if not isinstance(values, dict) or values.get("schema") != 1:
        schema = values.get("schema") if isinstance(values, dict) else None
        raise ReportError(
            f"{file} has schema {schema!r}, and this version reads 1: report on it with the "
            "version that wrote it."
        )
    return Fields(values, file)
