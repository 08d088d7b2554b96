"""The part of friends in the home model, against its definition; and when it is taken."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from client.home.adapt import last_events
from client.home.friends import (
    Friends,
    attend,
    blend_friends,
    choose_friends,
    fit_friends,
    published_numbers,
    user_states,
)
from client.home.friends_part import FriendsPart, add_friends
from client.home.home_model import FixedPrior, HomeModel, Memory, TransitionCounts
from client.home.store import load_home, save_home
from shared.config import ModelConfig, ModelKind
from shared.data.friends import FriendTable
from shared.data.histories import Histories
from shared.models import attention, social

ITEMS = 12
EDGES = {("0", "1"): 1.0, ("0", "2"): 3.0, ("1", "0"): 1.0, ("3", "0"): 0.5, ("3", "4"): 0.5}


def states(rows: Tensor) -> Tensor:
    return torch.stack([torch.cos(rows.sum(1) * (1 + place)) for place in range(3)], 1)


def histories(users: int = 5, seed: int = 0, length: int = 6) -> Histories:
    draw = np.random.default_rng(seed)
    return Histories.from_lists(draw.integers(1, ITEMS + 1, (users, length)).tolist())


def home(own: Histories, strength: float = 4.0) -> HomeModel:
    shares = torch.arange(1.0, ITEMS + 1) / sum(range(ITEMS + 1))
    return HomeModel(TransitionCounts.of(own, ITEMS, Memory(3, 0.5)), FixedPrior(shares), strength)


def part(own: Histories, alpha: float = 0.8, beta: float = 2.0) -> FriendsPart:
    table = FriendTable.from_edges(EDGES)
    return blend_friends(own, table, user_states(states, table, own, 50), alpha, beta)


def expected(own: Histories, user: int, score: Tensor, alpha: float, beta: float) -> list[float]:
    """The formula at the top of the module, edge by edge."""
    known = [0, 1, 2, 3, 4]
    raw = torch.stack([states(torch.from_numpy(own[row])[None])[0].double() for row in known])
    raw = raw - raw.mean(0)
    weight = {
        int(friend): own_weight
        * math.exp(beta * float(torch.cosine_similarity(raw[user], raw[int(friend)], dim=0)))
        for (one, friend), own_weight in EDGES.items()
        if one == str(user)
    }
    total = sum(weight.values())
    result = [alpha * float(value) for value in score]
    for friend, one in weight.items():
        chosen = set(own[friend].tolist())
        for item in chosen:
            result[item - 1] += (1 - alpha) * one / total / len(chosen)
    return result


@pytest.mark.parametrize("strength", [4.0, math.inf])
def test_scores_are_those_of_the_formula(strength: float) -> None:
    own = histories()
    model = replace(home(own, strength), friends=part(own))
    assert model.friends is not None
    rows = own.padded(np.arange(5), 6)
    scores = model(rows)
    scores = scores / scores.sum(1, keepdim=True)
    blended = add_friends(scores, own.users, model.friends)
    for user in (0, 1, 3):
        wanted = torch.tensor(expected(own, user, scores[user], 0.8, 2.0))
        torch.testing.assert_close(blended[user], wanted, rtol=1e-5, atol=1e-7)
        after = model.after(own[user], str(user))
        found = after.prior * FixedPriorOf(model)(rows[user : user + 1])[0].float()
        found[after.columns] += torch.from_numpy(after.values)
        torch.testing.assert_close(found / after.total, wanted, rtol=1e-5, atol=1e-7)
        assert after.total == pytest.approx(1, rel=1e-6)
    # User 2 is a friend and has none; nobody is named; a name is not known.
    assert torch.equal(blended[2], scores[2])
    for nobody in ("2", "", "x"):
        without, same = model.after(own[2], nobody), replace(model, friends=None).after(own[2])
        assert without.values.tolist() == same.values.tolist()


def FixedPriorOf(model: HomeModel) -> FixedPrior:
    assert isinstance(model.prior, FixedPrior)
    return model.prior


def test_attention_of_each_user_adds_up_to_one_and_follows_weights_and_states() -> None:
    own, table = histories(), FriendTable.from_edges(EDGES)
    unit = user_states(states, table, own, 50)
    plain = attend(table, unit, 0.0)
    assert plain.tolist() == pytest.approx([0.25, 0.75, 1, 0.5, 0.5])
    sharp = attend(table, unit, 1000.0)
    nearer = int((unit[[1, 2]] @ unit[0]).argmax())
    assert sharp[:2].tolist() == pytest.approx([1 - nearer, nearer])


def tastes(users: int, alike: bool) -> tuple[Histories, FriendTable]:
    """Pairs of friends: who has chosen all of the other one's items but one, or has not."""
    draw, lists = np.random.default_rng(1), []
    for _ in range(users // 2):
        one = draw.permutation(ITEMS)[:5] + 1
        other = one if alike else draw.permutation(ITEMS)[:5] + 1
        lists += [draw.permutation(one).tolist(), draw.permutation(other).tolist()]
    pairs = [(str(user), str(user ^ 1)) for user in range(users)]
    return Histories.from_lists(lists), FriendTable.from_edges(dict.fromkeys(pairs, 1.0))


@pytest.mark.parametrize("alike", [True, False])
def test_friends_take_part_where_they_tell_what_comes_next(alike: bool) -> None:
    own, table = tastes(120, alike)
    events = last_events(own)
    homes = home(events.counted), home(own)
    fitted, choice = fit_friends(events, homes, own, Friends(table, states, 50))
    assert (fitted.friends is not None) == alike
    assert (choice.alpha is not None) == alike
    assert choice.ndcg is not None
    assert choice.ndcg_without is not None
    assert choice.users == 120
    if alike:
        assert choice.ndcg > 1.3 * choice.ndcg_without
        assert fitted.friends is not None
        assert list(fitted.friends.items[0]) == sorted(own[0])  # all events, held-out ones too


def test_few_users_choose_nothing() -> None:
    own, table = tastes(6, alike=True)
    events = last_events(own)
    homes = home(events.counted), home(own)
    fitted, choice = fit_friends(events, homes, own, Friends(table, states, 50))
    assert fitted.friends is None
    assert (choice.alpha, choice.ndcg, choice.users) == (None, None, 6)


def test_a_stored_home_model_knows_the_friends(tmp_path: Path) -> None:
    own, file = histories(), tmp_path / "home.safetensors"
    model = replace(home(own), friends=part(own))
    save_home(file, model, "c")
    loaded = load_home(file, states, "c")
    assert loaded.friends is not None
    assert (loaded.friends.alpha, loaded.friends.beta) == (0.8, 2.0)
    for user in own.users:
        before, after = model.after(own[0], user), loaded.after(own[0], user)
        assert after.columns.tolist() == before.columns.tolist()
        assert after.values.tolist() == before.values.tolist()


def test_published_numbers_are_tried_beside_the_default() -> None:
    model = social.bare(ModelConfig(kind=ModelKind.SOCIAL, feature_size=4), ITEMS)
    assert published_numbers(model) == pytest.approx((0.8808, 4.0), abs=1e-4)
    with torch.no_grad():
        model.friend_shares.weight.fill_(1e4)  # of a coordinator's choice
    assert published_numbers(model) == (0.99, 64.0)
    assert published_numbers(attention.bare(ModelConfig(feature_size=4), ITEMS)) is None
    # Friends have a user's next item: the less the own part weighs, the better.
    lists = [[1 + user % 3, 4 + user % 7, 5 + user % 7] for user in range(60)]
    edges = {(str(user), str((user + 7) % 60)): 1.0 for user in range(60)}
    table, own = FriendTable.from_edges(edges), Histories.from_lists(lists)
    events = last_events(own)
    counted = user_states(states, table, events.counted, 50)
    found = [
        choose_friends(events, home(events.counted), table, counted, 50, numbers)
        for numbers in (None, (0.05, 0.0), (0.99, 0.0))
    ]
    ndcgs = [one.ndcg or 0.0 for one in found]
    assert ndcgs[1] >= ndcgs[0] == ndcgs[2]
