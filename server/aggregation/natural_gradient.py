"""A step of the natural gradient for attention's queries, in the place of a plain one.

The likelihood is curved unevenly in the queries: a few directions change much of what attention
mixes, and bound a plain step long before the others have learned anything. The natural gradient
(Amari 1998, doi:10.1162/089976698300017746) divides by the curvature F, the Fisher information of
the model's own next items. F needs histories and no private label, so public ones serve, or such
as the model draws. With x_t a position's compared features and a 1,
and r_t the gradient of -log p(y_t) in its query, y_t drawn from the model,

    F = mean over histories of the mean over positions t of  (r_t r_tᵀ) ⊗ (x_t x_tᵀ)

since in a model of one block a query changes the prediction at its own position alone. F is never
formed: conjugate gradients (`scipy.sparse.linalg.cg`) need products with it. The step is

    - γ (F + λ I)⁻¹ g,    g = the released mean of clipped gradients / the mean clipping factor,

γ = 1 - noise² / |released|² its part that is signal (James & Stein 1961, at least 0), λ half of the
mean curvature over γ; the clipping factor is that of the same histories. A step changes logits
by `MOST_LOGIT` at most, and where less than `LEAST_SIGNAL` is signal there is none. This is
post-processing of a release: it costs no privacy.

Letters: P positions of all histories, R compared features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor
from torch.nn import functional as F

from shared.config import Optimiser, RunConfig, StrategyName, Trained
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.messages import TrainRequest, Weights
from shared.models.attention import AttentionRecommender, trainable
from shared.models.losses import next_item_pairs
from shared.models.registry import build_recommender
from shared.privacy.clipping.clipping import PerUserClipping
from shared.privacy.clipping.linked import parts_of

__all__ = ["Curvature", "NaturalQueries", "noise_in_change"]

QUERY = "blocks.0.attention.query"
LEAST_SIGNAL = 0.1
"""Share of the released gradient's energy below which queries stay as they are."""
DAMPING = 0.5
"""λ over the mean curvature, where there is no noise (docs/rounds.md)."""
MOST_LOGIT = 1.0
"""Root mean square of what one step may add to attention's logits: five times what one usually
does. F is that of small changes."""
MOST_POSITIONS, CLIPPED_HISTORIES = 30_000, 100
"""Positions of F, and histories of which the clipping factor is the mean."""
MAX_SCORES = 2**24
"""Scores in memory at a time."""


@dataclass(frozen=True, slots=True)
class Curvature:
    """F, by its factors.

    Attributes:
        queries: r_t, float64 [P, R].
        compared: x_t and a 1, float64 [P, R + 1].
        shares: of each position, summing to 1, float64 [P].
    """

    queries: Tensor
    compared: Tensor
    shares: Tensor

    def __matmul__(self, direction: Tensor) -> Tensor:
        """Return F times a direction, [R, R + 1]."""
        along = ((self.compared @ direction.T) * self.queries).sum(1)  # (P,)
        return (self.queries * (along * self.shares)[:, None]).T @ self.compared

    @property
    def mean(self) -> float:
        """The mean of F's diagonal."""
        squared = self.queries.square().sum(1) * self.compared.square().sum(1)
        return float((squared * self.shares).sum()) / (
            self.queries.shape[1] * self.compared.shape[1]
        )

    def solve(self, gradient: Tensor, damping: float) -> Tensor:
        """Return (F + damping I)⁻¹ gradient, [R, R + 1]."""
        shape, size = gradient.shape, gradient.numel()

        def product(vector: np.ndarray) -> np.ndarray:
            direction = torch.from_numpy(vector).view(shape)
            return (self @ direction + damping * direction).flatten().numpy()

        operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
        solved, _ = cg(operator, gradient.flatten().numpy(), rtol=1e-4, maxiter=200)
        return torch.from_numpy(solved).view(shape)


def noise_in_change(
    request: TrainRequest, populations: Sequence[float], shares: Sequence[float]
) -> float:
    """Return the standard deviation of the noise in each number of a round's mean change.

    Args:
        request: that every organisation answered by steps of gradient descent.
        populations: that each declares, > 0.
        shares: weight of each in the mean; of any sum.
    """
    total = sum(shares)
    root = math.sqrt(
        sum((share / total / users) ** 2 for share, users in zip(shares, populations, strict=True))
    )
    step = request.learning_rate * request.noise_multiplier * request.clip_norm
    return step * math.sqrt(request.local_steps) / request.sample_rate * root


class NaturalQueries:
    """The natural gradient's step for one run.

    Args:
        config: the run's parameters, with the items that its warm start chose.
        catalogue: with features.
        histories: gives the histories that F is of, for the model with the weights that a round
            began with and a seed: everybody may know them, or the model draws them.
    """

    def __init__(
        self,
        config: RunConfig,
        catalogue: Catalogue,
        histories: Callable[[AttentionRecommender, int], Histories],
    ) -> None:
        self._config, self._catalogue, self._histories = config, catalogue, histories

    @staticmethod
    def applies(config: RunConfig) -> bool:
        """Return whether a run's queries take such steps: noised plain steps, plainly averaged."""
        return (
            config.model.trained is Trained.ATTENTION
            and config.privacy.private
            and config.training.optimiser is Optimiser.SGD
            and config.server.strategy is StrategyName.FEDAVG
        )

    def __call__(self, request: TrainRequest, moved: Weights, noise: float) -> Weights:
        """Return a round's next weights, queries by the natural gradient.

        Args:
            request: that the round asked.
            moved: the weights after the mean change.
            noise: standard deviation of the noise in each number of that change.
        """
        names = f"{QUERY}.weight", f"{QUERY}.bias"
        change = _joined(*(moved[name] - request.weights[name] for name in names))
        energy = float(change.square().sum())
        signal = max(0.0, 1 - change.numel() * noise**2 / energy) if energy else 0.0
        stays = {**moved, **{name: request.weights[name] for name in names}}
        if signal < LEAST_SIGNAL:
            return stays
        model = self._model(request.weights)
        seed = self._config.seed + request.round
        windows = windows_of(self._histories(model, seed), model.config.max_length)
        if not len(windows):  # nobody of whom anything is public has two events
            return stays
        factor = clipping_factor(model, windows, request.clip_norm)
        curvature = curvature_of(model, windows, seed)
        if not curvature.mean > 0:  # the scores do not depend on what attention mixes
            return stays
        released = change / (request.learning_rate * factor)
        step = signal * curvature.solve(released, DAMPING * curvature.mean / signal)
        step *= min(1.0, MOST_LOGIT / max(self._logit(model, curvature, step), 1e-12))
        before = _joined(*(request.weights[name] for name in names))
        after = (before + step).float().numpy()
        return {**moved, names[0]: after[:, :-1].copy(), names[1]: after[:, -1].copy()}

    @staticmethod
    def _logit(model: AttentionRecommender, curvature: Curvature, step: Tensor) -> float:
        """Return about how much a step changes a logit: its root mean square over positions."""
        keys, shares = curvature.compared[:, :-1], curvature.shares
        asked = (curvature.compared @ step.T).square().sum(1) @ shares
        return model.attention.sharpness * math.sqrt(
            float(asked * (keys.square().mean(1) @ shares))
        )

    def _model(self, weights: Weights) -> AttentionRecommender:
        with torch.random.fork_rng():
            model = build_recommender(self._config.model, self._catalogue)
        with torch.no_grad():
            for name, parameter in trainable(model).items():
                parameter.copy_(torch.tensor(weights[name]))
        return model.eval()


def windows_of(histories: Histories, length: int) -> Tensor:
    """Return evenly chosen windows of histories, of `length` events and the one before them.

    Returns:
        Right-padded with 0, int64 [U, length + 1]; about `MOST_POSITIONS` positions at most.
    """
    windows = [
        history[max(0, end - length - 1) : end].tolist()
        for history in histories
        for end in range(len(history), 1, -length)
    ]
    count = min(len(windows), max(1, MOST_POSITIONS // length))
    chosen = np.linspace(0, len(windows) - 1, count).astype(np.int64)
    kept = Histories.from_lists([windows[row] for row in chosen])
    return kept.padded(np.arange(len(kept)), length + 1)


def clipping_factor(model: AttentionRecommender, histories: Tensor, clip_norm: float) -> float:
    """Return by what the gradients of such histories are multiplied on average, in (0, 1]."""
    norms: list[Tensor] = []
    nobody = torch.zeros(len(histories), 0, dtype=torch.int64)
    rows = np.linspace(0, len(histories) - 1, min(len(histories), CLIPPED_HISTORIES))
    with PerUserClipping(model, clip_norm) as clipping:
        for part in _parts(histories[rows.astype(np.int64)], model):
            losses = model.losses(part, nobody[: len(part)])
            norms.append(clipping.backward(losses))
            clipping.zero_sums()
    own, _ = parts_of(model)
    bound = own.share * clip_norm
    return float((bound / torch.cat(norms).clamp(min=bound)).mean())


def curvature_of(model: AttentionRecommender, histories: Tensor, seed: int) -> Curvature:
    """Return F over histories, windows int64 [U, T + 1]."""
    random = torch.Generator().manual_seed(seed)
    query, size = model.attention.query, model.attention.compared
    asked: list[tuple[Tensor, Tensor]] = []
    hook = query.register_forward_hook(lambda _, inputs, out: asked.append((inputs[0], out)))
    queries, compared, shares = [], [], []
    try:
        for part in _parts(histories, model):
            inputs, targets = next_item_pairs(part)
            real = targets != 0
            logits = model(inputs).flatten(0, 1)
            drawn = torch.multinomial(logits.detach().softmax(1), 1, generator=random)[:, 0]
            losses = F.cross_entropy(logits, drawn, reduction="none")
            ((x, out),) = asked
            asked.clear()
            (gradient,) = torch.autograd.grad(losses[real.flatten()].sum(), out)
            queries.append(gradient[real].double())
            compared.append(x.detach()[real].double())
            shares.append((real / real.sum(1, keepdim=True).clamp(min=1))[real].double())
    finally:
        hook.remove()
    weight = torch.cat(shares)
    ones = torch.ones(len(weight), 1, dtype=torch.float64)
    wide = torch.cat([torch.cat(compared).view(-1, size), ones], 1)
    return Curvature(torch.cat(queries), wide, weight / weight.sum())


def _parts(histories: Tensor, model: AttentionRecommender) -> Iterator[Tensor]:
    yield from histories.split(
        max(1, MAX_SCORES // (histories.shape[1] * max(model.config.items, model.config.described)))
    )


def _joined(weight: np.ndarray, bias: np.ndarray) -> Tensor:
    """Return weight and bias of the queries side by side, float64 [R, R + 1]."""
    return torch.from_numpy(np.concatenate([weight, bias[:, None]], axis=1)).double()
