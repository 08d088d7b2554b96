from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from shared.config import PrivacyConfig
from shared.data.histories import Histories
from shared.data.splits import leave_one_out
from shared.evaluation.ranking import Scorer
from shared.models.counts import Popularity
from shared.privacy.accounting.accountant import epsilon, noise_multiplier_for
from shared.privacy.release import Release, ReleaseKind
from shared.sections import Value
from simulations.experiment import baselines
from simulations.experiment.config import read_settings
from simulations.experiment.prepare import prepare
from simulations.experiment.simulation import Simulation
from tests.simulations.conftest import TINY_SETTINGS, USERS


@pytest.fixture
def simulation(tiny_data: Path, tmp_path: Path) -> Simulation:
    options: dict[str, Value | None] = {
        "privacy.epsilon": 8.0,
        "privacy.delta": 1e-2,
        "lab.data": str(tiny_data),
    }
    return prepare(read_settings(None, options, TINY_SETTINGS), tmp_path / "run")


def cases(simulation: Simulation) -> baselines.Cases:
    return baselines.Cases(simulation.split, simulation.parts, items=18, window=5)


def oracle(split_targets: dict[tuple[int, ...], int]) -> Scorer:
    def score(histories: Tensor, /) -> Tensor:
        scores = torch.zeros(len(histories), 18)
        for row, history in enumerate(histories.tolist()):
            scores[row, split_targets[tuple(history)] - 1] = 1
        return scores

    return score


def test_an_oracle_gets_everything_right(simulation: Simulation) -> None:
    split = simulation.split
    known = {
        tuple(split.test_inputs.padded([row], 5)[0].tolist()): int(target)
        for row, target in enumerate(split.test_targets)
    }
    assert len(known) == USERS
    figures = cases(simulation).rank(oracle(known)).metrics()
    assert (figures.hr, figures.ndcg, figures.users) == (1, 1, USERS)


def test_every_user_is_a_case_of_one_organisation(simulation: Simulation) -> None:
    parts = cases(simulation).parts
    assert sorted(np.concatenate(parts).tolist()) == list(range(USERS))
    for number, rows in enumerate(parts):
        users = [simulation.split.test_inputs.users[row] for row in rows]
        assert set(users) == set(simulation.site(number).histories.users)


def test_a_user_too_short_to_be_asked_is_no_case() -> None:
    histories = Histories.from_lists([[1, 2, 3], [1, 2], [3, 2, 1]])
    cases = baselines.Cases(
        leave_one_out(histories), [np.array([0, 1]), np.array([2])], items=3, window=2
    )
    assert [rows.tolist() for rows in cases.parts] == [[0], [1]]


def test_counting_sees_training_events_alone(simulation: Simulation) -> None:
    train = simulation.split.train
    scores = baselines.popularity(train, 18)(torch.ones(1, 1, dtype=torch.int64))[0]
    np.testing.assert_array_equal(scores, np.bincount(train.items, minlength=19)[1:])
    assert train.events == USERS * 6


def test_the_private_popularity_costs_the_runs_epsilon_and_no_more() -> None:
    noise = noise_multiplier_for(2.0, 1e-5, sample_rate=1.0, steps=1)
    release = Release(kind=ReleaseKind.TRAIN, noise_multiplier=noise, sample_rate=1.0, steps=1)
    assert 1.98 < epsilon([release], 1e-5) <= 2.0


def test_the_private_popularity_is_noised_by_every_organisation(simulation: Simulation) -> None:
    histories = [simulation.site(number).histories for number in range(4)]
    privacy = PrivacyConfig(epsilon=1.0, delta=1e-2)
    anyone = torch.ones(1, 1, dtype=torch.int64)
    draws = torch.stack(
        [
            baselines.private_popularity(histories, 18, privacy, seed)(anyone)[0]
            for seed in range(40)
        ]
    )
    noise = noise_multiplier_for(1.0, 1e-2, sample_rate=1.0, steps=1)
    assert float(draws.std(0).mean()) == pytest.approx(2 * noise, rel=0.1)  # sqrt(4) sites

    with pytest.raises(ValueError, match="needs an epsilon"):
        baselines.private_popularity(histories, 18, replace(privacy, epsilon=None), 0)


def test_the_validation_loss_of_equal_scores_is_that_of_guessing(simulation: Simulation) -> None:
    def equal(histories: Tensor, /) -> Tensor:
        return torch.zeros(len(histories), 18)

    loss = baselines.validation_loss(equal, simulation.split, 5)
    assert loss == pytest.approx(np.log(18))


def test_organisations_ranked_apart_come_in_the_order_of_the_split(
    simulation: Simulation,
) -> None:
    scorer = baselines.markov(simulation.split.train, 18)
    every = cases(simulation)
    whole, [apart] = every.rank(scorer), every.rank_each([[scorer]] * len(every.parts))
    assert len(set(whole.ranks.tolist())) > 1
    assert torch.equal(apart.ranks, whole.ranks)


def test_an_organisation_is_ranked_by_its_own_scorer(simulation: Simulation) -> None:
    every = cases(simulation)
    scorers = [[Popularity(torch.zeros(18))] for _ in every.parts]
    [flat] = every.rank_each(scorers)
    scorers[1] = [Popularity(torch.arange(18.0))]
    [other] = every.rank_each(scorers)
    changed = (other.ranks != flat.ranks).nonzero().flatten().tolist()
    assert changed
    assert set(changed) <= set(every.parts[1].tolist())
