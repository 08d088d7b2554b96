"""An attention model of own data: it learns what there is to learn, and is the same every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

import client.home.local_attention
from client.home.adapt import Candidate, build_home, choose, last_events
from client.home.home_model import FixedPrior, Memory
from client.home.local_attention import LocalAttention, train_attention
from client.home.store import load_home, save_home
from shared.data.histories import Histories
from shared.errors import DataError
from shared.evaluation.ranking import rank_users
from shared.models.attention import AttentionRecommender
from tests.client.home.test_adapt import ITEMS, WINDOW, chains, knows_nothing, knows_the_chain

ROWS = torch.tensor([[1, 2, 3], [7, 0, 0], [0, 0, 0]])


@pytest.fixture(scope="module")
def histories() -> Histories:
    return chains(200, seed=1, length=8)


@pytest.fixture(scope="module")
def trained(histories: Histories) -> LocalAttention:
    model = last_events(histories).train_attention(ITEMS)
    assert model is not None
    return model


def test_it_learns_who_follows_whom(histories: Histories, trained: LocalAttention) -> None:
    events = last_events(histories)
    ranking = rank_users(trained, events.inputs, events.targets, items=ITEMS, window=WINDOW)
    assert trained.epochs > 0
    assert ranking.metrics().ndcg > 0.9


def test_the_same_events_give_the_same_model_and_the_generator_stays(
    histories: Histories, trained: LocalAttention
) -> None:
    state = torch.random.get_rng_state()
    again = last_events(histories).train_attention(ITEMS)
    assert again is not None
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(again(ROWS), trained(ROWS))


def test_training_stops_where_it_does_not_help(monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-out items that nothing leads to: after a few epochs the best one is taken."""
    monkeypatch.setattr(client.home.local_attention, "MOST_EPOCHS", 15)
    draw = np.random.default_rng(2)
    histories = Histories.from_lists(draw.integers(1, ITEMS + 1, (30, 6)).tolist())
    targets = draw.integers(1, ITEMS + 1, 30)
    model = train_attention(histories, histories, targets, ITEMS)
    assert model.epochs < 15


def test_the_work_is_bounded(histories: Histories, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = list[int]()
    step = client.home.local_attention._step

    def counted(model: AttentionRecommender, optimiser: Optimizer, batch: Tensor) -> int:
        steps.append(step(model, optimiser, batch))
        return steps[-1]

    monkeypatch.setattr(client.home.local_attention, "_step", counted)
    monkeypatch.setattr(client.home.local_attention, "MOST_SCORES", 1)
    last_events(histories).train_attention(ITEMS)
    assert len(steps) == 1


def test_it_takes_part_in_the_choice_of_home() -> None:
    histories = chains(60, seed=4, length=6)
    events = last_events(histories)
    knows = events.train_attention(ITEMS)
    assert knows is not None
    choice = choose(events, knows_nothing, items=ITEMS, window=WINDOW, attention=knows)
    alone = choose(events, knows_nothing, items=ITEMS, window=WINDOW)
    assert choice.ndcg_attention is not None
    assert alone.ndcg_attention is None
    assert choice.ndcg_home is not None
    assert alone.ndcg_home is not None
    assert choice.ndcg_home >= alone.ndcg_home
    home = build_home(choice.home, histories, knows_nothing, ITEMS, knows)
    assert isinstance(home.prior, FixedPrior) is not choice.home.attention


@pytest.mark.parametrize("federated", [False, True])
def test_a_stored_model_scores_as_before(
    tmp_path: Path, histories: Histories, trained: LocalAttention, federated: bool
) -> None:
    candidate = Candidate(federated, Memory(3, 0.5), 8.0, attention=True)
    home = build_home(candidate, histories, knows_the_chain, ITEMS, trained)
    file = tmp_path / "home.safetensors"
    save_home(file, home, "c")
    torch.testing.assert_close(load_home(file, knows_the_chain, "c")(ROWS), home(ROWS))
    with pytest.raises(DataError, match=r"home\.private"):
        load_home(file, knows_the_chain, "c", private=True)


def test_with_the_federated_model_it_is_their_geometric_mean(trained: LocalAttention) -> None:
    found = trained.prior_with(knows_the_chain)(ROWS)
    product = (trained.prior(ROWS) * torch.softmax(knows_the_chain(ROWS).double(), 1)).sqrt()
    torch.testing.assert_close(found, product / product.sum(1, keepdim=True), rtol=1e-4, atol=1e-9)


def test_too_few_users_train_nothing() -> None:
    assert last_events(chains(3, seed=5)).train_attention(ITEMS) is None
