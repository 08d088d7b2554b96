"""One simulation from data to result.json: prepare the sites, run, train alone, measure."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from client.compute.memory import keep_freed_memory
from server.app import Observer, build_recommender
from server.state.checkpoint import Checkpoint
from server.state.status import RunStatus
from server.warm_start.public import read_public, save_public
from shared.config import RunConfig
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories, LeaveOneOut, leave_one_out
from shared.errors import CheckpointError, ConfigError
from shared.evaluation.ranking import Ranking
from shared.models.attention import AttentionRecommender
from shared.sections import flatten
from simulations.datasets.load import Dataset, load
from simulations.experiment import baselines, results
from simulations.experiment.cold import as_new, cold_items, cold_section, without_items
from simulations.experiment.config import SimulationConfig, Split, read_settings
from simulations.experiment.federation import (
    SimulatedSite,
    make_site,
    run_federation,
    site_histories,
    sites_in,
    spent,
)
from simulations.experiment.partition import partition
from simulations.experiment.public_knowledge import add_features
from simulations.experiment.user_ranks import TestUsers, write_evaluation

__all__ = [
    "SETTINGS",
    "SITES",
    "Planted",
    "Reporter",
    "Simulation",
    "prepare",
    "reopen",
    "simulate",
]

SETTINGS, CATALOGUE, SITES, ALONE = "config.toml", "catalogue", "sites", "alone"


class Reporter(Protocol):
    """Who is told how a simulation goes."""

    def stage(self, text: str) -> None:
        """Something new begins."""

    def round(self, done: int, of: int, *, loss: float, epsilon: float) -> None:
        """A round is over: validation loss in nats, and the worst organisation's ε so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """How an audit changes whom the organisations have; nobody that it adds is measured.

    Attributes:
        kept: user rows that stay, of each organisation.
        added: users that come, to each organisation.
        populations: what each organisation declares: nothing that depends on the two.
    """

    kept: Sequence[NDArray[np.int64]]
    added: Sequence[Histories]
    populations: Sequence[int]


@dataclass(frozen=True, slots=True)
class Simulation:
    """A simulation whose sites are on disk.

    Attributes:
        folder: holds everything of it.
        config: what was asked.
        dataset: all organisations' data, with the catalogue's features.
        split: leave-one-out over all users.
        parts: user rows of each organisation.
        cold: ascending internal ids of the items that no training event has, see `lab.cold`.
        public: interactions that everybody may know; None where there are none.
        planted: whom an audit adds and takes away; None where nothing is audited.
    """

    folder: Path
    config: SimulationConfig
    dataset: Dataset
    split: LeaveOneOut
    parts: Sequence[NDArray[np.int64]]
    cold: NDArray[np.int64]
    public: Histories | None = None
    planted: Planted | None = None

    @property
    def names(self) -> list[str]:
        """The organisations, in the order of `parts` and of their folders."""
        width = len(str(len(self.parts)))
        return [f"org-{number:0{width}}" for number in range(1, len(self.parts) + 1)]

    @property
    def populations(self) -> list[int]:
        """Declared users of each organisation."""
        return list(self.planted.populations) if self.planted else [len(p) for p in self.parts]

    def histories(self, number: int) -> Histories:
        """Training events of organisation `number`, counted from 0."""
        if self.planted is None:
            return self.split.train.select(self.parts[number])
        own = self.split.train.select(self.planted.kept[number])
        return Histories.joined([own, self.planted.added[number]])

    @property
    def asked(self) -> LeaveOneOut:
        """What the models are measured on: the split with the events that `lab.split` names."""
        if self.config.lab.split is Split.VALIDATION:
            return self.split.on_validation()
        return self.split

    def site(self, number: int, *, alone: bool = False) -> SimulatedSite:
        """Organisation `number`, counted from 0."""
        return SimulatedSite(
            organisation=self.names[number],
            histories=self.histories(number),
            population=self.populations[number],
            # Alone it is another world: its noise is not that of the federation.
            stream=number + len(self.parts) * alone,
            evaluates=self.config.server.evaluate_every > 0,
        )


def prepare(
    config: SimulationConfig,
    folder: Path,
    plant: Callable[[Simulation], Planted] | None = None,
) -> Simulation:
    """Reads the data, checks the parameters against it, and writes every site.

    Args:
        config: what is asked.
        folder: for all of it; empty, or not there yet.
        plant: says whom an audit adds and takes away.

    Raises:
        SottoError: something does not fit; nothing was written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"{folder} is not an empty folder: resume the run in it (--resume), name another "
            "with --out, or remove it."
        )
    dataset = _load(config)
    simulation = _split(config, folder, dataset, *_describe(config, dataset.catalogue))
    if plant is not None:
        simulation = replace(simulation, planted=plant(simulation))
    _check_populations(simulation)
    simulation.dataset.catalogue.save(folder / CATALOGUE)
    if simulation.public is not None:
        save_public(simulation.public, simulation.dataset.catalogue, folder / CATALOGUE)
    for number in range(len(simulation.parts)):
        _write_site(simulation, number, folder)
    # Last, so that a folder with settings is whole.
    (folder / SETTINGS).write_text(config.to_toml(), encoding="utf-8")
    return simulation


def reopen(folder: Path, changes: dict[str, Any], assignments: Sequence[str]) -> Simulation:
    """A simulation that was prepared before, to go on with.

    Args:
        folder: of the simulation.
        changes: options that were given again; none may differ from what the run began with.
        assignments: likewise, as `section.key=value`.

    Raises:
        CheckpointError: there is no run, or it was begun with other parameters or data.
    """
    file = folder / SETTINGS
    if not file.is_file():
        raise CheckpointError(f"{folder} holds no run to resume: start it without --resume.")
    config, wanted = read_settings(file, {}, []), read_settings(file, changes, assignments)
    began, asked = flatten(config), flatten(wanted)
    differing = [
        f"{key} = {asked[key]} (was {began[key]})" for key in began if asked[key] != began[key]
    ]
    if differing:
        raise CheckpointError(
            f"the run in {folder} was begun with other parameters: {', '.join(differing)}. "
            "Resume it without changing them, or start a new run in another folder."
        )
    dataset = _load(config)
    # The run's own: features made anew may differ in the last bit.
    stored = Catalogue.load(folder / CATALOGUE)
    if stored.without_features().fingerprint != dataset.catalogue.fingerprint:
        raise _other_data(folder, "catalogue")
    public = read_public(folder / CATALOGUE, stored)
    simulation = _split(config, folder, dataset, stored, public)
    for number, site in enumerate(sites_in(folder / SITES)):
        if not _alike(site_histories(site, stored), simulation.histories(number)):
            raise _other_data(folder, f"data of {site.name}")
    return simulation


def simulate(
    simulation: Simulation, reporter: Reporter, app: ClientApp | None = None
) -> dict[str, Any]:
    """Runs, or goes on with, a prepared simulation and writes its result.json.

    Args:
        simulation: what to run.
        reporter: told how it goes.
        app: what the nodes of the federation run in this process, if not the ClientApp itself.

    Returns:
        The result, as written.
    """
    keep_freed_memory()
    started = time.monotonic()
    reporter.stage("training together")
    final = _federate(simulation, simulation.folder, reporter, app)
    alone = _train_alone(simulation, reporter) if simulation.config.lab.alone else None
    reporter.stage("measuring")
    measured = time.monotonic()
    rankings = _measure(simulation, final, alone)
    now = time.monotonic()
    result = {
        "schema": 1,
        "data": results.data_section(
            simulation.dataset,
            dict(zip(simulation.names, simulation.populations, strict=True)),
        ),
        "privacy": results.privacy_section(
            simulation.config.privacy, spent(sites_in(simulation.folder / SITES))
        ),
        "evaluation": _evaluation(simulation, rankings),
        "cost": results.cost(
            RunStatus.load(simulation.folder), total=now - started, evaluate=now - measured
        ),
        "seed": simulation.config.seed,
        "versions": results.versions(),
    }
    # The result comes last: a folder that has one is whole.
    write_evaluation(simulation.folder, _test_users(simulation), rankings)
    results.write(simulation.folder, result)
    return result


def _load(config: SimulationConfig) -> Dataset:
    lab = config.lab
    return load(Path(lab.data) if lab.data else None, lab.columns, lab.item_columns)


def _describe(config: SimulationConfig, items: Catalogue) -> tuple[Catalogue, Histories | None]:
    """The catalogue with what the model reads of it, and the public interactions."""
    lab = config.lab
    if config.model.items.uses_features:
        return add_features(items, config)
    if lab.catalogue:
        raise ConfigError(
            f"lab.catalogue = '{lab.catalogue}', but model.items = '{config.model.items}' reads no "
            "features: leave it out, or set model.items to 'features' or 'both'."
        )
    return items, None


def _split(
    config: SimulationConfig,
    folder: Path,
    dataset: Dataset,
    catalogue: Catalogue,
    public: Histories | None,
) -> Simulation:
    """Who has which user, and which events are held out."""
    lab = config.lab
    parts = partition(
        dataset, lab.organisations, lab.partition, config.seed, concentration=lab.concentration
    )
    cold = cold_items(len(catalogue), lab.cold, config.seed)
    split = without_items(leave_one_out(dataset.histories), cold)
    dataset = replace(dataset, catalogue=catalogue)
    return Simulation(folder, config, dataset, split, parts, cold, public)


def _alike(stored: Histories, own: Histories) -> bool:
    """Whether these are the same, users without events aside: what a site stores has none."""
    own = own.select(np.flatnonzero(own.lengths))
    return (
        stored.users == own.users
        and np.array_equal(stored.offsets, own.offsets)
        and np.array_equal(stored.items, own.items)
    )


def _other_data(folder: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"the {what} in {folder} is not the data's any more: resume with the data that the run "
        "was begun with, or start a new run in another folder."
    )


def _check_populations(simulation: Simulation) -> None:
    privacy = simulation.config.privacy
    largest = max(simulation.populations)
    if privacy.delta >= 1 / largest:
        raise ConfigError(
            f"privacy.delta = {privacy.delta:g} is not below 1 / {largest}, an organisation's "
            "users: at such a δ a mechanism may publish a user outright. Choose one below "
            f"{1 / largest:.2g}, 1e-5 for instance."
        )


def _write_site(simulation: Simulation, number: int, folder: Path, *, alone: bool = False) -> None:
    site = simulation.site(number, alone=alone)
    make_site(
        folder / SITES / site.organisation,
        site,
        simulation.dataset.catalogue,
        catalogue_folder=simulation.folder / CATALOGUE,
        privacy=simulation.config.privacy,
        seed=simulation.config.seed,
        device=simulation.config.lab.device,
    )


def _run_config(simulation: Simulation, folder: Path) -> RunConfig:
    return simulation.config.run(
        organisations=len(sites_in(folder / SITES)),
        catalogue=simulation.folder / CATALOGUE,
        out=folder,
        resume=Checkpoint.exists(folder),
    )


def _federate(
    simulation: Simulation, folder: Path, reporter: Reporter, app: ClientApp | None = None
) -> Checkpoint:
    """The last checkpoint of the federation below `folder`; runs what is left of it."""
    sites, config = sites_in(folder / SITES), _run_config(simulation, folder)
    run_federation(
        config,
        sites,
        engine=simulation.config.lab.engine,
        observer=_observer(simulation, config, sites, reporter),
        app=app,
    )
    return Checkpoint.load(folder)


def _observer(
    simulation: Simulation, config: RunConfig, sites: list[Path], reporter: Reporter
) -> Observer:
    catalogue, window = simulation.dataset.catalogue, config.model.max_length

    def observe(checkpoint: Checkpoint) -> None:
        model = build_recommender(checkpoint, config, catalogue)
        reporter.round(
            checkpoint.round,
            config.training.rounds,
            loss=baselines.validation_loss(baselines.recommender(model), simulation.split, window),
            epsilon=max(epsilon for epsilon, _ in spent(sites).values()),
        )

    return observe


def _train_alone(simulation: Simulation, reporter: Reporter) -> list[Checkpoint]:
    """Each organisation by itself, under its own ε, with as many steps."""
    checkpoints = []
    for number, name in enumerate(simulation.names):
        reporter.stage(f"training {name} alone")
        folder = simulation.folder / ALONE / name
        if not sites_in(folder / SITES):
            _write_site(simulation, number, folder, alone=True)
        checkpoints.append(_federate(simulation, folder, reporter))
    return checkpoints


def _evaluation(simulation: Simulation, rankings: dict[str, Ranking]) -> dict[str, Any]:
    section = results.evaluation_section(
        rankings, simulation.asked, str(simulation.config.lab.split)
    )
    if len(simulation.cold):
        section["cold"] = cold_section(simulation.asked, simulation.cold, rankings)
    return section


def _test_users(simulation: Simulation) -> TestUsers:
    histories = simulation.dataset.histories
    row = {user: number for number, user in enumerate(histories.users)}
    return TestUsers.of(
        np.array([row[user] for user in simulation.asked.test_inputs.users], np.int64),
        organisations=dict(zip(simulation.names, simulation.parts, strict=True)),
        events=simulation.split.train.lengths,
        groups=simulation.dataset.groups,
    )


def _measure(
    simulation: Simulation, final: Checkpoint, alone: list[Checkpoint] | None
) -> dict[str, Ranking]:
    """Every model's ranking of the users who are asked, in the order of the split."""
    config, catalogue = simulation.config, simulation.dataset.catalogue
    items, train = len(catalogue), simulation.split.train
    cases = baselines.Cases(
        simulation.asked, simulation.parts, items=items, window=config.model.max_length
    )
    run = _run_config(simulation, simulation.folder)

    def trained(checkpoint: Checkpoint) -> AttentionRecommender:
        return build_recommender(checkpoint, run, catalogue)

    models = {"popularity": cases.rank(baselines.popularity(train, items))}
    if config.privacy.private:
        histories = [simulation.site(number).histories for number in range(len(simulation.parts))]
        scorer = baselines.private_popularity(histories, items, config.privacy, config.seed)
        models["popularity_private"] = cases.rank(scorer)
    models["markov"] = cases.rank(baselines.markov(train, items))
    if alone is not None:
        models["local"] = cases.rank_each([baselines.recommender(trained(own)) for own in alone])
    models["federated"] = cases.rank(baselines.recommender(trained(final)))
    if len(simulation.cold):
        new = as_new(trained(final), simulation.cold)
        models["federated_new"] = cases.rank(baselines.recommender(new))
    return models
