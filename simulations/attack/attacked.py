"""The federated model, the home model and the blend, with crafted users at one organisation."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from client.home.adapt import build_home, choose, last_events
from server.runs.recommender import build_recommender
from server.state.checkpoint import Checkpoint
from shared.data.histories import Histories
from shared.evaluation.ranking import Scorer
from shared.models.influence import CAPS, NO_CAPS
from simulations.experiment.baselines import recommender
from simulations.experiment.federation import run_federation, sites_in
from simulations.experiment.simulation import (
    CATALOGUE,
    SITES,
    PlantedUsers,
    Simulation,
    write_changed_site,
)

__all__ = ["BLEND", "FEDERATED", "HOME", "Models"]

FEDERATED, HOME, BLEND = "federated", "home", "federated_home"


@dataclass(frozen=True, slots=True, eq=False)
class Models:
    """Trains models with crafted users at one organisation; equal ones once.

    Attributes:
        simulation: prepared; none of its users is crafted.
        number: of the attacked organisation.
        folder: for runs, each of which is removed again.
        published: whether the federated model was trained before the attack.
    """

    simulation: Simulation
    number: int
    folder: Path
    published: bool
    _trained: dict[bytes, Scorer]
    _adapted: dict[tuple[bytes, bool], Mapping[str, Scorer]]

    @classmethod
    def of(
        cls, simulation: Simulation, number: int, folder: Path, *, published: bool = False
    ) -> Models:
        """Start without any model."""
        return cls(simulation, number, folder, published, {}, {})

    def federated(self, crafted: Histories) -> Scorer:
        """Return the model that all organisations train, with the run's own noise.

        Args:
            crafted: users who are added; nobody declares them.
        """
        if self.published:
            crafted = crafted.select(np.zeros(0, np.int64))
        key = _key(crafted)
        if key not in self._trained:
            self._trained[key] = self._train(crafted)
        return self._trained[key]

    def at_home(self, crafted: Histories, *, capped: bool) -> Mapping[str, Scorer]:
        """Return the organisation's home model and its blend, by name.

        They are chosen on the last events of its users, crafted ones too, as `sotto-node adapt`
        does.

        Args:
            crafted: users who are added.
            capped: whether one user's part of the counts is capped.
        """
        train = self.simulation.split.train.select(self.simulation.parts[self.number])
        users = Histories.joined([train, crafted])
        # Where nobody has an item twice, caps change nothing.
        key = _key(crafted), capped or not _repeats(users)
        if key not in self._adapted:
            items, window = len(self.simulation.dataset.catalogue), self.window
            federated, caps = self.federated(crafted), CAPS if capped else NO_CAPS
            events = last_events(users)
            choice = choose(events, federated, items=items, window=window, caps=caps)
            self._adapted[key] = {
                HOME: build_home(choice.home, users, federated, items, caps=caps),
                BLEND: build_home(choice.chosen, users, federated, items, caps=caps),
            }
        return self._adapted[key]

    @property
    def window(self) -> int:
        """Events that a model reads."""
        return max(self.simulation.config.model.max_length, 10)

    def _train(self, crafted: Histories) -> Scorer:
        base, nobody = self.simulation, np.zeros(0, np.int64)
        none = base.split.train.select(nobody)
        planted = PlantedUsers(
            kept=base.parts,
            added=[crafted if n == self.number else none for n in range(len(base.parts))],
            populations=base.populations,
        )
        attacked = replace(base, planted=planted)
        folder = self.folder / str(len(self._trained))  # a ledger's place is never used again
        for number, name in enumerate(base.names):
            write_changed_site(attacked, attacked.site(number), folder / SITES / name)
        run = base.config.run(
            organisations=len(base.parts),
            catalogue=base.folder / CATALOGUE,
            out=folder,
            resume=False,
        )
        engine = base.config.lab.engine
        run_federation(run, sites_in(folder / SITES), engine=engine, observer=lambda _: None)
        model = build_recommender(Checkpoint.load(folder), run, base.dataset.catalogue)
        shutil.rmtree(folder)
        return recommender(model)


def _key(histories: Histories) -> bytes:
    return histories.items.tobytes() + b"|" + histories.offsets.tobytes()


def _repeats(histories: Histories) -> bool:
    user = histories.rows
    pairs = user * (int(histories.items.max(initial=0)) + 1) + histories.items
    return len(np.unique(pairs)) < len(pairs)
