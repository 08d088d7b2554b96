"""What a partner counts on, by its own site.toml."""

from __future__ import annotations

import pytest

from client.site.roster import Roster
from shared.errors import ConfigError


def test_only_the_honest_among_the_fewest_count() -> None:
    assert Roster(organisations=8, colluding=2, fewest=7).honest_shares == 5
    assert Roster().honest_shares == 0


@pytest.mark.parametrize(
    ("organisations", "colluding", "fewest"), [(8, 2, 3), (8, 2, 9), (3, 2, 3), (2, 1, 2)]
)
def test_a_sum_that_could_be_one_honest_answer_is_refused(
    organisations: int, colluding: int, fewest: int
) -> None:
    with pytest.raises(ConfigError, match=r"roster\.fewest"):
        Roster(organisations=organisations, colluding=colluding, fewest=fewest)
