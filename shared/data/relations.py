"""A public table of what is known of items: triples of head, relation and tail.

| column     | what it holds                                                                     |
|------------|-----------------------------------------------------------------------------------|
| `head`     | an item's id, or the name of something else: a person, a genre, a place           |
| `relation` | its name                                                                          |
| `tail`     | as `head`                                                                         |

| what a row holds                              | what happens                                   |
|-----------------------------------------------|------------------------------------------------|
| an empty field                                | refused, with the row                          |
| the same name as head and tail                | refused: nothing is known of an item by itself |
| the same three as an earlier row              | counts once                                    |
| no item                                       | counts: it says something of what items are of |
| no item in any row                            | the table is refused                           |

A name that is an item's id is that item, so a year that is to be a year is written `year 1999`
where ids are numbers. Spaces around names do not count (`shared.data.ids`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.data.catalogue import Catalogue
from shared.data.columns import require_columns
from shared.data.ids import canonical_id
from shared.data.tables import FileTable, file_tables
from shared.errors import DataError

__all__ = ["Relations", "read_relations"]

COLUMNS = ("head", "relation", "tail")


@dataclass(frozen=True, slots=True, eq=False)
class Relations:
    """Triples of numbers, each once, in the order of the table.

    Attributes:
        triples: head, relation and tail, int64 [N, 3]. Of entities, the first V are the
            catalogue's items in its order; others follow.
        entities: how many there are, items included.
        names: of the relations.
    """

    triples: NDArray[np.int64]
    entities: int
    names: tuple[str, ...]

    def digest(self) -> str:
        """Return SHA-256, in hex, of the triples and the relations' names."""
        digest = hashlib.sha256("\n".join(self.names).encode())
        digest.update(self.triples.astype("<i8").tobytes())
        return digest.hexdigest()


def read_relations(file: Path, items: Catalogue) -> Relations:
    """Read a table of relations.

    Args:
        file: CSV, TSV or Parquet, or a folder of such.
        items: V items.

    Raises:
        DataError: it is no such table, or a row is refused, see the tables above.
    """
    known = {canonical_id(item): number - 1 for item, number in items.index.items()}
    entities, relations = dict(known), dict[str, int]()
    triples = dict[tuple[int, int, int], None]()
    for table in file_tables(file):
        require_columns({name: name for name in COLUMNS}, table.columns, table.source, "")
        for head, relation, tail in _rows(table):
            numbers = [entities.setdefault(name, len(entities)) for name in (head, tail)]
            kind = relations.setdefault(relation, len(relations))
            triples[numbers[0], kind, numbers[1]] = None
    if not any(min(head, tail) < len(items) for head, _, tail in triples):
        raise DataError(
            "no row names an item of the catalogue",
            file=file,
            field="head",
            remedy="Write items by their ids, as the item list has them.",
        )
    found = np.array(list(triples), np.int64).reshape(-1, 3)
    return Relations(found, len(entities), tuple(relations))


def _rows(table: FileTable) -> Iterator[tuple[str, str, str]]:
    """Yield the rows of a table, each checked by itself."""
    number = 0
    for batch in table.batches(COLUMNS):
        for texts in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            number += 1
            head, relation, tail = (canonical_id(text or "") for text in texts)
            for name, text in zip(COLUMNS, (head, relation, tail), strict=True):
                if not text:
                    raise _refused(table, number, name, "the field is empty", texts)
            if head == tail:
                problem = "head and tail are the same"
                raise _refused(table, number, "tail", problem, texts)
            yield head, relation, tail


def _refused(
    table: FileTable, row: int, field: str, problem: str, texts: tuple[str | None, ...]
) -> DataError:
    return DataError(
        problem,
        file=table.source,
        row=row,
        field=field,
        value=texts[COLUMNS.index(field)],
        remedy="Leave the row out, or mend it.",
    )
