"""Compute what given users add to a release: the node's own computation without noise.

The attacker knows the code. If the code clips wrongly, so does its replay: an observer then looks
for what a user really adds.

Letters: d numbers in a release.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import client.compute.statistics
import client.compute.steps
import client.compute.trainer
from client.app import load_weights
from shared.config import Optimiser, Trust
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.messages import StatisticsRequest, TrainRequest
from shared.models.attention import AttentionRecommender, item_descriptors, trainable
from shared.models.moments import STATISTIC_CLIP_NORM
from shared.models.registry import build_recommender
from shared.privacy.noise import SeededRandom
from simulations.audit.recorder import RecordedAnswer

__all__ = ["Replay", "can_replay"]

Floats32 = NDArray[np.float32]


def can_replay(request: TrainRequest | StatisticsRequest) -> bool:
    """Return whether a release is linear in what its users add: sums and plain SGD steps are."""
    return isinstance(request, StatisticsRequest) or request.optimiser is Optimiser.SGD


class Replay:
    """Repeat what a node computed for one request.

    Args:
        seen: one request and its answer.
        catalogue: the federation's.
        population: that the organisation declared.
        shares: organisations whose noise is in the answer, each with as much as the request says.

    Attributes:
        spread: claimed standard deviation of the noise in `released`.
        clip_norm: the most that one user may add to one sum.
    """

    def __init__(
        self, seen: RecordedAnswer, catalogue: Catalogue, population: int, shares: int = 1
    ) -> None:
        self._seen, self._population, request = seen, population, seen.request
        self._table: Floats32 | None = None
        self._model: AttentionRecommender | None = None
        if isinstance(request, TrainRequest):
            self._model = build_recommender(request.model, catalogue)
            self.clip_norm, steps = request.clip_norm, request.local_steps
        else:
            self._table = item_descriptors(request.model, catalogue).numpy()
            self.clip_norm, steps = STATISTIC_CLIP_NORM, 1
        self.spread = request.noise_multiplier * self.clip_norm * (steps * shares) ** 0.5

    @property
    def expected_parts(self) -> float:
        """Return how many times, on average, a user of the data is in the release."""
        request = self._seen.request
        if isinstance(request, TrainRequest):
            return request.sample_rate * request.local_steps
        return 1.0

    def released(self) -> Floats32:
        """Return the noised sum that left, [d], recovered from the answer."""
        request, answer = self._seen.request, self._seen.answer
        if not isinstance(request, TrainRequest):
            return np.asarray(answer["total"].ravel(), np.float32)
        divisor = request.sample_rate * self._population / request.learning_rate
        assert self._model is not None
        flat = [-answer[name].ravel() * np.float32(divisor) for name in trainable(self._model)]
        return np.concatenate(flat)

    def added(self, histories: Histories) -> Floats32:
        """Return what these users add to one sum, [d]."""
        if isinstance(self._seen.request, TrainRequest):
            return self._step(self._seen.request, histories)
        assert self._table is not None
        request = replace(self._seen.request, trust=Trust.LOCAL)  # its noise is none of `_NoNoise`
        total = client.compute.statistics.noised_statistic(
            histories, self._table, request, _NoNoise(0)
        )
        return total.numpy().ravel()

    def _step(self, request: TrainRequest, histories: Histories) -> Floats32:
        plan = client.compute.steps.LocalPlan(
            local_steps=1,
            sample_rate=1.0,
            population=1,
            clip_norm=request.clip_norm,
            noise_multiplier=request.noise_multiplier,
            optimiser=Optimiser.SGD,
            learning_rate=1.0,
            candidates=request.candidates,
        )
        assert self._model is not None
        load_weights(self._model, request)
        recent = histories.last(request.model.max_length + 1)
        change = client.compute.trainer.train(self._model, recent, plan, _NoNoise(request.round))
        return np.concatenate([-value.numpy().ravel() for value in change.values()])


class _NoNoise(SeededRandom):
    """A random source whose noise is zero."""

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Return zeros."""
        return torch.zeros(shape, dtype=torch.float64)
