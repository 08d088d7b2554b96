"""Features of sessions: bounded, of the past alone, and of one user alone."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.over_use.sessions import FEATURES, SessionRule, features_of, session_features

HOUR = 3600.0
NIGHT = 10 * 24 * HOUR + 23.5 * HOUR  # 23:30 UTC


def column(rows: NDArray[np.float32], name: str) -> list[float]:
    """The share that a feature stands for; `growth` as it is."""
    values = rows[:, FEATURES.index(name)].astype(float)
    return np.round(values if name == "growth" else (values + 1) / 2, 4).tolist()


def test_two_sessions_by_hand() -> None:
    times = np.array([0.0, 600.0, 1200.0, NIGHT, NIGHT + 60])
    marks = np.array([True, False, False, True, True])
    rows = features_of(times, NIGHT + HOUR, SessionRule(), marks)
    assert column(rows, "events") == [round(np.log(4) / np.log(501), 4), 0.1767]
    assert column(rows, "minutes") == [round(np.log(21) / np.log(721), 4), 0.1053]
    gap = (NIGHT - 1200) / HOUR
    assert column(rows, "gap") == [1.0, round(np.log1p(gap) / np.log1p(24 * 90), 4)]
    assert column(rows, "night") == [1.0, 1.0]  # midnight on the first day, 23:30 on the last
    assert column(rows, "pace")[0] == round(np.log1p(9) / np.log(601), 4)
    assert column(rows, "growth") == [0.0, -1.0]
    assert column(rows, "run") == [0.1, 0.1]
    assert column(rows, "recommended") == [0.3333, 1.0]
    shifted = features_of(times, NIGHT + HOUR, SessionRule(utc_offset_hours=8))
    assert column(shifted, "night") == [0.0, 0.0]


@pytest.mark.parametrize("seed", range(5))
def test_features_are_bounded_and_keep_the_last_sessions(seed: int) -> None:
    random = np.random.default_rng(seed)
    times = np.sort(np.exp(random.uniform(0, 25, 3000)))
    rule = SessionRule(sessions=7, weeks=1e7)
    rows = features_of(times, float(times[-1]), rule)
    whole = features_of(times, float(times[-1]), SessionRule(sessions=1000, weeks=1e7))
    assert np.abs(whole).max() <= 1
    np.testing.assert_array_equal(rows, whole[-7:])


def test_an_edge_case_has_the_features_of_the_table() -> None:
    rule = SessionRule(sessions=3)
    assert features_of(np.zeros(0), 0.0, rule).shape == (0, len(FEATURES))
    assert len(features_of(np.array([0.0]), 8 * 7 * 24 * HOUR, rule)) == 0  # too long ago
    same = features_of(np.zeros(5), 0.0, rule)
    assert column(same, "minutes") == [0.0]
    assert np.isfinite(same).all()
    for wrong in ([2.0, 1.0], [0.0, np.nan]):
        with pytest.raises(ValueError, match="finite and ascending"):
            features_of(np.array(wrong), 9.0, rule)


def test_a_users_features_are_the_same_bits_among_others() -> None:
    random = np.random.default_rng(1)
    times = [np.sort(random.uniform(0, 1e6, n)) for n in (300, 1, 50)]
    now, rule = np.full(3, 9e5), SessionRule(sessions=5)
    together = session_features(times, now, rule)
    for user, own in enumerate(times):
        alone = session_features([own], now[:1], rule)
        np.testing.assert_array_equal(together.features[user], alone.features[0])
        np.testing.assert_array_equal(together.mask[user], alone.mask[0])
    assert together.mask.sum(1).tolist() == [5, 1, 5]


@pytest.mark.parametrize(
    "wrong", [{"gap_minutes": 0.0}, {"sessions": 0}, {"weeks": np.nan}, {"utc_offset_hours": 15.0}]
)
def test_a_rule_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SessionRule(**wrong)  # type: ignore[arg-type]
