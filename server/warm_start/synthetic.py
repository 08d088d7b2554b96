"""Draw histories from the model itself, where there are no public interactions.

Matching moments (`server.warm_start.refine`) needs states to predict from. Without public users the
model is asked for them: a user's first item is drawn from the popularity, each further one from
the softmax of the model's own scores. Where the model's moment over such histories is the observed
one, the moment that users of this model would have is the one that the private users have: the
method of simulated moments (McFadden 1989, doi:10.2307/1913621). The histories follow from the
weights, so the two are repeated in turn.

This is post-processing of noised statistics: it costs no privacy. Letters: V items.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from shared.data.histories import Histories
from shared.models.attention import AttentionRecommender
from shared.models.item_scores import ItemScores

__all__ = ["EVENTS", "USERS", "draw_histories", "popularity_of"]

USERS, EVENTS = 600, 12
"""Histories drawn, and events of each: about as many states as are used of public users."""


@torch.no_grad()
def draw_histories(
    model: AttentionRecommender,
    popularity: NDArray[np.float64],
    seed: int,
    domains: NDArray[np.int64] | None = None,
) -> Histories:
    """Draw `USERS` histories of `EVENTS` events each from the model.

    Args:
        model: in evaluation mode.
        popularity: of every item, > 0, [V].
        seed: of the draws; the same model and seed give the same histories.
        domains: the number of each item's domain, [V]: a history stays in that of its first item;
            None for one domain.
    """
    random = torch.Generator().manual_seed(seed)
    shares = torch.from_numpy(popularity / popularity.sum())
    codes = torch.from_numpy(np.zeros(0, np.int64) if domains is None else domains)
    drawn = 1 + torch.multinomial(shares, USERS, replacement=True, generator=random)[:, None]
    for _ in range(1, EVENTS):
        scores = model.next_item_scores(drawn).double()
        if domains is not None:
            scores = scores.masked_fill(codes[drawn[:, :1] - 1] != codes, -torch.inf)
        chances = scores.softmax(1)
        drawn = torch.cat([drawn, 1 + torch.multinomial(chances, 1, generator=random)], dim=1)
    return Histories.from_lists(drawn.tolist())


def popularity_of(model: AttentionRecommender) -> NDArray[np.float64]:
    """Return the chance of each item by the model's offsets alone, [V]."""
    offset = model.item_scores.offset
    logits = torch.zeros(model.config.items, 1) if offset is None else offset.detach().cpu()
    return (ItemScores.OFFSET_SCALE * logits[:, 0]).double().softmax(0).numpy()
