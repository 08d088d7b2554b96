"""What logit adjustment does to groups and rare items on a finished run, at several strengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from server.runs.recommender import build_recommender
from server.state.checkpoint import Checkpoint
from shared.errors import ConfigError
from shared.evaluation.exposure import DECILES, exposure
from shared.evaluation.group_figures import TableFigures
from shared.evaluation.ranking import Scorer, ndcg, rank_users_by
from shared.groups import tables_of
from shared.models.attention import ItemScores
from simulations.experiment.groups import asked_cells, exact_figures
from simulations.experiment.requirements import check_groups
from simulations.experiment.simulation import Simulation

__all__ = ["FairnessPoint", "fairness_trade_off"]


@dataclass(frozen=True, slots=True)
class FairnessPoint:
    """The federated model at one strength of logit adjustment.

    Attributes:
        debias: the strength τ.
        ndcg: NDCG@10 of all users.
        exposure_rare: share of the lists' places that the five least popular deciles get.
        tables: exact figures of each table of groups.
    """

    debias: float
    ndcg: float
    exposure_rare: float
    tables: tuple[TableFigures, ...]

    @property
    def worst(self) -> tuple[float, ...]:
        """The lowest NDCG of each table's groups, where they are compared."""
        known = ([g.ndcg for g in one.groups if g.name == one.worst] for one in self.tables)
        return tuple(min((ndcg for ndcg in of if ndcg is not None), default=0.0) for of in known)

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as JSON has them."""
        return {
            "debias": self.debias,
            "ndcg": self.ndcg,
            "exposure_rare": self.exposure_rare,
            "tables": [one.as_dict() for one in self.tables],
        }


@torch.inference_mode()
def fairness_trade_off(
    simulation: Simulation, strengths: Sequence[float], tables: str = "", *, every: int = 1
) -> list[FairnessPoint]:
    """Measure the federated model's lists at each strength; nothing is trained again.

    Args:
        simulation: finished.
        strengths: of logit adjustment, each in [0, 1].
        tables: of groups; "" takes the run's own.
        every: only every so many-th test user is asked, >= 1.

    Raises:
        ConfigError: there are no groups, or nobody is in one.
        SottoError: the run has no checkpoint.
    """
    settings = simulation.config.groups
    simulation = replace(
        simulation,
        config=replace(
            simulation.config, groups=replace(settings, tables=tables or settings.tables)
        ),
    )
    named = tables_of(simulation.config.groups.tables)
    if not named:
        raise ConfigError("the run names no groups: name some with --tables.")
    check_groups(simulation)
    catalogue, asked = simulation.dataset.catalogue, simulation.evaluation_split
    run = simulation.run_config(simulation.folder)
    run = replace(run, training=replace(run.training, debias=0.0))
    model = build_recommender(Checkpoint.load(simulation.folder), run, catalogue)
    offset = model.item_scores.offset
    popular = torch.zeros(len(catalogue)) if offset is None else offset[:, 0]
    popular = ItemScores.OFFSET_SCALE * popular
    last: list[tuple[Tensor, Tensor]] = []

    def plain(histories: Tensor) -> Tensor:
        if not last or last[0][0] is not histories:
            last[:] = [(histories, model.next_item_scores(histories))]
        return last[0][1]

    def adjusted(strength: float) -> Scorer:
        return lambda histories, /: plain(histories) - strength * popular

    rows = np.arange(0, len(asked.test_inputs), every)
    rankings = rank_users_by(
        [adjusted(strength) for strength in strengths],
        asked.test_inputs.select(rows),
        asked.test_targets[rows],
        items=len(catalogue),
        window=simulation.config.model.max_length,
    )
    cells = asked_cells(simulation, named, model)[rows]
    counts = np.bincount(asked.train.items, minlength=len(catalogue) + 1)[1:]
    return [
        FairnessPoint(
            strength,
            ndcg(ranking.ranks, ranking.k),
            sum(exposure(ranking.top, counts)[DECILES // 2 :]),
            tuple(exact_figures(named, cells, ranking.ranks.numpy())),
        )
        for strength, ranking in zip(strengths, rankings, strict=True)
    ]
