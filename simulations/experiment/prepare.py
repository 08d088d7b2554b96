"""Prepare a simulation: read the data, assign users, hold events out, and write the sites."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from server.training_plan import with_plan
from server.warm_start.public import read_public, save_public
from shared.data.catalogue import Catalogue
from shared.data.friends import read_friends
from shared.data.histories import Histories
from shared.data.splits import TimeCuts
from shared.errors import CheckpointError, ConfigError
from shared.rerank.reranker import check_reranking
from shared.sections import flatten
from simulations.datasets.load import Dataset, load
from simulations.datasets.queries import read_query_table
from simulations.experiment.cold import cold_items, without_items
from simulations.experiment.config import (
    RERANK,
    SETTINGS,
    LabConfig,
    SimulationConfig,
    read_settings,
)
from simulations.experiment.domains import keep_own_events, with_domains
from simulations.experiment.federation import site_histories, sites_in
from simulations.experiment.hold_out import hold_out, time_cuts
from simulations.experiment.partition import natural_partition, partition
from simulations.experiment.public_knowledge import add_features
from simulations.experiment.requirements import check_requirements
from simulations.experiment.simulation import (
    CATALOGUE,
    SITES,
    PlantedUsers,
    Simulation,
    write_site,
)

__all__ = ["load_data", "prepare", "reopen"]


def prepare(
    config: SimulationConfig,
    folder: Path,
    plant: Callable[[Simulation], PlantedUsers] | None = None,
) -> Simulation:
    """Read the data, check the settings against it, and write every site.

    Args:
        config: the settings.
        folder: for all files; empty, or absent.
        plant: returns the users that an audit adds and leaves out.

    Raises:
        SottoError: data or settings are wrong; nothing was written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"{folder} is not an empty folder: resume the run in it (--resume), name another "
            "with --out, or remove it."
        )
    dataset = load_data(config.lab)
    cuts = time_cuts(config.lab, dataset)
    catalogue, public = _add_features(config, dataset.catalogue, cuts)
    catalogue = with_domains(catalogue, config.lab.domains)
    simulation = _split(config, folder, dataset, catalogue, public, cuts)
    if plant is not None:
        simulation = replace(simulation, planted=plant(simulation))
    simulation = replace(simulation, config=_planned(simulation))
    check_requirements(simulation)
    simulation.dataset.catalogue.save(folder / CATALOGUE)
    if simulation.public is not None:
        save_public(simulation.public, simulation.dataset.catalogue, folder / CATALOGUE)
    for number in range(len(simulation.parts)):
        write_site(simulation, number, folder)
    # Last, so that a folder with settings is complete.
    (folder / SETTINGS).write_text(simulation.config.to_toml(), encoding="utf-8")
    return simulation


def reopen(folder: Path, changes: dict[str, Any], assignments: Sequence[str]) -> Simulation:
    """Read a prepared simulation again, to resume it.

    Args:
        folder: of the simulation.
        changes: options that were given again; none may differ from the run's settings, but those
            of the section `rerank`, which hold from now on.
        assignments: likewise, as `section.key=value`.

    Raises:
        CheckpointError: there is no run, or its settings or data are different.
        ConfigError: the items do not have what `rerank.method` looks at.
    """
    file = folder / SETTINGS
    if not file.is_file():
        raise CheckpointError(f"{folder} holds no run to resume: start it without --resume.")
    config = read_settings(file, {}, [])
    stored_settings = flatten(config)
    stated = read_settings(file, changes, assignments)
    given = flatten(stated)
    differing = [
        f"{key} = {given[key]} (was {value})"
        for key, value in stored_settings.items()
        if given[key] != value and not key.startswith(f"{RERANK}.")
    ]
    if differing:
        raise CheckpointError(
            f"the run in {folder} was started with other settings: {', '.join(differing)}. "
            "Resume it without changes, or start a new run in another folder."
        )
    config = replace(config, rerank=stated.rerank)
    dataset = load_data(config.lab)
    # The run's own catalogue: features computed again may differ in the last bit.
    stored = Catalogue.load(folder / CATALOGUE)
    items = with_domains(dataset.catalogue, config.lab.domains)
    if stored.without_features().fingerprint != items.fingerprint:
        raise _different_data_error(folder, "catalogue")
    check_reranking(config.rerank, stored)
    public = read_public(folder / CATALOGUE, stored)
    simulation = _split(config, folder, dataset, stored, public, time_cuts(config.lab, dataset))
    for number, site in enumerate(sites_in(folder / SITES)):
        if not _same_histories(site_histories(site, stored), simulation.histories(number)):
            raise _different_data_error(folder, f"data of {site.name}")
    return simulation


def load_data(lab: LabConfig) -> Dataset:
    """Read the data of a simulation, with its tables of queries and friends.

    Args:
        lab: where they are, and what their columns are called.

    Raises:
        SottoError: a file is missing, or a row is wrong.
    """
    dataset = load(
        Path(lab.data) if lab.data else None,
        lab.columns,
        lab.item_columns,
        organisation="" if lab.scheme else lab.partition,
        limits=lab.event_limits,
    )
    if lab.queries:
        asked = read_query_table(Path(lab.queries), dataset.catalogue, lab.query_attributes)
        dataset = replace(dataset, queries=asked)
    if lab.friends:
        friends = read_friends(Path(lab.friends), frozenset(dataset.histories.users))
        dataset = replace(dataset, friends=friends)
    return dataset


def _planned(simulation: Simulation) -> SimulationConfig:
    """Return the settings with the rounds that a plan chooses, if one is to."""
    config, users = simulation.config, sum(simulation.populations)
    here = Path()
    run = config.run(organisations=len(simulation.parts), catalogue=here, out=here, resume=False)
    run = with_plan(run, users, len(simulation.dataset.catalogue))
    return replace(config, training=run.training, warm_start=run.warm_start, server=run.server)


def _add_features(
    config: SimulationConfig, items: Catalogue, cuts: TimeCuts | None
) -> tuple[Catalogue, Histories | None]:
    """Return the catalogue with the features that the model reads, and public interactions."""
    lab = config.lab
    if config.model.items.uses_features:
        return add_features(items, config, cuts)
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
    cuts: TimeCuts | None,
) -> Simulation:
    """Assign users to organisations, and hold events out."""
    lab = config.lab
    if lab.scheme is None:
        parts = natural_partition(dataset)
    else:
        parts = partition(
            dataset, lab.organisations, lab.scheme, config.seed, concentration=lab.concentration
        )
    dataset = replace(dataset, catalogue=catalogue)
    if lab.domains > 1:
        dataset, parts = keep_own_events(dataset, parts)
    cold = cold_items(len(catalogue), lab.cold, config.seed)
    split = without_items(hold_out(dataset.histories, cuts), cold)
    return Simulation(folder, config, dataset, split, parts, cold, public, cuts=cuts)


def _same_histories(stored: Histories, own: Histories) -> bool:
    """Return whether both are equal, ignoring users without events, whom a site does not store."""
    own = own.select(np.flatnonzero(own.lengths))
    return (
        stored.users == own.users
        and np.array_equal(stored.offsets, own.offsets)
        and np.array_equal(stored.items, own.items)
    )


def _different_data_error(folder: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"the {what} in {folder} does not match the data: resume with the data that the run was "
        "started with, or start a new run in another folder."
    )
