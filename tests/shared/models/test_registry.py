"""The table of kinds: every kind is built, sized, saved and loaded by it, and by nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from client.serving.item_vectors import ItemVectors
from shared.config import ModelConfig, ModelKind, Trained
from shared.data.catalogue import Catalogue
from shared.models.attention import trainable
from shared.models.frozen import fingerprint
from shared.models.losses import loss_per_user
from shared.models.registry import (
    KINDS,
    Examples,
    bare,
    build_recommender,
    examples_of,
    frozen_fingerprint,
    load_recommender,
    shape_of_model,
)
from tests.conftest import DESCRIBED, ITEMS, some_catalogue
from tests.tiny_encoder import WIDTH, text_catalogue


def of_kind(kind: ModelKind) -> ModelConfig:
    """Settings of a kind; all but the first train every weight."""
    trained = Trained.SCORES if kind is ModelKind.ATTENTION else Trained.ALL
    return replace(DESCRIBED, kind=kind, trained=trained, text_width=WIDTH, text_blocks=2)


def items_of(kind: ModelKind) -> Catalogue:
    """As many items as a kind reads: of "text", with an encoder's last blocks."""
    return text_catalogue() if kind is ModelKind.TEXT else some_catalogue()


RECOMMENDERS = [kind for kind in ModelKind if examples_of(kind) is Examples.HISTORIES]


def test_every_kind_has_its_line_and_its_own_name_in_files() -> None:
    assert set(KINDS) == set(ModelKind)
    assert len({kind.model_type for kind in KINDS.values()}) == len(KINDS)


@pytest.mark.parametrize("kind", RECOMMENDERS)
def test_what_is_saved_is_loaded_as_the_same_kind(kind: ModelKind, tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = build_recommender(of_kind(kind), items_of(kind))
    for weight in trainable(made).values():
        torch.nn.init.normal_(weight, std=0.1)
    made.save_pretrained(tmp_path)
    assert (
        json.loads((tmp_path / "config.json").read_text())["model_type"] == KINDS[kind].model_type
    )
    loaded, events = load_recommender(tmp_path), torch.tensor([[3, 5, 1, 0]])
    assert type(loaded) is type(made)
    assert loaded.config == made.config
    assert torch.equal(loaded.next_item_scores(events), made.eval().next_item_scores(events))


@pytest.mark.parametrize("kind", RECOMMENDERS)
def test_sizes_and_frozen_weights_are_known_before_a_model_is_made(kind: ModelKind) -> None:
    model = of_kind(kind)
    made, shape = build_recommender(model, items_of(kind)), shape_of_model(model, ITEMS)
    with torch.device("meta"):
        shapes = {name: weight.shape for name, weight in trainable(bare(model, ITEMS)).items()}
    assert shapes == {name: weight.shape for name, weight in trainable(made).items()}
    assert fingerprint(made) == frozen_fingerprint(model)
    assert shape.weight_numbers() >= sum(weight.numel() for weight in trainable(made).values())
    assert shape.pass_numbers(0) > shape.ranking_numbers() > ITEMS


def test_a_folder_of_an_earlier_version_is_of_attention_and_others_are_refused(
    tmp_path: Path,
) -> None:
    build_recommender(DESCRIBED, some_catalogue()).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    about = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in about.items() if key != "model_type"}))
    assert load_recommender(tmp_path).config.items == ITEMS
    file.write_text(json.dumps(about | {"model_type": "sotto-nothing"}))
    with pytest.raises(ValueError, match="model_type is 'sotto-nothing', which this release"):
        load_recommender(tmp_path)


@pytest.mark.parametrize("kind", RECOMMENDERS)
def test_a_model_of_some_items_scores_them_as_the_whole_one_does(kind: ModelKind) -> None:
    torch.manual_seed(0)
    model = replace(of_kind(kind), own_items=(2, 4, 7, 15))
    whole = build_recommender(model, items_of(kind)).eval()
    for weight in trainable(whole).values():
        torch.nn.init.normal_(weight, std=0.1)
    rows = torch.arange(0, ITEMS, 3)  # items 1, 4, 7, ...
    part = whole.select_items(rows)
    assert (type(part), part.config.items) == (type(whole), len(rows))
    scores = whole.next_item_scores(torch.tensor([[4, 19, 7, 0], [1, 0, 0, 0]]))
    own = part.next_item_scores(torch.tensor([[2, 7, 3, 0], [1, 0, 0, 0]]))
    torch.testing.assert_close(own, scores[:, rows])
    if part.ranks_by_products:
        vectors = ItemVectors(part)
        queries = vectors.queries(torch.tensor([[2, 7, 3]]))
        torch.testing.assert_close(next(vectors.scores(queries)), own[0])
        some = np.array([0, 1, 2])
        np.testing.assert_allclose(vectors.at(queries[0], some), own[0, :3].detach(), rtol=1e-5)


@pytest.mark.parametrize("kind", RECOMMENDERS)
def test_a_restricted_model_learns_what_one_of_these_items_alone_would(kind: ModelKind) -> None:
    """The same losses, and no gradient to what other items have of their own."""
    torch.manual_seed(0)
    selected = np.arange(ITEMS) % 3 == 0
    model = build_recommender(of_kind(kind), replace(items_of(kind), selected=selected)).eval()
    for weight in trainable(model).values():
        torch.nn.init.normal_(weight, std=0.1)
    none = torch.zeros(2, 0, dtype=torch.int64)
    losses = model.losses(torch.tensor([[4, 19, 7], [1, 4, 0]]), none)
    scores = model(torch.tensor([[4, 19], [1, 4]]))[..., selected]  # items 1, 4, 7, ...
    own = loss_per_user(scores, torch.tensor([[7, 3], [2, 0]]))
    torch.testing.assert_close(losses, own)
    losses.sum().backward()
    offset = model.item_scores.offset
    assert offset is not None
    assert offset.grad is not None
    assert not offset.grad[~selected].any()
    assert offset.grad[selected].all()
