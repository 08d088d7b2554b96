"""The simulated month: who is not protected lives as without a guard, and each measure bites."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from client.site.wellbeing import WellbeingConfig
from client.wellbeing.engagement import Engagement
from simulations.benchmarks.wellbeing.month import BEGIN, Month, Service, live
from simulations.benchmarks.wellbeing.scores import auroc, stated_scores
from simulations.benchmarks.wellbeing.users import Films, Users

FILMS, USERS, DAYS = 400, 6, 7


def service() -> Service:
    """Users who stay long, and films of which the best keep them."""
    draw = np.random.default_rng(5)
    engagement = np.concatenate([[0.0], draw.normal(size=FILMS)])
    finite = np.concatenate([[False], draw.random(FILMS) < 0.5])
    return Service(
        Films(engagement, finite),
        Users(np.full(USERS, 2.0), np.full((USERS, 3), 1.0), np.ones(USERS, np.bool_)),
        np.stack([draw.permutation(FILMS) + 1 for _ in range(USERS)]),
        np.tile(np.sort(draw.random(FILMS))[::-1], (USERS, 1)),
        [frozenset(draw.integers(1, FILMS + 1, 40).tolist()) for _ in range(USERS)],
        Engagement(np.exp(engagement), float(np.exp(engagement[1:]).mean())),
    )


def lived(keys: dict[str, Any] | None = None, risk: float = 1.0) -> list[Month]:
    guard = None if keys is None else WellbeingConfig(who="all", model="-", items="-", **keys)  # type: ignore[arg-type]
    return [
        live(service(), user, DAYS, np.random.default_rng(user), policy=guard, risk=risk)
        for user in range(USERS)
    ]


def hours(months: list[Month]) -> float:
    return sum(month.minutes for month in months) / 60


@pytest.mark.parametrize(
    ("keys", "most"),
    [
        ({"cap": 40}, 0.7),
        ({"pause_after_minutes": 60.0, "pause_minutes": 15.0}, 0.9),
        ({"damping": 3.0}, 0.9),
        ({"finite_worth": 1e6}, 1.0),
    ],
)
def test_a_measure_shortens_use_of_those_above_the_threshold_alone(
    keys: dict[str, Any], most: float
) -> None:
    plain = lived()
    assert hours(lived(keys)) < most * hours(plain)
    assert lived(keys, risk=0.49) == plain
    for month in plain:
        assert month.times == sorted(month.times)
        assert len(set(month.films)) == len(month.films)
        assert not month.times or BEGIN <= month.times[0] < BEGIN + DAYS * 86_400


def test_in_quiet_hours_nobody_uses_it_and_some_come_back_in_the_morning() -> None:
    quiet, plain = lived({"quiet_hours": "22:00-07:00"}), lived()
    assert sum(month.at_night for month in quiet) == 0
    assert sum(month.at_night for month in plain) > 60
    assert any(7 <= time % 86_400 / 3600 < 8 for month in quiet for time in month.times)


def test_a_stated_score_has_its_area_and_means_what_it_says() -> None:
    draw = np.random.default_rng(0)
    positive = np.arange(20_000) < 2_000
    risk = stated_scores(positive, 0.8, draw)
    assert auroc(risk[::10], positive[::10]) == pytest.approx(0.8, abs=0.03)
    said = risk >= 0.3
    assert positive[said].mean() == pytest.approx(risk[said].mean(), abs=0.05)
