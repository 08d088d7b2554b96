"""The step of DP-SGD on clipped sums, by Opacus, with noise of our own source.

Apart from the trainer: Opacus takes as long to import as torch, and most runs ask for statistics.
"""

from __future__ import annotations

import torch
from opacus.optimizers import DPOptimizerFastGradientClipping

from shared.config import Trust
from shared.privacy.clipping.clipping import PerUserClipping
from shared.privacy.noise import RandomSource, noised
from shared.privacy.noise_share import noised_share

__all__ = ["SourcedNoiseOptimizer"]


class SourcedNoiseOptimizer(DPOptimizerFastGradientClipping):  # type: ignore[misc]  # untyped
    """Opacus's step on our clipped sums, with noise that is not torch's.

    A torch generator is a Mersenne twister whose fresh state is the same in every process.

    Args:
        optimizer: takes the step, along the noised sums over `expected_batch`.
        clipping: has the clipped sums.
        random: source of the noise.
        noise_multiplier: noise standard deviation over the clip norm; > 0.
        clip_norm: bound on the Euclidean norm of what one user adds.
        expected_batch: expected users of a step; > 0.
        trust: whether all of the noise is added, or a share of it.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        clipping: PerUserClipping,
        random: RandomSource,
        *,
        noise_multiplier: float,
        clip_norm: float,
        expected_batch: float,
        trust: Trust,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=clip_norm,
            expected_batch_size=expected_batch,
            loss_reduction="mean",
        )
        self._clipping, self._random, self._trust = clipping, random, trust

    def accumulate(self) -> None:
        """Do nothing: the sums are in `PerUserClipping`."""

    def add_noise(self) -> None:
        """Add N(0, (σC)²) to each clipped sum, once; or a share of such a noise."""
        sigma, clip_norm = self.noise_multiplier, self.max_grad_norm
        for p in self.params:
            total = self._clipping.sum_of(p)
            if self._trust is Trust.LOCAL:
                noisy = noised(total, sigma * clip_norm, self._random)
            else:
                noisy = noised_share(total, clip_norm, sigma, self._random)
            p.grad = noisy.to(p.dtype)
