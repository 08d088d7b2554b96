"""Build a run's model from its checkpoint."""

from __future__ import annotations

from dataclasses import replace

import torch

from server.state.checkpoint import Checkpoint
from shared.config import RunConfig
from shared.data.catalogue import Catalogue
from shared.models import registry
from shared.models.attention import AttentionRecommender, trainable
from shared.models.popularity import adjust_logits
from shared.over_use.examples import label_meaning, session_rule
from shared.over_use.kind import bare
from shared.over_use.model import OverUseModel

__all__ = ["build_model", "build_recommender", "with_own_items"]


def build_model(
    checkpoint: Checkpoint, config: RunConfig, catalogue: Catalogue
) -> AttentionRecommender | OverUseModel:
    """Return the run's model, of whichever kind, with a checkpoint's weights, not training."""
    if registry.examples_of(config.model.kind) is registry.Examples.HISTORIES:
        return build_recommender(checkpoint, config, catalogue)
    return _build_over_use(checkpoint, config)


def build_recommender(
    checkpoint: Checkpoint, config: RunConfig, catalogue: Catalogue
) -> AttentionRecommender:
    """Return the run's recommender with a checkpoint's weights, in evaluation mode.

    With `training.debias`, its scores are those that the adjusted loss trained, without that share
    of popularity (`shared.models.popularity`).
    """
    model = registry.build_recommender(with_own_items(config, checkpoint).model, catalogue)
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            parameter.copy_(torch.tensor(checkpoint.weights[name]))
    adjust_logits(model, config.training.debias)
    model.train(mode=False)
    return model


def with_own_items(config: RunConfig, checkpoint: Checkpoint) -> RunConfig:
    """Return the run's parameters with the items that its warm start chose."""
    own_items = checkpoint.own_items or ()
    return replace(config, model=replace(config.model, own_items=own_items))


def _build_over_use(checkpoint: Checkpoint, config: RunConfig) -> OverUseModel:
    """Return the model of over-use, without calibration: each partner does that at home."""
    task, model = config.over_use, bare(config.model, 0)
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            parameter.copy_(torch.tensor(checkpoint.weights[name]))
    model.config = replace(
        model.config,
        rule=session_rule(task, config.model.max_length),
        label=label_meaning(task),
        task=task.text,
    )
    return model.train(mode=False)
