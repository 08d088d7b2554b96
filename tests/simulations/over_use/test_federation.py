"""Training together: what the ledgers say, and what organisations and noise change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant

from client.compute.over_use import Examples
from client.ledger.ledger import Ledger
from shared.config import PrivacyConfig, Trust
from shared.errors import ConfigError, LedgerError
from shared.over_use.model import OverUseConfig, OverUseModel
from simulations.over_use.federation import (
    Cost,
    Organisation,
    Training,
    initial_model,
    train_together,
)
from simulations.over_use.task import Task, cohort_task

SHORT = Training(rounds=4, rounds_without_noise=4)


@pytest.fixture(scope="module")
def task() -> Task:
    return cohort_task(200, 5)


def run(
    task: Task, folder: Path, claim: PrivacyConfig, count: int = 4, training: Training = SHORT
) -> tuple[OverUseModel, dict[str, Cost]]:
    organisations = [
        Organisation(
            name=f"o{place}",
            examples=Examples(task.sessions.of(users), task.labels[users]),
            folder=folder / f"o{place}",
        )
        for place, users in enumerate(np.array_split(np.arange(len(task)), count))
    ]
    model = initial_model(OverUseConfig(rule=task.rule), 0)
    return model, train_together(organisations, model, training, claim, seed=0)


def independent_epsilon(ledger: Ledger) -> float:
    """Google's accountant, on what the ledger holds."""
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
    for release in ledger.releases():
        event = GaussianDpEvent(release.noise_multiplier)
        accountant.compose(PoissonSampledDpEvent(release.sample_rate, event), release.steps)
    return float(accountant.get_epsilon(1e-5))


@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_each_ledger_holds_what_an_independent_accountant_finds(
    task: Task, tmp_path: Path, rate: float
) -> None:
    claim = PrivacyConfig(epsilon=2.0, delta=1e-5)
    training = Training(rounds=4, sample_rate=rate)
    _, costs = run(task, tmp_path, claim, training=training)
    assert set(costs) == {"o0", "o1", "o2", "o3"}
    for name, cost in costs.items():
        ledger = Ledger(tmp_path / name / "ledger.sqlite", name, tmp_path / name / "anchor")
        assert ledger.spent(1e-5) == cost.epsilon == cost.epsilon_if_all_collude
        assert cost.epsilon is not None
        assert 1.99 < cost.epsilon <= 2.0
        assert cost.steps == 4
    assert len({cost.epsilon for cost in costs.values()}) == 1
    assert independent_epsilon(ledger) == pytest.approx(ledger.spent(1e-5), rel=0.01)


def test_secure_aggregation_counts_the_honest_shares(task: Task, tmp_path: Path) -> None:
    claim = PrivacyConfig(epsilon=2.0, delta=1e-5, trust=Trust.SECURE_AGGREGATION, colluding=1)
    model, costs = run(task, tmp_path / "four", claim)
    cost = costs["o0"]
    assert cost.epsilon is not None
    assert cost.epsilon_if_all_collude is not None
    assert 1.99 < cost.epsilon <= 2.0 < cost.epsilon_if_all_collude
    assert all(p.isfinite().all() for p in model.parameters())
    with pytest.raises(ConfigError, match="are counted on"):
        run(task, tmp_path / "one", claim, count=1)


def test_without_noise_it_does_not_matter_who_holds_which_users(task: Task, tmp_path: Path) -> None:
    claim = PrivacyConfig(epsilon=None, delta=1e-5)
    one, cost = run(task, tmp_path / "one", claim, count=1)
    three, _ = run(task, tmp_path / "three", claim, count=3)
    np.testing.assert_allclose(one.logits(task.sessions), three.logits(task.sessions), atol=1e-4)
    assert cost["o0"].epsilon is None


def test_a_delta_that_gives_a_user_away_is_refused(task: Task, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="below one over its users"):
        run(task, tmp_path, PrivacyConfig(epsilon=2.0, delta=0.02))
    assert list(tmp_path.iterdir()) == []  # no ledger was made


def test_a_ledger_that_is_there_is_not_made_anew(task: Task, tmp_path: Path) -> None:
    claim = PrivacyConfig(epsilon=2.0, delta=1e-5)
    run(task, tmp_path, claim, training=Training(rounds=1))
    with pytest.raises((LedgerError, FileExistsError)):
        run(task, tmp_path, claim, training=Training(rounds=1))
