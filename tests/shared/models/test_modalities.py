"""The kind "modalities": its formula, its start, what items lack, and what each user adds."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from client.compute.steps import LocalPlan
from client.compute.trainer import check_model, gradient_points, train
from client.serving.item_vectors import ItemVectors
from shared.config import ItemRepresentation, ModelConfig, ModelKind, Trained, Trust
from shared.data.catalogue import Catalogue
from shared.data.feature_blocks import FeatureBlock
from shared.data.histories import Histories
from shared.errors import ConfigError
from shared.models.attention import trainable
from shared.models.gates import GATES, GATES_SCALE, LARGEST_GATE, gate_shares
from shared.models.modalities import ModalitiesRecommender
from shared.models.registry import build_recommender
from shared.privacy.clipping.clipping import PerUserClipping
from shared.privacy.noise import SeededRandom
from tests.conftest import DESCRIBED, ITEMS, some_catalogue

BLOCKS = (2, 3, 2)
SIZE = sum(BLOCKS)
OWN: dict[str, Any] = {"own_items": (2, 7)}
ALL: dict[str, Any] = OWN | {"trained": Trained.ALL, "dropout": 0.1}
BOTH: dict[str, Any] = ALL | {"items": ItemRepresentation.BOTH, "hidden_size": 8}
MODEL = replace(DESCRIBED, kind=ModelKind.MODALITIES, feature_size=SIZE)
EVENTS = torch.tensor([[3, 5, 1, 9, 2], [7, 7, 2, 0, 0], [1, 2, 0, 0, 0], [6, 0, 0, 0, 0]])
CANDIDATES = torch.tensor([[4, 4, 8], [1, 2, 3], [9, 20, 9], [7, 7, 7]])
NONE = EVENTS[:, :0]


def some_items() -> Catalogue:
    """Items of three modalities: some lack one, some two, and item 20 all."""
    table = torch.randn(ITEMS, SIZE, generator=torch.Generator().manual_seed(4))
    table[::3, :2] = 0
    table[4:9, 2:5] = 0
    table[19] = 0
    names = ("text", "image", "relations")
    blocks = [FeatureBlock(name=n, size=s) for n, s in zip(names, BLOCKS, strict=True)]
    return some_catalogue().with_features(table, blocks=blocks)


def made(model: ModelConfig = MODEL, *, drawn: bool = True) -> ModalitiesRecommender:
    """A model in evaluation mode whose trained weights are random, or as it starts."""
    torch.manual_seed(1)
    built = build_recommender(model, some_items())
    assert isinstance(built, ModalitiesRecommender)
    if drawn:
        for weight in trainable(built).values():
            torch.nn.init.normal_(weight, std=0.3)
        torch.nn.init.normal_(built.gates.weight, std=1 / GATES_SCALE)
    return built.eval()


def fused_by_hand(model: ModalitiesRecommender) -> Tensor:
    """Item by item, block by block."""
    gates = (GATES_SCALE * model.gates.weight.detach()[: len(BLOCKS), 0]).exp()
    fused = []
    for row in model.features.table:
        *parts, own = row.split([*BLOCKS, len(row) - SIZE])
        held = [place for place, part in enumerate(parts) if part.any()]
        shares = len(held) * gates / gates[held].sum() if held else gates
        fused.append(
            torch.cat([*(share * part for share, part in zip(shares, parts, strict=True)), own])
        )
    return torch.stack(fused)


@pytest.mark.parametrize("shape", [{}, OWN], ids=str)
def test_what_blocks_add_makes_up_a_score(shape: dict[str, Any]) -> None:
    """Scores without offsets, above their mean; of item 20, which has no features, too."""
    model, items = made(replace(MODEL, **shape)), torch.tensor([2, 5, 20])
    offset = model.item_scores.offset
    assert offset is not None
    with torch.no_grad():
        offset.zero_()
        scores = model.next_item_scores(EVENTS)
        parts = model.block_scores(EVENTS, items)
    assert parts.shape[:2] == (len(EVENTS), len(items))
    assert_close(parts.sum(2), scores[:, items - 1] - scores.mean(1, keepdim=True))
    assert bool(parts[..., -1].any()) == bool(shape)


@pytest.mark.parametrize("shape", [{}, OWN, ALL, BOTH], ids=str)
def test_it_is_the_recommender_over_items_that_are_fused_by_hand(shape: dict[str, Any]) -> None:
    model = made(replace(MODEL, **shape))
    fused = fused_by_hand(model)
    assert not torch.equal(fused, model.features.table)
    assert_close(model.item_table(), fused)
    plain = build_recommender(
        replace(MODEL, **shape | {"kind": ModelKind.ATTENTION}), some_items()
    ).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    plain.features.table.copy_(fused)
    assert_close(model(EVENTS), plain(EVENTS))
    assert_close(model.next_item_scores(EVENTS), plain.next_item_scores(EVENTS))
    assert_close(model.losses(EVENTS, CANDIDATES), plain.losses(EVENTS, CANDIDATES))
    assert model.ranks_by_products  # and these are the products that are served
    vectors = ItemVectors(model)
    served = torch.stack([row.clone() for row in vectors.scores(vectors.queries(EVENTS))])
    assert_close(served, model.next_item_scores(EVENTS))


@pytest.mark.parametrize("shape", [OWN, ALL, BOTH], ids=str)
def test_it_begins_as_attention_and_can_leave_the_start(shape: dict[str, Any]) -> None:
    model = made(replace(MODEL, **shape), drawn=False)
    torch.manual_seed(1)
    base = build_recommender(
        replace(MODEL, **shape | {"kind": ModelKind.ATTENTION}), some_items()
    ).eval()
    with torch.no_grad():
        for name, weight in trainable(base).items():
            weight.normal_(std=0.2)
            trainable(model)[name].copy_(weight)
    assert_close(model(EVENTS), base(EVENTS), rtol=1e-6, atol=1e-6)
    assert torch.equal(model.item_table(), base.item_table())
    model.losses(EVENTS, NONE).sum().backward()
    gradient = model.gates.weight.grad
    assert gradient is not None
    assert gradient[: len(BLOCKS)].all()
    assert not gradient[len(BLOCKS) :].any()


def test_an_item_of_one_modality_is_not_moved_by_gates() -> None:
    model = made()
    alone = (model.present.sum(0) == 1).nonzero()[:, 0]
    assert alone.tolist() == [6]
    assert_close(model.item_table()[alone], model.features.table[alone])
    assert not model.item_table()[19].any()
    with torch.no_grad():
        model.gates.weight.fill_(torch.finfo().max)
    assert_close(model.item_table(), model.features.table)  # all as large as they may be


@pytest.mark.parametrize("shape", [OWN, ALL, BOTH], ids=str)
@pytest.mark.parametrize("candidates", [NONE, CANDIDATES], ids=["all", "drawn"])
def test_clipped_sums_are_those_of_single_users(shape: dict[str, Any], candidates: Tensor) -> None:
    """Norms and sums against a loop over users by plain autograd, to 1e-5; here B = T."""
    model = made(replace(MODEL, **shape | {"dropout": 0.0})).double().train()
    weights = list(trainable(model).values())
    own = [
        torch.cat(
            [part.flatten() for part in torch.autograd.grad(loss, weights, materialize_grads=True)]
        )
        for loss in (model.losses(EVENTS, candidates)[row] for row in range(len(EVENTS)))
    ]
    norms = torch.stack(own).norm(dim=1)
    clip = float(norms.median())
    expected = torch.stack([part * min(1.0, clip / max(float(part.norm()), 1e-12)) for part in own])
    with PerUserClipping(model, clip) as clipping:
        clipping.zero_sums()
        found = clipping.backward(model.losses(EVENTS, candidates))
        sums = torch.cat([clipping.sum_of(weight).flatten() for weight in weights])
    assert_close(found, norms, rtol=1e-5, atol=1e-9)
    assert float((sums - expected.sum(0)).norm() / expected.sum(0).norm()) < 1e-5


def test_a_noised_step_moves_gates_and_the_same_sum_is_masked() -> None:
    histories = Histories.from_lists([[1, 2, 3], [4, 5], [6, 7, 8, 9]])
    plan = LocalPlan(population=9, noise_multiplier=1.0)
    check_model(made(drawn=False), plan)
    change = train(made(drawn=False), histories, plan, SeededRandom(0))
    assert change["gates.weight"].all()
    quiet = replace(plan, noise_multiplier=1e-3, trust=Trust.SECURE_AGGREGATION)
    points = gradient_points(made(drawn=False), histories, quiet, SeededRandom(0))
    assert len(points) == sum(value.numel() for value in change.values())


def test_a_plans_steps_do_not_throw_gates_past_what_is_best() -> None:
    rate, model = 0.5, made(drawn=False)
    torch.nn.init.normal_(model.feature_out.weight, std=0.3)
    generator = torch.Generator().manual_seed(0)
    events = torch.randint(1, ITEMS + 1, (64, EVENTS.shape[1]), generator=generator)
    weights, losses = list(trainable(model).values()), list[float]()
    place = list(trainable(model)).index(GATES)
    for _ in range(5):
        losses.append(0.0)
        clipped = torch.zeros_like(model.gates.weight)
        for user in events.split(1):
            loss = model.losses(user, user[:, :0]).sum()
            gradients = torch.autograd.grad(loss, weights, allow_unused=True)
            own = gradients[place]
            assert own is not None
            norm = torch.cat([one.flatten() for one in gradients if one is not None]).norm()
            clipped += own / norm.clamp(min=1) / len(events)
            losses[-1] += float(loss.detach()) / len(events)
        with torch.no_grad():
            model.gates.weight -= rate * clipped
    assert losses[1] < 0.95 * losses[0]
    assert all(after < before * 1.01 for before, after in pairwise(losses))


def test_shares_of_gates_are_those_of_an_item_that_has_all() -> None:
    model = made()
    weights = model.gates.weight.detach()[: len(BLOCKS), 0]
    shares = gate_shares(weights.tolist())
    assert sum(shares) == pytest.approx(1)
    complete = model.present[: len(BLOCKS)].all(0).nonzero()[0, 0]
    factors = (model.item_table() / model.features.table)[complete]
    firsts = [int(columns.nonzero()[0, 0]) for columns in model.columns[: len(BLOCKS)]]
    assert factors[firsts].tolist() == pytest.approx([3 * share for share in shares], rel=1e-4)
    assert gate_shares([1e30, 0.0])[0] == pytest.approx(1 / (1 + math.exp(-LARGEST_GATE)))


def test_features_are_needed() -> None:
    with pytest.raises(ConfigError, match=r"'modalities' weighs blocks .* choose 'features'"):
        replace(MODEL, items=ItemRepresentation.IDS, trained=Trained.ALL, hidden_size=8)
    assert made(replace(MODEL)).config.feature_size == SIZE
    with pytest.raises(ConfigError, match="catalogue has 7 features"):
        build_recommender(replace(MODEL, feature_size=4), some_items())
