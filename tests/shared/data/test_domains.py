"""Parts of a catalogue: what is found, what is left of it, how unions are made and refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from shared.data.catalogue import Catalogue, read_items
from shared.data.domains import ItemSet, codes_of, join, only, own_items, split_histories, within
from shared.data.histories import Histories
from shared.errors import ConfigError, DataError
from tests.conftest import some_catalogue

ODD = tuple("a" if number % 2 else "b" for number in range(1, 21))
UNION = replace(some_catalogue(), domains=ODD)


def test_domains_are_part_of_the_version_and_are_read_back(tmp_path: Path) -> None:
    UNION.save(tmp_path)
    loaded = Catalogue.load(tmp_path)
    assert loaded.domains == ODD
    assert loaded.fingerprint == UNION.fingerprint
    assert loaded.fingerprint != some_catalogue().fingerprint
    assert within(loaded, ["a"]).fingerprint == loaded.fingerprint


@pytest.mark.parametrize("value", ["", "  "])
def test_an_item_of_no_domain_among_others_is_refused(tmp_path: Path, value: str) -> None:
    file = tmp_path / "items.csv"
    file.write_text(f"item_id,title,domain\n1,One,films\n2,Two,{value}\n")
    with pytest.raises(DataError, match="of no domain") as refused:
        read_items(file)
    assert (refused.value.row, refused.value.field) == (2, "domain")


def test_only_own_items_are_found_and_stay() -> None:
    own = within(UNION, ["b"])
    assert own.find(["i1", "i2", "i4", "nothing"]).tolist() == [0, 2, 4, 0]
    assert len(own) == len(UNION)
    assert within(UNION, []) is UNION
    part = only(UNION, own_items(UNION, ["b"]))
    assert part.item_ids == tuple(f"i{number}" for number in range(2, 21, 2))
    assert part.features is not None
    assert UNION.features is not None
    assert torch.equal(part.features, UNION.features[1::2])
    assert part.find(["i1", "i2"]).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("catalogue", "said"), [(UNION, "has 'a', 'b'"), (some_catalogue(), "names no domain")]
)
def test_a_domain_that_is_not_there_is_refused_with_those_that_are(
    catalogue: Catalogue, said: str
) -> None:
    with pytest.raises(ConfigError, match=f"'c' is named, and the catalogue {said}"):
        within(catalogue, ["c"])


def catalogue_of(*ids: str) -> Catalogue:
    return Catalogue(ids, ids, ((),) * len(ids), (None,) * len(ids))


def test_a_union_has_the_items_of_all_in_their_order() -> None:
    books = replace(catalogue_of("b1", "b2"), domains=("novels", "poems"))
    union = join({"films": catalogue_of("f1"), "books": books})
    assert union.item_ids == ("f1", "b1", "b2")
    assert union.domains == ("films", "novels", "poems")
    assert codes_of(union).tolist() == [0, 1, 2]


def test_what_is_no_union_is_refused() -> None:
    one = catalogue_of("7", "8")
    with pytest.raises(DataError, match="films has an item of the same id") as refused:
        join({"films": one, "books": catalogue_of("9", "8")})
    assert (refused.value.file, refused.value.row, refused.value.value) == ("books", 2, "8")
    files = {"films": Path("f/items.csv"), "books": Path("b/items.csv")}
    with pytest.raises(DataError, match=r"b/items\.csv, row 2.*f/items\.csv has an item"):
        join({"films": one, "books": catalogue_of("9", "8")}, files)
    with pytest.raises(ConfigError, match="two folders or more"):
        join({"films": one})
    with pytest.raises(ConfigError, match="both have a domain 'x'"):
        join({name: replace(catalogue_of(name), domains=("x",)) for name in ("first", "second")})


def test_some_items_are_numbered_by_themselves_and_back() -> None:
    own = ItemSet(np.array([False, True, False, True, True]))
    histories = Histories.from_lists([[2, 5], [1], [4, 3, 2]])
    narrowed = [history.tolist() for history in own.narrow(histories)]
    assert narrowed == [[1, 3], [], [2, 1]]
    seen = list[Tensor]()

    def whole(rows: Tensor, /) -> Tensor:
        seen.append(rows)
        return torch.arange(5.0).expand(len(rows), -1)

    rows = torch.tensor([[5, 2, 0]])
    masked = torch.tensor([[-torch.inf, 1, -torch.inf, 3, 4]])
    assert torch.equal(own.mask(whole)(rows), masked)
    assert torch.equal(own.shrink(whole)(torch.tensor([[3, 1, 0]])), torch.tensor([[1.0, 3, 4]]))
    assert torch.equal(seen[-1], rows)
    assert torch.equal(own.widen(own.shrink(whole))(rows), masked)
    assert torch.equal(seen[-1], rows)


def test_histories_are_split_by_domain() -> None:
    histories = Histories.from_lists([[1, 2, 3], [4]])
    parts = [history.tolist() for history in split_histories(histories, codes_of(UNION))]
    assert sorted(parts) == [[1, 3], [2], [4]]
    assert split_histories(histories, np.zeros(20, np.int64)) is histories
