"""Bytes with exactly one reading: numbers, texts, and tables by ascending index.

`Reader` refuses what `number`, `text` and `table` would not have written, so that equal records
have equal bytes and different bytes are different records. Nothing is allocated by a length that a
sender merely claims.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

from shared.errors import SecureAggregationError

__all__ = [
    "INDEX_SIZE",
    "LONGEST_TEXT",
    "Reader",
    "indices",
    "is_text",
    "number",
    "require",
    "table",
    "text",
]

T = TypeVar("T")
LONGEST_TEXT = 100
"""Most characters of a text."""
INDEX_SIZE = 2
"""Bytes of an index, and of the number of a table's rows."""


def require(holds: bool, problem: str, suspect: str = "") -> None:
    """Refuse unless something holds.

    Args:
        holds: what must be true.
        problem: what is wrong otherwise, as a sentence.
        suspect: the partner whose message is at fault, if one is.

    Raises:
        SecureAggregationError: it does not hold.
    """
    if not holds:
        raise SecureAggregationError(problem, suspect)


def is_text(value: str) -> bool:
    """Return whether a text can be sent: not blank, printable, at most `LONGEST_TEXT` long."""
    return bool(value.strip()) and value.isprintable() and len(value) <= LONGEST_TEXT


def number(value: int, size: int) -> bytes:
    """Return a whole number as `size` bytes, the most significant first."""
    return value.to_bytes(size, "big")


def text(value: str) -> bytes:
    """Return a text as its length in bytes and UTF-8."""
    encoded = value.encode()
    return number(len(encoded), 2) + encoded


def table(rows: Mapping[int, bytes]) -> bytes:
    """Return rows by ascending index, after their number."""
    parts = [number(index, INDEX_SIZE) + rows[index] for index in sorted(rows)]
    return number(len(parts), INDEX_SIZE) + b"".join(parts)


def indices(members: Collection[int]) -> bytes:
    """Return a set of indices, ascending, after their number."""
    return table(dict.fromkeys(members, b""))


class Reader:
    """Reads bytes from front to back.

    Args:
        data: the bytes.
        what: what they should be, for error messages: "a key list".
    """

    def __init__(self, data: bytes, what: str) -> None:
        self._rest, self._what = memoryview(data), what

    def fail(self, problem: str) -> SecureAggregationError:
        """Return the error that names what was read and what is wrong with it."""
        return SecureAggregationError(f"{self._what} {problem}.")

    def raw(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        if len(self._rest) < size:
            raise self.fail(f"ends early: {size} bytes are due and {len(self._rest)} are left")
        taken, self._rest = bytes(self._rest[:size]), self._rest[size:]
        return taken

    def number(self, size: int) -> int:
        """Return a number of `size` bytes."""
        return int.from_bytes(self.raw(size), "big")

    def text(self) -> str:
        """Return a text."""
        encoded = self.raw(self.number(2))
        try:
            value = encoded.decode()
        except UnicodeDecodeError:
            raise self.fail("holds a text that is not UTF-8") from None
        if not is_text(value):
            raise self.fail(f"holds a text that is blank, too long or not printable: {value!r:.80}")
        return value

    def table(self, row: Callable[[Reader], T]) -> dict[int, T]:
        """Return rows by index; `row` reads one."""
        rows: dict[int, T] = {}
        last = -1
        for _ in range(self.number(INDEX_SIZE)):
            index = self.number(INDEX_SIZE)
            if index <= last:
                raise self.fail(f"has rows that do not ascend: {index} after {last}")
            rows[index], last = row(self), index
        return rows

    def indices(self) -> frozenset[int]:
        """Return a set of indices."""
        return frozenset(self.table(lambda _: None))

    def block(self) -> bytes:
        """Return bytes after their number, which takes 8 bytes."""
        return self.raw(self.number(8))

    def remainder(self) -> memoryview:
        """Return all that is left, without a copy."""
        taken, self._rest = self._rest, self._rest[len(self._rest) :]
        return taken

    def end(self) -> None:
        """Refuse bytes that are left."""
        if self._rest:
            raise self.fail(f"has {len(self._rest)} bytes after its end")
