"""Train the model of over-use over simulated organisations, by the apps of a real run.

A simulated organisation is a folder with site.toml, data and ledger, as in every simulation
(`simulations.experiment.federation`); its data are its users' event times, on one item, and where
the label is a column, their table of users. All messages, checks, charges and masks are those of a
real run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from server.app import MODEL
from server.state.checkpoint import Checkpoint
from server.training_plan import with_plan
from shared.config import (
    ModelConfig,
    ModelKind,
    PathsConfig,
    PrivacyConfig,
    RunConfig,
    ServerConfig,
    TrainingConfig,
    Trust,
)
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.errors import ConfigError
from shared.over_use.labels import COLUMN
from shared.over_use.model import OverUseModel
from shared.over_use_task import LabelSource
from simulations.experiment.config import Engine
from simulations.experiment.federation import (
    LedgerCost,
    SimulatedSite,
    ledger_costs,
    make_site,
    run_federation,
    sites_in,
)
from simulations.over_use.task import SESSIONS, Task

__all__ = ["SHAPE", "Plan", "run_config", "train_together"]

SHAPE = ModelConfig(kind=ModelKind.OVER_USE, max_length=SESSIONS, hidden_size=16, heads=2)
_ITEMS = Catalogue(("use",), ("use",), ((),), (None,))
"""Which item an event is of is not read."""
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the model is trained.

    Attributes:
        privacy: the claim.
        model: the model's shape.
        rounds: how many; None takes as many as the plan.
        training: of a round; what a plan chooses is left to it.
        server: how replies become weights; likewise.
        engine: what runs the apps.
    """

    privacy: PrivacyConfig
    model: ModelConfig = SHAPE
    rounds: int | None = None
    training: TrainingConfig = field(default_factory=TrainingConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    engine: Engine = Engine.INPROCESS

    def by_itself(self) -> Plan:
        """Return that of an organisation alone at home, without noise."""
        privacy = replace(self.privacy, epsilon=None, trust=Trust.LOCAL)
        return replace(self, privacy=privacy)


def run_config(
    task: Task, plan: Plan, organisations: int, folder: Path, seed: int, *, resume: bool = False
) -> RunConfig:
    """Return the settings of a run over so many organisations, in a folder."""
    config = RunConfig(
        privacy=plan.privacy,
        model=plan.model,
        training=plan.training,
        server=replace(plan.server, organisations=organisations),
        over_use=task.settings,
        paths=PathsConfig(catalogue=str(folder / "catalogue"), out=str(folder), resume=resume),
        seed=seed,
    )
    config = with_plan(config, len(task), len(_ITEMS))
    if plan.rounds is None:
        return config
    return replace(config, training=replace(config.training, rounds=plan.rounds))


def train_together(
    task: Task, parts: Sequence[Ints], plan: Plan, folder: Path, seed: int
) -> tuple[OverUseModel, dict[str, LedgerCost]]:
    """Train a model over organisations, and return it and what their ledgers say.

    A run that is in the folder goes on where it was interrupted.

    Args:
        task: users and labels.
        parts: the users of each organisation, by their place in the task.
        plan: how.
        folder: of sites, checkpoint and model.
        seed: of weights, samples and noise; the lab's data are public.

    Raises:
        ConfigError: δ is not below one over an organisation's users, or a setting does not fit.
        SottoError: the coordinator failed.
    """
    config = run_config(task, plan, len(parts), folder, seed, resume=Checkpoint.exists(folder))
    _check_delta(parts, plan.privacy)
    if not config.paths.resume:
        _ITEMS.save(folder / "catalogue")
        for number, users in enumerate(parts):
            site = folder / "sites" / f"organisation-{number + 1}"
            if not (site / "site.toml").exists():
                _make_site(task, users, config, site, number)
    sites = sites_in(folder / "sites")
    run_federation(config, sites, engine=plan.engine, observer=lambda _: None)
    return OverUseModel.from_pretrained(folder / MODEL), ledger_costs(sites)


def _check_delta(parts: Sequence[Ints], privacy: PrivacyConfig) -> None:
    most = max(len(users) for users in parts)
    if not privacy.delta * most < 1:
        raise ConfigError(
            f"privacy.delta = {privacy.delta:g}, and an organisation has {most} training users: "
            "choose a δ below one over its users."
        )


def _make_site(task: Task, users: Ints, config: RunConfig, folder: Path, number: int) -> None:
    times = [np.round(task.times[user] * 1e6).astype(np.int64).tolist() for user in users]
    histories = Histories.from_lists(
        [[1] * len(own) for own in times], [f"user-{user}" for user in users], times
    )
    over_use = [str(int(value)) for value in task.labels[users]]
    by_column = task.settings.label is LabelSource.COLUMN
    site = SimulatedSite(
        organisation=folder.name,
        histories=histories,
        stream=number,
        organisations=config.server.organisations,
        groups={COLUMN: over_use} if by_column else {},
        timed=True,
    )
    make_site(
        folder,
        site,
        _ITEMS,
        catalogue_folder=Path(config.paths.catalogue),
        privacy=config.privacy,
        seed=config.seed,
        device="cpu",
    )
