"""The recommender behind the interface of transformers: the same files, the same numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from shared.config import ModelKind, Trained
from shared.errors import DataError
from shared.models.attention import AttentionRecommender, build
from shared.models.losses import loss_per_user
from shared.models.pretrained import PreTrainedRecommender
from shared.models.registry import KINDS, Examples, build_recommender, examples_of
from tests.conftest import DESCRIBED, some_catalogue
from tests.tiny_encoder import WIDTH, text_catalogue

EVENTS = torch.tensor([[3, 5, 1, 0], [2, 2, 7, 9]])
NEXT = torch.tensor([[5, 1, 0, 0], [2, 7, 9, 4]])


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder as a run publishes it."""
    torch.manual_seed(0)
    model = build(replace(DESCRIBED, own_items=(2, 5)), some_catalogue())
    torch.nn.init.normal_(model.feature_out.weight)
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_transformers_reads_a_published_folder_and_writes_one(saved: Path, tmp_path: Path) -> None:
    own, model = AttentionRecommender.from_pretrained(saved), AutoModel.from_pretrained(str(saved))
    assert isinstance(model, PreTrainedRecommender)
    assert not model.training
    output = model(EVENTS, labels=NEXT)
    assert torch.equal(output.logits, own(EVENTS))
    assert torch.equal(output.loss, loss_per_user(own(EVENTS), NEXT).mean())
    model.save_pretrained(tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for kind in KINDS
        if examples_of(kind) is Examples.HISTORIES and kind is not ModelKind.ATTENTION
    ],
)
def test_so_it_does_for_other_kinds(kind: ModelKind, tmp_path: Path) -> None:
    shape = replace(DESCRIBED, kind=kind, trained=Trained.ALL, recurrent_size=4, query_size=2)
    shape = replace(shape, text_width=WIDTH, text_blocks=2)
    own = build_recommender(shape, text_catalogue()).eval()
    own.save_pretrained(tmp_path)
    assert torch.equal(AutoModel.from_pretrained(str(tmp_path))(EVENTS).logits, own(EVENTS))


def test_a_shape_alone_makes_an_untrained_model(saved: Path) -> None:
    config = AutoModel.from_pretrained(str(saved)).config
    assert config.shape == AttentionRecommender.from_pretrained(saved).config
    assert PreTrainedRecommender(config)(EVENTS).logits.shape == (2, 4, config.items)


def test_a_folder_that_lacks_weights_is_refused(saved: Path) -> None:
    (saved / "config.json").write_text(
        (saved / "config.json").read_text().replace('"layers": 1', '"layers": 2')
    )
    with pytest.raises(DataError, match=r"blocks\.1"):
        AutoModel.from_pretrained(str(saved))
