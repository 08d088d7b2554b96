"""Removal of a user with all edges, by brute force: no sum moves by more than the clip norm."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from shared.errors import ClippingError
from shared.privacy.clipping.clipping import PerUserClipping
from shared.privacy.clipping.linked import LINKED_SHARE, parts_of

CLIP, USERS = 1.5, 7
Edges = set[tuple[int, int]]
"""(user, friend): the friend's numbers enter the user's loss."""


class Linked(nn.Module):
    """One weight that meets a user's own numbers, and one that meets the friends' sum."""

    linked_weights = frozenset({"shares.weight"})

    def __init__(self, most: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(friends=most)
        self.own, self.shares = nn.Linear(3, 2, bias=False), nn.Linear(2, 1, bias=False)
        for weight in self.parameters():
            nn.init.constant_(weight, 0.7)

    def losses(self, own: Tensor, friends: Tensor) -> Tensor:
        return self.own(own[:, None]).square().sum((1, 2)) + self.shares(friends[:, None])[:, 0, 0]


def sums(most: int, edges: Edges, values: Tensor, users: list[int]) -> tuple[Tensor, Tensor]:
    """The clipped sums of both weights over some users, whose friends are users that are there."""
    model = Linked(most)
    friends = torch.zeros(len(users), 2)
    for row, user in enumerate(users):
        for one, friend in edges:
            if one == user and friend in users:
                friends[row] += values[friend, :2]
    with PerUserClipping(model, CLIP) as clipping:
        clipping.zero_sums()
        clipping.backward(model.losses(values[users], friends))
        return clipping.sum_of(model.own.weight), clipping.sum_of(model.shares.weight)


GRAPHS: dict[str, tuple[int, Edges]] = {
    "star": (USERS - 1, {(user, 0) for user in range(1, USERS)}),
    "clique": (
        USERS - 1,
        {(one, other) for one in range(USERS) for other in range(USERS) if one != other},
    ),
    "ring": (1, {(user, (user + 1) % USERS) for user in range(USERS)}),
    "follows": (2, {(user, friend) for user in range(2, USERS) for friend in (0, 1) if user < 4}),
}


@pytest.mark.parametrize("graph", GRAPHS)
def test_removal_of_a_user_with_all_edges_moves_a_sum_by_the_clip_norm_at_most(graph: str) -> None:
    most, edges = GRAPHS[graph]
    draw = torch.Generator().manual_seed(0)
    for size in (0.01, 1.0, 1e6):
        values = size * torch.randn(USERS, 3, generator=draw)
        values[0] = -size  # a hub whose absence turns others' gradients round
        everybody = list(range(USERS))
        own, linked = sums(most, edges, values, everybody)
        for removed in everybody:
            left = [user for user in everybody if user != removed]
            own_left, linked_left = sums(most, edges, values, left)
            moved = torch.cat([(own - own_left).flatten(), (linked - linked_left).flatten()])
            assert moved.norm() <= CLIP
            assert (own - own_left).norm() <= CLIP * (1 - LINKED_SHARE**2) ** 0.5


def test_a_removal_moves_linked_weights_by_more_than_one_bound_a_neighbour() -> None:
    """So a bound of K + 1 would be wrong: a friend's absence turns a gradient round."""
    most = 3
    values = torch.zeros(5, 3)
    values[0, 0], values[1:, 0] = -1e3, 1.0
    edges = {(user, friend) for user in (1, 2, 3) for friend in (0, 4)}
    _, linked = sums(most, edges, values, [0, 1, 2, 3, 4])
    _, left = sums(most, edges, values, [1, 2, 3, 4])
    bound = CLIP * LINKED_SHARE / (2 * most + 1)
    assert (linked - left).norm() > 1.9 * most * bound


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_not_finite_of_friends_leaves_the_own_part(wrong: float) -> None:
    model, own = Linked(2), torch.ones(2, 3)
    with PerUserClipping(model, CLIP) as clipping:
        clipping.backward(model.losses(own, torch.zeros(2, 2)))
        expected = clipping.sum_of(model.own.weight)
        clipping.zero_sums()
        clipping.backward(model.losses(own, torch.full((2, 2), wrong)))
        assert torch.equal(clipping.sum_of(model.own.weight), expected)
        assert not clipping.sum_of(model.shares.weight).any()
    assert expected.any()


def test_a_linked_weight_that_is_not_trained_is_refused() -> None:
    model = Linked(2)
    model.shares.weight.requires_grad = False
    with pytest.raises(ClippingError, match="shares"):
        parts_of(model)
