"""The [wellbeing] table: off by default, and keys that do not fit are refused."""

from __future__ import annotations

from typing import Any

import pytest

from client.site.wellbeing import Measure, WellbeingConfig
from shared.errors import ConfigError

ON: dict[str, Any] = {"who": "all", "model": "m"}


def test_it_is_off_until_somebody_is_named() -> None:
    plain = WellbeingConfig()
    assert not plain.on
    assert plain.measures == ()
    some = WellbeingConfig(**ON, damping=1.0, quiet_hours="23:00-07:00", quiet_threshold=0.2)
    assert some.measures == (Measure.QUIET, Measure.DAMPING)
    assert [some.threshold_of(one) for one in some.measures] == [0.2, 0.5]
    assert some.least == 0.2


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"who": "all"}, "needs wellbeing.model"),
        (ON, "no measure is on"),
        (ON | {"finite_worth": 2.0}, "needs wellbeing.items"),
        ({"who": "some"}, "'nobody' or 'opted-in' or 'all'"),
        ({"threshold": 1.5}, "choose a number in"),
        ({"cap": -1}, "choose a whole number >= 0"),
        ({"damping": float("nan")}, "choose a finite number >= 0"),
        ({"finite_worth": 0.5}, "1 is off"),
        ({"pause_minutes": 0.0}, "above 0"),
        ({"quiet_hours": "23-07"}, "two times of the day"),
        ({"quiet_hours": "24:00-07:00"}, "two times of the day"),
        ({"quiet_hours": "07:00-07:00"}, "two times of the day"),
        ({"time_zone": "Mars/Base"}, "name a time zone"),
        ({"candidates": 1001}, "from 1 to 1000"),
    ],
)
def test_keys_that_do_not_fit_are_refused(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        WellbeingConfig(**keys)
    assert "wellbeing." in str(refused.value)
