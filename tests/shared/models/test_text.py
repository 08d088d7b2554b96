"""The kind "text": its formula, its start, its table, and what each user adds to a sum."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from client.compute.steps import LocalPlan
from client.compute.trainer import check_model, gradient_points, train
from shared.config import ItemRepresentation, ModelConfig, ModelKind, Trained, Trust
from shared.data.histories import Histories
from shared.errors import ConfigError
from shared.item_features.encoder import TextEncoder, item_texts
from shared.item_features.encoder_source import find_encoder
from shared.models.attention import AttentionRecommender, trainable
from shared.models.dropout import Dropout
from shared.models.registry import build_recommender, load_recommender
from shared.models.text import AdaptedFeatures, TextRecommender
from shared.models.text_blocks import ADAPTER_SCALE
from shared.privacy.clipping.clipping import PerUserClipping
from shared.privacy.noise import SeededRandom
from tests.conftest import ITEMS
from tests.tiny_encoder import WIDTH, save_encoder, text_catalogue

TEXT = ModelConfig(
    kind=ModelKind.TEXT, feature_size=4, max_length=5, text_width=WIDTH, text_blocks=2, lora_rank=2
)
EVENTS = torch.tensor([[3, 5, 1, 3, 2], [7, 7, 2, 0, 0], [1, 2, 0, 0, 0], [6, 0, 0, 0, 0]])
ALL: dict[str, Any] = {"trained": Trained.ALL}
ALL_ITEMS = torch.arange(1, ITEMS + 1)[None]
CANDIDATES = torch.tensor([[4, 9, 5], [1, 2, 7], [11, 11, 12], [20, 19, 18]])


def made(model: ModelConfig = TEXT, *, drawn: bool = True) -> TextRecommender:
    """A model in evaluation mode whose trained weights are random, or as it starts."""
    torch.manual_seed(1)
    built = build_recommender(model, text_catalogue())
    assert isinstance(built, TextRecommender)
    if drawn:
        for name, weight in trainable(built).items():
            torch.nn.init.normal_(weight, std=1.0 if ".blocks." in name else 0.3)
    return built.eval()


def test_features_are_those_of_the_encoder_itself_with_adapters_added_to_its_maps() -> None:
    """Against transformers: B A is added to the weights of query and value, and texts encoded."""
    model, text = made(), text_catalogue().text
    assert text is not None
    with TemporaryDirectory() as folder:
        encoder = TextEncoder(find_encoder(str(save_encoder(Path(folder) / "tiny"))))
    before = torch.from_numpy(encoder.vectors(item_texts(text_catalogue()))).float()
    blocks = model.features.blocks
    with torch.no_grad():
        for number, block in enumerate(encoder.model.encoder.layer[-2:]):
            for name in ("query", "value"):
                into, out = (
                    blocks.get_parameter(f"{name}_{side}.{number}.weight") for side in ("in", "out")
                )
                own = getattr(block.attention.self, name)
                own.weight += ADAPTER_SCALE * out @ into
    after = torch.from_numpy(encoder.vectors(item_texts(text_catalogue()))).float()
    expected = model.features.start + (after - before) @ text.projection
    assert float((expected - model.features.start).norm(dim=1).median()) > 0.3
    difference = model.features.table - expected
    assert float(difference.norm() / expected.norm()) < 0.01  # states are kept in float16
    assert not model.features.table[-1].isnan().any()  # an item without text
    assert torch.equal(model.features.table[-1], model.features.start[-1])


def test_it_begins_as_attention_and_leaves_that_start() -> None:
    base = build_recommender(replace(TEXT, kind=ModelKind.ATTENTION), text_catalogue()).eval()
    model = made(drawn=False)
    with torch.no_grad():
        for name, weight in trainable(base).items():
            weight.normal_(std=0.2)
            trainable(model)[name].copy_(weight)
    assert torch.equal(model.next_item_scores(EVENTS), base.next_item_scores(EVENTS))
    for drawn in (CANDIDATES, CANDIDATES[:, :0]):
        assert_close(model.losses(EVENTS, drawn), base.losses(EVENTS, drawn))
    model.losses(EVENTS, CANDIDATES).sum().backward()
    adapters = dict(model.features.blocks.named_parameters())
    assert {name for name, weight in adapters.items() if weight.requires_grad} == {
        f"{name}_out.{number}.weight" for name in ("query", "value") for number in range(2)
    }
    for weight in adapters.values():
        assert (weight.grad is not None and weight.grad.norm() > 0) == weight.requires_grad


def test_its_table_follows_the_adapters_and_is_what_is_saved(tmp_path: Path) -> None:
    model = made()
    first = model.features.table.clone()
    assert_close(model.features.moving(ALL_ITEMS)[0], first)
    with torch.no_grad():
        model.features.blocks.get_parameter("value_out.1.weight").add_(1)
    moved = model.next_item_scores(EVENTS)
    assert (model.features.table - first).norm() > 0.1
    model.save_pretrained(tmp_path)
    loaded = load_recommender(tmp_path)
    assert isinstance(loaded, TextRecommender)
    assert torch.equal(loaded.next_item_scores(EVENTS), moved)
    assert not any("tokens" in name or "block0" in name for name in loaded.state_dict())
    with pytest.raises(ConfigError, match="cannot be trained: build it anew"):
        loaded.losses(EVENTS, CANDIDATES)


def test_gradients_are_whole_with_candidates_and_in_expectation_without() -> None:
    """Against a pass in which the features of all items have gradients."""
    model = made().double()
    weights = list(trainable(model).values())

    def gradient(losses: Tensor) -> Tensor:
        parts = torch.autograd.grad(losses.sum(), weights)
        return torch.cat([part.flatten() for part in parts])

    def plain(events: Tensor, candidates: Tensor, own: Tensor) -> Tensor:
        whole = model.features.moving(ALL_ITEMS)[0]
        table = torch.where(own[:, None], whole, whole.detach())
        with patch.object(AdaptedFeatures, "table", table):
            return AttentionRecommender.losses(model, events, candidates)

    every = torch.ones(ITEMS, dtype=torch.bool)
    assert_close(
        gradient(model.losses(EVENTS, CANDIDATES)), gradient(plain(EVENTS, CANDIDATES, every))
    )
    for row in range(len(EVENTS) - 1):
        user, none = EVENTS[row : row + 1], CANDIDATES[:1, :0]
        own = torch.isin(torch.arange(1, ITEMS + 1), user)
        of_own = gradient(plain(user, none, own))  # where nothing is drawn
        assert_close(gradient(model.losses(user, none)), of_own)
        model.train()
        drawn = [gradient(model.losses(user, none)) for _ in range(300)]
        model.eval()
        whole, error = gradient(plain(user, none, every)), torch.stack(drawn).std(0) / 300**0.5
        difference = torch.stack(drawn).mean(0) - whole
        assert float((difference.abs() <= 4 * error + 1e-9).double().mean()) > 0.98
        assert difference.norm() < 0.5 * (of_own - whole).norm()


@pytest.mark.parametrize("shape", [{}, ALL, ALL | {"items": ItemRepresentation.BOTH}], ids=str)
@pytest.mark.parametrize("drawn", [0, 3])
def test_clipped_sums_are_those_of_single_users(shape: dict[str, Any], drawn: int) -> None:
    """Norms and sums against a loop over users by plain autograd, to 1e-5."""
    model = made(replace(TEXT, **shape)).double().train()
    weights = list(trainable(model).values())
    numbers = torch.randint(0, 2**16, (4, model.config.mask_numbers())).int()

    def losses(rows: slice = slice(None)) -> Tensor:
        Dropout.give(model, numbers[rows])
        return model.losses(EVENTS[rows], CANDIDATES[rows, :drawn])

    own = [
        torch.cat(
            [part.flatten() for part in torch.autograd.grad(loss, weights, materialize_grads=True)]
        )
        for loss in (losses(slice(row, row + 1)).sum() for row in range(4))
    ]
    norms = torch.stack(own).norm(dim=1)
    clip = float(norms.median())
    expected = torch.stack([g * min(1.0, clip / max(float(g.norm()), 1e-12)) for g in own]).sum(0)
    with PerUserClipping(model, clip) as clipping:
        clipping.zero_sums()
        found = clipping.backward(losses())
        sums = torch.cat([clipping.sum_of(weight).flatten() for weight in weights])
    assert_close(found, norms, rtol=1e-5, atol=1e-9)
    assert float((sums - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.parametrize("drawn", [0, 3])
def test_a_noised_step_moves_every_weight_and_the_same_sum_is_masked(drawn: int) -> None:
    histories = Histories.from_lists([[1, 2, 3], [4, 5], [6, 7, 8, 9]])
    plan = LocalPlan(population=9, noise_multiplier=1.0, candidates=drawn)
    model = made(drawn=False)
    check_model(model, plan)
    change = train(model, histories, plan, SeededRandom(0))
    assert all(value.count_nonzero() for value in change.values())
    assert sum(name.startswith("features.blocks") for name in change) == 4
    masked = replace(plan, trust=Trust.SECURE_AGGREGATION)
    points = gradient_points(made(drawn=False), histories, masked, SeededRandom(0))
    assert len(points) == sum(value.numel() for value in change.values())


def test_what_does_not_fit_the_catalogue_is_refused() -> None:
    plain = replace(text_catalogue(), text=None)
    with pytest.raises(ConfigError, match="no encoder's last blocks: make it with sotto-lab items"):
        build_recommender(TEXT, plain)
    with pytest.raises(ConfigError, match=r"text_width = 8, but .* is 32: set model.text_width"):
        build_recommender(replace(TEXT, text_width=8), text_catalogue())
    with pytest.raises(ConfigError, match=r"text_blocks = 1, but .* is 2: set model.text_blocks"):
        build_recommender(replace(TEXT, text_blocks=1), text_catalogue())
    with pytest.raises(ConfigError, match=r"model.items = 'ids' with model.kind = 'text'"):
        replace(TEXT, items=ItemRepresentation.IDS, trained=Trained.ALL, hidden_size=8)
