"""Weights of groups follow from noised figures, and from nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest

from server.rounds.group_weights import LEAST_WEIGHT, next_weights, reweighed
from server.rounds.groups import measured_groups
from shared.config import ModelConfig
from shared.errors import ConfigError
from shared.groups import GroupsConfig, weighted_of
from shared.messages import EvaluateRequest

ROBUST = GroupsConfig(tables="gender=F|M; events=20", share=0.1, robust=4.0)


def figures(*ndcgs: float, users: float = 500, noise: float = 1.0) -> dict[str, object]:
    """Of F, M and "other", from the sums as they are released."""
    request = EvaluateRequest(
        run="r",
        round=1,
        catalogue="c",
        model=ModelConfig(),
        weights={},
        noise_multiplier=noise,
        sample_rate=1.0,
        groups=ROBUST.tables,
    )
    rows = np.array([[0.0, ndcg * users, users] for ndcg in ndcgs])
    sums = np.concatenate([rows.sum(0), rows.flatten(), np.zeros(9)])
    return measured_groups([sums.astype(np.float32)], request)


def weights(text: str) -> tuple[float, ...]:
    weighted = weighted_of(text)
    assert weighted is not None
    return weighted.weights


def test_a_group_that_is_served_worse_counts_more_and_nobody_more_than_one() -> None:
    text = reweighed(ROBUST, ROBUST.first_weights, figures(0.1, 0.3, 0.2))
    expected = [1.0, math.exp(-4 * 0.2), math.exp(-4 * 0.1)]
    assert weights(text) == pytest.approx(expected, abs=1e-6)
    again = weights(reweighed(ROBUST, text, figures(0.1, 0.3, 0.2)))
    assert again == pytest.approx([w**2 for w in expected], abs=1e-5)
    turned = weights(reweighed(ROBUST, text, figures(0.3, 0.1, 0.2)))
    assert turned == pytest.approx([1.0, 1.0, 1.0], abs=1e-5)


def test_noise_neither_hides_a_group_nor_lifts_it() -> None:
    odd = weights(reweighed(ROBUST, ROBUST.first_weights, figures(-0.5, 1.7, 0.0)))
    assert odd == pytest.approx([1.0, LEAST_WEIGHT, 1.0])  # as if 0, 1 and 0
    few = figures(0.1, 0.3, 0.2, users=1, noise=0.2)
    assert few
    assert weights(reweighed(ROBUST, ROBUST.first_weights, few)) == (1.0, 1.0, 1.0)
    assert reweighed(ROBUST, "gender=F|M: 1, 0.5, 1", {}) == "gender=F|M: 1, 0.5, 1"
    for seed in range(50):
        draw = np.random.default_rng(seed)
        after = next_weights(draw.uniform(0.1, 1, 5).tolist(), draw.uniform(0, 1, 5).tolist(), 50.0)
        assert max(after) == 1
        assert min(after) >= LEAST_WEIGHT


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"share": 0.0}, "state groups.share"),
        ({"weights": "gender=F|M: 1, 0.5, 1"}, "leave groups.weights out"),
        ({"tables": "taste=5; gender=F|M"}, "Put another table first"),
        ({"robust": -1.0}, "groups.robust"),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict[str, object], remedy: str) -> None:
    fields: dict[str, object] = {"tables": "gender=F|M", "share": 0.1, "robust": 4.0}
    with pytest.raises(ConfigError, match=remedy):
        GroupsConfig(**fields | settings)  # type: ignore[arg-type]
