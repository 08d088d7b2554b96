"""Which users a model serves: by organisation, activity and group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from simulations.report.numbers.shares import Share, hits, ndcg, paired_p
from simulations.report.reading.runs import Evaluation, Run

__all__ = ["Comparison", "Gain", "Part", "by_activity", "by_group", "comparison", "gains"]

FEDERATED, LOCAL = "federated", "local"


@dataclass(frozen=True, slots=True)
class Gain:
    """One organisation by itself, and together with the others.

    Attributes:
        name: of the organisation; "" stands for all of them.
        alone: its users whom its own model hits.
        together: whom the federated model hits.
        alone_ndcg: NDCG@10 of its own model.
        together_ndcg: of the federated one.
        p: how often chance alone would part the two so far.
    """

    name: str
    alone: Share
    together: Share
    alone_ndcg: float
    together_ndcg: float
    p: float


def gains(found: Evaluation) -> list[Gain]:
    """All users first, then each organisation; [] if no organisation trained alone."""
    if LOCAL not in found.ranks:
        return []
    names = list(dict.fromkeys(found.organisations.tolist()))
    masks = [("", np.ones(len(found.events), bool))]
    masks += [(name, found.organisations == name) for name in sorted(names)]
    return [_gain(name, found.ranks[LOCAL][m], found.ranks[FEDERATED][m]) for name, m in masks]


def _gain(name: str, alone: NDArray[np.int64], together: NDArray[np.int64]) -> Gain:
    return Gain(
        name, hits(alone), hits(together), ndcg(alone), ndcg(together), paired_p(alone, together)
    )


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the users.

    Attributes:
        label: which.
        share: by model, the users it hits.
        ndcg: by model, NDCG@10.
    """

    label: str
    share: dict[str, Share]
    ndcg: dict[str, float]

    @property
    def users(self) -> int:
        """How many there are."""
        return next(iter(self.share.values())).users


def by_activity(found: Evaluation, models: Sequence[str]) -> list[Part]:
    """Quarters of the users by training events, ties kept together; fewer with many ties."""
    edges = np.unique(np.quantile(found.events, [0, 0.25, 0.5, 0.75, 1], method="inverted_cdf"))
    if len(edges) < 2:
        return []
    parts = []
    for place, (low, high) in enumerate(pairwise(edges)):
        lowest = int(low) if place == 0 else int(low) + 1
        mask = (found.events >= lowest) & (found.events <= high)
        label = f"{lowest:,}" if lowest == high else f"{lowest:,} to {int(high):,}"
        parts.append(_part(label, found, mask, models))
    return parts


def by_group(found: Evaluation, group: str, models: Sequence[str]) -> list[Part]:
    """Each group of one grouping, numbers in their order and "unknown" last."""
    values = found.groups[group]
    return [
        _part(label, found, values == label, models)
        for label in sorted(set(values.tolist()), key=_natural)
    ]


def _natural(label: str) -> tuple[bool, float, str]:
    """Sorts "under 18" before "18-24", and those before "56 or more"."""
    digits = "".join(c if c.isdigit() else " " for c in label).split()
    number = float(digits[0]) if digits else float("inf")
    return label == "unknown", number - label.startswith("under"), label


def _part(label: str, found: Evaluation, mask: NDArray[np.bool_], models: Sequence[str]) -> Part:
    ranks = {model: found.ranks[model][mask] for model in models}
    return Part(
        label,
        {model: hits(some) for model, some in ranks.items()},
        {model: ndcg(some) for model, some in ranks.items()},
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """One model of a run.

    Attributes:
        model: as in result.json.
        share: the users it hits.
        figures: all of result.json.
    """

    model: str
    share: Share
    figures: dict[str, float]


def comparison(run: Run) -> list[Comparison]:
    """All models of a run, best first."""
    found = [
        Comparison(name, Share(round(figures["hr@10"] * run.tested), run.tested), dict(figures))
        for name, figures in run.models.items()
    ]
    return sorted(found, key=lambda one: -one.figures["ndcg@10"])
