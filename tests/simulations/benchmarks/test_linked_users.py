"""How far one user, removed with all edges, moves a sum in which users are linked."""

from __future__ import annotations

import numpy as np
import pytest

from shared.data.friends import FriendTable
from simulations.benchmarks.linked_users import (
    CLIP,
    Edges,
    LinkedSamples,
    clipped_sum,
    kept_within,
    learn,
    picked,
    refuse_above,
    restricted,
)

USERS = 14


def mutual(*pairs: tuple[int, int]) -> Edges:
    both = [*pairs, *((other, one) for one, other in pairs)]
    return {(f"u{one}", f"u{other}"): 1.0 for one, other in both}


STAR = mutual(*((0, other) for other in range(1, USERS)))
CLIQUE = mutual(*((one, other) for one in range(6) for other in range(one)))
RING = mutual(*((one, (one + 1) % USERS) for one in range(USERS)))
HUB = STAR | mutual(*((one, other) for one in range(1, USERS) for other in range(1, one)))
"""Everybody befriends user 0, and has other friends, too."""
FOLLOWED: Edges = {(f"u{user}", "u0"): 1.0 for user in range(1, USERS)}


def samples(edges: Edges, seed: int) -> LinkedSamples:
    """What a user and a pair have is drawn by name: it does not depend on who else is there."""
    table = FriendTable.from_edges(edges)
    names = [(user, table.users[friend]) for user, friend in _pairs(table)]
    hostile = 10.0 ** -np.arange(3)  # chances of very unlike sizes: gradients are long or short

    def drawn(*of: str) -> np.random.Generator:
        return np.random.default_rng([seed, *"/".join(of).encode()])

    own = np.array([drawn(user).choice(hostile) for user in table.users])
    shares = np.array([drawn("a", *pair).choice([0.0, 1.0, 1e-3]) for pair in names])
    cosines = np.array([drawn("c", *sorted(pair)).uniform(-1, 1) for pair in names])
    return LinkedSamples(table, own, shares, cosines)


def _pairs(table: FriendTable) -> list[tuple[str, int]]:
    rows = np.repeat(np.arange(len(table.users)), table.degrees)
    return [
        (table.users[row], int(friend)) for row, friend in zip(rows, table.friends, strict=True)
    ]


def moves(edges: Edges, seed: int, logit: float, beta: float) -> list[float]:
    """How far each user moves the sum, in clip norms of one sample."""

    def total(of: Edges) -> np.ndarray:
        return clipped_sum(samples(of, seed).gradients(logit, beta), CLIP) if of else np.zeros(2)

    users = {name for edge in edges for name in edge}
    whole = total(edges)
    return [float(np.linalg.norm(whole - total(restricted(edges, v)))) / CLIP for v in users]


@pytest.mark.parametrize("edges", [STAR, CLIQUE, RING, HUB, FOLLOWED, kept_within(HUB, 3)])
def test_a_user_moves_the_sum_by_2k_plus_1_clip_norms_at_most(edges: Edges) -> None:
    table = FriendTable.from_edges(edges)
    most = int(np.bincount(table.friends, minlength=len(table.users)).max())
    refuse_above(table, most)
    with pytest.raises(ValueError, match="somebody"):
        refuse_above(table, most - 1)
    reached = [
        max(moves(edges, seed, logit, beta))
        for seed in range(8)
        for logit, beta in ((0.0, 0.0), (-3.0, 40.0), (3.0, -40.0))
    ]
    assert max(reached) <= 2 * most + 1 + 1e-9


def test_k_plus_1_clip_norms_would_not_be_enough() -> None:
    """A sample that changes moves by two clip norms, not by one."""
    edges: Edges = {("u1", "u0"): 1.0, ("u1", "u2"): 0.001}
    edges |= {("u3", "u0"): 1.0, ("u3", "u2"): 0.001}

    def gradients(of: Edges) -> np.ndarray:
        table = FriendTable.from_edges(of)
        chosen = np.array(
            [1.0 if table.users[friend] == "u0" else 0.0 for _, friend in _pairs(table)]
        )
        own = np.full(len(table.users), 0.01)
        return LinkedSamples(table, own, chosen, np.zeros(len(chosen))).gradients(0.0, 0.0)

    norm = 0.1
    gap = clipped_sum(gradients(edges), norm) - clipped_sum(
        gradients(restricted(edges, "u0")), norm
    )
    assert np.linalg.norm(gap) > 3.9 * norm  # K = 2: within 2 K + 1 = 5, and beyond K + 1 = 3


def test_picking_k_of_all_friends_bounds_nothing() -> None:
    """Removed, the hub changes nearly everybody's pick; a bound of the data changes K samples."""
    most = 3
    whole, without = picked(HUB, most), picked(restricted(HUB, "u0"), most)

    def readers(of: Edges) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for user, friend in of:
            found.setdefault(user, set()).add(friend)
        return found

    one, other = readers(whole), readers(without)
    changed = [user for user in one if user != "u0" and one[user] != other.get(user, set())]
    assert len(changed) > most
    bounded = kept_within(HUB, most)
    one, other = readers(bounded), readers(restricted(bounded, "u0"))
    assert sum(one[user] != other.get(user, set()) for user in one if user != "u0") <= most


def test_gradients_are_those_of_the_loss() -> None:
    own = samples(RING, seed=3)

    def losses(logit: float, beta: float) -> np.ndarray:
        alpha, rows = 1 / (1 + np.exp(-logit)), np.repeat(np.arange(USERS), own.table.degrees)
        scaled = np.exp(beta * own.cosines)
        chosen = np.bincount(rows, scaled * own.shares) / np.bincount(rows, scaled)
        return -np.log(alpha * own.own + (1 - alpha) * chosen)

    step, found = 1e-6, own.gradients(0.3, 4.0)
    of_logit = (losses(0.3 + step, 4.0) - losses(0.3 - step, 4.0)) / (2 * step)
    of_beta = 8.0 * (losses(0.3, 4.0 + step) - losses(0.3, 4.0 - step)) / (2 * step)
    np.testing.assert_allclose(found, np.stack([of_logit, of_beta], 1), rtol=1e-5, atol=1e-7)


def test_learning_follows_friends_where_they_tell_and_noise_hides_it() -> None:
    table = FriendTable.from_edges(RING)
    one = np.full(len(table.friends), 0.5)
    telling = LinkedSamples(table, np.full(USERS, 0.01), one, np.zeros(len(one)))
    alpha, _ = learn(telling, 2, None, seed=0)
    assert alpha < 0.2
    assert learn(telling, 2, 0.01, seed=0) != (alpha, _)
    with pytest.raises(ValueError, match="more than 1"):
        learn(telling, 1, None, seed=0)
