"""Relations: which rows are read, and that alike neighbours give alike vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shared.data.catalogue import Catalogue
from shared.data.relations import Relations, read_relations
from shared.errors import DataError
from shared.item_features.relations import relation_vectors

V = 24
IDS = tuple(str(number) for number in range(V))
ITEMS = Catalogue(IDS, IDS, ((),) * V, (None,) * V)


def table(folder: Path, *rows: str, head: str = "head,relation,tail") -> Path:
    path = folder / "relations.csv"
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def test_items_are_known_by_their_ids_and_rows_count_once(tmp_path: Path) -> None:
    rows = ["3, made by ,Ann", "3.0,made by,Ann", "Ann,born in,Rome", "7,sequel of,3"]
    relations = read_relations(table(tmp_path, *rows), ITEMS)
    assert relations.triples.tolist() == [[3, 0, V], [V, 1, V + 1], [7, 2, 3]]
    assert (relations.entities, relations.names) == (V + 2, ("made by", "born in", "sequel of"))
    other = read_relations(table(tmp_path, *rows[:-1]), ITEMS)
    assert other.digest() != relations.digest()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["1,of,a", ",of,b"], ["row 2", "head", "the field is empty"]),
        (["1, ,b"], ["row 1", "relation", "the field is empty", "Leave the row out"]),
        (["1,of,a", "2,of,2"], ["row 2", "tail", "head and tail are the same", "'2'"]),
        (["a,of,b"], ["no row names an item", "Write items by their ids"]),
        ([], ["no row names an item"]),
    ],
)
def test_a_bad_row_is_refused_by_name(rows: list[str], said: list[str], tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        read_relations(table(tmp_path, *rows), ITEMS)
    assert all(part in str(error.value) for part in said), str(error.value)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="tail"):
        read_relations(table(tmp_path, "1,of", head="head,relation"), ITEMS)


def test_items_of_alike_neighbours_lie_together() -> None:
    """Items of a group share makers and places; the last is in no triple."""
    draw = np.random.default_rng(0)
    triples = []
    for item in range(V - 1):
        group = item % 3
        triples += [[item, 0, V + group], [item, 1, V + 3 + 4 * group + draw.integers(4)]]
    relations = Relations(np.array(triples), V + 3 + 12, ("made by", "filmed in"))
    done = list[tuple[int, int]]()
    vectors = relation_vectors(relations, V, 16, lambda *at: done.append(at))
    assert vectors.shape == (V, 16)
    assert done[-1][0] == done[-1][1] == len(done)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1.0] * (V - 1) + [0], atol=1e-6)
    np.testing.assert_array_equal(vectors, relation_vectors(relations, V, 16))
    alike, groups = vectors[:-1] @ vectors[:-1].T, np.arange(V - 1) % 3
    same = groups[:, None] == groups
    assert alike[same].mean() > alike[~same].mean() + 0.3
