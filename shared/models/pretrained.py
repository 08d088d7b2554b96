"""The recommender as a `PreTrainedModel`, for code that loads its models by transformers.

    import shared.models.pretrained
    model = AutoModel.from_pretrained("runs/demo/model")

reads a published folder as it is: same files, same names, same numbers. The product itself does
without: to import this base class takes as long as torch, in every process of a run.
"""

from __future__ import annotations

import os
from dataclasses import asdict, fields
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from shared.models.attention import AttentionRecommender
from shared.models.attention_config import AttentionConfig
from shared.models.losses import loss_per_user
from shared.models.lstm import LstmConfig, LstmRecommender
from shared.models.modalities import ModalitiesConfig, ModalitiesRecommender
from shared.models.query import QueryConfig, QueryRecommender
from shared.models.registry import load_recommender
from shared.models.text import TextConfig, TextRecommender

__all__ = [
    "PreTrainedLstm",
    "PreTrainedLstmConfig",
    "PreTrainedModalities",
    "PreTrainedModalitiesConfig",
    "PreTrainedQuery",
    "PreTrainedQueryConfig",
    "PreTrainedRecommender",
    "PreTrainedRecommenderConfig",
    "PreTrainedText",
    "PreTrainedTextConfig",
]


class PreTrainedRecommenderConfig(PreTrainedConfig):
    """The shape of a recommender: the fields of `AttentionConfig`."""

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
    """An `AttentionRecommender` behind the interface of transformers.

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


class PreTrainedLstmConfig(PreTrainedRecommenderConfig):
    """The shape of a recommender of kind "lstm"."""

    model_type = LstmRecommender.model_type
    recommender = LstmRecommender
    max_length: int = LstmConfig.max_length


class PreTrainedLstm(PreTrainedRecommender):
    """An `LstmRecommender` behind the interface of transformers."""

    config_class = PreTrainedLstmConfig


class PreTrainedModalitiesConfig(PreTrainedRecommenderConfig):
    """The shape of a recommender of kind "modalities"."""

    model_type = ModalitiesRecommender.model_type
    recommender = ModalitiesRecommender
    max_length: int = ModalitiesConfig.max_length


class PreTrainedModalities(PreTrainedRecommender):
    """A `ModalitiesRecommender` behind the interface of transformers."""

    config_class = PreTrainedModalitiesConfig


class PreTrainedQueryConfig(PreTrainedRecommenderConfig):
    """The shape of a recommender of kind "query"."""

    model_type = QueryRecommender.model_type
    recommender = QueryRecommender
    max_length: int = QueryConfig.max_length


class PreTrainedQuery(PreTrainedRecommender):
    """A `QueryRecommender` behind the interface of transformers; a pass has no query."""

    config_class = PreTrainedQueryConfig


class PreTrainedTextConfig(PreTrainedRecommenderConfig):
    """The shape of a recommender of kind "text"."""

    model_type = TextRecommender.model_type
    recommender = TextRecommender
    max_length: int = TextConfig.max_length


class PreTrainedText(PreTrainedRecommender):
    """A `TextRecommender` behind the interface of transformers; it ranks without an encoder."""

    config_class = PreTrainedTextConfig


AutoConfig.register(PreTrainedRecommenderConfig.model_type, PreTrainedRecommenderConfig)
AutoModel.register(PreTrainedRecommenderConfig, PreTrainedRecommender)
AutoConfig.register(PreTrainedLstmConfig.model_type, PreTrainedLstmConfig)
AutoModel.register(PreTrainedLstmConfig, PreTrainedLstm)
AutoConfig.register(PreTrainedQueryConfig.model_type, PreTrainedQueryConfig)
AutoModel.register(PreTrainedQueryConfig, PreTrainedQuery)
AutoConfig.register(PreTrainedModalitiesConfig.model_type, PreTrainedModalitiesConfig)
AutoModel.register(PreTrainedModalitiesConfig, PreTrainedModalities)
AutoConfig.register(PreTrainedTextConfig.model_type, PreTrainedTextConfig)
AutoModel.register(PreTrainedTextConfig, PreTrainedText)
