"""The model: saved and loaded, of one user alone, and exactly clipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from shared.errors import DataError
from shared.over_use.calibration import fit_platt, platt
from shared.over_use.model import OverUseConfig, OverUseModel, loss_per_user
from shared.over_use.sessions import FEATURES, SessionRule
from shared.privacy.clipping.clipping import PerUserClipping
from shared.privacy.clipping.probe import probe, random_weights


def model(seed: int = 0) -> OverUseModel:
    torch.manual_seed(seed)
    rule = SessionRule(sessions=4, utc_offset_hours=1.5)
    return OverUseModel(OverUseConfig(rule=rule, hidden_size=5, heads=2, slope=2.0, offset=-1.0))


def users(count: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    mask = torch.arange(4) < torch.tensor([0, 3, 2, 1, 4, 2])[:count, None]
    features = torch.rand(count, 4, len(FEATURES), generator=random) * 2 - 1
    labels = torch.arange(count) % 2
    return features * mask[..., None], mask, labels


def test_risk_is_that_of_the_model_that_was_saved(tmp_path: Path) -> None:
    saved = model()
    times = [np.array([0.0, 60.0, 9000.0]), np.zeros(0), np.array([5.0])]
    saved.save_pretrained(tmp_path)
    loaded = OverUseModel.from_pretrained(tmp_path)
    assert loaded.config == saved.config
    risk = loaded.risk(times)
    np.testing.assert_array_equal(risk, saved.risk(times))
    assert risk.shape == (3,)
    assert ((risk > 0) & (risk < 1)).all()
    # Calibrated; and at one's last event unless a present is given.
    np.testing.assert_array_equal(risk, loaded.risk(times, now=np.array([9000.0, 0.0, 5.0])))
    assert loaded.risk(times, now=1e5)[0] != risk[0]
    (tmp_path / "config.json").write_text('{"hidden_size": 6}')
    with pytest.raises(DataError, match="shape"):
        OverUseModel.from_pretrained(tmp_path)


def test_a_place_without_a_session_counts_for_nothing() -> None:
    features, mask, _ = users()
    one = model()
    with random_weights(one):
        other = torch.where(mask[..., None], features, torch.rand_like(features))
        torch.testing.assert_close(one(features, mask), one(other, mask))
        assert one(features, mask).unique().numel() == len(features)


def test_each_users_clipped_gradient_is_autograds_clipped_by_hand() -> None:
    """Brute force: one backward pass a user, clipped and summed in float64."""
    features, mask, labels = users()
    one, clip_norm = model(), 0.6
    present = torch.tensor([1.0, 1, 1, 1, 1, 0])
    with random_weights(one):
        weights = list(one.parameters())
        expected = [torch.zeros_like(w, dtype=torch.float64) for w in weights]
        norms = []
        for row in range(len(labels)):
            loss = loss_per_user(one(features, mask), labels, present)[row]
            gradients = [g.double() for g in torch.autograd.grad(loss, weights)]
            norm = torch.stack([g.norm() for g in gradients]).norm()
            norms.append(float(norm))
            for total, gradient in zip(expected, gradients, strict=True):
                total.add_(gradient * min(1.0, clip_norm / max(float(norm), 1e-30)))
        assert norms[-1] == 0
        assert min(norms[:-1]) < clip_norm < max(norms)
        with PerUserClipping(one, clip_norm) as clipping:
            clipping.zero_sums()
            found = clipping.backward(loss_per_user(one(features, mask), labels, present))
            sums = [clipping.sum_of(w) for w in weights]
    torch.testing.assert_close(found.double(), torch.tensor(norms).double(), rtol=1e-4, atol=1e-6)
    for total, target in zip(sums, expected, strict=True):
        torch.testing.assert_close(total, target, rtol=1e-4, atol=1e-6)


def test_no_user_reaches_anothers_gradient() -> None:
    features, mask, labels = users()
    one = model()
    probe(
        one,
        lambda rows: loss_per_user(
            one(features.to(rows.dtype)[rows.long()[:, 0]], mask[rows.long()[:, 0]]),
            labels[rows.long()[:, 0]],
            torch.ones(len(rows)),
        ),
        torch.arange(6.0)[:, None],
    )


def test_platt_finds_the_curve_that_drew_the_labels() -> None:
    random = np.random.default_rng(0)
    scores = random.normal(size=20000)
    labels = random.random(20000) < platt(scores, 1.5, -0.7)
    slope, offset = fit_platt(scores, labels)
    assert abs(slope - 1.5) < 0.1
    assert abs(offset + 0.7) < 0.1
    assert fit_platt(-scores, labels)[0] == 0  # never turned round
