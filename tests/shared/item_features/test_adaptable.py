"""An encoder's last blocks in a catalogue: kept whole, fingerprinted, and refused where unfit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from shared.data.adaptable_text import AdaptableText
from shared.data.catalogue import Catalogue
from shared.errors import DataError
from shared.item_features.adaptable import adaptable_text
from shared.item_features.encoder import Pooling, TextEncoder, encoded_features
from shared.item_features.encoder_source import find_encoder
from tests.tiny_encoder import save_encoder, text_catalogue


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoders") / "tiny")


@pytest.mark.parametrize("pooling", list(Pooling))
@pytest.mark.parametrize("words", [False, True])
def test_features_are_the_vectors_times_the_projection(
    folder: Path, pooling: Pooling, words: bool
) -> None:
    """Of two items, the difference of features follows from that of vectors (and of words)."""
    plain = text_catalogue().without_features()
    encoder = TextEncoder(find_encoder(str(folder)), pooling=pooling)
    text = adaptable_text(plain, encoder, 30, blocks=1, words=words)
    assert text.width == 32
    assert text.lengths[-1] == 0
    assert text.vectors[-1].count_nonzero() == 0
    features = encoded_features(plain, encoder, 30, words=words)
    described = features[:-1] - features[0]
    by_vectors = (text.vectors[:-1] - text.vectors[0]) @ text.projection
    if words:  # the rest is of words, which adapters leave alone
        assert 0.1 < float((by_vectors - described).norm() / described.norm()) < 1
    else:
        assert float((by_vectors - described).norm() / described.norm()) < 0.05


def test_a_catalogue_keeps_it_and_its_fingerprint_covers_it(tmp_path: Path) -> None:
    catalogue = text_catalogue()
    text = catalogue.text
    assert text is not None
    catalogue.save(tmp_path)
    loaded = Catalogue.load(tmp_path)
    assert loaded.fingerprint == catalogue.fingerprint
    assert loaded.text is not None
    assert loaded.text.digest() == text.digest()
    assert catalogue.features is not None
    without = catalogue.with_features(catalogue.features)
    changed: list[AdaptableText] = [
        replace(text, tokens=text.tokens + 1),
        replace(text, projection=2 * text.projection),
        replace(text, weights=text.weights[::-1]),
        replace(text, epsilon=1e-3),
    ]
    others = {replace(catalogue, text=one).fingerprint for one in changed}
    assert len({*others, without.fingerprint, catalogue.fingerprint}) == len(changed) + 2
    changed[0].save(tmp_path / "text.safetensors", "")
    with pytest.raises(DataError, match=r"not those of items\.parquet"):
        Catalogue.load(tmp_path)
    (tmp_path / "text.safetensors").write_bytes((tmp_path / "features.safetensors").read_bytes())
    with pytest.raises(DataError, match="cannot be read or do not fit"):
        Catalogue.load(tmp_path)
    without.save(tmp_path)
    assert Catalogue.load(tmp_path).text is None


def test_parts_that_do_not_fit_each_other_are_refused() -> None:
    text = text_catalogue().text
    assert text is not None
    for changes in ({"heads": 3}, {"tokens": text.tokens[1:]}, {"weights": ()}, {"pooling": "max"}):
        with pytest.raises(ValueError, match="do not fit each other"):
            replace(text, **changes)
    with pytest.raises(ValueError, match="of other items or features"):
        replace(text_catalogue(), features=None)


def rolled(layer: torch.nn.Module) -> None:
    """Has a layer put its numbers out in another order."""
    layer.register_forward_hook(lambda *call: call[2].roll(1, -1))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda model: setattr(model.config, "model_type", "distilbert"), "type is 'distilbert'"),
        (lambda model: setattr(model.config, "hidden_act", "relu"), "activation is 'relu'"),
        (lambda model: setattr(model.config, "num_hidden_layers", 0), "has 0 blocks.* from 0 to 0"),
        (lambda model: rolled(model.encoder.layer[-1].output), "that are .* from its own"),
    ],
    ids=["type", "activation", "blocks", "vectors"],
)
def test_an_encoder_that_is_computed_otherwise_is_refused(
    folder: Path, change: Callable[[Any], None], problem: str
) -> None:
    encoder = TextEncoder(find_encoder(str(folder)))
    change(encoder.model)
    with pytest.raises(DataError, match=problem):
        adaptable_text(text_catalogue().without_features(), encoder, 4, blocks=1)


def test_a_long_text_is_cut(folder: Path) -> None:
    plain = text_catalogue().without_features()
    long = replace(plain, titles=("alien dawn " * 30, *plain.titles[1:]))
    text = adaptable_text(long, TextEncoder(find_encoder(str(folder))), 4, blocks=2)
    assert text.longest == 22  # what this encoder reads
    assert torch.isfinite(text.tokens).all()
