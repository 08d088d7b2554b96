"""The recommender as a `PreTrainedModel`, for code that loads its models by transformers.

    import shared.models.pretrained
    model = AutoModel.from_pretrained("runs/demo/model")

reads a published folder as it is: same files, same names, same numbers. The product itself does
without: to import this base class takes as long as torch, in every process of a run.
"""

from __future__ import annotations

import os
from dataclasses import asdict, fields
from importlib import import_module
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from shared.models.attention import AttentionRecommender
from shared.models.attention_config import AttentionConfig
from shared.models.losses import loss_per_user
from shared.models.registry import KINDS, Examples, Kind, load_recommender

__all__ = ["PreTrainedRecommender", "PreTrainedRecommenderConfig"]


class PreTrainedRecommenderConfig(PreTrainedConfig):
    """The shape of a recommender: the fields of its kind's configuration."""

    model_type = AttentionRecommender.model_type
    recommender: ClassVar[type[AttentionRecommender]] = AttentionRecommender
    max_length: int = AttentionConfig.max_length  # elsewhere an option of generation, and left out

    @property
    def shape(self) -> AttentionConfig:
        """The fields of `AttentionConfig`; defaults where the file has none."""
        stated = vars(self)
        kind = self.recommender.shape
        given = {f.name: stated[f.name] for f in fields(kind) if f.name in stated}
        return kind(**given | {"own_items": tuple(given.get("own_items", ()))})


class PreTrainedRecommender(PreTrainedModel):
    """A recommender of any kind behind the interface of transformers; a pass has histories only.

    Args:
        config: the shape.
        recommender: with its weights; None makes an untrained one.
    """

    config_class = PreTrainedRecommenderConfig
    base_model_prefix = "recommender"
    main_input_name = "histories"

    def __init__(
        self, config: PreTrainedRecommenderConfig, recommender: AttentionRecommender | None = None
    ) -> None:
        super().__init__(config)
        self.recommender = recommender or config.recommender(config.shape)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # fewer ways to load
        cls,
        folder: str | os.PathLike[str],
        *,
        dtype: torch.dtype | None = None,
        **_: Any,  # noqa: ANN401 what `AutoModel` passes on; the folder has its own shape
    ) -> PreTrainedRecommender:
        """Load a published folder, in evaluation mode.

        Args:
            folder: where it lies; nothing is executed or fetched from elsewhere.
            dtype: of the weights; None keeps the file's.

        Raises:
            As `shared.models.registry.load_recommender`.
        """
        recommender = load_recommender(folder)
        model = cls(cls.config_class(**asdict(recommender.config)), recommender)
        model.train(mode=False)
        if dtype is not None:
            model.recommender.to(dtype)
        return model

    def save_pretrained(  # type: ignore[override]  # fewer ways to save
        self, folder: str | os.PathLike[str]
    ) -> None:
        """Write a folder that `load_recommender` reads, too.

        Raises:
            OSError: a file cannot be written.
        """
        self.recommender.save_pretrained(folder)

    def forward(self, histories: Tensor, labels: Tensor | None = None) -> CausalLMOutput:
        """Score every item after every event.

        Args:
            histories: item ids in 1..V, right-padded with 0, int64 [B, T], T <= max_length.
            labels: the item that follows each event, 0 where none does, int64 [B, T].

        Returns:
            `logits` [B, T, V], column j of item j + 1; with labels also `loss`, the mean over users
            of each user's mean cross-entropy.
        """
        logits = self.recommender(histories)
        loss = None if labels is None else loss_per_user(logits, labels).mean()
        return CausalLMOutput(loss=loss, logits=logits)


def _register(recommender: type[AttentionRecommender]) -> None:
    """Have transformers load folders of a kind: a configuration and a model that name it."""
    config: type[PreTrainedRecommenderConfig] = PreTrainedRecommenderConfig
    model: type[PreTrainedRecommender] = PreTrainedRecommender
    if recommender is not AttentionRecommender:
        name = f"PreTrained{recommender.__name__}"
        of_kind = {"model_type": recommender.model_type, "recommender": recommender}
        module = {"__module__": __name__}
        config = type(f"{name}Config", (config,), of_kind | module)
        model = type(name, (model,), {"config_class": config} | module)
    AutoConfig.register(config.model_type, config)
    AutoModel.register(config, model)


def _recommender_of(kind: Kind) -> type[AttentionRecommender]:
    """Return the class of a kind: the one in its module that has the kind's `model_type`."""
    classes = [c for c in vars(import_module(kind.module)).values() if isinstance(c, type)]
    return next(
        c
        for c in classes
        if issubclass(c, AttentionRecommender) and c.model_type == kind.model_type
    )


for _kind in KINDS.values():
    if _kind.examples is Examples.HISTORIES:
        _register(_recommender_of(_kind))
