"""What words, genres and years, and relations add, each without privacy and in one place.

    python -m simulations.benchmarks.modalities FOLDER OUT [--epochs 4] [--users N]

FOLDER holds interactions and items with titles, genres and years (`simulations.datasets.load`).
OUT gets a folder for each row, which `sotto-lab simulate --catalogue` takes, too:

| folder    | blocks of features                                                                   |
|-----------|--------------------------------------------------------------------------------------|
| words     | tf-idf of the titles' words alone                                                    |
| text      | tf-idf of words, genres and years together: what `items encode --words` makes        |
| relations | text, and TransE over item-genre, item-decade and item-year                          |
| apart     | words, tf-idf of genres and years, and TransE, each a block of its own               |

Each has a model of kind "attention", those of several blocks also one of kind "modalities": first
weights from exact statistics, then so many epochs as `simulations.benchmarks.central` takes.
Printed after each: NDCG@10 and HR@10 of each user's last event, over all items; and the gates.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from client.serving.published import scorer_of
from shared.config import ModelKind
from shared.data.catalogue import Catalogue
from shared.data.feature_blocks import FeatureBlock
from shared.data.relations import read_relations
from shared.data.splits import leave_one_out
from shared.evaluation.ranking import rank_users
from shared.item_features.relations import relation_vectors
from shared.item_features.tfidf import text_vectors
from shared.item_features.whitening import whitened_where_described
from shared.models.gates import GATES, gate_shares
from simulations.benchmarks.central import Recipe, first_model, train_centrally
from simulations.datasets.load import load, load_items

__all__ = ["catalogues", "measure", "write_relations"]

SIZE, GENRES, RELATIONS = 256, 64, 64
"""Features of text, or of all blocks together; of genres and years alone; of relations."""
_YEAR = re.compile(r"\s*\(\d{4}\)\s*$")
Table = np.ndarray[tuple[int, int], np.dtype[np.float32]]


def write_relations(items: Catalogue, file: Path) -> None:
    """Write what genres and years say of each item as a table of relations."""
    with file.open("w", newline="", encoding="utf-8") as opened:
        rows = csv.writer(opened)
        rows.writerow(("head", "relation", "tail"))
        for item, genres, year in zip(items.item_ids, items.genres, items.years, strict=True):
            rows.writerows((item, "genre", genre) for genre in genres)
            if year is not None:
                rows.writerow((item, "decade", f"{year // 10}0s"))
                rows.writerow((item, "year", f"year {year}"))


def catalogues(items: Catalogue, file: Path) -> dict[str, Catalogue]:
    """Return the catalogues of the table on top of this module, by name.

    Args:
        items: with titles, genres and years.
        file: their table of relations.
    """
    plain = tuple(_YEAR.sub("", title) for title in items.titles)
    none = replace(items, genres=((),) * len(items), years=(None,) * len(items), titles=plain)
    untitled = replace(items, titles=("",) * len(items))

    def text(described: Catalogue, size: int) -> Table:
        return whitened_where_described(text_vectors(described, size), size)

    known = read_relations(file, items)
    of_relations = whitened_where_described(relation_vectors(known, len(items)), RELATIONS)
    words, both = text(none, SIZE), text(items, SIZE)
    genres = text(untitled, GENRES)
    left = SIZE - GENRES - RELATIONS
    rows: dict[str, Sequence[tuple[str, Table]]] = {
        "words": [("text", words)],
        "text": [("text", both)],
        "relations": [("text", both[:, : SIZE - RELATIONS]), ("relations", of_relations)],
        "apart": [
            ("text", words[:, :left]),
            ("genres", genres),
            ("relations", of_relations),
        ],
    }
    return {name: _side_by_side(items, blocks) for name, blocks in rows.items()}


def _side_by_side(items: Catalogue, blocks: Sequence[tuple[str, Table]]) -> Catalogue:
    features = torch.from_numpy(np.concatenate([table for _, table in blocks], axis=1))
    named = [FeatureBlock(name=name, size=table.shape[1]) for name, table in blocks]
    return items.with_features(features, blocks=named)


def measure(folder: Path, catalogue: Catalogue, kind: ModelKind, options: Options) -> None:
    """Print what a kind reaches with a catalogue, after each epoch."""
    held = leave_one_out(load(folder).histories)
    count = min(options.users, len(held.test_targets))
    rows = np.linspace(0, len(held.test_targets) - 1, count).astype(np.int64)
    inputs, targets = held.test_inputs.select(rows), held.test_targets[rows]
    torch.manual_seed(0)
    model = first_model(kind, held.train, catalogue)
    for epoch in chain([0], train_centrally(model, held.train, Recipe(epochs=options.epochs))):
        window = model.config.max_length
        found = rank_users(
            scorer_of(model), inputs, targets, items=len(catalogue), window=window
        ).metrics()
        gates = dict(model.named_parameters()).get(GATES)
        used = len(catalogue.blocks)
        shares = [] if gates is None else gate_shares(gates[:used, 0].tolist())
        weighed = " ".join(
            f"{block.name} {share:.2f}"
            for block, share in zip(catalogue.blocks, shares, strict=False)
        )
        sys.stdout.write(
            f"{kind} epoch {epoch}: NDCG@10 {found.ndcg:.4f}, HR@10 {found.recall:.4f} {weighed}\n"
        )
        sys.stdout.flush()


@dataclass(frozen=True, slots=True)
class Options:
    """How much is trained, and how many users are ranked."""

    epochs: int
    users: int


def main() -> None:
    """Write the catalogues, and measure each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--users", type=int, default=10**9, help="test users that are ranked")
    given = parser.parse_args()
    items = load_items(given.folder)
    given.out.mkdir(parents=True, exist_ok=True)
    write_relations(items, given.out / "relations.csv")
    for name, catalogue in catalogues(items, given.out / "relations.csv").items():
        catalogue.save(given.out / name)
        several = [ModelKind.MODALITIES] if len(catalogue.blocks) > 1 else []
        for kind in (ModelKind.ATTENTION, *several):
            sys.stdout.write(f"{name}:\n")
            measure(given.folder, catalogue, kind, Options(given.epochs, given.users))


if __name__ == "__main__":
    main()
