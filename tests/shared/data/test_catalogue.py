import hashlib
import pickle
import struct
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from shared.data.catalogue import Catalogue, read_items
from shared.data.columns import ItemColumns
from shared.data.feature_blocks import FeatureBlock
from shared.data.feature_source import FeatureSource
from shared.errors import DataError

TOY = Catalogue(("a", "b"), ("Alpha", "Beta (1999)"), (("X", "Y"), ()), (1999, None))
DATA = Path(__file__).parents[4] / "shared" / "data"

few = settings(max_examples=25, deadline=None)
words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)
entries = st.tuples(
    words.filter(str.strip),
    words,
    st.lists(words.map(lambda w: w.replace("|", "").strip()).filter(bool), max_size=3).map(tuple),
    st.none() | st.integers(-9999, 9999),
)
catalogues = st.lists(entries, min_size=1, max_size=5, unique_by=lambda entry: entry[0]).map(
    lambda rows: Catalogue(*map(tuple, zip(*rows, strict=True)))  # type: ignore[arg-type]
)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def parquet(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_internal_ids_count_from_one_in_order() -> None:
    assert len(TOY) == 2
    assert TOY.index == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    "change",
    [
        {"item_ids": ("a", "a")},
        {"item_ids": ("a", " ")},
        {"titles": ("Alpha",)},
        {"genres": (("X|Y",), ())},
        {"genres": ((" X",), ())},
        {"features": torch.zeros(3, 2)},
        {"features": torch.zeros(2)},
        {"features": torch.zeros(2, 2, dtype=torch.float64)},
    ],
)
def test_fields_that_contradict_each_other_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"item|genres|features"):
        replace(TOY, **change)  # type: ignore[arg-type]


FEATURES = torch.arange(4, dtype=torch.float32).reshape(2, 2)


@pytest.mark.parametrize(
    "other",
    [
        replace(TOY, item_ids=("a", "c")),
        replace(TOY, titles=("Alpha", "Beta")),
        replace(TOY, titles=("AlphaB", "eta (1999)")),
        replace(TOY, genres=(("X",), ("Y",))),
        replace(TOY, genres=(("XY",), ())),
        replace(TOY, years=(None, 1999)),
        replace(TOY, years=(1999, 0)),
        Catalogue(("b", "a"), ("Beta (1999)", "Alpha"), ((), ("X", "Y")), (None, 1999)),
        TOY.with_features(FEATURES),
        TOY.with_features(FEATURES.flip(0)),
        TOY.with_features(FEATURES[:, :1]),
        TOY.with_features(torch.zeros(2, 0)),
    ],
)
def test_fingerprint_changes_with_every_field_and_the_order(other: Catalogue) -> None:
    assert other.fingerprint != TOY.fingerprint
    assert other.fingerprint != TOY.with_features(FEATURES + 1).fingerprint


def test_fingerprint_depends_on_nothing_else() -> None:
    assert replace(TOY).fingerprint == TOY.fingerprint
    transposed = FEATURES.T.contiguous().T  # same values, other strides
    assert replace(TOY, features=transposed).fingerprint == TOY.with_features(FEATURES).fingerprint
    assert pickle.loads(pickle.dumps(TOY)).fingerprint == TOY.fingerprint


def test_fingerprint_is_stable_across_versions() -> None:
    """Organisations compare it: changing how it is computed separates old from new."""
    items = b'[["a","b"],["Alpha","Beta (1999)"],[["X","Y"],[]],[1999,null]]'
    assert TOY.fingerprint == hashlib.sha256(items).hexdigest()
    features = b"[2, 2]" + struct.pack("<4f", 0, 1, 2, 3)
    described = TOY.with_features(FEATURES).fingerprint
    assert described == hashlib.sha256(items + features).hexdigest()


@settings(max_examples=10, deadline=None)
@given(catalogues, st.booleans())
def test_save_and_load_keep_everything(
    tmp_path_factory: pytest.TempPathFactory, catalogue: Catalogue, described: bool
) -> None:
    if described:
        catalogue = catalogue.with_features(torch.rand(len(catalogue), 3))
    folder = tmp_path_factory.mktemp("catalogue")
    catalogue.save(folder)
    loaded = Catalogue.load(folder)
    assert loaded.fingerprint == catalogue.fingerprint
    assert (loaded.item_ids, loaded.titles) == (catalogue.item_ids, catalogue.titles)
    assert (loaded.genres, loaded.years) == (catalogue.genres, catalogue.years)
    assert (loaded.features is not None) == described


def test_saving_leaves_only_the_two_files_and_forgets_old_features(tmp_path: Path) -> None:
    TOY.with_features(FEATURES).save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["features.safetensors", "items.parquet"]
    TOY.save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["items.parquet"]


SOURCE = FeatureSource(
    encoder="tiny",
    digest="ab" * 32,
    pooling="mean",
    words=False,
    size=2,
    template=1,
    transformers="5.0",
)


def test_the_feature_source_is_saved_and_not_part_of_the_fingerprint(tmp_path: Path) -> None:
    described = TOY.with_features(FEATURES, SOURCE)
    described.save(tmp_path)
    loaded = Catalogue.load(tmp_path)
    assert loaded.source == SOURCE
    assert loaded.fingerprint == described.fingerprint == TOY.with_features(FEATURES).fingerprint
    assert loaded.with_features(FEATURES).source is None


def test_without_features_the_fingerprint_is_that_of_the_items() -> None:
    bare = TOY.with_features(FEATURES, SOURCE).without_features()
    assert (bare.features, bare.source, bare.feature_size) == (None, None, 0)
    assert bare.fingerprint == TOY.fingerprint


@pytest.mark.parametrize("features", [None, torch.zeros(2, 3)])
def test_a_record_of_other_features_is_refused(features: torch.Tensor | None) -> None:
    with pytest.raises(ValueError, match="features an item, not 2"):
        replace(TOY, features=features, source=SOURCE)


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "[]",
        "null",
        "{}",
        SOURCE.to_text().replace('"size": 2', '"size": 3'),
        SOURCE.to_text().replace('"size": 2', '"size": "2"'),
        SOURCE.to_text().replace('"words"', '"letters"'),
    ],
)
def test_a_damaged_record_is_refused(tmp_path: Path, text: str) -> None:
    described = TOY.with_features(FEATURES, SOURCE)
    described.save(tmp_path)
    metadata = {"fingerprint": described.fingerprint, "source": text}
    save_file({"features": FEATURES}, tmp_path / "features.safetensors", metadata=metadata)
    with pytest.raises(DataError, match="cannot be read or do not fit"):
        Catalogue.load(tmp_path)


def test_features_of_other_items_are_refused(tmp_path: Path) -> None:
    TOY.with_features(FEATURES).save(tmp_path)
    replace(TOY, titles=("Alpha", "Gamma")).save(tmp_path / "other")
    (tmp_path / "other" / "items.parquet").replace(tmp_path / "items.parquet")
    with pytest.raises(DataError, match=r"not those of items\.parquet"):
        Catalogue.load(tmp_path)


def test_damaged_features_are_refused(tmp_path: Path) -> None:
    TOY.save(tmp_path)
    write(tmp_path / "features.safetensors", b"nonsense")
    with pytest.raises(DataError, match="cannot be read"):
        Catalogue.load(tmp_path)


def test_loading_from_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        Catalogue.load(tmp_path)


def test_items_are_read_from_csv(tmp_path: Path) -> None:
    content = (
        'title,item_id,year,genres\r\n"One, two",7,1995,A|B\r\n,x y,,\r\nThree,8,1990.0, C |\r\n'
    )
    items = read_items(write(tmp_path / "items.csv", "\ufeff" + content))
    assert items.item_ids == ("7", "x y", "8")
    assert items.titles == ("One, two", "", "Three")
    assert items.genres == (("A", "B"), (), ("C",))
    assert items.years == (1995, None, 1990)


def test_movielens_columns_years_and_missing_genres(tmp_path: Path) -> None:
    content = "movieId,title,genres\n1,Toy Story (1995) ,A|B\n2,Nine (9),(no genres listed)\n"
    items = read_items(write(tmp_path / "movies.csv", content), ItemColumns(item="movieId"))
    assert items.titles == ("Toy Story (1995) ", "Nine (9)")
    assert items.genres == (("A", "B"), ())
    assert items.years == (1995, None)


def test_a_year_column_takes_precedence_over_the_title(tmp_path: Path) -> None:
    path = write(tmp_path / "items.csv", "item_id,title,year\n1,A (1995),1996\n2,B (1995),\n")
    assert read_items(path).years == (1996, None)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pa.array([1, 20], pa.int32()), ("1", "20")),
        (pa.array([1.0, 20.0]), ("1", "20")),
        (pa.array([1.5, 20.0]), ("1.5", "20")),
        (pa.array(["1.0", "007"]), ("1", "007")),
        (pa.array(["a", "b"]).dictionary_encode(), ("a", "b")),
    ],
)
def test_ids_are_text_without_needless_decimals(
    tmp_path: Path, ids: pa.Array, expected: tuple[str, str]
) -> None:
    assert read_items(parquet(tmp_path / "i.parquet", item_id=ids, title=ids)).item_ids == expected


def test_genres_may_be_lists_in_parquet(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "items.parquet", item_id=["1", "2"], title=["A", "B"], genres=[["X", "Y"], None]
    )
    assert read_items(path).genres == (("X", "Y"), ())


def test_nested_columns_are_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "items.parquet", item_id=[[1], [2]], title=["A", "B"])
    with pytest.raises(DataError, match="not plain values") as caught:
        read_items(path)
    assert caught.value.field == "item_id"


@pytest.mark.parametrize(
    ("rows", "row", "field", "value", "problem"),
    [
        ("1,A,1995\n1,B,1995", 2, "item_id", "1", "row 1 has the same item id"),
        ("1,A,1995\n,B,1995", 2, "item_id", None, "empty"),
        ('" ",A,1995', 1, "item_id", " ", "empty"),
        ("1,A,1995\n\n2,B,1995,x", 2, None, None, "4 fields where the header has 3"),
        ("1,A,1995\n2,B", 2, None, None, "2 fields where the header has 3"),
    ],
)
def test_bad_rows_are_refused_by_number(
    tmp_path: Path, rows: str, row: int, field: str | None, value: str | None, problem: str
) -> None:
    path = write(tmp_path / "items.csv", f"item_id,title,year\n{rows}\n")
    with pytest.raises(DataError, match=problem) as caught:
        read_items(path)
    fault = caught.value
    assert (fault.file, fault.row, fault.field, fault.value) == (str(path), row, field, value)


def test_blank_lines_and_a_trailing_comma_are_accepted(tmp_path: Path) -> None:
    path = write(tmp_path / "items.csv", "item_id,title\n\n1,A,\n\n2,B\n\n")
    assert read_items(path).titles == ("A", "B")


def test_the_columns_found_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "items.csv", "id,title\n1,A\n")
    with pytest.raises(DataError, match=r"found are id, title\. Rename columns: id to item_id"):
        read_items(path)
    with pytest.raises(DataError, match="is missing") as caught:
        read_items(path, ItemColumns(item="id", year="released"))
    assert caught.value.field == "released"


def test_a_repeated_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="more than once"):
        read_items(write(tmp_path / "items.csv", "item_id,title,title\n1,A,B\n"))


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("items.csv", b"", "is empty"),
        ("items.csv", b"item_id,title\n", "no rows"),
        ("items.csv", b"\xff\xfei\x00d\x00", "is UTF-16 text. Save it as UTF-8"),
        ("items.csv", "item_id,title\n1,é\n".encode("latin-1"), "not UTF-8"),
        ("items.csv", b'item_id,title\n1,"A\n', "row 1: a quote that opens in this row"),
        ("items.csv", b"PAR1....PAR1", "not what its name says"),
        ("items.parquet", b"item_id,title\n1,A\n", "not what its name says"),
        ("items.parquet", b"PAR1 damaged PAR1", "damaged"),
        ("items.xlsx", b"PK\x03\x04", "neither .csv, .csv.gz, .tsv, .tsv.gz nor .parquet"),
        ("items.csv", b"PK\x03\x04", "an Excel workbook"),
    ],
)
def test_files_that_are_not_what_they_should_be_are_refused(
    tmp_path: Path, name: str, content: bytes, problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        read_items(write(tmp_path / name, content))


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_items(tmp_path / "items.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match="not a file"):
        read_items(tmp_path / "folder.csv")


def test_an_empty_parquet_file_is_refused(tmp_path: Path) -> None:
    none = pa.array([], pa.string())
    with pytest.raises(DataError, match="no rows"):
        read_items(parquet(tmp_path / "items.parquet", item_id=none, title=none))


@pytest.mark.skipif(not DATA.exists(), reason="needs the shared data")
def test_movielens_1m_items() -> None:
    items = read_items(DATA / "ml-1m" / "items.parquet")
    assert len(items) == 3883
    assert (items.item_ids[0], items.titles[0], items.years[0]) == ("1", "Toy Story (1995)", 1995)
    assert all(items.genres)


# --- blocks of features --------------------------------------------------------------------------

BLOCKS = (FeatureBlock(name="text", size=3, source='{"a": 1}'), FeatureBlock(name="image", size=2))
SIDE_BY_SIDE = TOY.with_features(torch.arange(10.0).reshape(2, 5), blocks=BLOCKS)


def test_blocks_are_saved_and_the_fingerprint_covers_names_and_sizes(tmp_path: Path) -> None:
    assert SIDE_BY_SIDE.features is not None
    SIDE_BY_SIDE.save(tmp_path)
    loaded = Catalogue.load(tmp_path)
    assert (loaded.blocks, loaded.block_sizes) == (BLOCKS, (3, 2))
    assert loaded.fingerprint == SIDE_BY_SIDE.fingerprint
    plain = TOY.with_features(SIDE_BY_SIDE.features)
    assert (plain.blocks, plain.block_sizes) == ((), (5,))
    others = [plain, replace(SIDE_BY_SIDE, blocks=(replace(BLOCKS[0], name="other"), BLOCKS[1]))]
    others += [SIDE_BY_SIDE.with_features(SIDE_BY_SIDE.features, blocks=BLOCKS[::-1])]
    assert SIDE_BY_SIDE.fingerprint not in {other.fingerprint for other in others}
    unknown = replace(SIDE_BY_SIDE, blocks=tuple(replace(block, source="") for block in BLOCKS))
    assert SIDE_BY_SIDE.fingerprint == unknown.fingerprint


@pytest.mark.parametrize(
    "blocks",
    [BLOCKS[:1], (replace(BLOCKS[0], name="image"), BLOCKS[1])],
)
def test_blocks_that_do_not_make_up_the_features_are_refused(
    blocks: tuple[FeatureBlock, ...],
) -> None:
    with pytest.raises(ValueError, match="block"):
        replace(SIDE_BY_SIDE, blocks=blocks)


def test_the_strongest_features_are_taken_of_every_block() -> None:
    fewer = TOY.with_strongest(SIDE_BY_SIDE, 4)
    assert fewer.features is not None
    assert fewer.features[0].tolist() == [0.0, 1.0, 3.0, 4.0]
    assert [block.size for block in fewer.blocks] == [2, 2]
    assert fewer.blocks[0].source == BLOCKS[0].source
    for size in (1, 6):
        with pytest.raises(ValueError, match="of 5 in 2 blocks"):
            TOY.with_strongest(SIDE_BY_SIDE, size)
