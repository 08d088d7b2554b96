"""What another order of lists changes: accuracy, coverage, exposure of rare items, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.data.histories import Histories
from shared.evaluation.calibration import calibration_error, genre_groups
from shared.evaluation.diversity import intra_list_distance, unit_vectors
from shared.evaluation.exposure import DECILES, exposure
from shared.evaluation.ranking import Ranking

__all__ = ["RARE", "Price", "price_of"]

RARE = 5
"""Popularity deciles, from the least popular, whose exposure is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """The figures of one order of lists, means over users; see `shared.evaluation`.

    Attributes:
        hr: HR@k.
        ndcg: NDCG@k.
        coverage: share of the catalogue that is in some list.
        exposure_rare: share of all places that goes to the last five popularity deciles.
        calibration_error: mean C_KL of the lists' genres, in nats; None where no item has a genre.
        distance: intra-list distance by the items' genres; None likewise.
        k: the cut-off.
    """

    hr: float
    ndcg: float
    coverage: float
    exposure_rare: float
    calibration_error: float | None
    distance: float | None
    k: int

    def as_dict(self) -> dict[str, float]:
        """Return the figures that there are, under the names of `result.json`."""
        figures = {
            f"hr@{self.k}": self.hr,
            f"ndcg@{self.k}": self.ndcg,
            f"coverage@{self.k}": self.coverage,
            "exposure_rare": self.exposure_rare,
            "calibration_error": self.calibration_error,
            "distance": self.distance,
        }
        return {name: value for name, value in figures.items() if value is not None}


def price_of(
    ranking: Ranking,
    histories: Histories,
    counts: NDArray[np.int64],
    genres: Sequence[tuple[str, ...]],
) -> Price:
    """Return the figures of one ranking.

    Args:
        ranking: of N users.
        histories: of the same users, before their targets.
        counts: events with each item, [V], which make the deciles.
        genres: of each item.
    """
    metrics, groups, top = ranking.metrics(), genre_groups(genres), ranking.top.numpy()
    return Price(
        hr=metrics.hr,
        ndcg=metrics.ndcg,
        coverage=metrics.coverage,
        exposure_rare=sum(exposure(ranking.top, counts)[DECILES - RARE :]),
        calibration_error=calibration_error(top, histories, groups) if groups.size else None,
        distance=intra_list_distance(top, unit_vectors(groups)) if groups.size else None,
        k=ranking.k,
    )
