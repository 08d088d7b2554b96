"""What logit adjustment and weights of groups do to groups and rare items, on finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from server.runs.recommender import build_recommender
from server.state.checkpoint import Checkpoint
from shared.errors import ConfigError
from shared.evaluation.exposure import DECILES, exposure
from shared.evaluation.ranking import Ranking, Scorer, rank_users_by
from shared.groups import tables_of
from shared.models.item_scores import ItemScores
from simulations.experiment.curves import Curve, CurvePoint, Curves, table_document
from simulations.experiment.groups import asked_cells, exact_figures
from simulations.experiment.requirements import check_groups
from simulations.experiment.simulation import Simulation

__all__ = ["DEBIAS", "WEIGHTS", "fairness_curves"]

DEBIAS, WEIGHTS = "logit adjustment", "weights of groups"
"""Names of the curves."""


def fairness_curves(
    simulation: Simulation,
    strengths: Sequence[float],
    tables: str = "",
    *,
    beside: Sequence[Simulation] = (),
    every: int = 1,
) -> Curves:
    """Measure the federated model's lists at each strength; nothing is trained again.

    Args:
        simulation: finished.
        strengths: τ of logit adjustment, each in [0, 1].
        tables: of groups; "" takes the run's own.
        beside: finished runs of the same data, whose training weighed groups in another way; each
            is a point, without logit adjustment.
        every: only every so many-th test user is asked, >= 1.

    Raises:
        ConfigError: there are no groups, or nobody is in one; or a run beside has other data.
        SottoError: a run has no checkpoint.
    """
    tables = tables or simulation.config.groups.tables
    if not tables_of(tables):
        raise ConfigError("the run names no groups: name some with --tables.")
    plain, *adjusted = _points(simulation, tables, (0.0, *strengths), every)
    curves = [Curve(name=DEBIAS, points=tuple(adjusted))]
    weighed = []
    for other in beside:
        _check_alike(simulation, other)
        [point] = _points(other, tables, (0.0,), every)
        weighed.append(point.model_copy(update={"setting": _weights_of(other)}))
    if weighed:
        curves.append(Curve(name=WEIGHTS, points=tuple(weighed)))
    return Curves.of("fairness", simulation, plain, curves)


@torch.inference_mode()
def _points(
    simulation: Simulation, tables: str, strengths: Sequence[float], every: int
) -> list[CurvePoint]:
    """Return the figures at each strength; of a model that is trained without adjustment at 0."""
    named, settings = tables_of(tables), replace(simulation.config.groups, tables=tables)
    simulation = replace(simulation, config=replace(simulation.config, groups=settings))
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

    def point(strength: float, ranking: Ranking) -> CurvePoint:
        metrics = ranking.metrics().as_dict()
        figures = exact_figures(named, cells, ranking.ranks.numpy())
        return CurvePoint(
            setting=f"τ = {strength:g}",
            hr=metrics["hr@10"],
            ndcg=metrics["ndcg@10"],
            coverage=metrics["coverage@10"],
            exposure_rare=sum(exposure(ranking.top, counts)[DECILES // 2 :]),
            tables=tuple(map(table_document, figures)),
        )

    return [point(*both) for both in zip(strengths, rankings, strict=True)]


def _weights_of(simulation: Simulation) -> str:
    """Say how a run's training weighed groups."""
    groups = simulation.config.groups
    if groups.robust:
        return f"groups.robust = {groups.robust:g}"
    return f"groups.weights = {groups.weights}" if groups.weights else simulation.folder.name


def _check_alike(one: Simulation, other: Simulation) -> None:
    """Refuse a run whose test users or items are others."""
    same = (
        one.dataset.name == other.dataset.name
        and one.dataset.catalogue.item_ids == other.dataset.catalogue.item_ids
        and np.array_equal(one.evaluation_split.test_targets, other.evaluation_split.test_targets)
    )
    if not same:
        raise ConfigError(
            f"--beside {other.folder}: its test events are not those of {one.folder}. Take runs "
            "of the same data, split and users."
        )
