"""In which group a user is, and what is refused."""

from __future__ import annotations

import itertools
import math

import pytest

from shared.config import ModelConfig, PrivacyConfig, RunConfig
from shared.errors import ConfigError
from shared.groups import OTHER, GroupsConfig, columns_of, robust_weights, tables_of, weighted_of

TEXT = "gender=F|M x age=18|25+35; events=20|100; taste=5"


def test_each_user_is_in_exactly_one_cell_of_each_table() -> None:
    crossed, events, taste = tables_of(TEXT)
    assert crossed.cells == ("F x 18", "F x 25+35", "M x 18", "M x 25+35", OTHER)
    assert crossed.size == len(crossed.cells) == 5
    found = {
        (gender, age): crossed.cells[crossed.cell_of({"gender": gender, "age": age}, 9)]
        for gender, age in itertools.product("FM", ("18", "25", "35"))
    }
    assert found[("F", "18")] == "F x 18"
    assert found[("M", "25")] == found[("M", "35")] == "M x 25+35"
    assert [events.cell_of({}, count) for count in (1, 19, 20, 99, 100, 10**6)] == [
        *(0, 0, 1, 1, 2, 2)
    ]
    places = [taste.cell_of({}, 9, place) for place in (0.0, 0.19, 0.2, 0.99, 1.0)]
    assert places == [0, 0, 1, 4, 4]


@pytest.mark.parametrize(
    "values", [{}, {"gender": "F"}, {"gender": "X", "age": "18"}, {"age": "18", "sex": "F"}]
)
def test_another_value_or_none_is_in_the_last_cell(values: dict[str, str]) -> None:
    crossed, _, taste = tables_of(TEXT)
    assert crossed.cells[crossed.cell_of(values, 9)] == OTHER
    assert taste.cells[taste.cell_of(values, 0)] == OTHER


def test_columns_are_those_of_users_alone() -> None:
    assert columns_of(tables_of(TEXT)) == ("gender", "age")


@pytest.mark.parametrize(
    "text",
    [
        *("gender", "gender=", "=F|M", "gender=F||M", "gender=F|F", "gender=F|M x gender=F"),
        *("events=", "events=0", "events=20|20", "events=a", "taste=1", "taste=21", "taste=2|3"),
        *(";", "a=1;;b=2", "a=1\n", "a=" + "|".join(map(str, range(500)))),
        "; ".join(f"c{number}=1" for number in range(9)),
        " x ".join(f"c{number}=1" for number in range(4)),
    ],
)
def test_what_names_no_groups_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"groups\.tables: "):
        GroupsConfig(tables=text)


def test_weights_are_at_most_1_whatever_is_stated() -> None:
    weighted = weighted_of("gender=F|M: 30, 20, 15")
    assert weighted is not None
    assert weighted.weights == (1.0, 20 / 30, 0.5)


@pytest.mark.parametrize(
    "text",
    [
        *("gender=F|M", "gender=F|M: 1", "gender=F|M: 1, 1, 0", "gender=F|M: 1, 1, -1"),
        *("gender=F|M: 1, 1, inf", "gender=F|M: 1, 1, nan", "gender=F|M: a, b, c", ": 1"),
        *("taste=2: 1, 1, 1", "gender=F; age=1: 1, 1"),
    ],
)
def test_weights_that_do_not_fit_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"groups\.weights: "):
        GroupsConfig(weights=text)


def test_robust_weights_grow_with_the_loss_and_with_the_rate() -> None:
    losses = [0.88, 0.90, 0.93]
    for rate in (1.0, 10.0):
        found = robust_weights(losses, rate)
        assert found[2] == max(found) == 1.0
        ratios = [math.log(found[2] / weight) for weight in found]
        assert ratios == pytest.approx([rate * (0.93 - loss) for loss in losses])


def test_a_run_refuses_what_cannot_be_measured() -> None:
    exact = PrivacyConfig(epsilon=None, delta=1e-5)
    private = PrivacyConfig(epsilon=8.0, delta=1e-5)
    groups = GroupsConfig(tables="gender=F|M", share=0.1)
    assert RunConfig(privacy=private, groups=groups).groups.share == 0.1
    with pytest.raises(ConfigError, match="never exact"):
        RunConfig(privacy=exact, groups=groups)
    with pytest.raises(ConfigError, match="no popularity"):
        RunConfig(
            privacy=private,
            model=ModelConfig(item_bias=False),
            groups=GroupsConfig(tables="taste=3", share=0.1),
        )
    with pytest.raises(ConfigError, match=r"without groups\.tables"):
        GroupsConfig(share=0.1)
    with pytest.raises(ConfigError, match=r"choose a number in \[0, 1\)"):
        GroupsConfig(tables="gender=F|M", share=1.0)


def test_a_run_without_groups_is_the_run_that_it_was() -> None:
    """A checkpoint of a version that had no groups can be resumed."""
    plain = RunConfig(privacy=PrivacyConfig(epsilon=8.0, delta=1e-5))
    assert not [key for key in plain.identity if key.startswith("groups.") or "debias" in key]
    with_groups = RunConfig(
        privacy=plain.privacy, groups=GroupsConfig(weights="gender=F|M: 1, 1, 1")
    )
    assert with_groups.fingerprint != plain.fingerprint
