"""Cold items: items without any training event, whose test users measure the cold start.

Their events are removed from every site's training data; the catalogue and its features keep them.
Training then lowers their learned offsets, since nobody chose them. An item that is added after
training has no offset: `treat_as_new` estimates one from its features. Both cases are evaluated.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from shared.data.splits import HeldOut
from shared.errors import ConfigError
from shared.evaluation.ranking import Ranking
from shared.models.attention import AttentionRecommender
from shared.models.new_items import expected_offsets
from simulations.experiment.result_json import Cold

__all__ = ["cold_items", "cold_section", "treat_as_new", "without_items"]

Ints = NDArray[np.int64]


def cold_items(items: int, share: float, seed: int) -> Ints:
    """Draw the cold items.

    Args:
        items: catalogue size V.
        share: of the items that become cold, in [0, 1); rounded up to a whole item.
        seed: determines the items; >= 0.

    Returns:
        Ascending internal ids in 1..V.

    Raises:
        ConfigError: the share is out of range.
    """
    if not 0 <= share < 1:
        raise ConfigError(f"lab.cold = {share}: choose a share of at least 0 and below 1.")
    drawn = np.random.default_rng([seed, 0xC01D]).permutation(items)[: math.ceil(share * items)]
    return np.sort(drawn).astype(np.int64) + 1


def without_items(split: HeldOut, cold: Ints) -> HeldOut:
    """Return the split without training events of these items; test and validation stay."""
    train = split.train
    return replace(split, train=train.keep(~np.isin(train.items, cold)))


def treat_as_new(model: AttentionRecommender, cold: Ints) -> AttentionRecommender:
    """Return a copy in which these items have the offsets that their features let expect.

    A coordinator should do this for items that are added after training. Which items are new is
    public, so this costs no privacy. A model without features gives them the others' mean.

    Args:
        model: trained; one without offsets is copied unchanged.
        cold: internal ids; not of all items.
    """
    model = copy.deepcopy(model)
    offset = model.item_scores.offset  # (V, 1)
    if offset is None:
        return model
    new = np.zeros(len(offset), np.bool_)
    new[cold - 1] = True
    size = model.config.feature_size
    features = (
        model.features.table[:, :size].cpu().numpy()
        if hasattr(model, "features")
        else np.zeros((len(offset), 1))
    )
    expected = expected_offsets(features, offset.detach()[:, 0].cpu().numpy(), new)
    with torch.no_grad():
        offset[torch.from_numpy(new), 0] = torch.from_numpy(expected[new]).to(offset)
    return model


def cold_section(split: HeldOut, cold: Ints, rankings: Mapping[str, Ranking]) -> Cold:
    """Return each model's metrics over the users whose test item is cold.

    Args:
        split: the evaluated split.
        cold: internal ids.
        rankings: by model, each of all M test users in the order of the split.

    Returns:
        The number of cold items, the number of users whose test item is one, and, if there are
        any, metrics as elsewhere in result.json. A random ranking has an hr@10 of about 10 / V.
    """
    users = np.flatnonzero(np.isin(split.test_targets, cold))
    evaluated = rankings if len(users) else {}
    figures = {
        name: ranking.select(users).metrics().as_dict() for name, ranking in evaluated.items()
    }
    return Cold(items=len(cold), users=len(users), models=figures)
