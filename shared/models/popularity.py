"""The popularity that a recommender itself holds in its offsets, and scores without a part of it.

An item's probability before any event is softmax(offsets). It comes from noised sums alone, so what
is computed from it costs no ε. Letters: V items.

**Logit adjustment** (Menon et al. 2021, "Long-tail learning via logit adjustment",
arXiv:2007.07314, equation 10): train f by the cross-entropy of f + τ log π, π the prior of the
classes, and rank by f. Here f and what is trained, g = f + τ log π, differ in the offsets alone, by
a constant vector: training f by the adjusted loss and training g by the plain one are the same
steps, bit for bit, and only the offsets that are published differ. With π = softmax(offsets of g),

    offsets of f = offsets of g - τ log π = (1 - τ) offsets of g + a constant for all items.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from shared.models.attention import AttentionRecommender
from shared.models.item_scores import ItemScores

__all__ = ["adjust_logits", "popularity_ranks"]


def popularity_ranks(model: AttentionRecommender) -> NDArray[np.float64]:
    """Return where each item stands among all events, the most popular first: [V], in (0, 1).

    It is the share of all events, by the model's own popularity, that are with more popular items,
    and half of the item's own. Without offsets all items are equally popular, in their order.
    """
    offset = model.item_scores.offset
    if offset is None:
        logits = np.zeros(model.config.items)
    else:
        scaled = ItemScores.OFFSET_SCALE * offset.detach()[:, 0].double()  # float32 may overflow
        logits = model.among_selected(scaled).cpu().numpy()
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    order = np.argsort(-shares, kind="stable")
    places = np.empty(len(shares))
    places[order] = np.cumsum(shares[order]) - shares[order] / 2
    return places


def adjust_logits(model: AttentionRecommender, strength: float) -> None:
    """Take a share of popularity out of the offsets.

    Args:
        model: is changed.
        strength: τ in [0, 1]; 0 changes nothing.
    """
    offset = model.item_scores.offset
    if strength and offset is not None:
        with torch.no_grad():
            offset.mul_(1 - strength)
