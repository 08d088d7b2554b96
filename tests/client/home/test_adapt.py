"""What is chosen, and on what."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from client.home.adapt import (
    DEFAULT,
    FEWEST,
    Candidate,
    choose,
    last_events,
    standard_error,
)
from client.home.home_model import (
    FixedPrior,
    HomeModel,
    Memory,
    TransitionCounts,
    popularity_shares,
)
from shared.data.histories import Histories
from shared.evaluation.ranking import Scorer, rank_users

ITEMS, WINDOW = 40, 12


def chains(users: int, seed: int, length: int = 3) -> Histories:
    """Users who step through the items in order, from somewhere."""
    draw = np.random.default_rng(seed)
    starts = draw.integers(0, ITEMS, users)
    return Histories.from_lists(
        [[1 + (start + place) % ITEMS for place in range(length)] for start in starts]
    )


def knows_the_chain(rows: Tensor, /) -> Tensor:
    last = rows.gather(1, ((rows > 0).sum(1, keepdim=True) - 1).clamp(min=0))[:, 0]
    return 20.0 * torch.nn.functional.one_hot(last % ITEMS, ITEMS)


def knows_nothing(rows: Tensor, /) -> Tensor:
    return torch.zeros(len(rows), ITEMS)


def test_the_last_event_of_each_user_is_held_out() -> None:
    events = last_events(Histories.from_lists([[3, 1, 2], [5], [], [4, 4]]))
    assert [list(history) for history in events.counted] == [[3, 1], [5], [], [4]]
    assert [list(history) for history in events.inputs] == [[3, 1], [4]]
    assert events.targets.tolist() == [2, 4]


@pytest.mark.parametrize(("federated", "joins"), [(knows_the_chain, True), (knows_nothing, False)])
def test_the_federated_model_is_taken_where_it_helps(federated: Scorer, joins: bool) -> None:
    """Few own users have seen few items: only who knows the chain can go on everywhere."""
    events = last_events(chains(FEWEST + 5, seed=1))
    choice = choose(events, federated, items=ITEMS, window=WINDOW)
    assert choice.chosen.federated is joins
    assert not choice.home.federated
    assert choice.users == FEWEST + 5
    assert choice.ndcg is not None
    assert choice.ndcg_home is not None
    assert choice.ndcg >= choice.ndcg_home


def test_the_figures_are_those_of_the_models_that_are_named() -> None:
    events = last_events(chains(60, seed=2))
    choice = choose(events, knows_nothing, items=ITEMS, window=WINDOW)
    home = HomeModel(
        TransitionCounts.of(events.counted, ITEMS, choice.home.memory),
        FixedPrior(popularity_shares(events.counted, ITEMS)),
        choice.home.strength,
    )
    ranking = rank_users(home, events.inputs, events.targets, items=ITEMS, window=WINDOW)
    assert choice.ndcg_home == pytest.approx(ranking.metrics().ndcg)
    alone = rank_users(knows_nothing, events.inputs, events.targets, items=ITEMS, window=WINDOW)
    assert choice.ndcg_federated == pytest.approx(alone.metrics().ndcg)


def test_few_users_hold_out_more_events_of_long_histories() -> None:
    """One in ten at most, four of a user at most, and none where there are users enough."""
    lists = [list(range(1, 1 + length)) for length in (60, 25, 9, 1)]
    events = last_events(Histories.from_lists(lists))
    held = [events.users.tolist().count(user) for user in range(4)]
    assert held == [4, 2, 1, 0]
    assert events.counted.lengths.tolist() == [56, 23, 8, 1]
    for before, target, user in zip(events.inputs, events.targets, events.users, strict=True):
        assert [*before, target] == lists[user][: len(before) + 1]
    assert sorted(events.targets[events.users == 0]) == [57, 58, 59, 60]
    apart = last_events(Histories.from_lists(lists), apart=1)
    assert [apart.users.tolist().count(user) for user in range(4)] == [3, 1, 0, 0]
    many = last_events(Histories.from_lists([lists[0]] * 600))
    assert len(many.targets) == 600


def test_what_is_better_by_luck_is_not_chosen() -> None:
    """Histories without any order: every candidate's mean is chance."""
    draw = np.random.default_rng(4)
    kept = 0
    for _ in range(12):
        lists = draw.integers(1, ITEMS + 1, (40, 8)).tolist()
        events = last_events(Histories.from_lists(lists))
        choice = choose(events, knows_nothing, items=ITEMS, window=WINDOW)
        kept += (choice.home.memory, choice.home.strength) == DEFAULT
    assert (
        kept >= 4
    )  # of nine candidates, the best mean alone would be the default's in one of nine


def test_the_standard_error_is_that_of_independent_users() -> None:
    """Repeated events of a user say nothing new."""
    draw = np.random.default_rng(5)
    values = draw.standard_normal(400)
    alone = standard_error(values, np.arange(400))
    assert alone == pytest.approx(1 / 20, rel=0.1)
    assert standard_error(np.repeat(values, 3), np.repeat(np.arange(400), 3)) == pytest.approx(
        alone
    )


def test_too_few_users_choose_nothing() -> None:
    events = last_events(chains(FEWEST - 1, seed=3))
    choice = choose(events, knows_the_chain, items=ITEMS, window=WINDOW)
    assert (choice.chosen.memory, choice.chosen.strength) == DEFAULT
    assert choice.chosen.federated
    assert choice.ndcg is None


def test_a_choice_is_described() -> None:
    words = Candidate(federated=True, memory=Memory(3, 0.5), strength=64.0).describe()
    assert "last 3 events" in words
    assert "worth 64 transitions" in words
    words = Candidate(federated=False, memory=Memory(3, 0.5), strength=math.inf).describe()
    assert words == "own popularity alone"
