"""The risk of over-use: additive attention over the features of a user's last sessions.

h_s = tanh(W x_s + b) for each session s; each head weighs sessions by softmax_s(v · h_s) and
returns their weighted mean (additive attention: Bahdanau, Cho & Bengio 2015, arXiv:1409.0473;
pooling a sequence by it: Lin et al. 2017, arXiv:1703.03130). Beside the heads stands the sum over
sessions of h_s / S, which tells many sessions from few. One linear map of all that is the logit.

Features are in [-1, 1] and h_s in (-1, 1), so that no user's gradient is far larger than another's.
All weights lie in linear layers: per-user clipping is exact (`shared.privacy.clipping`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from torch import Tensor, nn

from shared.data.model_folder import read_model, write_model
from shared.models.complete_weights import check_complete
from shared.over_use.sessions import FEATURES, SessionRule, Sessions, session_features

__all__ = ["OverUseConfig", "OverUseModel", "loss_per_user"]

_KIND = {"model_type": "sotto-over-use"}
_ABSENT = -1e9
"""Attention score of a place without a session."""
_AT_ONCE = 4096
"""Users whose risk is computed at a time."""


@dataclass(frozen=True, kw_only=True)
class OverUseConfig:
    """Shape of an `OverUseModel`, and what its risk means; saved beside its weights.

    Attributes:
        rule: how sessions are made of event times.
        hidden_size: width D; >= 1.
        heads: attention heads H; >= 1.
        slope: of the calibration: the risk is sigmoid(slope * logit + offset).
        offset: see `slope`.
        label: what was predicted, in words.
        task: what its training read of users, as `shared.over_use_task.task_of` reads it; "" where
            nobody said.
    """

    rule: SessionRule = field(default_factory=SessionRule)
    hidden_size: int = 16
    heads: int = 2
    slope: float = 1.0
    offset: float = 0.0
    label: str = ""
    task: str = ""

    @classmethod
    def from_json(cls, text: bytes) -> OverUseConfig:
        """Read a shape from an object of its settings; other keys are ignored.

        Raises:
            ValueError: the text is not such an object, or a value is of another type or range.
        """
        return TypeAdapter(cls).validate_json(text, strict=True)


class OverUseModel(nn.Module):
    """One logit a user, from the features of the user's last sessions.

    Args:
        config: the model's shape.
    """

    def __init__(self, config: OverUseConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.session_in = nn.Linear(len(FEATURES), width)
        self.attention = nn.Linear(width, config.heads)
        self.risk_out = nn.Linear((config.heads + 1) * width, 1)
        nn.init.zeros_(self.attention.weight)
        nn.init.zeros_(self.attention.bias)
        nn.init.zeros_(self.risk_out.bias)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> OverUseModel:
        """Load a model that `save_pretrained` wrote, in evaluation mode.

        Args:
            folder: where it lies; nothing is executed or fetched from elsewhere.

        Raises:
            DataError: a tensor is missing, has another shape, or is not the model's.
            OSError: a file is missing or cannot be read.
            SafetensorError: the file of weights is damaged.
            ValueError: `config.json` is damaged, or of another shape.
        """
        shape, weights = read_model(folder)
        model = cls(OverUseConfig.from_json(shape))
        check_complete(weights, model.state_dict(), folder)
        model.load_state_dict(weights)
        return model.train(mode=False)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the shape, `config.json`, and the weights, `model.safetensors`, into a folder.

        Raises:
            OSError: a file cannot be written.
        """
        write_model(folder, _KIND | asdict(self.config), self.state_dict())

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Return one logit a user, [B].

        Args:
            features: of sessions, [B, S, F]; 0 where there is none.
            mask: where there is one, bool [B, S]. A user without any has the logit of none.
        """
        present = mask[..., None]
        hidden = torch.tanh(self.session_in(features)) * present  # (B, S, D)
        scores = self.attention(hidden).masked_fill(~present, _ABSENT)  # (B, S, H)
        weights = torch.softmax(scores, dim=1) * present
        pooled = (weights.mT[..., None] * hidden[:, None]).sum(2)  # (B, H, D)
        amount = hidden.sum(1, keepdim=True) / hidden.shape[1]  # (B, 1, D)
        logits: Tensor = self.risk_out(torch.cat([pooled, amount], dim=1).flatten(1))
        return logits[:, 0]

    def logits(self, sessions: Sessions) -> NDArray[np.float64]:
        """Return the logits of some users before calibration, [users], without gradients."""
        parts = [np.zeros(0)]
        with torch.no_grad():
            for start in range(0, len(sessions), _AT_ONCE):
                part = slice(start, start + _AT_ONCE)
                features = torch.from_numpy(sessions.features[part])
                mask = torch.from_numpy(sessions.mask[part])
                parts.append(self(features, mask).double().numpy())
        return np.concatenate(parts)

    def risk(
        self,
        times: Sequence[NDArray[np.float64]],
        *,
        now: NDArray[np.float64] | float | None = None,
        recommended: Sequence[NDArray[np.bool_]] | None = None,
    ) -> NDArray[np.float64]:
        """Return each user's calibrated risk in [0, 1], [users].

        Args:
            times: of each user's events, ascending, in seconds since 1970 (UTC).
            now: the present, one for all users or one each; None takes each user's last event.
            recommended: which events were recommended or played automatically; None if not known.

        Raises:
            ValueError: a user's times are not ascending or not finite.
        """
        if now is None:
            present = np.array([own[-1] if len(own) else 0.0 for own in times], np.float64)
        else:
            present = np.broadcast_to(np.asarray(now, np.float64), (len(times),))
        sessions = session_features(times, present, self.config.rule, recommended)
        logits = self.config.slope * self.logits(sessions) + self.config.offset
        risk: NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(logits, -700, 700)))
        return risk


def loss_per_user(logits: Tensor, labels: Tensor, present: Tensor) -> Tensor:
    """Return the cross-entropy of each user's label in nats, [B]; 0 for an empty row.

    Args:
        logits: [B].
        labels: 0 or 1, [B].
        present: 1 for a user, 0 for an empty row, [B].
    """
    losses = nn.functional.binary_cross_entropy_with_logits(
        logits, labels.to(logits.dtype), reduction="none"
    )
    return losses * present
