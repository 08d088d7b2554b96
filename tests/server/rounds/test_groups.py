"""Figures of groups from the organisations' noised sums."""

from __future__ import annotations

import math

import numpy as np
import pytest

from server.rounds.groups import measured_groups
from server.runs.transparency import describe_groups
from shared.config import ModelConfig
from shared.errors import WireError
from shared.messages import EvaluateRequest

TEXT = "gender=F|M; events=20"


def request(noise_multiplier: float = 1.0, groups: str = TEXT) -> EvaluateRequest:
    return EvaluateRequest(
        run="r",
        round=1,
        catalogue="c",
        model=ModelConfig(),
        weights={},
        noise_multiplier=noise_multiplier,
        sample_rate=1.0,
        groups=groups,
    )


def reply(*cells: tuple[float, float, float]) -> np.ndarray:
    """Sums of one organisation; those of all users are the sum of the first three cells'."""
    rows = np.array(cells)
    return np.concatenate([rows[:3].sum(0), rows.flatten()]).astype(np.float32)


REPLIES = [
    reply((30, 15, 300), (60, 40, 200), (0, 0, 1), (50, 30, 250), (40, 25, 250), (0, 0, 1)),
    reply((20, 10, 200), (30, 20, 100), (0, 0, 0), (25, 15, 150), (25, 15, 150), (0, 0, 0)),
]


def test_sums_of_all_organisations_are_divided_by_their_users() -> None:
    assert request().numbers == len(REPLIES[0]) == 3 * (1 + 3 + 3)
    assert request().clip_norm == pytest.approx(3.0)
    found = measured_groups(REPLIES, request())
    gender = found["tables"][0]
    assert [group["name"] for group in gender["groups"]] == ["F", "M", "other"]
    assert gender["groups"][0]["ndcg"] == pytest.approx(25 / 500)
    assert gender["groups"][1]["hr"] == pytest.approx(90 / 300)
    assert gender["groups"][2]["ndcg"] is None  # one user, where the noise is of four
    assert (gender["worst"], gender["best"]) == ("F", "M")
    assert gender["gap_low"] > 0
    assert found["all"]["ndcg"] == pytest.approx(85 / 801)
    assert found["organisations"] == 2
    assert found["noise"] == pytest.approx(3 * math.sqrt(2))


def test_without_answers_or_above_the_noise_nothing_is_said() -> None:
    assert measured_groups([], request()) == {}
    assert measured_groups(REPLIES, request(noise_multiplier=500.0)) == {}


def test_the_card_names_the_worst_group_and_its_interval() -> None:
    text = describe_groups(measured_groups(REPLIES, request()), str)
    assert "Served worst: **F**; best: M. The gap is 0.1500 (95%: 0." in text
    assert "| other | 1 | too few | too few |  |" in text
    assert "was not measured" in describe_groups({}, str)


@pytest.mark.parametrize("groups", ["gender", "taste=99", ";"])
def test_a_request_for_what_names_no_groups_is_malformed(groups: str) -> None:
    with pytest.raises(WireError):
        request(groups=groups)
