"""The table of kinds: every kind is built, sized, saved and loaded by it, and by nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from shared.config import ModelConfig, ModelKind, Trained
from shared.data.catalogue import Catalogue
from shared.models.attention import trainable
from shared.models.frozen import fingerprint
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
