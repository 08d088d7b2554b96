"""Labels: the rule by hand, the column's values, and no event in both windows."""

from __future__ import annotations

import numpy as np
import pytest

from shared.errors import ConfigError, DataError
from shared.over_use.labels import (
    LabelRule,
    label_by_rule,
    labels_from_column,
    presents_after_sessions,
)
from shared.over_use.sessions import DAY, WEEK, SessionRule, features_of

SESSIONS = SessionRule()


def test_the_rule_counts_hours_within_sessions_on_single_days() -> None:
    evening = np.arange(0, 3601, 600.0)  # an hour
    times = np.concatenate([evening + 2 * DAY, evening + 5 * DAY])
    two_days = LabelRule(days=2, hours=0.99)
    assert label_by_rule(times, 0.0, two_days, SESSIONS)
    assert not label_by_rule(times, 0.0, LabelRule(days=2, hours=1.0), SESSIONS)  # not more
    assert not label_by_rule(times, 0.0, LabelRule(days=3, hours=0.5), SESSIONS)
    assert not label_by_rule(times, 3 * DAY, two_days, SESSIONS)  # one evening is the past
    assert not label_by_rule(times, 0.0, LabelRule(days=2, hours=0.99, weeks=0.5), SESSIONS)
    # From 23:30 on, half an hour belongs to either day.
    assert not label_by_rule(evening + 23.5 * 3600, 1.0, LabelRule(days=1, hours=0.6), SESSIONS)
    # Ten hours between two events are no session.
    assert not label_by_rule(np.array([1.0, 36001.0]), 0.0, LabelRule(days=1, hours=1), SESSIONS)


def test_the_rule_counts_events_on_single_days() -> None:
    times = np.array([1.0, 2.0, 3.0, DAY + 1, DAY + 2, 3 * DAY])
    assert label_by_rule(times, 0.0, LabelRule(days=2, events=2), SESSIONS)
    assert not label_by_rule(times, 0.0, LabelRule(days=2, events=3), SESSIONS)
    assert not label_by_rule(times, 1.0, LabelRule(days=1, events=3), SESSIONS)  # not at present
    either = LabelRule(days=1, hours=5, events=3)
    assert label_by_rule(times, 0.0, either, SESSIONS)
    assert str(either).startswith("more than 5 hours or at least 3 events a day")


@pytest.mark.parametrize("seed", range(3))
def test_features_and_label_share_no_event(seed: int) -> None:
    random = np.random.default_rng(seed)
    times = np.sort(random.uniform(0, 10 * WEEK, 400))
    now, rule = 6 * WEEK, LabelRule(days=1, events=2)
    past, later = times[times <= now], times[times > now]
    other = np.sort(random.uniform(now + 1, 12 * WEEK, 900))
    features = features_of(times, now, SESSIONS)
    np.testing.assert_array_equal(features, features_of(past, now, SESSIONS))
    np.testing.assert_array_equal(
        features, features_of(np.concatenate([past, other]), now, SESSIONS)
    )
    assert label_by_rule(times, now, rule, SESSIONS) == label_by_rule(later, now, rule, SESSIONS)


def test_the_present_is_when_a_session_is_known_to_be_over() -> None:
    times = [np.array([0.0, 60.0, 9000.0]), np.array([5.0])]
    presents = presents_after_sessions(times, 1, SESSIONS)
    assert presents.tolist() == [60 + 1800, 5 + 1800]
    second = presents_after_sessions(times, 2, SESSIONS)
    assert second[0] == 9000 + 1800
    assert np.isnan(second[1])


def test_a_value_that_says_nothing_is_refused_with_its_row() -> None:
    with pytest.raises(DataError, match=r"users.csv, row 2, field 'over_use', value 'maybe'"):
        labels_from_column(["YES", "maybe"], "users.csv")


@pytest.mark.parametrize(
    "wrong", [{}, {"events": 0}, {"hours": 24.0}, {"weeks": 0.0, "events": 1}, {"days": 0}]
)
def test_a_rule_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        LabelRule(**wrong)  # type: ignore[arg-type]
