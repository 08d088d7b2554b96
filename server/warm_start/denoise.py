"""Estimate popularity and moment from noised statistics, and set the first weights from them.

This is post-processing: it costs no privacy. Letters: V items, F columns of an item's descriptor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from shared.data.histories import Histories
from shared.models.attention import AttentionRecommender
from shared.models.item_scores import ItemScores
from shared.models.moments import layer_norm, moment_sum, popularity_sum

__all__ = [
    "Posterior",
    "Prior",
    "dependence",
    "dependence_by_domain",
    "estimate_moment",
    "estimate_popularity",
    "set_first_weights",
]

LOGIT_RMS = 0.5
"""Root mean square of the moment's part of the logits; the rest is popularity."""
MIN_SIGNAL_SHARE = 0.1
"""The logits are scaled down when less than this share of the moment's energy is signal."""
_MIN_POPULARITY = 0.05
"""Lower bound on an item's popularity, over the mean: noise hides smaller values."""
_TINY = 1e-9
_ROUNDING = 1e-12
"""Share of a moment's energy below which a difference is rounding."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Prior:
    """Expected statistics, up to a factor, from public interactions.

    Attributes:
        histories: of public users; None if there are none.
    """

    histories: Histories | None

    def popularity(self, items: int, fade: float) -> Floats:
        """Return the expected popularity, [V]; all items alike without public users."""
        if self.histories is None:
            return np.ones(items)
        return popularity_sum(self.histories, items, fade) + _MIN_POPULARITY

    def moment(self, table: NDArray[np.float32], recency: float) -> Floats:
        """Return the expected moment, [F, F]; zeros without public users."""
        if self.histories is None:
            return np.zeros((table.shape[1],) * 2)
        return moment_sum(self.histories, table, recency)


@dataclass(frozen=True, slots=True)
class Posterior:
    """Estimate of a sum from its noised value and a prior.

    Attributes:
        mean: the posterior mean.
        signal_share: its expected energy (squared length) over that of the true sum, in [0, 1]: 1
            without noise, near 0 where noise hides the signal.
        gain: Wiener gain of the deviation from the prior, in [0, 1]: signal variance over signal
            and noise variance.
    """

    mean: Floats
    signal_share: float = 1.0
    gain: float = 1.0


def estimate_popularity(noised: Floats | None, noise_std: float, prior: Floats) -> Floats:
    """Return the posterior mean of each item's popularity, > 0, [V]; see `estimate_moment`."""
    mean = prior if noised is None else _wiener_posterior(noised, noise_std, prior).mean
    return np.maximum(mean, _MIN_POPULARITY * max(float(mean.mean()), _TINY))


def estimate_moment(noised: Floats | None, noise_std: float, prior: Floats) -> Posterior:
    """Return the posterior of the moment, [F, F], by Wiener shrinkage towards the prior.

    The sum of the sites' moments is modelled as a · prior + a deviation of independent entries
    N(0, τ²) + noise N(0, noise_std²). a is the least-squares fit; τ² is the residual's variance
    less the noise's (Efron & Morris 1973, doi:10.1080/01621459.1973.10481350).

    Args:
        noised: sum of the sites' answers; None if no site was asked.
        noise_std: standard deviation of the noise in each entry.
        prior: the public users' sum.
    """
    return Posterior(prior) if noised is None else _wiener_posterior(noised, noise_std, prior)


def _wiener_posterior(noised: Floats, noise_std: float, prior: Floats) -> Posterior:
    energy = float((prior**2).sum())
    fitted = prior * (float((noised * prior).sum()) / energy if energy else 0.0)
    residual = noised - fitted
    variance = max(float((residual**2).mean()) - noise_std**2, 0.0)  # τ²
    gain = variance / (variance + noise_std**2) if variance else 0.0
    power = float((fitted**2).mean())
    share = (power + gain * variance) / (power + variance) if power + variance else 0.0
    return Posterior(np.asarray(fitted + gain * residual), share, gain)


def set_first_weights(
    model: AttentionRecommender,
    moment: Posterior,
    popularity: Floats,
    domains: NDArray[np.int64] | None = None,
) -> None:
    """Set the weights with which the logits are a bilinear form of state and item, and popularity.

    The form is `dependence`: what the moment says beyond popularity, which the offsets hold.

    Args:
        model: of features, untrained.
        moment: [F, F]; the logits shrink where its `signal_share` is below `MIN_SIGNAL_SHARE`.
        popularity: > 0, [V].
        domains: the number of each item's domain, from 0, [V]; None for one domain.
    """
    table = model.features.table.detach().cpu().numpy().astype(np.float64)  # [V, F]
    normed, weight = layer_norm(table), popularity / popularity.sum()
    past = (normed * weight[:, None]).T @ normed  # [F, F]: approximate second moment of a state
    if domains is None:
        form = dependence(moment.mean, weight @ normed, weight @ table)  # [F, F], rows of states
    else:
        parts = _shares_by_domain(weight, domains)  # [G, V]
        form = dependence_by_domain(moment.mean, parts @ normed, parts @ table)
    power = float(np.sum((form.T @ past @ form) * (table.T @ table)) / len(table))
    target_rms = LOGIT_RMS * min(1.0, moment.signal_share / MIN_SIGNAL_SHARE)
    scale = target_rms / math.sqrt(power) if power > 0 else 0.0
    with torch.no_grad():
        model.feature_out.weight.copy_(torch.from_numpy(scale * form.T))
        if model.item_scores.offset is not None:
            logs = np.log(weight) - np.log(weight).mean()
            model.item_scores.offset.copy_(
                torch.from_numpy(logs / ItemScores.OFFSET_SCALE)[:, None]
            )


def _shares_by_domain(weight: Floats, domains: NDArray[np.int64]) -> Floats:
    """Return the items' shares within each domain, [G, V], each row's sum 1."""
    parts = np.zeros((domains.max() + 1, len(weight)))
    parts[domains, np.arange(len(weight))] = weight
    return np.asarray(parts / parts.sum(1, keepdims=True))


def dependence(moment: Floats, state: Floats, following: Floats) -> Floats:
    """Return a moment without its least-squares fit on the moment of independent events.

    If what comes next did not depend on what came before, the moment would be a multiple of the
    mean state times the mean description of the next item, whatever the popularities.

    Args:
        moment: [F, F], rows of states.
        state: mean state, [F].
        following: mean description of the next item, [F].

    Returns:
        [F, F]; zeros where rounding is all that is left.

    >>> dependence(np.array([[2.0, 2.0], [0.0, 1.0]]), np.array([1.0, 0.0]), np.array([1.0, 1.0]))
    array([[0., 0.],
           [0., 1.]])
    """
    independent = np.outer(state, following)
    energy = float((independent**2).sum())
    if not energy:
        return moment
    rest = moment - independent * (float((moment * independent).sum()) / energy)
    meaningful = float((rest**2).sum()) > _ROUNDING * float((moment**2).sum())
    return rest if meaningful else np.zeros_like(moment)


def dependence_by_domain(moment: Floats, states: Floats, following: Floats) -> Floats:
    """Return `dependence` where each of G domains has means of its own.

    The least-squares fit is on the products of all of these means.

    Args:
        moment: [F, F], rows of states.
        states: mean states, [G, F].
        following: mean descriptions of the next item, [G, F].

    Returns:
        [F, F]; zeros where rounding is all that is left.

    >>> one = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    >>> dependence_by_domain(np.array([[2.0, 2.0], [0.0, 1.0]]), *one)
    array([[2., 0.],
           [0., 1.]])
    """
    before, after = _basis(states), _basis(following)  # [G, F] each, orthonormal
    # The products of two orthonormal bases are orthonormal, too: the fit is a projection.
    rest = moment - before.T @ (before @ moment @ after.T) @ after
    meaningful = float((rest**2).sum()) > _ROUNDING * float((moment**2).sum())
    return rest if meaningful else np.zeros_like(moment)


def _basis(rows: Floats) -> Floats:
    """Return an orthonormal basis of what some rows span, [at most G, F]."""
    _, lengths, basis = np.linalg.svd(rows, full_matrices=False)
    return np.asarray(basis[lengths > _ROUNDING * max(float(lengths.max(initial=0)), _TINY)])
