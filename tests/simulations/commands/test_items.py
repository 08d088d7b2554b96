"""`sotto-lab items encode` as a user types it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from shared.data.catalogue import Catalogue
from simulations.cli import main
from tests.simulations.conftest import ITEMS
from tests.tiny_encoder import save_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoders") / "tiny")


def lab(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["sotto-lab", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


def test_the_command_encodes_once_and_a_simulation_takes_it(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_data: Path,
    encoder: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "catalogue"
    options = ["items", "encode", "--data", tiny_data, "--encoder", encoder, "--out", out]
    assert lab(monkeypatch, *options) == 0
    printed = capsys.readouterr()
    assert f"{ITEMS} items with 256 features, written to {out}" in printed.out
    assert f"encoded {ITEMS} of {ITEMS}" in printed.err

    assert lab(monkeypatch, *options, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    catalogue = Catalogue.load(out)
    assert (record["made"], record["items"]) == (False, ITEMS)
    assert record["fingerprint"] == catalogue.fingerprint
    assert record["source"]["encoder"] == "tiny"

    run = tmp_path / "run"
    options = ["prepare", "--data", tiny_data, "--catalogue", out, "--out", run]
    assert lab(monkeypatch, *options, "--epsilon", 8, "--delta", 1e-2) == 0
    prepared = Catalogue.load(run / "catalogue")
    assert prepared.source is not None
    assert (prepared.source.encoder, prepared.source.size) == ("tiny", 256)


def test_another_call_adds_relations_beside_the_text(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_data: Path,
    tmp_path: Path,
) -> None:
    out, table = tmp_path / "catalogue", tmp_path / "relations.csv"
    table.write_text("head,relation,tail\n" + "".join(f"i{n},of,{n % 3}\n" for n in range(9)))
    options = ["items", "encode", "--data", tiny_data, "--size", 4, "--out", out]
    assert lab(monkeypatch, *options, "--words") == 0
    assert lab(monkeypatch, *options, "--relations", table) == 0
    printed = capsys.readouterr().out
    assert f"{ITEMS} items with 8 features, written to {out}" in printed
    assert f"text: 4 features of {ITEMS} items" in printed
    assert "relations: 4 features of 9 items" in printed
    assert lab(monkeypatch, *options, "--relations", table, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert not record["made"]
    assert [block["name"] for block in record["blocks"]] == ["text", "relations"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--relations", "r.csv", "--words"], "--relations is a way of its own"),
        (["--relations", "no-such.csv"], "no-such.csv"),
        (["--modality", "image", "--encoder", "e"], "--modality image needs --encoder, and --col"),
        (["--words", "--column", "poster"], "--column poster: say with --modality what its"),
        (
            ["--modality", "audio", "--encoder", "e", "--column", "c", "--words"],
            "--words and --pooling are of texts, not of --modality audio",
        ),
        (["--encoder", "no/such/folder"], "there is no such folder"),
        ([], "give --encoder, --words, or both"),
        (["--words", "--size", "0"], "--size 0: choose a whole number >= 1"),
        (["--words", "--title-column", "name"], "the column is missing"),
    ],
)
def test_a_mistake_is_explained_and_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_data: Path,
    tmp_path: Path,
    options: list[str],
    message: str,
) -> None:
    out = tmp_path / "out"
    assert lab(monkeypatch, "items", "encode", "--data", tiny_data, "--out", out, *options) == 2
    printed = " ".join(capsys.readouterr().err.split())
    assert "error: " in printed
    assert message in printed
    assert not out.exists()


def test_catalogues_are_joined_into_one_that_names_whose_each_item_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, ids in (("films", "f1,f2"), ("books", "b1"), ("copies", "f2")):
        (tmp_path / name).mkdir()
        rows = "".join(f"{item},Title of {item}\n" for item in ids.split(","))
        (tmp_path / name / "items.csv").write_text(f"item_id,title\n{rows}")
    films, books, copies, union = (
        tmp_path / name for name in ("films", "books", "copies", "union")
    )
    assert lab(monkeypatch, "items", "join", films, books, "--out", union) == 0
    assert "3 items, 2 of films, 1 of books" in capsys.readouterr().out
    assert Catalogue.load(union).domains == ("films", "films", "books")
    encoded = tmp_path / "catalogue"
    options = ("--words", "--size", 2, "--data", union, "--out", encoded)
    assert lab(monkeypatch, "items", "encode", *options) == 0
    assert Catalogue.load(encoded).domains == ("films", "films", "books")
    capsys.readouterr()
    for words, said in (
        ((films, copies, "--out", tmp_path / "no"), "items.csv has an item of the same id"),
        ((films, films, "--out", tmp_path / "no"), "two domains are called 'films'"),
        ((films, books, "--out", union), "is not an empty folder"),
        ((films, books, "--out", tmp_path / "no", "--domain", "x"), "--domain is given 1 times"),
    ):
        assert lab(monkeypatch, "items", "join", *words) == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "no").exists()
