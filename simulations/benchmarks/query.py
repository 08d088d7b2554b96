"""How well a film is found by words: with the user and without, beside BM25 and an encoder.

    python -m simulations.benchmarks.query FOLDER --out OUT [--tags FILE] [--encoder FOLDER]
        [--attributes gender,age] [--epsilon 8] [--set ...]

FOLDER holds public interactions (`simulations.datasets.load`). Queries are the tags of FILE, or
else are made from titles: of ten films a user chose, drawn by the seed, each word with chance 1/2,
one at least. Of each user, the last fifth of the films with a query, in order of the queries, is
held out: training sees neither these queries nor the user's events of these films. The rest is
split among organisations and trained on by a run of the kind "query", written to OUT, with its
warm start, ledger and accounting.

With --attributes, these groups of the users' table are what users have declared: the towers read
them with each query. One more row leaves them out of the held-out queries.

With --encoder, a frozen text encoder embeds the query and each item's text, its title and genres
(`shared.item_features.encoder`). Their cosine counts `ENCODER_SCALE` times beside log-probabilities
and BM25, as in the softmax that such encoders are trained with.

Printed are HR@10 and NDCG@10 of the film that was meant, among the whole catalogue, over the
held-out queries, each user's mean counting once, and over all queries. By every way, what the user
chose before the query is left out of the list. Equal scores share their places' mean. The standard
error is that of the paired difference to "trained: words alone", over users.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.compute.queries import past_events
from client.serving.published import load_published
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.data.queries import Asked, Queries, declared, queries_of
from shared.data.reading import write_interactions
from shared.item_features.encoder import TextEncoder, item_texts
from shared.item_features.encoder_source import find_encoder
from shared.models.query import SHARES_SCALE, QueryRecommender
from shared.models.query_text import bag_of, index_of, words_of
from simulations.datasets.groups import UNKNOWN, Groups
from simulations.datasets.load import load
from simulations.datasets.queries import read_query_table
from simulations.experiment.config import read_settings
from simulations.experiment.prepare import prepare
from simulations.experiment.simulate import simulate
from simulations.experiment.simulation import RoundFigures

__all__ = ["Figures", "figures_of", "hold_queries_out"]

K, FILMS, SHARE = 10, 10, 0.2
ENCODER_SCALE = 20.0
"""Inverse temperature of a cosine: of the loss of sentence-transformers (arXiv:1705.00652)."""
Scores = Callable[[int, int], NDArray[np.float64]]
"""Scores the catalogue for a user's query, by row and number: [V]."""
UserScores = Callable[[int, int | None], Tensor]
"""Scores the catalogue for a user, by row, before the query of a number; None: any event. [V]."""


class Lines:
    """Reports a run in lines."""

    def stage(self, text: str) -> None:
        """Print what begins."""
        sys.stderr.write(f"{text}\n")

    def round(self, done: int, of: int, figures: RoundFigures) -> None:
        """Print a round's loss."""
        sys.stderr.write(f"round {done}/{of}: loss {figures.loss:.4f}\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Means over users, and over queries; the difference to a reference, and its standard error."""

    hr: float
    ndcg: float
    all_hr: float
    all_ndcg: float
    difference: float
    error: float


def asked_from_titles(histories: Histories, catalogue: Catalogue, seed: int) -> list[Asked]:
    """Return made queries: of up to ten of a user's films each, half of the title's words."""
    draw, asked = np.random.default_rng(seed), list[Asked]()
    for row, (user, events) in enumerate(zip(histories.users, histories, strict=True)):
        start = int(histories.offsets[row])
        for place in np.sort(draw.permutation(len(events))[:FILMS]).tolist():
            words = words_of(catalogue.titles[int(events[place]) - 1])
            kept = draw.random(len(words)) < 0.5
            if words:
                kept[draw.integers(len(words))] = True
                text = " ".join(word for word, stays in zip(words, kept, strict=True) if stays)
                time = None if histories.times is None else int(histories.times[start + place])
                asked.append(Asked(user, text, int(events[place]), time))
    return asked


def hold_queries_out(
    histories: Histories, asked: Iterable[Asked], share: float = SHARE
) -> tuple[Histories, list[Asked], list[Asked]]:
    """Return the events and queries to train on, and the queries of each user's last films.

    Args:
        histories: of all users.
        asked: of any of them.
        share: of each user's films with a query; a user with one such film keeps it.
    """
    order = sorted(asked, key=lambda one: (one.user, one.time or 0))
    films: dict[str, dict[int, None]] = {}
    for one in order:
        films.setdefault(one.user, {})[one.item] = None
    held = {
        (user, item)
        for user, own in films.items()
        for item in list(own)[len(own) - min(len(own) - 1, round(max(1, share * len(own)))) :]
    }
    users = np.repeat(np.array(histories.users, object), histories.lengths)
    events = zip(users, histories.items.tolist(), strict=True)
    marks = np.array([event not in held for event in events])
    kept, test = (
        [one for one in order if ((one.user, one.item) in held) is wanted]
        for wanted in (False, True)
    )
    return histories.keep(marks), kept, test


def with_attributes(asked: Iterable[Asked], histories: Histories, groups: Groups) -> list[Asked]:
    """Return queries with their users' groups as what these have declared."""
    rows = {user: row for row, user in enumerate(histories.users)}

    def of(user: str) -> dict[str, str]:
        stated = {name: values[rows[user]] for name, values in groups.items()}
        return {name: value for name, value in stated.items() if value != UNKNOWN}

    return [replace(one, attributes=declared(of(one.user))) for one in asked if one.user in rows]


def write_folder(
    folder: Path,
    histories: Histories,
    catalogue: Catalogue,
    asked: Sequence[Asked],
    attributes: Sequence[str] = (),
) -> None:
    """Write interactions, items and queries as the lab reads them."""
    folder.mkdir(parents=True)
    timed = histories.times is not None
    write_interactions(histories, catalogue, folder / "interactions.parquet", timed=timed)
    items: Mapping[str, Sequence[object]] = {
        "item_id": catalogue.item_ids,
        "title": catalogue.titles,
        "genres": ["|".join(genres) for genres in catalogue.genres],
        "year": catalogue.years,
    }
    pq.write_table(
        pa.table({name: list(of) for name, of in items.items()}), folder / "items.parquet"
    )
    rows = {
        "user_id": [one.user for one in asked],
        "item_id": [catalogue.item_ids[one.item - 1] for one in asked],
        "query": [one.text for one in asked],
        "timestamp" if timed else "position": [one.time or 0 for one in asked],
    }
    stated = [dict(part.split("=", 1) for part in one.attributes) for one in asked]
    rows |= {name: [one.get(name, "") for one in stated] for name in attributes}
    pq.write_table(pa.table(rows), folder / "queries.parquet")


def figures_of(
    scores: Scores, histories: Histories, queries: Queries, reference: NDArray[np.float64] | None
) -> tuple[Figures, NDArray[np.float64]]:
    """Return how well the chosen items are ranked, and each user's mean NDCG, [users].

    Args:
        scores: of the catalogue.
        histories: to train on.
        queries: that were held out.
        reference: each user's mean NDCG by another way; None for none.
    """
    hits, gains = list[list[float]](), list[list[float]]()
    for user in np.flatnonzero(np.diff(queries.offsets)).tolist():
        hits.append([])
        gains.append([])
        for number in queries.rows(user).tolist():
            found = scores(user, number)
            found[histories[user][: queries.places[number]] - 1] = -np.inf
            own = found[queries.items[number] - 1]
            above, equal = int((found > own).sum()), int((found == own).sum())
            ranks = above + 1 + np.arange(equal)
            within = ranks[ranks <= K]
            hits[-1].append(len(within) / equal)
            gains[-1].append(float((1 / np.log2(within + 1)).sum()) / equal)
    means = np.array([np.mean(own) for own in gains])
    apart = means - (means if reference is None else reference)
    every = [np.concatenate(list(map(np.array, values))) for values in (hits, gains)]
    figures = Figures(
        hr=float(np.mean([np.mean(own) for own in hits])),
        ndcg=float(means.mean()),
        all_hr=float(every[0].mean()),
        all_ndcg=float(every[1].mean()),
        difference=float(apart.mean()),
        error=float(apart.std(ddof=1) / len(apart) ** 0.5) if len(apart) > 1 else 0.0,
    )
    return figures, means


def model_scores(
    model: QueryRecommender,
    catalogue: Catalogue,
    own_scores: UserScores,
    queries: Queries,
    *,
    words: bool,
    user: str,
    attributes: bool = True,
) -> Scores:
    """Return the scores of a model.

    Args:
        model: in evaluation mode.
        catalogue: its items.
        own_scores: of its core.
        queries: that were held out.
        words: whether the words have a part.
        user: "own", the events before the query; "nobody", as before any event; "none", no part.
        attributes: whether what the user has declared is read with the words.
    """
    index = index_of(catalogue)

    @torch.no_grad()
    def scores(row: int, number: int) -> NDArray[np.float64]:
        text = queries.texts[number]
        stated = queries.attributes[number] if attributes else ()
        bag, match = (
            torch.from_numpy(part)[None, None]
            for part in (bag_of(text, stated), index.scores(text))
        )
        total, weight = model.evidence(bag, match)
        total = total[0, 0] if words else torch.zeros_like(total[0, 0])
        if user != "none":
            part = own_scores(row, number) if user == "own" else own_scores(row, None)
            total = total + weight[0, 0] * part
        return total.double().numpy()

    return scores


def user_scores(model: QueryRecommender, histories: Histories, queries: Queries) -> UserScores:
    """Return how the core scores all items for a user before a query, or before any event."""
    length = model.config.max_length

    @cache
    @torch.no_grad()
    def scores(row: int, number: int | None) -> Tensor:
        past = []
        if number is not None:
            past = past_events(histories, queries, row, number, length).tolist()
        return model.next_item_scores(torch.tensor([past or [0]]))[0]

    return lambda row, number: scores(row if number is not None else 0, number)


def encoder_scores(folder: str, catalogue: Catalogue, queries: Queries) -> Scores:
    """Return `ENCODER_SCALE` times the cosine of a frozen encoder's vectors of query and item."""
    encoder = TextEncoder(find_encoder(folder))
    of_items = encoder.vectors(item_texts(catalogue))
    of_queries = encoder.vectors(list(queries.texts))
    return lambda _, number: ENCODER_SCALE * (of_items @ of_queries[number])


def sum_of(*parts: Scores) -> Scores:
    """Return the sum of scores."""
    return lambda row, number: np.sum([part(row, number) for part in parts], axis=0)


def bm25_scores(catalogue: Catalogue, queries: Queries) -> Scores | None:
    """Return the scores of the package bm25s over the same words; None where it is not there."""
    try:
        import bm25s  # noqa: PLC0415 for this comparison alone
    except ImportError:
        return None
    texts = [
        words_of(f"{title} {' '.join(genres)}")
        for title, genres in zip(catalogue.titles, catalogue.genres, strict=True)
    ]
    ranker = bm25s.BM25()
    ranker.index(texts, show_progress=False)

    def scores(_: int, number: int) -> NDArray[np.float64]:
        words = words_of(queries.texts[number])
        known = [word for word in words if word in ranker.vocab_dict]
        if not known:
            return np.zeros(len(texts))
        return np.asarray(ranker.get_scores(known), np.float64)

    return scores


def as_it_starts(model: QueryRecommender) -> QueryRecommender:
    """Return the model with towers and shares as they begin, over the same core."""
    other = QueryRecommender(model.config)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other.query_out.weight.zero_()
        other.query_shares.weight.fill_(1 / SHARES_SCALE)
    return other.eval()


def print_figures(
    model: QueryRecommender,
    catalogue: Catalogue,
    histories: Histories,
    queries: Queries,
    encoder: str,
) -> None:
    """Measure every way, and print a table."""
    core = user_scores(model, histories, queries)

    def of(
        kind: QueryRecommender, user: str, *, words: bool = True, attributes: bool = True
    ) -> Scores:
        return model_scores(
            kind, catalogue, core, queries, words=words, user=user, attributes=attributes
        )

    first = as_it_starts(model)
    ways: list[tuple[str, Scores | None]] = [
        ("trained: words alone", of(model, "none")),
        ("BM25 (bm25s)", bm25_scores(catalogue, queries)),
        ("BM25 of this release", of(first, "none")),
        ("popularity alone", of(first, "nobody", words=False)),
        ("the user alone", of(first, "own", words=False)),
        ("untrained: BM25, popularity", of(first, "nobody")),
        ("untrained: BM25, user", of(first, "own")),
        ("trained: words, popularity", of(model, "nobody")),
        ("trained: words, user", of(model, "own")),
    ]
    if any(queries.attributes):
        ways += [
            ("trained: words, no attributes", of(model, "none", attributes=False)),
            ("trained: the same, user", of(model, "own", attributes=False)),
        ]
    if encoder:
        frozen, words = encoder_scores(encoder, catalogue, queries), of(first, "none")
        own, popular = (of(first, user, words=False) for user in ("own", "nobody"))
        ways += [
            ("frozen encoder", frozen),
            ("frozen encoder, popularity", sum_of(frozen, popular)),
            ("frozen encoder, user", sum_of(frozen, own)),
            ("frozen encoder, BM25", sum_of(frozen, words)),
            ("frozen encoder, BM25, popul.", sum_of(frozen, words, popular)),
            ("frozen encoder, BM25, user", sum_of(frozen, words, own)),
        ]
    gain, weight = (SHARES_SCALE * model.query_shares.weight[:, 0]).tolist()
    users = int((np.diff(queries.offsets) > 0).sum())
    sys.stdout.write(f"{len(queries)} queries of {users} users; g = {gain:.3f}, w = {weight:.3f}\n")
    reference = None
    for name, scores in ways:
        if scores is None:
            sys.stdout.write(f"{name:30} is not installed: pip install 'sotto[bm25]'\n")
            continue
        found, means = figures_of(scores, histories, queries, reference)
        reference = means if reference is None else reference
        sys.stdout.write(
            f"{name:30} HR@10 {found.hr:.3f}, NDCG@10 {found.ndcg:.4f} "
            f"({found.difference:+.4f} ± {found.error:.4f}); over all queries HR@10 "
            f"{found.all_hr:.3f}, NDCG@10 {found.all_ndcg:.4f}\n"
        )
        sys.stdout.flush()


def main() -> None:
    """Hold queries out, run, and print what each way reaches."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tags", type=Path, help="table of queries; made from titles without it")
    parser.add_argument("--encoder", default="", help="folder of a frozen text encoder")
    parser.add_argument("--attributes", default="", help="groups of users, as they declared them")
    parser.add_argument("--epsilon", default="none")
    parser.add_argument("--delta", default="1e-5")
    parser.add_argument("--queries", type=int, default=10**9, help="held-out queries at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], help="a setting of the run")
    options = parser.parse_args()
    dataset = load(options.folder)
    catalogue = dataset.catalogue
    attributes = [name for name in options.attributes.split(",") if name]
    if unknown := sorted(set(attributes) - dataset.groups.keys()):
        parser.error(f"--attributes: {options.folder} has no groups of users named {unknown[0]!r}")
    if options.tags:
        asked: Sequence[Asked] = read_query_table(options.tags, catalogue)
    else:
        asked = asked_from_titles(dataset.histories, catalogue, options.seed)
    if attributes:
        stated = {name: dataset.groups[name] for name in attributes}
        asked = with_attributes(asked, dataset.histories, stated)
    train, kept, test = hold_queries_out(dataset.histories, asked)
    run = options.out / "run"
    if not (run / "result.json").exists():
        write_folder(options.out / "data", train, catalogue, kept, attributes)
        settings = [
            f"privacy.epsilon={options.epsilon}",
            *([f"privacy.delta={options.delta}"] if options.epsilon != "none" else []),
            f"seed={options.seed}",
            f"lab.data={options.out / 'data'}",
            f"lab.queries={options.out / 'data' / 'queries.parquet'}",
            "model.kind=query",
            *([f"lab.query_attributes={options.attributes}"] if attributes else []),
            *options.set,
        ]
        simulate(prepare(read_settings(None, {}, settings), run), Lines())
    _, model = load_published(run)
    assert isinstance(model, QueryRecommender)
    rows = np.linspace(0, len(test) - 1, min(options.queries, len(test))).astype(np.int64)
    queries = queries_of(train, [test[row] for row in rows])
    print_figures(model, catalogue, train, queries, options.encoder)


if __name__ == "__main__":
    main()
