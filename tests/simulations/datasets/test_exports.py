"""Exports as other tools write them: read by one command, or refused with what to change."""

# ruff: noqa: E501 - rows of exports
from __future__ import annotations

import csv
import json
import sys
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simulations.cli import main
from simulations.datasets.load import Dataset, load

Row = tuple[Any, ...]
USERS, ITEMS, EACH = 40, 20, 5
CATALOGUE: list[Row] = [
    (str(100 + n), f"Thing {n} of kind {n % 3}", f"g{n % 3}") for n in range(ITEMS)
]
EVENTS: list[Row] = [
    (str(1000 + user), str(100 + (7 * user + step) % ITEMS), 1_700_000_000 + 100 * user + step)
    for user in range(USERS)
    for step in range(EACH)
]
HEADER, ITEM_HEADER = ("user_id", "item_id", "timestamp"), ("item_id", "title", "genres")


def write(
    folder: Path,
    events: Sequence[Row] = EVENTS,
    items: Sequence[Row] = CATALOGUE,
    *,
    header: Sequence[str] = HEADER,
    item_header: Sequence[str] = ITEM_HEADER,
    delimiter: str = ",",
    encoding: str = "utf-8",
    suffix: str = ".csv",
) -> None:
    for name, head, rows in (("items", item_header, items), ("interactions", header, events)):
        with (folder / f"{name}{suffix}").open("w", newline="", encoding=encoding) as file:
            csv.writer(file, delimiter=delimiter).writerows([head, *rows] if head else rows)


def changed(change: Callable[[Row], Row], every: int = 2) -> list[Row]:
    return [change(row) if n % every == 0 else row for n, row in enumerate(EVENTS)]


def clock(row: Row, zone: str) -> Row:
    step = (row[2] - 1_700_000_000) % 3600
    return (*row[:2], f"2023-11-14 22:{step // 60:02}:{step % 60:02}{zone}")


def as_lists(dataset: Dataset) -> list[list[str]]:
    """The items of every user, in order."""
    ids = dataset.catalogue.item_ids
    return [[ids[number - 1][-3:] for number in history] for history in dataset.histories]


EXPECTED = [[row[1] for row in EVENTS if row[0] == str(1000 + user)] for user in range(USERS)]


# --- read ----------------------------------------------------------------------------------------


def recbole(folder: Path) -> None:
    (folder / "ml.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        + "".join(f"{user}\t{item}\t3\t{time}\n" for user, item, time in EVENTS)
    )
    (folder / "ml.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        + "".join(
            f'{i}\t"{t}\t{"unkonwn" if i == "104" else 1999}\t{g} x\n' for i, t, g in CATALOGUE
        )
    )


def movielens_100k(folder: Path) -> None:
    (folder / "u.data").write_text(
        "".join(f"{user}\t{item}\t3\t{time}\n" for user, item, time in EVENTS)
    )
    flags = "|".join("01" + "0" * 17)
    (folder / "u.item").write_bytes(
        "".join(
            f"{i}|Caf\u00e9 {t} (1995)|01-Jan-1995||http://x|{flags}\n" for i, t, _ in CATALOGUE
        ).encode("latin-1")
    )
    (folder / "u.user").write_text(
        "".join(f"{1000 + n}|24|{'MF'[n % 2]}|other|85711\n" for n in range(USERS))
    )


def spark(folder: Path) -> None:
    parts = folder / "interactions"
    parts.mkdir()
    (parts / "_SUCCESS").touch()
    third = len(EVENTS) // 3
    for number, rows in enumerate((EVENTS[:third], EVENTS[third:third], EVENTS[third:])):
        columns = [pa.array([row[n] for row in rows], t) for n, t in enumerate((pa.string(),) * 2)]
        times = pa.array([row[2] * 10**6 for row in rows], pa.timestamp("us", "UTC"))
        table = pa.table([*columns, times], names=list(HEADER))
        pq.write_table(table, parts / f"part-{number:05}-ab12-c000.snappy.parquet")
    with (folder / "items.csv").open("w", newline="") as file:
        csv.writer(file).writerows([ITEM_HEADER, *CATALOGUE])


NFD = unicodedata.normalize("NFD", "\u00e9")
READ: dict[str, Callable[[Path], None]] = {
    "as it should be": write,
    "RecBole's atomic files": recbole,
    "MovieLens's u.data": movielens_100k,
    "Kaggle: BOM and CRLF": lambda f: write(f, encoding="utf-8-sig"),
    "BigQuery": lambda f: write(f, [clock(row, " UTC") for row in EVENTS]),
    "Spark: a folder of parts": spark,
    "semicolons": lambda f: write(f, delimiter=";"),
    "tabs": lambda f: write(f, delimiter="\t"),
    "tabs in .tsv": lambda f: write(f, delimiter="\t", suffix=".tsv"),
    "users as floats": lambda f: write(f, changed(lambda r: (r[0] + ".0", *r[1:]))),
    "users with blanks": lambda f: write(f, changed(lambda r: (r[0] + "\u00a0", *r[1:]))),
    "items as floats": lambda f: write(f, [(u, i + ".0", t) for u, i, t in EVENTS]),
    "items with padding": lambda f: write(f, changed(lambda r: (r[0], r[1] + "  ", r[2]), 3)),
    "items in NFD": lambda f: write(
        f, [(u, NFD + i, t) for u, i, t in EVENTS], [("\u00e9" + i, t, g) for i, t, g in CATALOGUE]
    ),
    "an offset behind a blank": lambda f: write(f, [clock(row, " -0300") for row in EVENTS]),
    "doubled quotes behind a backslash": lambda f: write(
        f, items=[*CATALOGUE[:-1], (CATALOGUE[-1][0], '5\\" disc', "g1")]
    ),
    "a long cell": lambda f: write(
        f, items=[(*row, "x" * 3_000_000) for row in CATALOGUE], item_header=(*ITEM_HEADER, "text")
    ),
}


@pytest.mark.parametrize("export", READ.values(), ids=READ)
def test_an_export_is_read(tmp_path: Path, export: Callable[[Path], None]) -> None:
    export(tmp_path)
    dataset = load(tmp_path)
    assert as_lists(dataset) == EXPECTED
    assert set(dataset.histories.dropped.values()) == {0}


def test_recbole_has_titles_genres_and_years(tmp_path: Path) -> None:
    recbole(tmp_path)
    items = load(tmp_path).catalogue
    assert (items.titles[0], items.genres[0], items.years[0]) == (
        '"Thing 0 of kind 0',
        ("g0", "x"),
        1999,
    )
    assert items.years[4] is None
    assert [str(ignored) for ignored in items.ignored] == [
        "the item column 'year': 1 value is no whole number and left empty, such as 'unkonwn' in row 5"
    ]


def test_movielens_100k_has_genres_and_groups(tmp_path: Path) -> None:
    movielens_100k(tmp_path)
    dataset = load(tmp_path)
    assert dataset.catalogue.titles[0] == "Caf\u00e9 Thing 0 of kind 0 (1995)"
    assert (dataset.catalogue.genres[0], dataset.catalogue.years[0]) == (("Action",), 1995)
    assert dataset.groups["gender"][:2] == ("M", "F")


# --- refused -------------------------------------------------------------------------------------


def mysql(folder: Path) -> None:
    write(folder, header=(), delimiter="\t")


def pandas(folder: Path) -> None:
    rows = [("" if n == 6 else f"{u}.0", i, t) for n, (u, i, t) in enumerate(EVENTS)]
    write(folder, rows)


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "MySQL: SELECT INTO OUTFILE": (
        mysql,
        "the file has no header: its first line holds data (1000, 100, 1700000000). Put a line on "
        "top that names the columns, such as user_id,item_id,timestamp.",
    ),
    "pandas: a gap in an integer column": (
        pandas,
        "row 7, field 'user_id': the id is empty. Give every row a user and an item, or leave it",
    ),
    "other names": (
        lambda f: write(f, header=("UserID", "SKU", "Timestamp")),
        "--set lab.user=UserID --set lab.item=SKU --set lab.time=Timestamp",
    ),
    "other names of the items": (
        lambda f: write(f, item_header=("sku", "name", "genres")),
        "--set lab.catalogue_item=sku --set lab.catalogue_title=name",
    ),
    "users null": (
        lambda f: write(f, changed(lambda r: ("null", *r[1:]), 3)),
        "row 1, field 'user_id', value 'null': the id is a spelling of a missing value",
    ),
    "users \\N": (lambda f: write(f, changed(lambda r: (r"\N", *r[1:]), 3)), "missing value"),
    "users NA": (lambda f: write(f, changed(lambda r: ("NA", *r[1:]), 3)), "--set lab.missing="),
    "items with leading zeros": (
        lambda f: write(f, [(u, "00" + i, t) for u, i, t in EVENTS]),
        "but for leading zeros, case or quotes, such as '00100' and '100'",
    ),
    "seconds and milliseconds": (
        lambda f: write(
            f, [(u, i, t if n < 100 else t * 1000) for n, (u, i, t) in enumerate(EVENTS)]
        ),
        "the time has the size of",
    ),
    "cp1252": (
        lambda f: write(
            f, items=[(i, "Caf\u00e9 " + t, g) for i, t, g in CATALOGUE], encoding="cp1252"
        ),
        "items.csv, row 1: the file is not UTF-8 but probably Windows-1252",
    ),
    "UTF-16": (lambda f: write(f, encoding="utf-16"), "the file is UTF-16 text. Save it as UTF-8"),
    "a column twice": (
        lambda f: write(f, [(*row, row[0]) for row in EVENTS], header=(*HEADER, "user_id")),
        "the column occurs more than once",
    ),
}


def lab(monkeypatch: pytest.MonkeyPatch, command: str, data: Path, out: Path, *more: str) -> int:
    options = ["--organisations", "2", "--epsilon", "8", "--delta", "1e-3"]
    options += ["--data", str(data), "--out", str(out), "--set", "model.feature_size=4"]
    options += ["--set", "warm_start.own_items=3"]
    monkeypatch.setattr(sys, "argv", ["sotto-lab", command, *options, *more])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


@pytest.mark.parametrize(("export", "message"), REFUSED.values(), ids=REFUSED)
def test_an_export_is_refused_in_a_sentence_and_nothing_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    export: Callable[[Path], None],
    message: str,
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    export(data)
    assert lab(monkeypatch, "simulate", data, tmp_path / "out") == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_the_remedy_for_other_names_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write(data, header=("UserID", "SKU", "Timestamp"))
    remedy = ["--set", "lab.user=UserID", "--set", "lab.item=SKU", "--set", "lab.time=Timestamp"]
    assert lab(monkeypatch, "prepare", data, tmp_path / "out", *remedy) == 0
    assert "40 users, 20 items, 200 interactions" in capsys.readouterr().err


# --- doubted -------------------------------------------------------------------------------------


def test_doubts_are_printed_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    rows = [
        (user if n % 3 else "-1", item, 1_700_000_000) for n, (user, item, _) in enumerate(EVENTS)
    ]
    rows += [("1000 ", "nothing", 1), *EVENTS[-1:], *EVENTS[-1:]]
    write(data, rows, [(*row, "soon") for row in CATALOGUE], item_header=(*ITEM_HEADER, "year"))
    options = ["--set", "lab.alone=false", "--set", "training.rounds=1", "--rounds", "1"]
    assert lab(monkeypatch, "simulate", data, tmp_path / "out", *options) == 0
    printed = " ".join(capsys.readouterr().err.split())
    for text in (
        "have an item outside the catalogue, such as 'nothing'",
        "repeat an earlier event",
        "'1000 ' is read as '1000'",
        "share their time with another event of the same user",
        "the user '-1' has",
        "the item column 'year': 20 values are no whole number",
    ):
        assert text in printed
    recorded = json.loads((tmp_path / "out" / "result.json").read_text())["data"]
    assert recorded["rows"] == len(rows)
    assert recorded["dropped"]["unknown_item"] == 1
    assert recorded["dropped"]["duplicate"] > 0
    assert recorded["merged"]["user"] == 1
    assert recorded["ties"] > 100
    assert len(recorded["warnings"]) == 3
