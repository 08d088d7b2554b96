"""The kind "lstm": its formula, its start, its memory, and what each user adds to a sum."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from client.compute.steps import LocalPlan
from client.compute.trainer import train
from shared.config import ItemRepresentation, ModelConfig, ModelKind, Trained
from shared.data.histories import Histories
from shared.errors import ConfigError
from shared.models.attention import AttentionRecommender, trainable
from shared.models.lstm import LARGEST_ENERGY, LstmRecommender, additive_energies
from shared.models.registry import build_recommender
from shared.privacy.clipping.clipping import PerUserClipping
from shared.privacy.noise import SeededRandom
from tests.conftest import DESCRIBED, ITEMS, some_catalogue

LSTM = replace(DESCRIBED, kind=ModelKind.LSTM, trained=Trained.ALL, recurrent_size=6)
EVENTS = torch.zeros(4, 6, dtype=torch.int64)
for _row, _history in enumerate([[3, 5, 1, 9, 2, 4], [7, 7, 2], [1, 2], [6]]):
    EVENTS[_row, : len(_history)] = torch.tensor(_history)
IDS: dict[str, Any] = {"items": ItemRepresentation.IDS, "hidden_size": 8}


def lstm(model: ModelConfig = LSTM, *, drawn: bool = True) -> LstmRecommender:
    """A model in evaluation mode whose trained weights are random, or as it starts."""
    torch.manual_seed(1)
    made = build_recommender(model, some_catalogue())
    assert isinstance(made, LstmRecommender)
    if drawn:
        for weight in trainable(made).values():
            torch.nn.init.normal_(weight, std=0.3)
    return made.eval()


def attended(model: LstmRecommender, history: Tensor, item: int) -> tuple[Tensor, Tensor]:
    """α of one item after one history without padding, [T], and z·W_o h, by the formula."""
    states = model.states(history[None])[0]
    outputs, vector = states[:, model.config.hidden_size :], model.item_vectors()[item - 1]
    energies = [
        model.attend_out.weight[:, 0]
        @ torch.tanh(
            model.attend_item.weight.view(model.config.attention_size, -1) @ vector
            + model.attend_past(output)
        )
        for output in outputs
    ]
    age = torch.arange(len(outputs) - 1, -1, -1)
    weights = (torch.stack(energies) + age * torch.tensor(model.config.recency).log()).softmax(0)
    return weights, (weights[:, None] * outputs).sum(0) @ (model.lstm_out.weight.T @ vector)


@pytest.mark.parametrize("shape", [{}, IDS, IDS | {"items": ItemRepresentation.BOTH}], ids=str)
def test_scores_are_those_of_the_formula(shape: dict[str, Any]) -> None:
    model, history = lstm(replace(LSTM, **shape)), EVENTS[0, :5]
    scores, states = model(history[None])[0], model.states(history[None])
    base = AttentionRecommender.score(model, states[..., : model.config.hidden_size])[0]
    for length in (1, 3, 5):
        for item in (2, ITEMS):
            weights, product = attended(model, history[:length], item)
            found = scores[length - 1, item - 1]
            assert_close(found, base[length - 1, item - 1] + product)
            alpha = model.item_attention(history[None, :length], torch.tensor([item]))
            assert_close(alpha[0, 0], weights)
    chosen = torch.tensor([[4, 4, 11]])
    assert_close(model.score(states, chosen)[0], scores[:, chosen[0] - 1])


def test_the_last_scores_are_those_of_the_whole_pass_whatever_the_padding() -> None:
    model, windows = lstm(), EVENTS[:, :5]
    lengths = (windows != 0).sum(1)
    last = model(windows)[torch.arange(4), lengths - 1]
    assert_close(model.next_item_scores(windows), last)
    assert_close(model.next_item_scores(windows[1:2, :3]), last[1:2])
    longer = torch.cat([torch.tensor([[8, 8]]), windows[:1]], 1)  # the window is 5
    assert_close(model.next_item_scores(longer), last[:1])
    weights = model.item_attention(windows, torch.tensor([1, 7]))
    assert_close(weights.sum(2), torch.ones(4, 2))
    assert weights[1, :, 3:].count_nonzero() == 0
    mean = model.item_attention(windows, torch.arange(1, ITEMS + 1)).mean(1)
    assert_close(model.last_attention(windows), mean)


def test_it_begins_as_the_warm_start() -> None:
    """With the same first weights it scores as the kind "attention" does: it cannot harm."""
    even = replace(DESCRIBED, trained=Trained.SCORES)
    model, base = lstm(drawn=False), build_recommender(even, some_catalogue()).eval()
    with torch.no_grad():
        for name, weight in trainable(base).items():
            weight.normal_(std=0.2)
            trainable(model)[name].copy_(weight)
    rows = torch.cat([EVENTS[:, :5], torch.zeros(1, 5, dtype=torch.int64)])  # one is empty
    assert_close(model(rows), base(rows))
    assert_close(model.next_item_scores(rows), base.next_item_scores(rows))
    loss = model.losses(EVENTS, EVENTS[:, :0]).sum()
    loss.backward()
    assert model.lstm_out.weight.grad is not None
    assert model.lstm_out.weight.grad.norm() > 0  # and it can leave the start


def test_energies_are_exact_bounded_and_differentiable() -> None:
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64).requires_grad_()

    parts = normal(2, 3, 4), normal(2, 4, 5), normal(2, 4)
    sums = (parts[0][:, :, None] + parts[1].mT[:, None]).tanh() @ parts[2][:, None, :, None]
    assert_close(additive_energies(*parts), sums[..., 0])
    assert torch.autograd.gradcheck(additive_energies, parts)
    huge = additive_energies(parts[0] * 1e30, parts[1], parts[2] * 1e30)
    assert huge.abs().max() <= LARGEST_ENERGY


def test_no_number_is_kept_for_each_event_item_and_unit() -> None:
    model, kept = lstm(replace(LSTM, max_length=4)), list[int]()

    def keep(value: Tensor) -> Tensor:
        kept.append(value.numel())
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        model.train()(EVENTS[:, :4])
    units = model.config.attention_size
    assert max(kept) <= len(EVENTS) * max(4, units) * ITEMS


@pytest.mark.parametrize("shape", [{}, IDS, IDS | {"items": ItemRepresentation.BOTH}], ids=str)
@pytest.mark.parametrize(("users", "candidates"), [(4, 0), (4, 3), (3, 0)])
def test_clipped_sums_are_those_of_single_users(
    shape: dict[str, Any], users: int, candidates: int
) -> None:
    """Norms and sums against a loop over users by plain autograd, to 1e-5; also where B = T."""
    model = lstm(replace(LSTM, **shape)).double().train()
    events, chosen = EVENTS[:users, : users + 1], EVENTS[:users, :candidates].clamp(min=1)
    weights = list(trainable(model).values())
    own = [
        torch.cat([part.flatten() for part in torch.autograd.grad(loss, weights)])
        for loss in (model.losses(events, chosen)[row] for row in range(users))
    ]
    norms = torch.stack(own).norm(dim=1)
    clip = float(norms.median())
    expected = sum(part * min(1.0, clip / max(float(part.norm()), 1e-12)) for part in own)
    with PerUserClipping(model, clip) as clipping:
        clipping.zero_sums()
        found = clipping.backward(model.losses(events, chosen))
        sums = torch.cat([clipping.sum_of(weight).flatten() for weight in weights])
    assert_close(found, norms, rtol=1e-5, atol=1e-9)
    assert isinstance(expected, Tensor)
    assert float((sums - expected).norm() / expected.norm()) < 1e-5


def test_a_noised_step_moves_every_weight() -> None:
    model = lstm()
    plan = LocalPlan(population=9, noise_multiplier=1.0)
    histories = Histories.from_lists([[1, 2, 3], [4, 5], [6, 7, 8, 9]])
    change = train(model, histories, plan, SeededRandom(0))
    assert all(value.count_nonzero() for value in change.values())
    assert {"gates_back.weight", "attend_item.weight", "feature_out.weight"} <= set(change)


def test_its_own_weights_must_be_trained() -> None:
    with pytest.raises(
        ConfigError, match=r"model\.trained = 'attention' with model\.kind = 'lstm'"
    ):
        ModelConfig(kind=ModelKind.LSTM)
