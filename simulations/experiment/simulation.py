"""A simulation whose sites are on disk: its data, its organisations and its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from server.noise_plan import about_groups
from server.state.checkpoint import Checkpoint
from server.training_plan import TrainingPlan, about_rounds, plan_of
from shared.config import RunConfig
from shared.data.domains import ItemSet, own_items
from shared.data.friends import FriendTable
from shared.data.histories import Histories
from shared.data.queries import Asked
from shared.data.splits import HeldOut, TimeCuts
from shared.groups import columns_of, tables_of, weighted_of
from simulations.datasets.load import Dataset
from simulations.experiment.config import SimulationConfig, by_itself
from simulations.experiment.domains import domain_of
from simulations.experiment.federation import SimulatedSite, make_site, sites_in
from simulations.experiment.hold_out import timing
from simulations.experiment.result_json import Timing

__all__ = [
    "CATALOGUE",
    "LOCAL_BASELINES",
    "SITES",
    "PlantedUsers",
    "Reporter",
    "RoundFigures",
    "Simulation",
    "write_changed_site",
    "write_site",
]

CATALOGUE, SITES = "catalogue", "sites"
LOCAL_BASELINES = "alone"
"""The folder of the organisations that are trained by themselves, for comparison."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundFigures:
    """What a round learned, and what it cost.

    Attributes:
        loss: validation loss in nats; None where nothing is trained.
        epsilon: the highest ε of an organisation so far.
        seconds: that it took; None where nothing is trained.
        bytes_up: size of the arrays received; likewise.
    """

    loss: float | None = None
    epsilon: float
    seconds: float | None = None
    bytes_up: int | None = None


class Reporter(Protocol):
    """Gets the progress of a simulation."""

    def stage(self, text: str) -> None:
        """Start a stage, such as "training together"."""

    def round(self, done: int, of: int, figures: RoundFigures) -> None:
        """Report a finished round.

        Args:
            done: its number; 0 is the warm start.
            of: rounds in all.
            figures: of this round.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantedUsers:
    """The users that an audit adds and leaves out; added users are not evaluated.

    Attributes:
        kept: user rows that stay, of each organisation.
        added: users that are added to each organisation.
        populations: what each organisation declares; independent of the other two.
    """

    kept: Sequence[NDArray[np.int64]]
    added: Sequence[Histories]
    populations: Sequence[int]


@dataclass(frozen=True, slots=True)
class Simulation:
    """A simulation whose sites are on disk.

    Attributes:
        folder: holds all its files.
        config: its settings.
        dataset: all organisations' data, with the catalogue's features.
        split: the training events of all users, and the events held out.
        parts: user rows of each organisation.
        cold: ascending internal ids of the items without a training event, see `lab.cold`.
        public: public interactions; None where there are none.
        planted: users that an audit adds and leaves out; None without an audit.
        cuts: in time, where events are held out by time.
    """

    folder: Path
    config: SimulationConfig
    dataset: Dataset
    split: HeldOut
    parts: Sequence[NDArray[np.int64]]
    cold: NDArray[np.int64]
    public: Histories | None = None
    planted: PlantedUsers | None = None
    cuts: TimeCuts | None = None

    @property
    def names(self) -> list[str]:
        """Return the organisations' names, in the order of `parts` and of their folders."""
        if self.dataset.organisations:
            return sorted(set(self.dataset.organisations))
        width = len(str(len(self.parts)))
        return [f"org-{number:0{width}}" for number in range(1, len(self.parts) + 1)]

    @property
    def populations(self) -> list[int]:
        """Return the declared population of each organisation.

        A cut in time leaves those who had an event before it: nobody knows the others yet.
        """
        if self.planted:
            return list(self.planted.populations)
        if self.cuts is None:
            return [len(rows) for rows in self.parts]
        trained = self.split.train.lengths > 0
        return [int(trained[rows].sum()) for rows in self.parts]

    def histories(self, number: int) -> Histories:
        """Return the training events of organisation `number`, counted from 0."""
        if self.planted is None:
            return self.split.train.select(self.parts[number])
        own = self.split.train.select(self.planted.kept[number])
        return Histories.joined([own, self.planted.added[number]])

    def domain(self, number: int) -> str:
        """Return the domain of organisation `number`, counted from 0; "" for all items."""
        return domain_of(self.dataset.catalogue, number)

    @property
    def item_sets(self) -> list[ItemSet] | None:
        """Return the items of each organisation; None where all have all."""
        catalogue = self.dataset.catalogue
        if not catalogue.domains:
            return None
        return [
            ItemSet(own_items(catalogue, [self.domain(number)]))
            for number in range(len(self.parts))
        ]

    @property
    def evaluation_split(self) -> HeldOut:
        """Return the split whose test events are those that `lab.split` names."""
        return self.split.on_validation() if self.config.lab.split.validation else self.split

    @property
    def timing(self) -> Timing:
        """Return how the evaluated events lie in time; see `hold_out`."""
        histories, which = self.dataset.histories, self.config.lab.split
        return timing(histories, self.split, self.evaluation_split, self.cuts, which)

    @property
    def plan(self) -> TrainingPlan | None:
        """Return the plan that chose the rounds; None if they were chosen by hand."""
        return plan_of(*self._public_constants)

    @property
    def about_rounds(self) -> str:
        """Return what is to be expected of the rounds, in a sentence, or ""."""
        return about_rounds(*self._public_constants)

    @property
    def about_groups(self) -> str:
        """Return what the measurement of groups asks for and costs, in a sentence, or ""."""
        return about_groups(self._public_constants[0])

    @property
    def _public_constants(self) -> tuple[RunConfig, int, int]:
        """Return what a plan reckons with: the run's settings, users and items."""
        return (
            self.run_config(self.folder),
            sum(self.populations),
            len(self.dataset.catalogue),
        )

    def site(self, number: int, *, local_baseline: bool = False) -> SimulatedSite:
        """Return organisation `number`, counted from 0.

        Args:
            number: of the organisation.
            local_baseline: whether it trains by itself, with noise of its own.
        """
        queries = self._queries(number)
        return SimulatedSite(
            organisation=self.names[number],
            histories=self.histories(number),
            population=self.populations[number],
            # The local baseline's noise is independent of the federation's.
            stream=number + len(self.parts) * local_baseline,
            evaluates=self.config.server.evaluate_every > 0 or self.config.groups.share > 0,
            organisations=1 if local_baseline else len(self.parts),
            groups=self._groups(number),
            # A query stands in its user's history by time.
            timed=bool(queries) and self.dataset.histories.times is not None,
            queries=queries,
            friends=self.friends(number),
            friends_most=self.config.model.friends,
            domain=self.domain(number),
        )

    def friends(self, number: int) -> FriendTable | None:
        """Return who is whose friend within an organisation; None where no table is named.

        Friends at another organisation are unknown there; users that an audit invents have none.
        """
        if self.dataset.friends is None or self.planted:
            return None
        users = self.dataset.histories.users
        return self.dataset.friends.among(users[row] for row in self.parts[number])

    def _queries(self, number: int) -> Sequence[Asked]:
        """Return the queries of an organisation's users; users that an audit invents have none."""
        users = self.dataset.histories.users
        own = {users[row] for row in self.parts[number]} if not self.planted else set()
        return [one for one in self.dataset.queries if one.user in own]

    def _groups(self, number: int) -> Mapping[str, Sequence[str]]:
        """Return the groups of an organisation's users, where a table names them."""
        settings = self.config.groups
        weighted = weighted_of(settings.weights)
        tables = [*tables_of(settings.tables), *([weighted.table] if weighted else [])]
        if self.planted:  # invented users have none
            return {}
        rows = self.parts[number]
        return {
            name: [self.dataset.groups[name][row] for row in rows] for name in columns_of(tables)
        }

    def run_config(self, folder: Path) -> RunConfig:
        """Return the configuration of the run in `folder`, which resumes if it has a checkpoint."""
        config = self.config if folder == self.folder else self._alone
        return config.run(
            organisations=len(sites_in(folder / SITES)),
            catalogue=self.folder / CATALOGUE,
            out=folder,
            resume=Checkpoint.exists(folder),
        )

    @property
    def _alone(self) -> SimulationConfig:
        """Return an organisation's own settings: a plan is for the noise and users of all."""
        config = by_itself(self.config)
        if self.plan is None:
            return config
        return replace(config, training=replace(config.training, rounds=0))


def write_site(
    simulation: Simulation, number: int, folder: Path, *, local_baseline: bool = False
) -> None:
    """Write the site of organisation `number` below `folder`; see `Simulation.site`."""
    site = simulation.site(number, local_baseline=local_baseline)
    write_changed_site(simulation, site, folder / SITES / site.organisation)


def write_changed_site(simulation: Simulation, site: SimulatedSite, folder: Path) -> None:
    """Write a site of the simulation, whose users may have been changed, into `folder`."""
    make_site(
        folder,
        site,
        simulation.dataset.catalogue,
        catalogue_folder=simulation.folder / CATALOGUE,
        privacy=simulation.config.privacy,
        seed=simulation.config.seed,
        device=simulation.config.lab.device,
    )
