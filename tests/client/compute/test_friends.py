"""Friends of a step: what is read of them, and how far a user who goes moves a sum."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from client.compute import noise_optimiser
from client.compute.batches import Shape
from client.compute.friends import FriendsBeside, friends_beside
from client.compute.trainer import train
from shared.data.friends import Edges, FriendTable, bounded, pair_hash, write_friends
from shared.data.histories import Histories
from shared.errors import DataError, SiteError
from shared.models.attention import trainable
from shared.models.social import SocialRecommender
from shared.privacy.clipping.linked import LINKED_SHARE
from shared.privacy.noise import SeededRandom
from simulations.benchmarks.hostile_search import ITEMS, LENGTH, PLAN, hostile_model

USERS = 9
NAMES = [f"u{number}" for number in range(USERS)]


def mutual(*pairs: tuple[int, int]) -> Edges:
    both = [*pairs, *((other, one) for one, other in pairs)]
    return {(f"u{one}", f"u{other}"): 1.0 + one + other for one, other in both}


STAR = mutual(*((0, other) for other in range(1, USERS)))
CLIQUE = mutual(*((one, other) for one in range(5) for other in range(one)))
RING = mutual(*((one, (one + 1) % USERS) for one in range(USERS)))
FOLLOWED: Edges = {
    (f"u{user}", f"u{one}"): 1.0 for user in range(1, USERS) for one in {0, user - 1}
}
"""All name user 0, and the one before them: a sample reads two, and one user is in eight."""
HUB = bounded(FriendTable.from_edges(STAR | CLIQUE | RING), 2).edges


def lists(seed: int) -> list[list[int]]:
    draw = np.random.default_rng(seed)
    few = (2, ITEMS)[seed % 2]
    return [draw.integers(1, few + 1, draw.integers(2, LENGTH + 3)).tolist() for _ in NAMES]


def hostile(seed: int, **shape: object) -> SocialRecommender:
    """A model with a coordinator's weights."""
    model = hostile_model(np.random.default_rng(seed), SocialRecommender, **shape)
    assert isinstance(model, SocialRecommender)
    return model


def clipped(
    model: SocialRecommender, users: Sequence[str], edges: Edges, seed: int
) -> list[Tensor]:
    """Sums over the weights of the core, and over those that friends enter, by the trainer."""
    own = dict(zip(NAMES, lists(seed), strict=True))
    histories = Histories.from_lists([own[name] for name in users], users=users)
    left = {pair: weight for pair, weight in edges.items() if set(pair) <= set(users)}
    beside = FriendsBeside.of_table(histories, FriendTable.from_edges(left), model.config.friends)
    sums: list[Tensor] = []

    def recorded(total: Tensor, *_: object) -> Tensor:
        sums.append(total.detach().double().flatten().clone())
        return torch.zeros_like(total)

    with patch.object(noise_optimiser, "noised", recorded):
        train(model, histories, PLAN, SeededRandom(3), beside=beside)
    named = dict(zip(trainable(model), sums, strict=True))
    linked = [named.pop(name) for name in model.linked_weights]
    return [torch.cat([*named.values()]), torch.cat(linked)]


@pytest.mark.parametrize("edges", [STAR, CLIQUE, RING, FOLLOWED, HUB])
def test_a_user_who_goes_with_all_edges_moves_the_sum_by_the_clip_norm(edges: Edges) -> None:
    most, furthest = int(FriendTable.from_edges(edges).entered.max()), 0.0
    own = PLAN.clip_norm * (1 - LINKED_SHARE**2) ** 0.5
    for seed in range(3):
        shape = {"item_representation": "features", "layers": 1, "heads": 1, "trained": "scores"}
        model = hostile(seed, friends=most, **shape)
        with torch.no_grad():
            model.friend_shares.weight.copy_(torch.tensor([[-0.05], [0.05 * seed]]))
        whole = clipped(model, NAMES, edges, seed)
        assert all(bool(part.isfinite().all()) for part in whole)
        for removed in NAMES:
            left = clipped(model, [name for name in NAMES if name != removed], edges, seed)
            core, linked = (one - other for one, other in zip(whole, left, strict=True))
            assert torch.cat([core, linked]).norm() <= PLAN.clip_norm
            assert core.norm() <= own
            furthest = max(furthest, float(linked.norm()))
    assert furthest > LINKED_SHARE / (2 * most + 1)  # friends do enter: it moves by more than one


def test_friends_change_nothing_of_what_the_core_is_trained_by() -> None:
    model = hostile(5, friends=4, trained="all")
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.01, generator=torch.Generator().manual_seed(weight.numel()))
    with_friends, without = (clipped(model, NAMES, edges, 0) for edges in (CLIQUE, {}))
    assert torch.equal(with_friends[0], without[0])
    assert not torch.equal(with_friends[1], without[1])
    assert not without[1].any()


def test_what_is_read_of_friends() -> None:
    histories = Histories.from_lists([[4, 5, 5, 6], [5, 7], [6, 6, 5], [1, 2]], users="abcd")
    edges = {("a", "b"): 2.0, ("a", "c"): 1.0, ("a", "gone"): 9.0, ("b", "a"): 2.0}
    beside = FriendsBeside.of_table(histories, FriendTable.from_edges(edges), 2)
    shape = Shape(rows=4, length=2, items=7, candidates=0, masked=0)
    own, weights, chosen = beside.of(np.array([0, 1, 3]), shape, b"", 0)
    assert {tuple(one) for one in own[0].tolist()} == {(5, 7), (6, 5)}
    assert weights[0].sum() == 3
    assert sorted(zip(weights[0].tolist(), own[0, :, 0].tolist(), strict=True)) == [(1, 6), (2, 5)]
    assert weights[1].tolist() == [2, 0]
    assert own[1].tolist() == [[5, 6], [0, 0]]
    # a read 5 and 6 next: b has 5 of two items, c has both of two; b read 7 next, a has it not.
    shares = dict(zip(weights[0].tolist(), chosen[0].T.tolist(), strict=True))
    assert shares == {2.0: [0.5, 0.0], 1.0: [0.5, 0.5]}
    assert not chosen[1:].any()
    assert not any(bool(part[2:].any()) for part in (own, weights, chosen))


def test_of_more_friends_than_are_read_a_hash_keeps_some() -> None:
    histories = Histories.from_lists([[1, 2]] * USERS, users=NAMES)
    beside = FriendsBeside.of_table(histories, FriendTable.from_edges(STAR), 3)
    first = sorted(NAMES[1:], key=lambda name: pair_hash("u0", name))[:3]
    read, _ = beside.read(np.arange(USERS))
    assert [NAMES[row] for row in read[0]] == first
    assert (read[1:] == [0, -1, -1]).all()


def test_a_request_for_many_friends_takes_no_memory_where_there_are_few() -> None:
    """Reading is not estimated, and before the charge: failing would tell how many users are."""
    histories, table = Histories.from_lists([[1, 2]] * USERS, NAMES), FriendTable.from_edges(STAR)
    few, many = (FriendsBeside.of_table(histories, table, most) for most in (8, 64))
    for name in ("offsets", "friends", "weights", "owned", "distinct"):
        assert np.array_equal(getattr(few, name), getattr(many, name))


def test_a_table_beyond_the_bound_is_refused_and_names_nobody(tmp_path: Path) -> None:
    file, histories = tmp_path / "friends.csv", Histories.from_lists([[1, 2]] * USERS, users=NAMES)
    write_friends(file, FriendTable.from_edges(STAR))
    with pytest.raises(DataError, match=r"more than data\.friends_most = 7 others") as refused:
        friends_beside(file, histories, bound=7, most=8)
    assert "u0" not in str(refused.value)
    assert friends_beside(file, histories, bound=8, most=9).most == 9
    # A row that cannot be read is left out: a failure would tell of its users.
    file.write_text(file.read_text() + "u1,u1,,\nu2,nobody,,\nu2,u3,,near\n")
    read, _ = friends_beside(file, histories, bound=8, most=8).read(np.array([2]))
    assert (read >= 0).sum() == 1
    with pytest.raises(SiteError, match="is not there"):
        friends_beside(tmp_path / "gone.csv", histories, bound=8, most=8)
