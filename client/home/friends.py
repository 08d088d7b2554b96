"""What a user's friends chose, as a part of the home model's score; never sent.

With s(j) the home model's probability of item j after the user's own history, N(i) the friends of
user i, h the users' states in the federated model less their mean, and w the weights of the table,

    b_ik = w_ik exp(β cos(h_i, h_k)) / Σ over l in N(i) of w_il exp(β cos(h_i, h_l)),
    a_kj = 1 / (distinct items of k) where k chose j, else 0,
    score of j for i = α s(j) + (1 - α) Σ over k in N(i) of b_ik a_kj.

It is the attention over friends of "Session-based Social Recommendation via Dynamic Graph Attention
Networks" (Song et al., WSDM 2019, arXiv:1902.09362), with cosines in place of a learned map, and
a gate α that is learned: α and β are chosen on held-out events, from short lists that are the same
for everybody, and from what a published model of the kind "social" has learned. All friends count,
however many. One friend's items add up to b_ik, however many.

Whoever has no friend in the table, or is not named, is scored as without friends.

It is exact: what a user is shown depends on the friends' histories. Whoever has one friend may see
that friend's items.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.home.adapt import CUTOFF, MOST, MOST_NUMBERS, TRAINING, HeldOutEvents, standard_error
from client.home.friends_part import FriendsPart, add_friends
from client.home.home_model import HomeModel
from shared.data.friends import FriendTable
from shared.data.histories import Histories, offsets_of
from shared.evaluation.paired import ndcg_gains
from shared.evaluation.ranking import Ranking, ranks, top_items
from shared.models.attention import AttentionRecommender
from shared.models.social import SocialRecommender

__all__ = [
    "ALPHAS",
    "BETAS",
    "Friends",
    "FriendsChoice",
    "States",
    "attend",
    "blend_friends",
    "choose_friends",
    "fit_friends",
    "published_numbers",
    "rank_with_friends",
    "user_states",
]

ALPHAS, BETAS = (0.95, 0.9, 0.8, 0.6), (0.0, 4.0, 16.0)
"""What α and β may be."""
DEFAULT = 0.9, 4.0
"""Where nothing else is measurably better."""
_ALPHA, _BETA = (0.01, 0.99), (-64.0, 64.0)
"""Within which numbers of a published model are tried."""
_BATCH = 64

States = Callable[[Tensor], Tensor]
"""Maps int64 [B, T], right-padded with 0, to states [B, D]."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Friends:
    """Whose friend is who, and what their states are.

    Attributes:
        table: the friends.
        states: of the published model, int64 [B, T] -> [B, D].
        window: events that it reads.
        published: α and β that it has learned; None where it has none.
    """

    table: FriendTable
    states: States
    window: int
    published: tuple[float, float] | None = None

    @classmethod
    def of(cls, table: FriendTable, model: AttentionRecommender) -> Friends:
        """Return the friends of a table, with states and numbers of the published model."""

        def states(rows: Tensor) -> Tensor:
            return model.last_states(rows.to(model.device))

        return cls(table, states, model.config.max_length, published_numbers(model))


@dataclass(frozen=True, slots=True)
class FriendsChoice:
    """What is best with friends, and what it and the home model without reached.

    Attributes:
        alpha: None where friends are not measurably better.
        beta: None likewise.
        ndcg: NDCG@10 with the best α and β, chosen or not; None where too few users have events to
            choose by.
        ndcg_without: NDCG@10 of the home model without friends; None likewise.
        users: who have a friend.
    """

    alpha: float | None
    beta: float | None
    ndcg: float | None
    ndcg_without: float | None
    users: int

    def describe(self) -> str:
        """Return it in words."""
        if self.alpha is None:
            return "friends take no part: with them, lists are not measurably better"
        return (
            f"friends' items with a weight of {1 - self.alpha:.2g} (attention β = {self.beta:.3g})"
        )


@torch.no_grad()
def user_states(states: States, table: FriendTable, histories: Histories, window: int) -> Tensor:
    """Return unit states of the table's users, less the mean of all, float64 [U, D].

    Args:
        states: of the federated model.
        table: whose users.
        histories: of all users of the table, and perhaps of others.
        window: events that the model reads.
    """
    place = {user: row for row, user in enumerate(histories.users)}
    rows = np.array([place[user] for user in table.users], np.int64)
    parts = [
        states(histories.padded(some, window)).double().cpu()
        for some in np.split(rows, range(_BATCH, len(rows), _BATCH))
        if len(some)
    ]
    found = torch.cat(parts) if parts else torch.zeros(0, 1, dtype=torch.float64)
    return torch.nn.functional.normalize(found - found.mean(0), dim=1)


def attend(table: FriendTable, states: Tensor, beta: float) -> NDArray[np.float32]:
    """Return b of every edge of a table, float32 [E]; each user's add up to 1.

    Args:
        table: the friends.
        states: of `user_states`.
        beta: how much more friends with like states count; 0 for the table's weights alone.
    """
    rows = np.repeat(np.arange(len(table.users)), table.degrees)
    one, other = torch.from_numpy(rows), torch.from_numpy(table.friends)
    cosines = torch.cat(
        [
            (states[some] * states[friend]).sum(1)
            for some, friend in zip(one.split(2**16), other.split(2**16), strict=True)
        ]
    ).numpy()
    logits = np.log(table.weights.astype(np.float64)) + beta * cosines
    most = np.full(len(table.users), -np.inf)
    np.maximum.at(most, rows, logits)
    scaled = np.exp(logits - most[rows])
    return np.asarray(scaled / np.bincount(rows, scaled)[rows], np.float32)


def blend_friends(
    histories: Histories, table: FriendTable, states: Tensor, alpha: float, beta: float
) -> FriendsPart:
    """Return the friends' part for these numbers.

    Args:
        histories: what friends chose; all users of the table.
        table: the friends.
        states: of `user_states`.
        alpha: weight of the score without friends.
        beta: of `attend`.
    """
    place = {user: row for row, user in enumerate(histories.users)}
    own = [np.unique(histories[place[user]]) for user in table.users]
    items = np.concatenate([np.zeros(0, np.int64), *own])
    offsets = offsets_of(np.array([len(one) for one in own], np.int64))
    kept = Histories(table.users, items, offsets)
    return FriendsPart(table, attend(table, states, beta), kept, alpha, beta)


def published_numbers(model: AttentionRecommender) -> tuple[float, float] | None:
    """Return α and β that a published model of the kind "social" has learned; None for others."""
    if not isinstance(model, SocialRecommender):
        return None
    alpha, beta = float(np.clip(model.alpha, *_ALPHA)), float(np.clip(model.beta, *_BETA))
    return (alpha, beta) if math.isfinite(alpha + beta) else None


def choose_friends(
    events: HeldOutEvents,
    home: HomeModel,
    table: FriendTable,
    states: Tensor,
    window: int,
    published: tuple[float, float] | None = None,
) -> FriendsChoice:
    """Choose α and β by held-out events, or neither where friends are not measurably better.

    It begins with the default or with published numbers, whichever are better. As in
    `client.home.adapt`, another number must be better by more than a standard error; and so must
    the best one than no friends.

    Args:
        events: the organisation's; friends' items are those that are counted.
        home: counts the same.
        table: the friends; all its users are among those of the events.
        states: of `user_states`, of what is counted.
        window: events that the home model reads.
        published: α and β of the published model; None where it has none.
    """
    users = int((table.degrees > 0).sum())
    if not events.enough:
        return FriendsChoice(None, None, None, None, users)
    measured = _Measured(events, home, window)
    without = measured.gains(None)

    def gains(alpha: float, beta: float) -> Floats:
        return measured.gains(blend_friends(events.counted, table, states, alpha, beta))

    best, reached = DEFAULT, gains(*DEFAULT)
    if published is not None and (found := gains(*published)).mean() > reached.mean():
        best, reached = published, found
    for others in ([(best[0], beta) for beta in BETAS], ALPHAS):
        first, place = reached, best
        for other in others:
            tried = other if isinstance(other, tuple) else (other, best[1])
            found = gains(*tried) if tried != place else first
            if found.mean() > reached.mean() and measured.is_better(found, first):
                reached, best = found, tried
    chosen = measured.is_better(reached, without)
    return FriendsChoice(
        alpha=best[0] if chosen else None,
        beta=best[1] if chosen else None,
        ndcg=float(reached.mean()),
        ndcg_without=float(without.mean()),
        users=users,
    )


def fit_friends(
    events: HeldOutEvents,
    homes: tuple[HomeModel, HomeModel],
    histories: Histories,
    friends: Friends,
) -> tuple[HomeModel, FriendsChoice]:
    """Return a home model with friends, where they are measurably better, and what was chosen.

    Args:
        events: the organisation's held-out ones.
        homes: without friends: one that counts what they count, and one that counts all.
        histories: all of them.
        friends: of the users.
    """
    table, window = friends.table, friends.window
    reach = max(window, homes[0].transitions.memory.events)
    counted = user_states(friends.states, table, events.counted, window)
    choice = choose_friends(events, homes[0], table, counted, reach, friends.published)
    if choice.alpha is None or choice.beta is None:
        return homes[1], choice
    whole = user_states(friends.states, table, histories, window)
    part = blend_friends(histories, table, whole, choice.alpha, choice.beta)
    return replace(homes[1], friends=part), choice


@torch.no_grad()
def rank_with_friends(
    home: HomeModel, inputs: Histories, targets: NDArray[np.int64], window: int, k: int
) -> Ranking:
    """Rank each user's target by the home model with the user's friends.

    Args:
        home: with friends.
        inputs: N histories, each without its target, under their users' names.
        targets: int64 [N], each in 1..V.
        window: events that the home model reads.
        k: the cut-off, in 1..V.
    """
    items, places, lists = home.transitions.counts.shape[1], [], []
    for rows in np.split(np.arange(len(inputs)), range(_BATCH, len(inputs), _BATCH)):
        longest = max(1, int(inputs.lengths[rows].max()))
        scores = home(inputs.padded(rows, min(window, longest))).float().cpu()
        scores /= scores.sum(1, keepdim=True)
        if home.friends is not None:
            scores = add_friends(scores, [inputs.users[row] for row in rows], home.friends)
        given = torch.from_numpy(targets[rows]), inputs.padded(rows, longest)
        places.append(ranks(scores, *given))
        lists.append(top_items(scores, given[1], k, given[0]))
    return Ranking(ranks=torch.cat(places), top=torch.cat(lists), items=items, k=k)


class _Measured:
    """The home model's scores of held-out events, to which friends are added.

    Args:
        events: the organisation's.
        home: scores them.
        window: events that it reads.
    """

    def __init__(self, events: HeldOutEvents, home: HomeModel, window: int) -> None:
        items = home.transitions.counts.shape[1]
        most = max(1, min(MOST, MOST_NUMBERS // items, len(events.targets)))
        self._events = events
        self._rows = np.linspace(0, len(events.targets) - 1, most).astype(np.int64)
        longest = max(1, int(events.inputs.lengths[self._rows].max(initial=0)))
        self._seen = events.inputs.padded(self._rows, longest)
        scores = [
            home(events.inputs.padded(some, min(window, longest))).float().cpu()
            for some in np.split(self._rows, range(_BATCH, len(self._rows), _BATCH))
        ]
        self._scores = torch.cat(scores)
        self._scores /= self._scores.sum(1, keepdim=True)

    def is_better(self, one: Floats, other: Floats) -> bool:
        """Return whether a mean is measurably higher than another."""
        error = standard_error(one - other, self._events.users[self._rows])
        return bool((one - other).mean() > TRAINING * error)

    def gains(self, friends: FriendsPart | None) -> Floats:
        """Return each event's part of NDCG@10."""
        users = [self._events.inputs.users[row] for row in self._rows]
        scores = self._scores if friends is None else add_friends(self._scores, users, friends)
        targets = torch.from_numpy(self._events.targets[self._rows])
        return ndcg_gains(ranks(scores, targets, self._seen).numpy(), CUTOFF)
