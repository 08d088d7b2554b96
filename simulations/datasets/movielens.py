"""Read MovieLens's own files: rows of '::'-separated fields in Latin-1, and their codes.

F. Maxwell Harper and Joseph A. Konstan, "The MovieLens Datasets: History and Context", ACM TiiS
5(4), 2015; the README of MovieLens 1M.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa

from shared.errors import DataError

__all__ = ["AGES", "MOVIES", "RATINGS", "USERS", "read_dat"]

RATINGS = ("userId", "movieId", "rating", "timestamp")
MOVIES = ("movieId", "title", "genres")
USERS = ("userId", "gender", "age", "occupation", "zip")

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


def read_dat(path: Path, names: Sequence[str]) -> pa.Table:
    """Read one of MovieLens 1M's files as text columns.

    Raises:
        DataError: it cannot be read, is empty, or a row does not have as many fields as `names`.
    """
    try:
        with path.open(encoding="latin-1") as lines:
            rows = [line.rstrip("\n").split("::") for line in lines]
    except OSError as fault:
        problem = f"the file cannot be read ({fault.strerror})"
        raise DataError(problem, file=path, remedy="Check its permissions.") from None
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
