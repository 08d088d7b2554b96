"""Attack one organisation's users' recommendations in every way, with and without the defence.

The result is attack.json (docs/formats.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared.data.event_limits import LIMITS, NO_LIMITS
from shared.data.histories import Histories
from shared.errors import ConfigError
from shared.evaluation.ranking import Scorer
from shared.models.influence import CAPS
from simulations.attack.attacked import BLEND, FEDERATED, HOME, Models
from simulations.attack.crafted import craft, limit
from simulations.attack.evasion import measure_evasion
from simulations.attack.plan import ATTACKS, Attack, AttackPlan, Direction, Parts
from simulations.attack.targets import Scene, Target, choose_targets
from simulations.attack.victims import Shown, how_shown
from simulations.experiment.config import SimulationConfig
from simulations.experiment.prepare import prepare
from simulations.experiment.result_json import versions, write
from simulations.experiment.simulation import Reporter, Simulation

__all__ = ["FILE", "attack", "mark_strongest"]

FILE = "attack.json"
_RUNS = "attacked"


def attack(
    config: SimulationConfig, plan: AttackPlan, folder: Path, reporter: Reporter
) -> dict[str, Any]:
    """Train without and with crafted users, and write attack.json.

    Args:
        config: of the federation.
        plan: the size of the measurement.
        folder: for all files; empty, or absent.
        reporter: gets the progress.

    Returns:
        attack.json, as written.

    Raises:
        ConfigError: there is no such organisation, or too little data; nothing was run.
    """
    reporter.stage("reading the data")
    simulation = prepare(config, folder)
    number = _number(simulation, plan.at)
    train = simulation.split.train.select(simulation.parts[number])
    scene = Scene.of(train, simulation.dataset.catalogue)
    targets = [one for one in choose_targets(scene, plan.seed) if one.kind in plan.targets]
    models = Models.of(simulation, number, folder / _RUNS, published=plan.parts is Parts.HOME)
    measured = _Measured(simulation, models, scene, plan)
    rows = [
        row
        for target in targets
        for direction in Direction
        for row in measured.rows(target, direction, reporter)
    ]
    evasion = []
    if plan.evasion:
        reporter.stage("changing single events")
        evasion = measure_evasion(models, plan)
    record = {
        "schema": 1,
        "data": {"name": simulation.dataset.name, "users": sum(map(len, simulation.parts))},
        "run": _run_section(simulation),
        "at": {
            "organisation": simulation.names[number],
            "users": len(train),
            "crafted": plan.users(len(train)),
            "parts": str(plan.parts),
        },
        "defence": {
            "max_per_minute": LIMITS.per_minute,
            "max_per_day": LIMITS.per_day,
            "repeat_seconds": LIMITS.repeat_seconds,
            "max_user_item": CAPS.item,
            "max_user_transition": CAPS.transition,
        },
        "targets": [
            {
                "kind": one.kind,
                "item": simulation.dataset.catalogue.item_ids[one.item - 1],
                "title": simulation.dataset.catalogue.titles[one.item - 1],
                "events": one.events,
            }
            for one in targets
        ],
        "attacks": mark_strongest(rows),
        "evasion": evasion,
        "seed": plan.seed,
        "versions": versions(),
    }
    write(folder, record, FILE)
    return record


@dataclass(frozen=True, slots=True, eq=False)
class _Measured:
    """Figures of one target at a time.

    Attributes:
        simulation: prepared.
        models: trains what is attacked.
        scene: of the attacked organisation.
        plan: the size of the measurement.
    """

    simulation: Simulation
    models: Models
    scene: Scene
    plan: AttackPlan

    def rows(
        self, target: Target, direction: Direction, reporter: Reporter
    ) -> Iterator[dict[str, Any]]:
        """Yield a row for each part, attack and defence.

        A target that nobody is shown cannot be buried.
        """
        before = {capped: self._shown(self.nobody, target.item, capped) for capped in (False, True)}
        if direction is Direction.NUKE and not any(s.share for s in before[True].values()):
            return
        for kind in ATTACKS:
            reporter.stage(f"{direction} a {target.kind} item: {kind}")
            users = self.plan.users(len(self.simulation.parts[self.models.number]))
            crafted = craft(
                *(kind, direction, target.item, self.scene), users=users, seed=self.plan.seed
            )
            for defended in (False, True):
                kept, dropped = limit(crafted, LIMITS if defended else NO_LIMITS)
                after = self._shown(kept, target.item, defended)
                for part, shown in after.items():
                    yield {
                        "part": part,
                        "target": target.kind,
                        "direction": str(direction),
                        "attack": str(kind),
                        "crafted": len(crafted),
                        "defended": defended,
                        "dropped": dropped,
                        "before": asdict(before[defended][part]),
                        "after": asdict(shown),
                    }

    @property
    def nobody(self) -> Histories:
        """No crafted user."""
        return self.simulation.split.train.select(np.zeros(0, np.int64))

    def _shown(self, crafted: Histories, target: int, capped: bool) -> dict[str, Shown]:
        """Return what others are shown of a target, by part."""
        simulation, items = self.simulation, len(self.simulation.dataset.catalogue)
        everybody = simulation.evaluation_split.test_inputs
        own = set(simulation.split.train.select(simulation.parts[self.models.number]).users)
        neighbours = everybody.select([n for n, user in enumerate(everybody.users) if user in own])
        scorers: dict[str, tuple[Scorer, Histories]] = {}
        if self.plan.parts is not Parts.HOME:
            scorers[FEDERATED] = self.models.federated(crafted), everybody
        if self.plan.parts is not Parts.FEDERATED:
            at_home = self.models.at_home(crafted, capped=capped)
            scorers |= {name: (at_home[name], neighbours) for name in (HOME, BLEND)}
        window = self.models.window
        return {
            part: how_shown(scorer, inputs, target, items=items, window=window)
            for part, (scorer, inputs) in scorers.items()
        }


def mark_strongest(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows, each with whether no other attack of its kind moves its target further.

    Attacks of one user are compared with one another, and those of a group; without and with the
    defence.
    """
    marked, best = [dict(row) for row in rows], dict[tuple[Any, ...], dict[str, Any]]()
    for row in marked:
        row["strongest"] = False
        kind = Attack(row["attack"]).grouped
        group = (row["part"], row["target"], row["direction"], kind, row["defended"])
        if group not in best or _moved(row) > _moved(best[group]):
            best[group] = row
    for row in best.values():
        row["strongest"] = True
    return marked


def _moved(row: Mapping[str, Any]) -> tuple[float, float]:
    """Return by how much more lists show the target, and by how many ranks; of a nuke, the less."""
    before, after = row["before"], row["after"]
    shares, ranks = after["share"] - before["share"], before["rank"] - after["rank"]
    return (shares, ranks) if row["direction"] == Direction.PUSH else (-shares, -ranks)


def _number(simulation: Simulation, name: str) -> int:
    """Return the attacked organisation's number."""
    if not name:
        return 0
    if name not in simulation.names:
        raise ConfigError(f"--at {name}: the organisations are {', '.join(simulation.names)}.")
    return simulation.names.index(name)


def _run_section(simulation: Simulation) -> dict[str, Any]:
    config = simulation.config
    return {
        "organisations": len(simulation.parts),
        "epsilon": config.privacy.epsilon,
        "delta": config.privacy.delta if config.privacy.private else None,
        "trust": str(config.privacy.trust),
        "aggregation": str(config.server.aggregation),
        "rounds": config.training.number_of_rounds,
        "seed": config.seed,
    }
