"""Cold items: nobody chose them while training, and then they are what is asked for.

Their events leave every site's training data; the catalogue and its features keep them. Training
then sees that nobody takes them, and their learned offsets say so. An item that did not exist yet
would have none: `as_new` forgets them, and both are measured.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shared.data.histories import Histories, LeaveOneOut
from shared.errors import ConfigError
from shared.evaluation.ranking import Ranking
from shared.models.attention import AttentionRecommender

__all__ = ["as_new", "cold_items", "cold_section", "without_items"]

Ints = NDArray[np.int64]


def cold_items(items: int, share: float, seed: int) -> Ints:
    """Draw which items nobody may have chosen.

    Args:
        items: catalogue size V.
        share: of them, in [0, 1); rounded up to a whole item.
        seed: the same seed draws the same; >= 0.

    Returns:
        Ascending internal ids in 1..V.

    Raises:
        ConfigError: the share is out of range.
    """
    if not 0 <= share < 1:
        raise ConfigError(f"lab.cold = {share}: choose a share from 0 up to, but not, 1.")
    drawn = np.random.default_rng([seed, 0xC01D]).permutation(items)[: math.ceil(share * items)]
    return np.sort(drawn).astype(np.int64) + 1


def without_items(split: LeaveOneOut, cold: Ints) -> LeaveOneOut:
    """The split with no event of these items to train on; what is asked for stays."""
    train = split.train
    kept = ~np.isin(train.items, cold)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept, dtype=np.int64)])
    return replace(split, train=Histories(train.users, train.items[kept], offsets[train.offsets]))


def as_new(model: AttentionRecommender, cold: Ints) -> AttentionRecommender:
    """A copy in which these items have the other items' mean offset.

    So the coordinator should treat an item that joins the catalogue after training: which ones
    those are is public, and the copy costs nothing.

    Args:
        model: trained; one without offsets is copied as it is.
        cold: internal ids, not all there are.
    """
    model = copy.deepcopy(model)
    offset = model.item_scores.offset  # (V, 1)
    if offset is not None:
        new = torch.zeros(len(offset), dtype=torch.bool)
        new[torch.from_numpy(cold) - 1] = True
        with torch.no_grad():
            offset[new] = offset[~new].mean()
    return model


def cold_section(split: LeaveOneOut, cold: Ints, rankings: Mapping[str, Ranking]) -> dict[str, Any]:
    """Each model's figures over the users whose test item is cold.

    Args:
        split: whose test is ranked.
        cold: internal ids.
        rankings: by model, each of all M test users in the order of the split.

    Returns:
        How many cold items there are, how many users are asked for one, and, if any are, figures
        as in the rest of result.json. By chance, hr@10 is about 10 / V.
    """
    asked = np.flatnonzero(np.isin(split.test_targets, cold))
    some = rankings if len(asked) else {}
    figures = {name: ranking.select(asked).metrics().as_dict() for name, ranking in some.items()}
    return {"items": len(cold), "users": len(asked), "models": figures}
