"""The page on recommendations, as it is written, with films."""

from __future__ import annotations

import csv
import os
import sys
import time
from pathlib import Path

import pyarrow.csv as pa_csv
import torch

from shared.data.catalogue import read_items
from shared.data.columns import ItemColumns
from shared.models.attention import build
from tests.conftest import MODEL
from tests.docs.pages import DOCS, ROOT, Shell, blocks, environment

FILMS = ROOT / "simulations" / "data" / "ml-latest-small"
USERS, MOST_SECONDS = 60, 300


def write_published(folder: Path) -> None:
    catalogue = read_items(FILMS / "movies.csv", ItemColumns(item="movieId"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        build(MODEL, catalogue).save_pretrained(folder / "model")
    catalogue.save(folder / "catalogue")


def write_events(file: Path) -> None:
    with (FILMS / "ratings.csv").open(newline="") as ratings, file.open("w", newline="") as events:
        rows = csv.writer(events)
        rows.writerow(("user_id", "item_id", "timestamp"))
        for row in csv.DictReader(ratings):
            if int(row["userId"]) <= USERS:
                rows.writerow((row["userId"], row["movieId"], row["timestamp"]))


def test_the_page_runs_as_it_is_written(tmp_path: Path) -> None:
    folder, bin_ = tmp_path / "reader's", tmp_path / "bin"
    for made in (folder, bin_):
        made.mkdir()
    (folder / "sotto").symlink_to(ROOT)
    # The commands come from this environment; `pip` looks whether what it is to install is there.
    pip = bin_ / "pip"
    pip.write_text(
        f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("fake_pip.py")} "$@"\n'
    )
    pip.chmod(0o755)
    write_published(folder / "published")
    write_events(folder / "events.csv")
    where = os.pathsep.join([str(ROOT), str(ROOT / "client" / "library")])
    variables = environment(tmp_path / "home", PYTHONPATH=where)
    variables["PATH"] = os.pathsep.join([str(bin_), variables["PATH"]])
    shell, began, printed = Shell(folder, variables), time.monotonic(), list[str]()
    typed = [
        block for block in blocks(DOCS / "recommend.md") if block.title or block.language == "sh"
    ]
    for block in typed:
        if block.title:
            (folder / block.title).write_text(block.text)
        elif block.text.startswith("sotto-node "):
            printed.append(shell.run_here(block.text))
        else:
            printed.append(shell.run(block.text))
    assert time.monotonic() - began < MOST_SECONDS
    assert typed[0].text.replace("\\\n", "").count("\n") <= 5, "commands"
    assert f"{20 * USERS:,} recommendations for {USERS} users" in printed[0]
    lists = pa_csv.read_csv(folder / "lists.csv")
    assert lists.column_names == ["user", "rank", "item", "title", "score"]
    assert lists.num_rows == 20 * USERS
    assert (folder / "quality.png").stat().st_size > 10_000
    assert "because" in printed[1]
    assert printed[2].count("without ") == 9
