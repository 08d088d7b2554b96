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
)
from client.home.home_model import (
    HomeModel,
    Memory,
    TransitionCounts,
    popularity_shares,
    same_for_all,
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
        same_for_all(popularity_shares(events.counted, ITEMS)),
        choice.home.strength,
    )
    ranking = rank_users(home, events.inputs, events.targets, items=ITEMS, window=WINDOW)
    assert choice.ndcg_home == pytest.approx(ranking.metrics().ndcg)
    alone = rank_users(knows_nothing, events.inputs, events.targets, items=ITEMS, window=WINDOW)
    assert choice.ndcg_federated == pytest.approx(alone.metrics().ndcg)


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
