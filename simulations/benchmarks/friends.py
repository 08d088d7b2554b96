"""What friends bring at home: HetRec 2011 Last.fm, with friends, with shuffled ones, and without.

    python -m simulations.benchmarks.friends prepare PATH/lastfm-hetrec DATA
    sotto-lab simulate --data DATA --organisations 1 --epsilon 8 --delta 1e-5 --out RUN
    python -m simulations.benchmarks.friends measure DATA RUN

PATH holds what https://grouplens.org/datasets/hetrec-2011 has of Last.fm. There are no times, so
`prepare` puts each user's artists in an order that a hash of user and artist gives. It keeps
artists of five listeners or more, and users of three such artists or more. A user's last artist is
the test, ranked among all that the user has not heard. One partner has all users. Home model, α and
β are chosen on the artist before the last one, which the federated model has not seen, either;
friends' last artists take no part in anything.

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
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import ttest_rel
from torch import Tensor

from client.home.adapt import build_home, choose, last_events
from client.home.friends import blend_friends, fit_friends, published_numbers, user_states
from client.home.friends_part import FriendsPart, add_friends
from client.home.home_model import HomeModel
from client.serving.published import load_published, scorer_of
from shared.data.friends import FriendTable, read_friends
from shared.data.histories import Histories
from shared.evaluation.ranking import Scorer, ranks
from simulations.datasets.load import load

__all__ = ["permuted", "prepare"]

LEAST_LISTENERS, LEAST_ARTISTS, SHUFFLES, K = 5, 3, 3, 10


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

    Args:
        folder: what `prepare` wrote.
        run: the published folder.
        numbers: α and β that are measured with all friends besides, as learned elsewhere; those of
            a published model of the kind "social" are.
    """
    catalogue, model = load_published(run)
    histories = load(folder).histories
    table = read_friends(folder / "friends.csv", frozenset(histories.users))
    federated, items, window = scorer_of(model), len(catalogue), model.config.max_length
    counted = histories.without_last(1)
    events = last_events(counted)
    choice = choose(events, federated, items=items, window=window)
    homes = [build_home(choice.chosen, own, federated, items) for own in (events.counted, counted)]
    test = _Test(histories, counted, homes[1], window)
    _say(f"{len(histories)} users, {items} artists, {len(table.friends)} pairs of friends")
    _say(f"adapted: {choice.chosen.describe()}")
    test.show("federated model alone", scores=federated)
    own = build_home(choice.home, counted, federated, items)
    test.show("own data alone", scores=own)
    test.show("adapted, without friends")
    pair = homes[0], homes[1]
    # The grid by itself; `adapt` begins with published numbers where they are better.
    real, found = fit_friends(events, pair, counted, table, model.last_states, window)
    test.show(f"with friends: {found.describe()}", real.friends)
    states = user_states(model.last_states, table, counted, window)
    learned = published_numbers(model)
    for alpha, beta in [*numbers, *([learned] if learned else [])]:
        part = blend_friends(counted, table, states, alpha, beta)
        test.show(f"with friends: α = {alpha:g}, β = {beta:g}, as stated", part)
    for seed in range(SHUFFLES):
        other = permuted(table, seed)
        fitted, found = fit_friends(events, pair, counted, other, model.last_states, window)
        test.show(f"shuffled {seed}: {found.describe()}", fitted.friends)
        if real.friends is not None:
            states = user_states(model.last_states, other, counted, window)
            same = blend_friends(counted, other, states, real.friends.alpha, real.friends.beta)
            test.show(f"shuffled {seed}: with the same numbers", same)
            if learned:
                test.show(
                    f"shuffled {seed}: with the published numbers",
                    blend_friends(counted, other, states, *learned),
                )


class _Test:
    """Users' last artists, and the scores of them without friends.

    Args:
        histories: all events.
        counted: without each user's last one.
        home: without friends.
        window: events that the federated model reads.
    """

    def __init__(
        self, histories: Histories, counted: Histories, home: HomeModel, window: int
    ) -> None:
        self._counted = counted
        self._rows = np.arange(len(counted))
        self._targets = torch.from_numpy(histories.items[histories.offsets[1:] - 1])
        self._seen = counted.padded(self._rows, int(counted.lengths.max()))
        self._reach = max(window, home.transitions.memory.events)
        scores = self._scored(home)
        self._home = scores / scores.sum(1, keepdim=True)
        self._without = self._gains(self._home)

    def show(
        self, name: str, friends: FriendsPart | None = None, *, scores: Scorer | None = None
    ) -> None:
        """Print NDCG and HR, and by how much NDCG differs from the one without friends."""
        found = self._home if scores is None else self._scored(scores)
        if friends is not None:
            found = add_friends(found, self._counted.users, friends)
        gains = self._gains(found)
        change = gains.mean() / self._without.mean() - 1
        p = ttest_rel(gains, self._without).pvalue if (gains != self._without).any() else 1.0
        _say(
            f"NDCG@{K} {gains.mean():.4f} ({change:+.1%}, p = {p:.2g}), HR@{K} "
            f"{(gains > 0).mean():.4f}: {name}"
        )

    def _scored(self, scorer: Scorer) -> Tensor:
        parts = np.split(self._rows, range(64, len(self._rows), 64))
        with torch.no_grad():
            return torch.cat(
                [scorer(self._counted.padded(some, self._reach)).float() for some in parts]
            )

    def _gains(self, scores: Tensor) -> NDArray[np.float64]:
        places = ranks(scores, self._targets, self._seen).double()
        return np.asarray((1 / torch.log2(1 + places)).where(places <= K, 0.0).numpy())


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
