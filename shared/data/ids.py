"""One canonical form of ids, whatever source and type they come from.

| as exported                                        | as read                                     |
|----------------------------------------------------|---------------------------------------------|
| `1000`, `1000.0`, `"1000 "`, `+1000.0`, `-0`       | `1000` four times, `0`                      |
| `1.2345678E7`, as Java and Spark write floats      | `12345678`                                  |
| any kind of space, such as a no-break space        | a plain space; none at either end           |
| invisible characters: zero-width, direction, NUL   | left out                                    |
| an accent as a character of its own (NFD)          | one composed character (NFC)                |
| a UUID in capitals, or in braces                   | the UUID in small letters, without braces   |
| `007`, `a`, `A`                                    | unchanged: `7`, `a` and `A` are other ids   |
| empty, or a spelling of a missing value: one of    | refused                                     |
|   `MISSING`, or punctuation alone (`-`, `?`)       |                                             |
| `1.23e+11`, a float of 2**53 or more               | refused: digits were lost before the export |
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from shared.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "EXACT_FLOATS",
    "EXAMPLES",
    "INEXACT",
    "MISSING",
    "Batch",
    "IdColumn",
    "Spellings",
    "canonical_id",
    "find_near_ids",
    "inexact_id",
]

MISSING = (
    *(r"\N", "NULL", "NaN", "None", "NA", "N/A", "#N/A", "<NA>", "(null)", "undefined"),
    *("[NULL]", "<null>", "nil", "<nil>", "NaT", "-NaN", "(blank)", "#NA", "#N/A N/A"),
    *("#NULL!", "#VALUE!", "#REF!", "#NAME?", "#NUM!", "#DIV/0!"),
    *("inf", "-inf", "Infinity", "-Infinity", "00000000-0000-0000-0000-000000000000"),
)
"""Spellings of a missing value, compared without regard to case."""
INEXACT = " (inexact number)"
"""Marks the text of a floating-point number that may have lost digits."""
EXACT_FLOATS = 2**53
"""Below it, a float64 holds every whole number."""
EXAMPLES = 3
"""Most examples of one kind that a summary gives."""

_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]"
)
_SPACE = re.compile(r"\s")
_WHOLE_FLOAT = re.compile(r"\+?(-?[0-9]+)\.0*")
_JAVA_FLOAT = re.compile(r"(-?[1-9])\.([0-9]+)E([0-9]{1,2})")
"""As Java writes floats from 10**7 up: all digits, and never a plus sign."""
_SCIENTIFIC = re.compile(r"[+-]?[0-9](\.[0-9]+)?[eE]\+[0-9]+")
_UUID = re.compile(r"\{?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\}?", re.IGNORECASE)
_PUNCTUATION = re.compile("[!-/:-@\\[-`{-~\u2010-\u2015\u2026 ]+")
_GROUPED = re.compile(r"[0-9]{1,3}([,.' ][0-9]{3})+")


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows of one table.

    Attributes:
        rows: three text columns: user, item and time.
        source: name of the table in errors.
        first: the number of the first row within the table, from 1.
        numbers: each row's number from `first`, int64; None where no row is left out: 0, 1, ...
    """

    rows: pa.RecordBatch
    source: str
    first: int
    numbers: npt.NDArray[np.int64] | None = None

    def row(self, index: int) -> int:
        """Return the number of a row within the table, from 1."""
        return self.first + (index if self.numbers is None else int(self.numbers[index]))


def canonical_id(text: str) -> str:
    """Return the canonical form of an id, see the table at the top of this module.

    >>> canonical_id("1000.0"), canonical_id(" 1000\u00a0"), canonical_id("e\u0301") == "\u00e9"
    ('1000', '1000', True)
    >>> canonical_id("1.2345678E7"), canonical_id("1.5E7"), canonical_id("12E7")
    ('12345678', '15000000', '12E7')
    """
    if _is_plain(text):
        return text
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    text = _SPACE.sub(" ", _INVISIBLE.sub("", text)).strip()
    if whole := _whole_float(text):
        text = whole
    if text == "-0":
        return "0"
    uuid = _UUID.fullmatch(text)
    return uuid[1].lower() if uuid else text


def _is_plain(text: str) -> bool:
    """Return whether a text is nothing but ASCII letters and digits, as most ids are."""
    return text.isascii() and text.isalnum()


def _whole_float(text: str) -> str:
    """Return the whole number that a text is as a float, without a fraction; "" if it is none."""
    if whole := _WHOLE_FLOAT.fullmatch(text):
        return whole[1]
    java = _JAVA_FLOAT.fullmatch(text)
    if java is None:
        return ""
    digits, exponent = java[2].rstrip("0"), int(java[3])
    return f"{java[1]}{digits:0<{exponent}}" if len(digits) <= exponent else ""


def inexact_id(text: str) -> bool:
    """Return whether an id is a number that lost digits before the export.

    >>> inexact_id("1.23457E+11"), inexact_id("9007199254740992.0"), inexact_id("9007199254740993")
    (True, True, False)
    >>> inexact_id("1.2345678E7"), inexact_id("1.2345678E20")
    (False, True)
    """
    if _is_plain(text):
        return False
    text = text.strip()
    if text.endswith(INEXACT) or _SCIENTIFIC.fullmatch(text):
        return True
    whole = _whole_float(text)
    return bool(whole) and abs(int(whole)) >= EXACT_FLOATS


@dataclass(frozen=True, slots=True, kw_only=True)
class Spellings:
    """How the ids of a column were written.

    Attributes:
        rewritten: rows whose id was not in the canonical form.
        merged: ids that were written in more than one way.
        examples: some of them, as `'1000.0' is read as '1000'`.
    """

    rewritten: int = 0
    merged: int = 0
    examples: tuple[str, ...] = field(default_factory=tuple)


class IdColumn:
    """A column of ids: the distinct ids by first appearance, and each row's index among them.

    Args:
        column: the column's number within the batches.
        missing: spellings of a missing value; with any, punctuation alone is one, too.
        accepted: canonical ids that are read although they are such a spelling.
        strict: whether an id that cannot be read is an error, or has the index -1.
    """

    def __init__(
        self,
        column: int,
        missing: Collection[str],
        accepted: Container[str] = (),
        *,
        strict: bool = True,
    ) -> None:
        self._column, self._accepted, self._strict = column, accepted, strict
        self._missing = {canonical_id(text).casefold() for text in missing}
        self._parts = [np.zeros(0, np.int32)]
        self._number_of_spelling: dict[str, int] = {}
        self._index_of_spelling: list[int] = []
        self.indices: dict[str, int] = {}

    def add(self, batch: Batch) -> None:
        """Read one batch.

        Raises:
            DataError: an id is missing, or is a number that lost digits; only if strict.
        """
        encoded = batch.rows.column(self._column).dictionary_encode()
        texts = encoded.dictionary.to_pylist()
        numbers = self._number_of_spelling
        refused = {-1: ""}
        spellings = np.full(len(texts) + 1, -1, np.int32)
        for code, text in enumerate(texts):
            number = numbers.get(text)
            if number is None:
                number = self._number_new(text)
                if number < 0:
                    refused[code] = text
            spellings[code] = number
        codes = encoded.indices.fill_null(-1).to_numpy()
        if self._strict and (bad := np.isin(codes, list(refused))).any():
            raise self._error(batch, int(bad.argmax()))
        self._parts.append(spellings[codes])

    def _number_new(self, text: str) -> int:
        """Return the number of a spelling that was not met before; -1 where it is refused."""
        form = canonical_id(text)
        if not form or self._is_missing(form) or inexact_id(text):
            return -1
        number = self._number_of_spelling[text] = len(self._number_of_spelling)
        self._index_of_spelling.append(self.indices.setdefault(form, len(self.indices)))
        return number

    def _is_missing(self, form: str) -> bool:
        if form in self._accepted or not self._missing:
            return False
        return form.casefold() in self._missing or _PUNCTUATION.fullmatch(form) is not None

    def _error(self, batch: Batch, row: int) -> DataError:
        text = batch.rows.column(self._column)[row].as_py()
        if text is not None and inexact_id(text):
            problem = "the id is a rounded number: several users or items may share it"
            remedy = "Export ids as whole numbers or as text, never as floating-point numbers."
        elif text is not None and canonical_id(text):
            problem = "the id is a spelling of a missing value"
            remedy = (
                "Give every row a user and an item, or leave it out. If it is a real id, list the "
                "spellings of a missing value without it: --set lab.missing=... in the lab, "
                "`missing` under [data] in site.toml."
            )
        else:
            problem = "the id is empty"
            remedy = "Give every row a user and an item, or leave it out."
        return DataError(
            problem,
            file=batch.source,
            row=batch.row(row),
            field=batch.rows.schema.names[self._column],
            value=text,
            remedy=remedy,
        )

    def codes(self) -> npt.NDArray[np.int32]:
        """Return each row's index into the distinct ids, -1 where it has none: [E]."""
        spellings = np.concatenate(self._parts)
        return np.array([*self._index_of_spelling, -1], np.int32)[spellings]

    def spellings(self) -> Spellings:
        """Return how the ids were written."""
        ids, spellings = list(self.indices), list(self._number_of_spelling)
        index = np.array(self._index_of_spelling, np.int64)
        rewritten = [number for number, text in enumerate(spellings) if text != ids[index[number]]]
        if not rewritten:
            return Spellings()
        ways = np.bincount(index, minlength=len(ids))
        rows = sum(int(np.isin(part, rewritten).sum()) for part in self._parts)
        # Ids that were written in several ways make the better examples.
        shown = sorted(rewritten, key=lambda number: ways[index[number]] < 2)[:EXAMPLES]
        return Spellings(
            rewritten=rows,
            merged=int((ways > 1).sum()),
            examples=tuple(
                # Not repr: it would show two texts that look the same.
                f"{spellings[number]!a} is read as {ids[index[number]]!a}"
                for number in shown
            ),
        )


def find_near_ids(ids: Iterable[str], others: Iterable[str]) -> Mapping[str, str]:
    """Return the ids that are probably written as another one in another way, with that other one.

    | ways                                                | as in                           |
    |-----------------------------------------------------|---------------------------------|
    | leading zeros, a plus sign, case                    | `00100`, `+100`, `A`            |
    | quotes, an apostrophe or a formula, as for Excel    | `"100"`, `'100`, `="100"`       |
    | digits in groups, letters of full width             | `1,000`                         |
    | a UUID without dashes                               |                                 |

    >>> dict(find_near_ids(["00100", "x"], ["100", "101"]))
    {'00100': '100'}
    """
    loose = {_loosened(other): other for other in others}
    pairs = ((one, loose.get(_loosened(one))) for one in ids)
    return {one: other for one, other in pairs if other is not None and other != one}


def _loosened(text: str) -> str:
    if _is_plain(text):
        return text.casefold().lstrip("0") or "0"
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    text = text.strip("'\"=+ ").casefold()
    if _GROUPED.fullmatch(text):
        text = re.sub(r"[^0-9]", "", text)
    elif _UUID.fullmatch(text):
        text = text.replace("-", "")
    return text.lstrip("0") or "0"
