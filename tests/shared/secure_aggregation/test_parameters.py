import itertools

import pytest

from shared.errors import ConfigError
from shared.secure_aggregation.parameters import Parameters, default_colluding


def reveals(n: int, c: int, t: int) -> bool:
    """Whether two lists of survivors, shown to two parts of the honest, give t shares of both."""
    return any(
        c + shown_one >= t and c + (n - c - shown_one) >= t for shown_one in range(n - c + 1)
    )


def allowed(n: int, c: int, d: int, t: int) -> bool:
    try:
        Parameters(organisations=n, colluding=c, dropouts=d, threshold=t)
    except ConfigError:
        return False
    return True


def test_exactly_the_safe_thresholds_that_the_present_can_reach_are_allowed() -> None:
    for n, c, d in itertools.product(range(1, 13), range(5), range(5)):
        safe = {t for t in range(1, n + 1) if not reveals(n, c, t) and t <= n - d}
        assert {t for t in range(n + 2) if allowed(n, c, d, t)} == (safe if n >= 3 + c else set())


def test_two_honest_inputs_are_in_every_sum() -> None:
    for n, c, d, t in itertools.product(range(1, 13), range(5), range(5), range(13)):
        if allowed(n, c, d, t):
            parameters = Parameters(organisations=n, colluding=c, dropouts=d, threshold=t)
            assert t - c >= 2
            assert parameters.honest_survivors == n - c - d >= 2


def test_with_a_third_colluding_it_is_the_paper_s_two_thirds() -> None:
    for third in range(2, 30):
        n, c = 3 * third, third - 1
        smallest = min(t for t in range(n + 1) if 2 * t > n + c)
        assert Parameters.choose(n, c, 0).threshold == smallest == (2 * n) // 3


@pytest.mark.parametrize(
    ("n", "c", "d", "t", "words"),
    [
        (3, 1, 0, 3, "one honest organisation's answer alone. Invite at least 4"),
        (8, 2, 3, 6, "allow at most 2 dropouts"),
        (8, 2, 1, 5, "two lists of survivors.*at least 6"),
        (8, 2, 2, 7, "not reached when 2 drop out. Choose at most 6"),
        (8, -1, 0, 6, "no negative number"),
        (8, 1, -1, 6, "no negative number"),
        (1001, 1, 0, 900, "at most 1000 organisations"),
    ],
)
def test_a_refusal_says_why_and_what_to_choose(n: int, c: int, d: int, t: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Parameters(organisations=n, colluding=c, dropouts=d, threshold=t)


def test_the_default_is_a_third_and_at_least_one() -> None:
    assert [default_colluding(n) for n in (1, 3, 5, 6, 8, 100)] == [1, 1, 1, 2, 2, 33]
