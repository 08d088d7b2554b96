"""Folders are read in every layout, and refused with a list of what was looked for."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared.data.columns import Columns, ItemColumns
from shared.errors import DataError
from simulations.datasets.load import EMBEDDED, Dataset, load, load_items

DATA = Path(__file__).parents[4] / "shared" / "data"
INTERACTIONS = "user_id,item_id,timestamp\nx,1,2\nx,2,1\ny,2,1\ny,1,2\n"
ITEMS = "item_id,title\n1,One (2001)\n2,Two\n3,Three\n"
RATINGS_CSV = "userId,movieId,rating,timestamp\n7,1,0.5,2\n7,2,5.0,1\n"
MOVIES_CSV = "movieId,title,genres\n1,One (2001),A|B\n2,Two,(no genres listed)\n"
RATINGS_DAT = "7::1::1::20\n7::2::5::10\n"
MOVIES_DAT = '1::Café, le "petit" (2001)::A|B\n2::Two\x85 (1990)::B\n'


def folder(path: Path, **files: str) -> Path:
    path.mkdir(exist_ok=True)
    for name, content in files.items():
        (path / name.replace("_", ".")).write_text(content, encoding="utf-8")
    return path


def histories(dataset: Dataset) -> dict[str, list[int]]:
    return {
        user: dataset.histories[row].tolist() for row, user in enumerate(dataset.histories.users)
    }


def test_the_embedded_set_is_movielens_latest_small() -> None:
    dataset = load()
    assert dataset.name == "ml-latest-small"
    assert len(dataset.catalogue) == 9742
    assert (len(dataset.histories), dataset.histories.events) == (610, 100_836)
    assert set(dataset.histories.dropped.values()) == {0}
    assert dataset.catalogue.years[0] == 1995
    assert (EMBEDDED / "README.txt").read_text(encoding="utf-8").startswith("Summary")


@pytest.mark.skipif(not DATA.exists(), reason="needs the shared data")
def test_movielens_1m() -> None:
    dataset = load(DATA / "ml-1m")
    assert dataset.name == "ml-1m"
    assert (len(dataset.histories), dataset.histories.events) == (6040, 999_611)
    assert len(dataset.catalogue) == 3883
    assert len(set(dataset.histories.items.tolist())) == 3416
    assert set(dataset.groups) == {"gender", "age"}
    assert set(dataset.groups["gender"]) == {"F", "M"}
    assert dataset.groups["age"].count("under 18") == 222


def test_a_folder_of_csv(tmp_path: Path) -> None:
    dataset = load(folder(tmp_path / "mine", interactions_csv=INTERACTIONS, items_csv=ITEMS))
    assert dataset.name == "mine"
    assert histories(dataset) == {"x": [2, 1], "y": [2, 1]}
    assert len(dataset.catalogue) == 3


def test_a_folder_of_both_formats_under_other_names(tmp_path: Path) -> None:
    folder(tmp_path, items_csv="id,name\n1,One\n2,Two\n")
    table = pa.table({"who": [1, 1], "item_id": [1, 2], "position": [1, 0]})
    pq.write_table(table, tmp_path / "interactions.parquet")
    dataset = load(tmp_path, Columns(user="who"), ItemColumns(item="id", title="name"))
    assert histories(dataset) == {"1": [2, 1]}


def test_movielens_csv(tmp_path: Path) -> None:
    dataset = load(folder(tmp_path, ratings_csv=RATINGS_CSV, movies_csv=MOVIES_CSV))
    assert histories(dataset) == {"7": [2, 1]}
    assert dataset.catalogue.genres == (("A", "B"), ())


def test_movielens_dat(tmp_path: Path) -> None:
    (tmp_path / "ratings.dat").write_bytes(RATINGS_DAT.encode("latin-1"))
    (tmp_path / "movies.dat").write_bytes(MOVIES_DAT.replace("\n", "\r\n").encode("latin-1"))
    dataset = load(tmp_path)
    assert histories(dataset) == {"7": [2, 1]}
    assert dataset.catalogue.titles == ('Café, le "petit" (2001)', "Two\x85 (1990)")
    assert dataset.catalogue.years == (2001, 1990)


def test_movielens_dat_with_users(tmp_path: Path) -> None:
    folder(tmp_path, ratings_dat="8::1::1::1\n8::2::1::2\n" + RATINGS_DAT, movies_dat=MOVIES_DAT)
    codes = ["1", "18", "25", "35", "45", "50", "56"]
    rows = [
        f"{number}::{'MF'[number % 2]}::{age}::3::0{number}" for number, age in enumerate(codes, 6)
    ]
    (tmp_path / "users.dat").write_text("\n".join(rows) + "\n")
    assert load(tmp_path).groups == {
        "gender": ("M", "F"),  # users 8 and 7, as they first appear
        "age": ("25-34", "18-24"),
        "zip": ("08", "07"),
    }


@pytest.mark.parametrize(
    ("ratings", "row", "problem"),
    [("7::1::1::20\n7::2::5\n", 2, "3 fields"), ("", None, "empty"), ("7::1::1::x\n", 1, "time")],
)
def test_bad_dat_files_are_refused(
    tmp_path: Path, ratings: str, row: int | None, problem: str
) -> None:
    folder(tmp_path, ratings_dat=ratings, movies_dat="1::One (2001)::A\n")
    with pytest.raises(DataError, match=problem) as caught:
        load(tmp_path)
    assert caught.value.row == row


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="not a folder"):
        load(tmp_path / "file")


def test_a_folder_in_neither_form_names_the_expected_files(tmp_path: Path) -> None:
    folder(tmp_path, interactions_csv=INTERACTIONS, movies_csv=MOVIES_CSV)
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    for name in (
        "interactions(.csv|.csv.gz|.tsv|.tsv.gz|.parquet|/)",
        "movies(.csv|.dat)",
        "but interactions.csv",
    ):
        assert name in str(caught.value)


@pytest.mark.parametrize(
    "more",
    [
        {"items_parquet": ""},
        {"interactions_parquet": ""},
        {"ratings_csv": RATINGS_CSV, "movies_csv": MOVIES_CSV},
    ],
)
def test_more_than_one_file_of_a_kind_is_ambiguous(tmp_path: Path, more: dict[str, str]) -> None:
    folder(tmp_path, interactions_csv=INTERACTIONS, items_csv=ITEMS, **more)
    with pytest.raises(DataError, match="not clear which") as caught:
        load(tmp_path)
    assert all(name.replace("_", ".") in str(caught.value) for name in more)


# --- items alone -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "files", [{"items_csv": ITEMS}, {"movies_csv": MOVIES_CSV}, {"movies_dat": MOVIES_DAT}]
)
def test_items_are_read_without_interactions(tmp_path: Path, files: dict[str, str]) -> None:
    items = load_items(folder(tmp_path, **files))
    assert items.item_ids[:2] == ("1", "2")
    assert items.years[0] == 2001


def test_a_saved_catalogue_is_read_as_items(tmp_path: Path) -> None:
    items = load_items(folder(tmp_path / "data", movies_csv=MOVIES_CSV))
    items.save(tmp_path / "catalogue")
    assert load_items(tmp_path / "catalogue").fingerprint == items.fingerprint


def test_item_columns_may_have_other_names(tmp_path: Path) -> None:
    data = folder(tmp_path, items_csv="sku,name\n7,Seven\n")
    items = load_items(data, ItemColumns(item="sku", title="name"))
    assert (items.item_ids, items.titles) == (("7",), ("Seven",))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "it holds no items"),
        ({"interactions_csv": INTERACTIONS}, "it holds no items"),
        ({"items_csv": ITEMS, "movies_dat": MOVIES_DAT}, "items.csv, movies.dat"),
    ],
)
def test_no_items_or_several_are_refused(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_items(folder(tmp_path / "data", **files))
    with pytest.raises(DataError, match="it holds no items"):
        load_items(tmp_path / "absent")
