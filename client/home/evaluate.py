"""How good models are on an organisation's own held-out events, beside what it has without them.

The last event of each user of two or more is held out, and ranked among all items that the user has
not seen (`shared.evaluation.ranking`). Nothing that an organisation makes itself has seen these
events: counts are of the events before them, and so are the held-out events by which
`client.home.adapt` chooses its numbers. A federated model may have learned from them, as far as the
ε of its run allows.

| name                       | what ranks                                                      |
|----------------------------|-----------------------------------------------------------------|
| `popularity`               | the organisation's own popularity                               |
| `counts3`                  | its counts over the last three events                           |
| `home`                     | its own data alone, with numbers chosen by `adapt`              |
| `federated`                | the published model                                             |
| `federated_home`           | the published model, adapted                                    |
| `federated_home_friends`   | with what users' friends chose; only where `adapt` would take   |
|                            | friends                                                         |
| `before`, `before_home`    | the same of an earlier published model                          |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from client.home.adapt import Candidate, build_home, choose, last_events
from client.home.friends import Friends, FriendsChoice, fit_friends, rank_with_friends
from client.home.home_model import (
    MEMORIES,
    FixedPrior,
    HomeModel,
    TransitionCounts,
    popularity_shares,
)
from client.home.local_attention import WINDOW
from shared.data.histories import Histories
from shared.evaluation.paired import ndcg_gains, paired_p
from shared.evaluation.ranking import Metrics, Ranking, Scorer, rank_users
from shared.evaluation.reordering import Reordered
from shared.models.counts import Popularity, item_counts
from shared.models.influence import CAPS, InfluenceCaps
from shared.models.recent_counts import RecentCounts
from shared.rerank.price import Price, price_of
from shared.rerank.reranker import Reranker

__all__ = [
    "NAMES",
    "NORMAL",
    "RERANKED",
    "Difference",
    "Evaluation",
    "Measured",
    "build_scorers",
    "evaluate",
]

NAMES = {
    "popularity": "most popular",
    "counts3": "own counts, last three events",
    "home": "own data alone",
    "federated": "published model",
    "federated_home": "published model, adapted",
    "federated_home_friends": "adapted, with friends",
    "before": "model before",
    "before_home": "model before, adapted",
}
"""How models are called in tables and pictures."""
FRIENDS = "federated_home_friends"
RERANKED = ("federated", "federated_home")
"""Models whose lists are also chosen by another order, where one is stated."""
_STEPS_OF_CHOICE = 4
"""What adapting takes, in rankings, about; for progress."""

NORMAL = 1.96
"""Standard deviations in each half of a 95% interval."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one model reached.

    Attributes:
        metrics: means over the users.
        half_width: of the 95% interval of NDCG, by the normal approximation.
    """

    metrics: Metrics
    half_width: float


@dataclass(frozen=True, slots=True)
class Difference:
    """By how much one model's mean NDCG is above another's, on the same users.

    Attributes:
        mean: of the users' differences.
        half_width: of its 95% interval, by the normal approximation.
        p: of a paired t-test; None where no user differs.
    """

    mean: float
    half_width: float
    p: float | None

    def sentence(self, what: str, other: str) -> str:
        """Return it in words.

        Args:
            what: is compared, as the sentence's subject.
            other: what it is compared with.
        """
        if self.p is None:
            return f"{what} changes nothing: adapted, it ranks as {other} does."
        sure = "" if self.p < 0.05 else ", which may be chance"
        verb = "brings" if self.mean > 0 else "costs"
        return (
            f"{what} {verb} {abs(self.mean):.4f} NDCG over {other} "
            f"(± {self.half_width:.4f}, p = {self.p:.2g}{sure})."
        )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What all models reached on the same held-out events.

    Attributes:
        models: by the names in the table at the top of this module, in its order.
        users: whose events were ranked.
        of: users who have a held-out event.
        chosen: the home model behind `federated_home`.
        joining: NDCG of `federated_home` over `home`.
        renewing: NDCG of `federated_home` over `before_home`; None without a model before.
        reranked: figures of `federated` and `federated_home` before and after lists are chosen by
            another order; empty without one.
        friends: what was chosen of friends; None where there are none.
        befriending: NDCG with friends over `federated_home`; None where they take no part.
    """

    models: dict[str, Measured]
    users: int
    of: int
    chosen: Candidate
    joining: Difference
    renewing: Difference | None
    reranked: Mapping[str, tuple[Price, Price]] = field(default_factory=dict)
    friends: FriendsChoice | None = None
    befriending: Difference | None = None


def evaluate(  # noqa: PLR0913 what is measured, and how
    histories: Histories,
    federated: Mapping[str, Scorer],
    *,
    items: int,
    window: int,
    k: int = 10,
    most: int = 10_000,
    attention: bool = False,
    say: Callable[[str, float], None] = lambda *_: None,
    reranker: Reranker | None = None,
    caps: InfluenceCaps = CAPS,
    friends: Friends | None = None,
) -> Evaluation:
    """Rank held-out events with all models.

    Args:
        histories: the organisation's, all events of each user.
        federated: logits of published models: "federated", and "before" if there is one.
        items: V, the size of the catalogue.
        window: events that a federated model reads, the most of all.
        k: the cut-off, in 1..V.
        most: users whose events are ranked, >= 1; of more, as many are taken evenly.
        attention: whether an attention model of the own data is trained, too, for "home".
        say: is told what is done now, and which share in [0, 1] of all is done.
        reranker: chooses lists by another order, to see what that costs; None for none.
        caps: on what one user adds to the counts of home models.
        friends: of the users; None for none.

    Raises:
        ValueError: no user has two events.
    """
    held_out = _HeldOut.of_histories(histories, most)
    counted = held_out.counted
    steps = _STEPS_OF_CHOICE * len(federated) + 3 + 2 * len(federated)

    def adapting(name: str, done: int) -> None:
        say(f"adapting the {NAMES[name]}", _STEPS_OF_CHOICE * done / steps)

    scorers, chosen = build_scorers(
        *(counted, federated),
        items=items,
        window=window,
        attention=attention,
        say=adapting,
        caps=caps,
    )
    reach = max(window, WINDOW * attention, *(memory.events for memory in MEMORIES))
    targets = _Targets(inputs=held_out.inputs, asked=held_out.asked, items=items, window=reach, k=k)
    rankings: dict[str, Ranking] = {}
    for name, scorer in scorers.items():
        say(f"ranking: {NAMES[name]}", 1 - (len(scorers) - len(rankings)) / steps)
        rankings[name] = targets.rank(scorer)
    prices = {}
    if reranker is not None:
        prices = _prices(targets, scorers, rankings, reranker, item_counts(counted, items).numpy())
    choice = None
    if friends is not None:
        home = scorers["federated_home"]
        assert isinstance(home, HomeModel)
        befriended, choice = _befriend(counted, home, friends, chosen, caps)
        if befriended.friends is not None:
            given = targets.inputs, targets.asked
            rankings[FRIENDS] = rank_with_friends(befriended, *given, reach, k)
    return replace(_compare(rankings, chosen, of=held_out.of), reranked=prices, friends=choice)


def _compare(rankings: Mapping[str, Ranking], chosen: Candidate, of: int) -> Evaluation:
    """Return what models reached, and the differences between those that are there.

    Args:
        rankings: of the same events, by the names at the top of this module.
        chosen: the home model behind `federated_home`.
        of: users who have a held-out event.
    """
    gains = {
        name: ndcg_gains(ranking.ranks.numpy(), ranking.k) for name, ranking in rankings.items()
    }

    def difference(name: str, other: str) -> Difference | None:
        if name in gains and other in gains:
            return _difference(gains[name], gains[other])
        return None

    return Evaluation(
        models={
            name: Measured(rankings[name].metrics(), _half_width(gains[name]))
            for name in NAMES
            if name in rankings
        },
        users=len(gains["home"]),
        of=of,
        chosen=chosen,
        joining=_difference(gains["federated_home"], gains["home"]),
        renewing=difference("federated_home", "before_home"),
        befriending=difference(FRIENDS, "federated_home"),
    )


@dataclass(frozen=True, kw_only=True)
class _HeldOut:
    """Last events that are held out, and what is left.

    Attributes:
        counted: all histories, without the last event of users of two or more.
        inputs: N of them, of users whose last event is ranked.
        asked: these events, int64 [N].
        of: users who have a held-out event, at least N.
    """

    counted: Histories
    inputs: Histories
    asked: NDArray[np.int64]
    of: int

    @classmethod
    def of_histories(cls, histories: Histories, most: int) -> _HeldOut:
        """Hold out the last event of each user of two or more.

        Args:
            histories: all events of each user.
            most: users whose event is ranked; of more, as many are taken evenly.

        Raises:
            ValueError: no user has two events.
        """
        held = histories.lengths >= 2
        users = np.flatnonzero(held)
        if not len(users):
            raise ValueError("no user has two events: there is nothing to hold out")
        counted = histories.first(histories.lengths - held)
        rows = users[np.linspace(0, len(users) - 1, min(most, len(users))).astype(np.int64)]
        last = histories.items[histories.offsets[1:][rows] - 1]
        return cls(counted=counted, inputs=counted.select(rows), asked=last, of=len(users))


@dataclass(frozen=True, kw_only=True)
class _Targets:
    """The events that are asked for, and how they are ranked.

    Attributes:
        inputs: N histories, each without its target.
        asked: the targets, int64 [N].
        items: V, the size of the catalogue.
        window: events that a model reads.
        k: the cut-off.
    """

    inputs: Histories
    asked: NDArray[np.int64]
    items: int
    window: int
    k: int

    def rank(self, scorer: Scorer) -> Ranking:
        """Rank every target with a model."""
        return rank_users(
            scorer, self.inputs, self.asked, items=self.items, window=self.window, k=self.k
        )


def _prices(
    targets: _Targets,
    scorers: Mapping[str, Scorer],
    rankings: Mapping[str, Ranking],
    reranker: Reranker,
    counts: NDArray[np.int64],
) -> dict[str, tuple[Price, Price]]:
    """Return figures of lists before and after another order, by model.

    Args:
        targets: what is ranked.
        scorers: of all models.
        rankings: by them, of `targets`.
        reranker: chooses the other order.
        counts: events of each item, [V].
    """
    prices = {}
    for name in RERANKED:
        after = targets.rank(Reordered(scorers[name], reranker, logits=name == "federated"))
        before, genres = rankings[name], reranker.items.genres
        prices[name] = (
            price_of(before, targets.inputs, counts, genres),
            price_of(after, targets.inputs, counts, genres),
        )
    return prices


def _befriend(
    counted: Histories,
    home: HomeModel,
    friends: Friends,
    chosen: Candidate,
    caps: InfluenceCaps,
) -> tuple[HomeModel, FriendsChoice]:
    """Return the home model with friends, as `adapt` chooses it by the events before the last."""
    events, items = last_events(counted), home.transitions.counts.shape[1]
    before = replace(
        home,
        transitions=TransitionCounts.of(events.counted, items, home.transitions.memory, caps),
    )
    if not chosen.federated and not chosen.attention:
        before = replace(before, prior=FixedPrior(popularity_shares(events.counted, items, caps)))
    return fit_friends(events, (before, home), counted, friends)


def build_scorers(
    counted: Histories,
    federated: Mapping[str, Scorer],
    *,
    items: int,
    window: int,
    attention: bool = False,
    say: Callable[[str, int], None] = lambda *_: None,
    caps: InfluenceCaps = CAPS,
) -> tuple[dict[str, Scorer], Candidate]:
    """Return all models by the names at the top of this module, and the candidate that is adapted.

    Args:
        counted: what is made at home may have seen.
        federated: logits of published models: "federated", and "before" if there is one.
        items: V, the size of the catalogue.
        window: events that a federated model reads, the most of all.
        attention: whether an attention model of the own data takes part in the choice.
        say: is told which published model is adapted now, and how many are.
        caps: on what one user adds to the counts of home models.
    """
    scorers: dict[str, Scorer] = {
        "popularity": Popularity.from_counts(item_counts(counted, items)),
        "counts3": RecentCounts.from_histories(counted, items),
    }
    chosen: dict[str, Candidate] = {}
    events = last_events(counted)
    own = events.train_attention(items) if attention else None
    for number, (name, scorer) in enumerate(federated.items()):
        say(name, number)
        choice = choose(events, scorer, items=items, window=window, attention=own, caps=caps)
        if name == "federated":
            scorers["home"] = build_home(choice.home, counted, scorer, items, own, caps)
        chosen[name] = choice.chosen
        scorers[name] = scorer
        scorers[f"{name}_home"] = build_home(choice.chosen, counted, scorer, items, own, caps)
    return scorers, chosen["federated"]


def _half_width(values: NDArray[np.float64]) -> float:
    if len(values) < 2:
        return 0.0
    return float(NORMAL * values.std(ddof=1) / np.sqrt(len(values)))


def _difference(one: NDArray[np.float64], other: NDArray[np.float64]) -> Difference:
    differences = one - other
    return Difference(float(differences.mean()), _half_width(differences), paired_p(one, other))
