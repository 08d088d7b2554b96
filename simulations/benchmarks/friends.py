"""What friends bring at home: HetRec 2011 Last.fm, with friends, with shuffled ones, and without.

    python -m simulations.benchmarks.friends prepare PATH/lastfm-hetrec DATA
    sotto-lab simulate --data DATA --organisations 1 --epsilon 8 --delta 1e-5 --out RUN
    python -m simulations.benchmarks.friends measure DATA RUN

PATH holds what https://grouplens.org/datasets/hetrec-2011 has of Last.fm. There are no times, so
`prepare` puts each user's artists in an order that a hash of user and artist gives. It keeps
artists of five listeners or more, and users of three such artists or more. A user's last artist is
the test, ranked among all that the user has not heard. Each organisation of RUN has a home model of
its own, and friends among its own users. Home model, α and β are chosen on the artist before the
last one, which the federated model has not seen, either; friends' last artists take no part in
anything.

Shuffled friends: users' places in the graph are permuted, which keeps all degrees. They are given
twice: with α and β chosen for them, and with those that were chosen for the real ones.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.home.adapt import build_home, choose, last_events
from client.home.friends import (
    Friends,
    blend_friends,
    fit_friends,
    published_numbers,
    user_states,
)
from client.home.friends_part import FriendsPart, add_friends
from client.serving.published import load_published, scorer_of
from shared.data.friends import FriendTable, read_friends
from shared.data.histories import Histories
from shared.evaluation.paired import ndcg_gains, paired_p
from shared.evaluation.ranking import Scorer, ranks
from shared.models.attention import AttentionRecommender
from simulations.experiment.prepare import reopen

__all__ = ["permuted", "prepare"]

LEAST_LISTENERS, LEAST_ARTISTS, SHUFFLES, K = 5, 3, 3, 10
WITHOUT = "adapted, without friends"
Gains = NDArray[np.float64]
"""NDCG of each user's last artist, [users]."""


def prepare(folder: Path, out: Path) -> None:
    """Write interactions, items and friends of HetRec's Last.fm as the lab and a site read them."""
    names = {row[0]: row[1] for row in _rows(folder / "artists.dat.gz")}
    plays = [row[:2] for row in _rows(folder / "user_artists.dat")]
    listeners = Counter(artist for _, artist in plays)
    plays = [play for play in plays if listeners[play[1]] >= LEAST_LISTENERS]
    heard = Counter(user for user, _ in plays)
    kept = sorted(
        (user, hashlib.sha256(f"{user} {artist}".encode()).hexdigest(), artist)
        for user, artist in plays
        if heard[user] >= LEAST_ARTISTS
    )
    users, artists = {user for user, _, _ in kept}, sorted({artist for _, _, artist in kept})
    pairs = [pair for pair in _rows(folder / "user_friends.dat") if users.issuperset(pair)]
    events = [(user, artist, place) for place, (user, _, artist) in enumerate(kept)]
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "interactions.csv", ("user_id", "item_id", "position"), events)
    titles = [(artist, names.get(artist) or artist) for artist in artists]
    _write(out / "items.csv", ("item_id", "title"), titles)
    _write(out / "friends.csv", ("user", "friend"), pairs)


def permuted(table: FriendTable, seed: int) -> FriendTable:
    """Return the same graph over other users: who has whose friends is drawn."""
    places = np.random.default_rng(seed).permutation(len(table.users))
    names = [table.users[place] for place in places]
    edges = {
        (names[row], names[friend]): float(weight)
        for row, start, end in zip(
            range(len(names)), table.offsets[:-1], table.offsets[1:], strict=True
        )
        for friend, weight in zip(table.friends[start:end], table.weights[start:end], strict=True)
    }
    return FriendTable.from_edges(edges)


def measure(folder: Path, run: Path, numbers: Sequence[tuple[float, float]] = ()) -> None:
    """Print what a published model reaches at home with friends and without.

    Each organisation of the run has its own home model, and knows friends among its own users
    alone. Figures are of all users, whatever their organisation.

    Args:
        folder: what `prepare` wrote.
        run: a finished simulation over it.
        numbers: α and β that are measured with all friends besides, as learned elsewhere; those of
            a published model of the kind "social" are.
    """
    simulation = reopen(run, {}, [])
    _, model = load_published(run)
    histories = simulation.dataset.histories
    table = read_friends(folder / "friends.csv", frozenset(histories.users))
    stated = [*numbers, *filter(None, [published_numbers(model)])]
    gains: dict[str, list[Gains]] = {}
    within = 0
    for name, rows in zip(simulation.names, simulation.parts, strict=True):
        own = histories.select(rows)
        friends = table.among(own.users)
        within += len(friends.friends)
        for way, found in _Home(own, model).ways(friends, stated, f"{name}: "):
            gains.setdefault(way, []).append(found)
    _say(
        f"{len(histories)} users of {len(simulation.parts)} organisations, {model.config.items} "
        f"artists, {within} of {len(table.friends)} pairs of friends within one of them"
    )
    without = np.concatenate(gains[WITHOUT])
    for way, parts in gains.items():
        found = np.concatenate(parts)
        change = found.mean() / without.mean() - 1
        p = paired_p(found, without)
        _say(
            f"NDCG@{K} {found.mean():.4f} ({change:+.1%}, p = {1.0 if p is None else p:.2g}), "
            f"HR@{K} {(found > 0).mean():.4f}: {way}"
        )


class _Home:
    """An organisation's home model, chosen on the last artist but one, and asked for the last.

    Args:
        histories: all events of its users.
        model: as published.
    """

    def __init__(self, histories: Histories, model: AttentionRecommender) -> None:
        self._counted = histories.without_last(1)
        self._model = model
        self._federated, self._window = scorer_of(model), model.config.max_length
        self._events = last_events(self._counted)
        items = model.config.items
        self._choice = choose(self._events, self._federated, items=items, window=self._window)
        chosen = self._choice.chosen
        self._homes = (
            build_home(chosen, self._events.counted, self._federated, items),
            build_home(chosen, self._counted, self._federated, items),
        )
        self._own = build_home(self._choice.home, self._counted, self._federated, items)
        self._targets = torch.from_numpy(histories.items[histories.offsets[1:] - 1])
        self._seen = self._counted.padded(self._users, int(self._counted.lengths.max()))
        scores = self._scored(self._homes[1])
        self._home = scores / scores.sum(1, keepdim=True)

    def ways(
        self, table: FriendTable, stated: Sequence[tuple[float, float]], who: str
    ) -> Iterator[tuple[str, Gains]]:
        """Yield the name of each way to rank, and each user's NDCG by it.

        Args:
            table: who is whose friend among the users.
            stated: α and β that are measured besides those that are chosen.
            who: what stands before a line that says what was chosen.
        """
        yield "published model alone", self._gains(self._scored(self._federated))
        yield "own data alone", self._gains(self._scored(self._own))
        yield WITHOUT, self._gains(self._home)
        _say(f"{who}adapted: {self._choice.chosen.describe()}")
        graphs = [("", table)]
        graphs += [(f"shuffled {seed}, ", permuted(table, seed)) for seed in range(SHUFFLES)]
        real: tuple[float, float] | None = None
        blend = partial(blend_friends, self._counted)
        for graph, friends in graphs:
            # The grid by itself; `adapt` begins with published numbers where they are better.
            without = Friends(friends, self._model.last_states, self._window)
            part, found = fit_friends(self._events, self._homes, self._counted, without)
            _say(f"{who}{graph}friends: {found.describe()}")
            chosen = part.friends
            yield f"{graph}with friends, α and β chosen for them", self._with(chosen)
            states = user_states(self._model.last_states, friends, self._counted, self._window)
            if graph:
                same = None if real is None else blend(friends, states, *real)
                yield f"{graph}with what was chosen for the real ones", self._with(same)
            elif chosen is not None:
                real = chosen.alpha, chosen.beta
            for alpha, beta in stated:
                same = blend(friends, states, alpha, beta)
                yield f"{graph}with α = {alpha:g}, β = {beta:g}", self._with(same)

    @property
    def _users(self) -> NDArray[np.int64]:
        return np.arange(len(self._counted))

    def _with(self, friends: FriendsPart | None) -> Gains:
        if friends is None:
            return self._gains(self._home)
        return self._gains(add_friends(self._home, self._counted.users, friends))

    def _scored(self, scorer: Scorer) -> Tensor:
        reach = max(self._window, self._homes[1].transitions.memory.events)
        parts = np.split(self._users, range(64, len(self._users), 64))
        with torch.no_grad():
            return torch.cat([scorer(self._counted.padded(some, reach)).float() for some in parts])

    def _gains(self, scores: Tensor) -> Gains:
        return ndcg_gains(ranks(scores, self._targets, self._seen).numpy(), K)


def _rows(file: Path) -> list[list[str]]:
    opened = gzip.open if file.suffix == ".gz" else open
    with opened(file, "rt", encoding="utf-8", errors="replace") as lines:
        return [line.rstrip("\r\n").split("\t") for line in lines][1:]


def _write(file: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows([header, *rows])


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    """Prepare the data, or measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("action", choices=["prepare", "measure"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--alpha", type=float, nargs="*", default=[], help="besides, at β = 0")
    options = parser.parse_args()
    if options.action == "prepare":
        prepare(options.folder, options.other)
    else:
        measure(options.folder, options.other, [(alpha, 0.0) for alpha in options.alpha])


if __name__ == "__main__":
    main()
