"""What each way to put lists into another order costs, at several strengths, on a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from server.runs.recommender import build_recommender
from server.state.checkpoint import Checkpoint
from shared.evaluation.ranking import rank_users_by
from shared.evaluation.reordering import Reordered
from shared.rerank.price import Price, price_of
from shared.rerank.reranker import ItemTraits, Reranker
from shared.rerank.settings import By, Method, RerankConfig
from simulations.experiment.baselines import recommender
from simulations.experiment.simulation import Simulation

__all__ = ["WAYS", "Point", "trade_off"]

WAYS: tuple[RerankConfig, ...] = (
    RerankConfig(method=Method.CALIBRATED),
    RerankConfig(method=Method.CALIBRATED, by=By.POPULARITY),
    RerankConfig(method=Method.DIVERSE),
    RerankConfig(method=Method.DIVERSE, by=By.FEATURES),
    RerankConfig(method=Method.EXPOSURE),
)
"""What is compared."""


@dataclass(frozen=True, slots=True)
class Point:
    """One order of lists and its figures.

    Attributes:
        settings: by which lists were chosen; `none` for those of the highest scores.
        price: the figures.
    """

    settings: RerankConfig
    price: Price


@torch.inference_mode()
def trade_off(
    simulation: Simulation, settings: Sequence[RerankConfig], *, every: int = 1
) -> list[Point]:
    """Measure the federated model's lists in each order, and first as they are.

    Args:
        simulation: finished.
        settings: the orders.
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
    return [
        Point(one, price_of(ranking, inputs, counts, catalogue.genres))
        for one, ranking in zip(orders, rankings, strict=True)
    ]
