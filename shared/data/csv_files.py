"""CSV files as they come: which character separates the columns, and what is wrong with a file.

The separator is the one of comma, semicolon, tab and bar that occurs most often in the header,
outside quotes; the comma where none does. Fields are quoted with double quotes, and a quote within
them is doubled. Nothing else is guessed from the contents.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, TextIO

from shared.errors import DataError

__all__ = ["LONGEST_CELL", "CsvFile"]

LONGEST_CELL = 16 * 2**20
"""Bytes of a row that can be read."""
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_CHUNK = 2**20
_UTF8_LETTER = re.compile("[^\x00-\x7f\udc80-\udcff]")
"""Not ASCII, and decoded."""
_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff]")
_OLD_WORKBOOK = "\udcd0\udccf\x11"
_FIRST_LINES = (
    ("sep=", "is 'sep=...', which only Excel reads", "Delete it."),
    (("#", "%", "--"), "is a comment", "Delete what stands above and before the header."),
    (("{", "["), "is JSON, not a header of CSV", "Export the data as CSV or Parquet."),
    ("<", "is HTML or XML, not a header of CSV", "Look into the file, and export the data again."),
    ("+--", "is the frame of a table for the screen", "Export the data as CSV."),
    ("'", "has single quotes", "Enclose fields in double quotes, or in none."),
)
"""How a first line that is no header starts, what it is, and what to do."""
_UNICODE = "the file is UTF-{0} text", "Save it as UTF-8: iconv -f UTF-{0} -t UTF-8 IN > OUT."

# The default of 128 KiB would refuse cells that DuckDB reads.
csv.field_size_limit(sys.maxsize)


@dataclass(frozen=True)
class CsvFile:
    """A file of comma-separated values, which may be compressed by gzip.

    Attributes:
        path: the file.
        source: its name in errors.
        separator: between columns; "" finds out.
        quoted: whether double quotes enclose fields; False takes them as text.
        names: the columns of a file without a header.
    """

    path: Path
    source: str
    separator: str = ""
    quoted: bool = True
    names: tuple[str, ...] = ()

    @property
    def compressed(self) -> bool:
        """Whether the file is compressed by gzip."""
        return self.path.name.lower().endswith(".gz")

    @cached_property
    def delimiter(self) -> str:
        """The character between columns."""
        if self.separator:
            return self.separator
        with self._lines() as lines:
            header = re.sub(r'"[^"]*"?', "", lines.readline())
        return max(_SEPARATORS, key=header.count)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, in order, without blanks around them.

        Raises:
            DataError: the file is damaged, or not UTF-8.
        """
        try:
            self._check_encoding()
            if self.names:
                return self.names
            with self._lines() as lines:
                header = next(self._rows(lines), [])
        except (EOFError, OSError, zlib.error):
            raise self._error("the file is damaged", "Export the data again.") from None
        except csv.Error:
            raise self.find_fault() from None
        first = header[0].lstrip() if header else ""
        if first.startswith(_OLD_WORKBOOK):
            raise self._error("the file is an Excel workbook", "Save it as CSV (UTF-8).")
        if any(map(_undecoded, header)):
            raise self.find_fault()
        for start, problem, remedy in _FIRST_LINES:
            if first.startswith(start):
                raise self._error(f"the first line {problem}", remedy)
        if any(name.startswith((' "', " '")) for name in header):
            raise self._error("blanks stand before quotes in the first line", "Leave them out.")
        if not any(header):
            raise self._error("the first line is blank", "Put a header there.")
        return tuple(_INVISIBLE.sub("", name).strip() for name in header)

    def scan(self) -> str:
        """Return a SQL expression that reads the file, whose path is its one parameter."""
        fields = ", ".join(f"'c{number}': 'VARCHAR'" for number in range(len(self.columns)))
        quote = '"' if self.quoted else ""
        delimiter = "\\t" if self.delimiter == "\t" else self.delimiter
        # With auto_detect off, DuckDB guesses neither the delimiter nor a type nor the header.
        return (
            f"read_csv(?, auto_detect=false, header={not self.names}, delim='{delimiter}', "
            f"quote='{quote}', escape='{quote}', max_line_size={LONGEST_CELL}, "
            f"compression='{'gzip' if self.compressed else 'none'}', "
            f"hive_partitioning=false, columns={{{fields}}})"
        )

    @contextmanager
    def readable(self) -> Iterator[Path]:
        """Yield a path that DuckDB can read: a copy where there is padding behind the data.

        Raises:
            DataError: the compressed data are damaged: DuckDB does not compare the checksum.
        """
        if not self.compressed:
            yield self.path
            return
        try:
            with self.path.open("rb") as file:
                length = _compressed_length(file)
        except (EOFError, OSError, zlib.error):
            problem = "the file is damaged: its compressed data do not match their checksum"
            raise self._error(problem, "Export or copy the file again.") from None
        if length == self.path.stat().st_size:
            yield self.path
            return
        with tempfile.TemporaryDirectory(prefix="sotto-") as folder:
            copy = Path(folder, self.path.name)
            with self.path.open("rb") as file, copy.open("wb") as target:
                shutil.copyfileobj(file, target)
                target.truncate(length)
            yield copy

    def find_fault(self) -> DataError:
        """Return what is wrong with a file that could not be read, with the row where possible."""
        try:
            with self._lines() as lines:
                return self._find_fault(_Recorded(lines))
        except (EOFError, OSError, zlib.error):
            return self._error("the file is damaged", "Export the data again.")

    def _find_fault(self, lines: _Recorded) -> DataError:
        width, number = len(self.names), int(bool(self.names))
        try:
            for row in self._rows(lines):
                if not row:
                    continue
                width = width or len(row)
                if broken := next((cell for cell in row if _undecoded(cell)), None):
                    return self._encoding_error(broken, number)
                if len(row) != width:
                    return self._width_error(row, width, number)
                if max(map(len, row)) > LONGEST_CELL // 2:
                    size = f"a cell of {max(map(len, row)):,} characters"
                    remedy = "Shorten it, or leave the column out."
                    return self._error(f"the row has {size}", remedy, row=number)
                lines.recorded.clear()
                number += 1
        except csv.Error as error:
            return self._quote_error(str(error), "".join(lines.recorded), number)
        remedy = "Export it as UTF-8, comma-separated, with one kind of line ending."
        if mixed := self._find_mixed_ending():
            remedy = "Write all lines the same way: sed -i 's/\\r$//' FILE."
            return self._error("line endings are of several kinds", remedy, row=mixed)
        return self._error("the file is not well-formed CSV", remedy)

    def _find_mixed_ending(self) -> int:
        """Return the first row whose line ends in another way than the header; 0 without any."""
        with self._lines() as lines:
            windows = lines.readline().endswith("\r\n")
            rows = enumerate(lines, start=1)
            return next((row for row, line in rows if line.endswith("\r\n") != windows), 0)

    def _width_error(self, row: list[str], width: int, number: int) -> DataError:
        problem = f"the row has {len(row)} fields where the header has {width}"
        if any("\n" in cell for cell in row):
            problem += ", and one of them has a line break: a quote in this row may not be closed"
        remedy = f"Quote fields that hold {_SEPARATORS.get(self.delimiter, 'the separator')}."
        if len(row) < width:
            remedy = "Complete the row, or delete it where it is none, such as a line or a count."
        elif number == 1 and len(row) == width + 1:
            remedy += " Or name the first column, whose name R's write.table leaves out."
        return self._error(problem, remedy, row=number)

    def _quote_error(self, error: str, text: str, number: int) -> DataError:
        if '\\"' in text:
            return self._error(
                "a quote in this row is escaped by a backslash",
                'Write a quote within a quoted field twice ("") and not as \\".',
                row=number,
            )
        if "NUL" in error:
            return self._error("the row holds a NUL byte", "Export the data again.", row=number)
        if "new-line" in error:
            remedy = "Export it with one kind of line ending."
            return self._error("line endings are of several kinds", remedy, row=number)
        opened = "a quote that opens in this row is not closed"
        if "unexpected end" not in error:
            opened += ", or other text follows where it is closed"
        remedy = 'Enclose the whole field in quotes, and write a quote within it twice ("").'
        return self._error(opened, remedy, row=number)

    def _encoding_error(self, cell: str, number: int) -> DataError:
        """Tell text of another encoding from damaged UTF-8, which has other letters that are."""
        raw = cell.encode("utf-8", "surrogateescape")
        with self._lines() as lines:
            utf8 = any(map(_UTF8_LETTER.search, lines))
        shown = ascii(raw[:60])[1:]
        if not utf8:
            try:
                guess = raw.decode("cp1252")
            except UnicodeDecodeError:
                pass
            else:
                return self._error(
                    f"the file is not UTF-8 but probably Windows-1252 (cp1252), where the field "
                    f"{shown} reads {guess[:60]!r}",
                    "Save it as UTF-8: iconv -f CP1252 -t UTF-8 IN > OUT.",
                    row=number,
                )
        problem = f"the file is not UTF-8 text throughout: the field {shown} is damaged"
        return self._error(problem, "Mend that field, or export the data again.", row=number)

    def _rows(self, lines: Iterator[str]) -> Iterator[list[str]]:
        return csv.reader(
            lines,
            delimiter=self.delimiter,
            quoting=csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE,
            strict=True,
        )

    def _check_encoding(self) -> None:
        with self._bytes() as file:
            start = file.read(64)
        if start.startswith(b"\x1f\x8b"):
            raise self._error("the file is compressed twice", "Decompress it once: gunzip FILE.")
        if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in start[:4]:
            bits = "32" if b"\0\0" in start[:4] else "16"
            problem, remedy = (text.format(bits) for text in _UNICODE)
            raise self._error(problem, remedy)

    def _bytes(self) -> BinaryIO:
        if self.compressed:
            return gzip.open(self.path, "rb")  # type: ignore[return-value]
        return self.path.open("rb")

    def _lines(self) -> TextIO:
        # Without `newline`, a carriage return within a field would be lost.
        return io.TextIOWrapper(
            self._bytes(), encoding="utf-8-sig", errors="surrogateescape", newline=""
        )

    def _error(self, problem: str, remedy: str, row: int | None = None) -> DataError:
        """Return an error; row 0 is the header."""
        where = "" if row != 0 else "in the header, "
        return DataError(where + problem, file=self.source, row=row or None, remedy=remedy)


class _Recorded:
    """Lines of text, those since the last `recorded.clear()` kept."""

    def __init__(self, lines: TextIO) -> None:
        self._lines, self.recorded = lines, list[str]()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.recorded.append(line)
        return line


def _undecoded(text: str) -> bool:
    """Return whether some bytes of a text could not be decoded (PEP 383)."""
    return not text.isascii() and any("\udc80" <= letter <= "\udcff" for letter in text)


def _compressed_length(file: BinaryIO) -> int:
    """Return the bytes of all gzip members; zeros behind them are padding.

    Raises:
        EOFError: the last member is cut off, or there is none.
        zlib.error: a member is damaged, or what follows is neither gzip nor zeros.
    """
    length, chunk = 0, file.read(_CHUNK)
    while chunk:
        member = zlib.decompressobj(wbits=31)
        while not member.eof:
            if not chunk:
                raise EOFError
            length += len(chunk)
            member.decompress(chunk)
            chunk = member.unused_data if member.eof else file.read(_CHUNK)
        length -= len(chunk)
        chunk = chunk or file.read(_CHUNK)
        if chunk.startswith(b"\0"):
            while chunk:
                if chunk.strip(b"\0"):
                    raise zlib.error("text follows the compressed data")
                chunk = file.read(_CHUNK)
            return length
    return length
