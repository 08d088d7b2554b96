"""Read MovieLens's own files: rows of fields in Latin-1 without a header, and their codes.

MovieLens 1M separates fields by `::` (ratings.dat), MovieLens 100K by tabs (u.data) and bars
(u.item, u.user).

F. Maxwell Harper and Joseph A. Konstan, "The MovieLens Datasets: History and Context", ACM TiiS
5(4), 2015; the README of MovieLens 1M.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa

from shared.errors import DataError

__all__ = [
    "AGES",
    "GENRES",
    "MOVIES",
    "RATINGS",
    "USERS",
    "U_USER",
    "read_dat",
    "read_u_item",
]

RATINGS = ("userId", "movieId", "rating", "timestamp")
MOVIES = ("movieId", "title", "genres")
USERS = ("userId", "gender", "age", "occupation", "zip")
U_USER = ("userId", "age", "gender", "occupation", "zip")
GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery"),
    *("Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
_U_ITEM = ("movieId", "title", "released", "video", "url", *GENRES)

AGES: Mapping[str, str] = MappingProxyType(
    {
        "1": "under 18",
        "18": "18-24",
        "25": "25-34",
        "35": "35-44",
        "45": "45-49",
        "50": "50-55",
        "56": "56 or more",
    }
)
"""The meaning of MovieLens's codes of age."""


def read_dat(path: Path, names: Sequence[str], separator: str = "::") -> pa.Table:
    """Read one of MovieLens's files as text columns.

    Raises:
        DataError: it cannot be read, is empty, or a row does not have as many fields as `names`.
    """
    try:
        with path.open(encoding="latin-1") as lines:
            rows = [line.rstrip("\n").split(separator) for line in lines]
    except OSError as fault:
        problem = f"the file cannot be read ({fault.strerror})"
        raise DataError(problem, file=path, remedy="Check its permissions.") from None
    while rows and rows[-1] == [""]:
        rows.pop()
    for number, row in enumerate(rows, start=1):
        if len(row) != len(names):
            raise DataError(
                f"the row has {len(row)} fields, not {len(names)}",
                file=path,
                row=number,
                remedy="Fetch the file again.",
            )
    if not rows:
        raise DataError("the file is empty", file=path, remedy="Fetch the file again.")
    return pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))


def read_u_item(path: Path) -> pa.Table:
    """Read the films of MovieLens 100K, their genres joined by "|".

    Raises:
        DataError: see `read_dat`.
    """
    table = read_dat(path, _U_ITEM, "|")
    flags = zip(*(table[name].to_pylist() for name in GENRES[1:]), strict=True)
    genres = [
        "|".join(name for name, flag in zip(GENRES[1:], row, strict=True) if flag == "1")
        for row in flags
    ]
    return table.select(["movieId", "title"]).append_column("genres", pa.array(genres))
