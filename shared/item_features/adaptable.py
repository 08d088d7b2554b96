"""An encoder's last blocks as a catalogue holds them, for the kind "text" to adapt.

| the encoder                                             | what happens                     |
|---------------------------------------------------------|----------------------------------|
| is BERT, RoBERTa, XLM-RoBERTa, CamemBERT or ELECTRA     | its last blocks are taken        |
| is of another type, or has another activation than GELU | refused                          |
| has fewer blocks                                        | refused                          |
| gives other vectors than its last blocks as taken       | refused: texts that are whole    |
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from shared.data.adaptable_text import BLOCK_WEIGHTS, MOST_TOKENS, AdaptableText
from shared.data.catalogue import Catalogue
from shared.errors import DataError
from shared.item_features.encoder import TextEncoder, item_texts, text_parts
from shared.item_features.whitening import whitening_map
from shared.models.text_blocks import original_vectors

__all__ = ["adaptable_text"]

_FAMILY = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
_DIFFERENCE = 0.02
"""Of vectors of length 1, above which blocks are not the encoder's; float16 makes about 0.002."""


def adaptable_text(
    catalogue: Catalogue,
    encoder: TextEncoder,
    size: int,
    *,
    blocks: int,
    tokens: int = MOST_TOKENS,
    words: bool = False,
    batch_size: int = 64,
) -> AdaptableText:
    """Return what adapts the features that `encoded_features` makes with the same arguments.

    Args:
        catalogue: the public item list, V items.
        encoder: of the BERT family.
        size: number of features F, >= 1.
        blocks: how many of the encoder's last blocks, >= 1.
        tokens: of a text that are kept at most, up to `MOST_TOKENS`.
        words: whether features have words beside the encoder's vectors.
        batch_size: number of items encoded together, >= 1.

    Raises:
        DataError: see the table at the top of this module.
    """
    _check_type(encoder, blocks)
    texts = item_texts(catalogue)
    states = encoder.states_before(texts, blocks, most_tokens=tokens, batch_size=batch_size)
    vectors = encoder.vectors(texts, batch_size=batch_size)
    parts = text_parts(catalogue, vectors, size, words=words)
    config = encoder.model.config
    text = AdaptableText(
        tokens=torch.cat(states).half(),
        lengths=torch.tensor([len(own) for own in states]),
        vectors=torch.zeros(len(texts), vectors.shape[1]),
        projection=_projection(vectors, parts, size),
        weights=tuple(_weights(block) for block in encoder.model.encoder.layer[-blocks:]),
        heads=int(config.num_attention_heads),
        epsilon=float(config.layer_norm_eps),
        pooling=str(encoder.pooling),
    )
    own = original_vectors(text)
    _check_vectors(encoder, own, torch.from_numpy(vectors).float(), text.lengths < tokens)
    return replace(text, vectors=own)


def _projection(vectors: NDArray[np.float64], parts: NDArray[np.float64], size: int) -> Tensor:
    """Return how a change of an item's vector changes its features, float32 [D, size]."""
    described = vectors[vectors.any(1)]
    strength = np.linalg.norm(described - described.mean(0)) if len(described) else 0.0
    _, scaled = whitening_map(parts)  # [D + ..., R]
    projection = np.zeros((vectors.shape[1], size), np.float32)
    if strength > 0 and parts[:, : vectors.shape[1]].any():
        own = scaled[: vectors.shape[1], :size] / strength
        projection[:, : own.shape[1]] = own
    return torch.from_numpy(projection)


def _weights(block: Any) -> dict[str, Tensor]:  # noqa: ANN401 transformers' own type
    own = block.state_dict()
    return {
        name: own[name].detach().float().cpu().clone()
        for layer in BLOCK_WEIGHTS
        for name in (f"{layer}.weight", f"{layer}.bias")
    }


def _check_type(encoder: TextEncoder, blocks: int) -> None:
    config = encoder.model.config
    if config.model_type not in _FAMILY:
        problem = f"its type is '{config.model_type}', whose blocks cannot be adapted"
        raise _unfit(encoder, problem, f"Give one of {', '.join(_FAMILY)}, or leave --adaptable.")
    if config.hidden_act != "gelu":
        problem = f"its activation is '{config.hidden_act}', and blocks are computed with 'gelu'"
        raise _unfit(encoder, problem, "Give another encoder, or leave --adaptable.")
    if blocks > config.num_hidden_layers:
        problem = f"it has {config.num_hidden_layers} blocks, of which {blocks} cannot be adapted"
        raise _unfit(encoder, problem, f"Choose --adaptable from 0 to {config.num_hidden_layers}.")


def _check_vectors(encoder: TextEncoder, own: Tensor, vectors: Tensor, whole: Tensor) -> None:
    difference = F.pairwise_distance(own[whole], vectors[whole]).amax() if whole.any() else 0.0
    if not float(difference) <= _DIFFERENCE:
        problem = f"its last blocks give vectors that are {float(difference):.3g} from its own"
        raise _unfit(encoder, problem, "Give another encoder, or leave --adaptable.")


def _unfit(encoder: TextEncoder, problem: str, remedy: str) -> DataError:
    return DataError(problem, file=encoder.files.folder, field="encoder", remedy=remedy)
