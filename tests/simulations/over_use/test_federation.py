"""Training through the apps of a real run: what the ledgers say, and what changes the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from flwr.serverapp.strategy import FedAdam

import simulations.over_use.federation as lab
from client.site.site import Site
from server.runs.model_card import Participation, Published, write_card
from server.state.checkpoint import Checkpoint
from shared.config import PrivacyConfig, TrainingConfig, Trust
from shared.errors import ConfigError
from shared.over_use.kind import bare
from shared.over_use.model import OverUseModel, loss_per_user
from shared.over_use_task import LabelSource
from simulations.experiment.federation import LedgerCost, run_federation, sites_in
from simulations.over_use.federation import Plan, run_config, train_together
from simulations.over_use.task import Task, cohort_task

EXACT = PrivacyConfig(epsilon=None, delta=1e-5)
PRIVATE = PrivacyConfig(epsilon=2.0, delta=1e-5)
MASKED = replace(PRIVATE, trust=Trust.SECURE_AGGREGATION, colluding=1)
ROUNDS = 3


@pytest.fixture(scope="module")
def task() -> Task:
    return cohort_task(120, 5)


def run(
    task: Task, folder: Path, claim: PrivacyConfig, count: int = 4, rate: float = 1.0
) -> tuple[OverUseModel, dict[str, LedgerCost]]:
    plan = Plan(privacy=claim, rounds=ROUNDS, training=TrainingConfig(sample_rate=rate))
    return train_together(task, np.array_split(np.arange(len(task)), count), plan, folder, 0)


def independent_epsilon(site: Site) -> float:
    """Google's accountant, on what the ledger holds."""
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
    for release in site.open_ledger().releases():
        event = GaussianDpEvent(release.noise_multiplier)
        accountant.compose(PoissonSampledDpEvent(release.sample_rate, event), release.steps)
    return float(accountant.get_epsilon(1e-5))


def test_each_ledger_holds_what_an_independent_accountant_finds(task: Task, tmp_path: Path) -> None:
    _, costs = run(task, tmp_path, PRIVATE, count=2, rate=0.3)
    assert set(costs) == {"organisation-1", "organisation-2"}
    for cost in costs.values():
        assert 1.99 < cost.epsilon == cost.epsilon_if_all_collude <= 2.0
        assert [release.steps for release in cost.releases] == [ROUNDS]
    site = Site.load(sites_in(tmp_path / "sites")[0])
    assert independent_epsilon(site) == pytest.approx(2.0, rel=0.01)


def test_masks_and_shares_of_noise_go_the_same_way(task: Task, tmp_path: Path) -> None:
    model, costs = run(task, tmp_path / "four", MASKED)
    cost = costs["organisation-1"]
    assert 1.99 < cost.epsilon <= 2.0 < cost.epsilon_if_all_collude
    assert all(p.isfinite().all() for p in model.parameters())
    with pytest.raises(ConfigError, match="or more are needed"):
        run(task, tmp_path / "three", MASKED, count=3)


def test_without_noise_it_is_gradient_descent_on_all_users_in_one_place(
    task: Task, tmp_path: Path
) -> None:
    """Brute force: one model, one loss over everybody, and the server's rule."""
    model, cost = run(task, tmp_path / "three", EXACT, count=3)
    config = run_config(task, Plan(privacy=EXACT, rounds=ROUNDS), 3, tmp_path, 0)
    own = central(task, config.server.learning_rate, config.server.tau)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p, own.state_dict()[name], rtol=1e-3, atol=1e-4)
    assert cost["organisation-1"].epsilon == np.inf
    one, _ = run(task, tmp_path / "one", EXACT, count=1)
    np.testing.assert_allclose(one.logits(task.sessions), model.logits(task.sessions), atol=1e-3)


def central(task: Task, rate: float, tau: float) -> OverUseModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = bare(lab.SHAPE, 0)
    features, mask = torch.from_numpy(task.sessions.features), torch.from_numpy(task.sessions.mask)
    labels, adam = torch.from_numpy(task.labels), FedAdam()
    mean, square = ({n: torch.zeros_like(p) for n, p in model.named_parameters()} for _ in "mv")
    for number in range(1, ROUNDS + 1):
        model.zero_grad()
        loss_per_user(model(features, mask), labels, torch.ones(len(task))).mean().backward()
        decay = 1 - (number - 1) / ROUNDS
        step = (1 - adam.beta_2 ** (number + 1)) ** 0.5 / (1 - adam.beta_1 ** (number + 1))
        with torch.no_grad():
            for name, p in model.named_parameters():
                assert p.grad is not None
                change = -decay * p.grad
                mean[name] = adam.beta_1 * mean[name] + (1 - adam.beta_1) * change
                square[name] = adam.beta_2 * square[name] + (1 - adam.beta_2) * change**2
                p.add_(rate * step * mean[name] / (square[name].sqrt() + tau))
    return model


def test_a_run_that_was_killed_goes_on_to_the_same_weights(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, costs = run(task, tmp_path / "whole", PRIVATE, count=2)

    def killed(checkpoint: Checkpoint) -> None:
        if checkpoint.round == 1:
            raise KeyboardInterrupt

    real = run_federation
    with monkeypatch.context() as patch:
        patch.setattr(
            lab,
            "run_federation",
            lambda config, sites, engine, observer: real(
                config, sites, engine=engine, observer=killed
            ),
        )
        with pytest.raises(KeyboardInterrupt):
            run(task, tmp_path / "killed", PRIVATE, count=2)
    resumed, again = run(task, tmp_path / "killed", PRIVATE, count=2)
    assert again == costs  # no round was charged twice
    for name, p in whole.named_parameters():
        assert torch.equal(resumed.state_dict()[name], p)


def test_labels_of_a_column_come_from_the_sites_own_tables(task: Task, tmp_path: Path) -> None:
    by_column = replace(task, settings=replace(task.settings, label=LabelSource.COLUMN))
    ruled, _ = run(task, tmp_path / "rule", EXACT, count=2)
    column, _ = run(by_column, tmp_path / "column", EXACT, count=2)
    for name, p in ruled.named_parameters():
        assert torch.equal(column.state_dict()[name], p)
    assert "column over_use" in column.config.label


def test_a_delta_that_gives_a_user_away_is_refused(task: Task, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="below one over its users"):
        run(task, tmp_path, replace(PRIVATE, delta=0.05))
    assert list(tmp_path.iterdir()) == []  # no ledger was made


def test_the_card_says_what_the_score_is_not(task: Task, tmp_path: Path) -> None:
    config = run_config(task, Plan(privacy=PRIVATE), 2, tmp_path, 0)
    card = write_card(
        Published(
            name="use",
            config=config,
            rounds=config.training.number_of_rounds,
            parts=[Participation(organisation="a", population=60, answered=60)],
            bundle="0" * 64,
            catalogue="1" * 64,
            items=1,
            version="1",
        )
    )
    assert "not a diagnosis" in card
    assert task.label in card
    assert "recommender" not in card.split("## Privacy")[0].replace("recommendations", "")
    assert "| worst ε | 2.000 |" in card or "| worst ε | 1.99" in card
