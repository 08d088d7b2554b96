"""The risk that the guard is given: of a model that was trained on others, or of a stated AUROC."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray

from shared.over_use.calibration import fit_platt
from shared.over_use.model import OverUseConfig, OverUseModel, loss_per_user
from shared.over_use.sessions import SessionRule, session_features

__all__ = ["auroc", "stated_scores", "train_model"]

Floats = NDArray[np.float64]
_STEPS, _RATE = 300, 0.02


def auroc(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """Return the chance that a positive has a higher score than another, ties as a half.

    >>> auroc(np.array([0.1, 0.2, 0.3]), np.array([False, True, True]))
    1.0
    """
    above = scores[positive][:, None] - scores[~positive][None]
    return float(((above > 0) + 0.5 * (above == 0)).mean())


def stated_scores(positive: NDArray[np.bool_], area: float, random: np.random.Generator) -> Floats:
    """Draw calibrated risks of a stated expected AUROC.

    The scores of both groups are normal with variance 1 and means that are sqrt(2) Φ⁻¹(AUROC)
    apart; the risk is the probability of being positive given the score, by Bayes.
    """
    apart = np.sqrt(2) * NormalDist().inv_cdf(area)
    score = random.normal(size=len(positive)) + apart * positive
    share = positive.mean()
    log_odds = np.log(share / (1 - share)) + apart * score - apart**2 / 2
    risk: Floats = 1 / (1 + np.exp(-log_odds))
    return risk


def train_model(times: Sequence[Floats], positive: NDArray[np.bool_], seed: int) -> OverUseModel:
    """Train a model of over-use without noise on two of three users; calibrate it on the others.

    Args:
        times: of their events.
        positive: who is at risk.
        seed: of the initial weights.
    """
    rule = SessionRule(weeks=4.0)
    present = np.array([own[-1] if len(own) else 0.0 for own in times])  # as `OverUseModel.risk`
    sessions = session_features(times, present, rule)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = OverUseModel(OverUseConfig(rule=rule, label="the tenth of the highest propensity"))
    rows = np.arange(len(times)) % 3 < 2
    features, mask = (torch.from_numpy(part[rows]) for part in (sessions.features, sessions.mask))
    labels = torch.from_numpy(positive[rows]).float()
    optimiser = torch.optim.Adam(model.parameters(), lr=_RATE, weight_decay=1e-3)
    for _ in range(_STEPS):
        optimiser.zero_grad()
        logits = model(features.float(), mask)
        loss_per_user(logits, labels, torch.ones(len(labels))).mean().backward()
        optimiser.step()
    slope, offset = fit_platt(model.logits(sessions.of(np.flatnonzero(~rows))), positive[~rows])
    calibrated = OverUseModel(
        OverUseConfig(rule=rule, slope=slope, offset=offset, label=model.config.label)
    )
    calibrated.load_state_dict(model.state_dict())
    return calibrated.train(mode=False)
