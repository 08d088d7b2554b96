"""What each way to put lists into another order costs, at several strengths, on a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from server.runs.recommender import build_recommender
from server.state.checkpoint import Checkpoint
from shared.evaluation.ranking import rank_users_by
from shared.evaluation.reordering import Reordered
from shared.rerank.price import price_of
from shared.rerank.reranker import ItemTraits, Reranker
from shared.rerank.settings import By, Method, RerankConfig
from simulations.experiment.baselines import recommender
from simulations.experiment.curves import Curve, CurvePoint, Curves
from simulations.experiment.simulation import Simulation

__all__ = ["WAYS", "rerank_curves"]

WAYS: tuple[RerankConfig, ...] = (
    RerankConfig(method=Method.CALIBRATED),
    RerankConfig(method=Method.CALIBRATED, by=By.POPULARITY),
    RerankConfig(method=Method.DIVERSE),
    RerankConfig(method=Method.DIVERSE, by=By.FEATURES),
    RerankConfig(method=Method.EXPOSURE),
)
"""What is compared."""


@torch.inference_mode()
def rerank_curves(
    simulation: Simulation, settings: Sequence[RerankConfig], *, every: int = 1
) -> Curves:
    """Measure the federated model's lists in each order, and as they are.

    Args:
        simulation: finished.
        settings: the orders; those of one method stand together.
        every: only every so many-th test user is asked, >= 1.

    Raises:
        SottoError: the run has no checkpoint, or its items lack what a method looks at.
    """
    catalogue, asked = simulation.dataset.catalogue, simulation.evaluation_split
    run = simulation.run_config(simulation.folder)
    federated = recommender(build_recommender(Checkpoint.load(simulation.folder), run, catalogue))
    traits = ItemTraits.of(catalogue, federated)
    last: list[tuple[Tensor, Tensor]] = []

    def scorer(histories: Tensor, /) -> Tensor:
        if not last or last[0][0] is not histories:
            last[:] = [(histories, federated(histories))]
        return last[0][1]

    orders = [RerankConfig(), *settings]
    rows = np.arange(0, len(asked.test_inputs), every)
    inputs = asked.test_inputs.select(rows)
    rankings = rank_users_by(
        [Reordered(scorer, Reranker(one, traits), logits=True) for one in orders],
        inputs,
        asked.test_targets[rows],
        items=len(catalogue),
        window=simulation.config.model.max_length,
    )
    counts = np.bincount(asked.train.items, minlength=len(catalogue) + 1)[1:]
    points = [
        CurvePoint(
            setting=f"{one.weight:g}",
            hr=price.hr,
            ndcg=price.ndcg,
            coverage=price.coverage,
            exposure_rare=price.exposure_rare,
            calibration_error=price.calibration_error,
            distance=price.distance,
        )
        for one, ranking in zip(orders, rankings, strict=True)
        for price in [price_of(ranking, inputs, counts, catalogue.genres)]
    ]
    together = groupby(zip(settings, points[1:], strict=True), key=lambda pair: _way(pair[0]))
    curves = [Curve(name=name, points=tuple(point for _, point in of)) for name, of in together]
    return Curves.of("rerank", simulation, points[0], curves)


def _way(settings: RerankConfig) -> str:
    return str(settings).partition(", strength")[0]
