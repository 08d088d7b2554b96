"""How well each model serves the users, by organisation, activity and group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from simulations.report.numbers.shares import Share, hits, ndcg, paired_p
from simulations.report.reading.runs import Evaluation, Run

__all__ = ["Comparison", "Gain", "Part", "by_activity", "by_group", "comparison", "gains"]

HOME, JOINED = "home", "federated_home"


@dataclass(frozen=True, slots=True)
class Gain:
    """An organisation's gain from joining, at home.

    Attributes:
        name: of the organisation; "" stands for all of them.
        separate: its users with a hit of what it gets from its own data alone.
        together: its users with a hit of the federated model, adapted at home.
        separate_ndcg: NDCG@10 of its own data alone.
        together_ndcg: NDCG@10 of the adapted model.
        p: p-value of the difference in hits.
    """

    name: str
    separate: Share
    together: Share
    separate_ndcg: float
    together_ndcg: float
    p: float


def gains(evaluation: Evaluation) -> list[Gain]:
    """Return the gain of all users, then of each organisation; [] where it was not measured."""
    if not {HOME, JOINED} <= evaluation.ranks.keys():
        return []
    names = list(dict.fromkeys(evaluation.organisations.tolist()))
    masks = [("", np.ones(len(evaluation.events), bool))]
    masks += [(name, evaluation.organisations == name) for name in sorted(names)]
    return [
        _gain(name, evaluation.ranks[HOME][m], evaluation.ranks[JOINED][m]) for name, m in masks
    ]


def _gain(name: str, separate: NDArray[np.int64], together: NDArray[np.int64]) -> Gain:
    return Gain(
        name,
        hits(separate),
        hits(together),
        ndcg(separate),
        ndcg(together),
        paired_p(separate, together),
    )


@dataclass(frozen=True, slots=True)
class Part:
    """A group of users.

    Attributes:
        label: name of the group.
        share: by model, the users with a hit.
        ndcg: by model, NDCG@10.
    """

    label: str
    share: dict[str, Share]
    ndcg: dict[str, float]

    @property
    def users(self) -> int:
        """Return the number of users."""
        return next(iter(self.share.values())).users


def by_activity(evaluation: Evaluation, models: Sequence[str]) -> list[Part]:
    """Return quarters of the users by training events; ties can make fewer groups."""
    edges = np.unique(
        np.quantile(evaluation.events, [0, 0.25, 0.5, 0.75, 1], method="inverted_cdf")
    )
    if len(edges) < 2:
        return []
    parts = []
    for place, (low, high) in enumerate(pairwise(edges)):
        lowest = int(low) if place == 0 else int(low) + 1
        mask = (evaluation.events >= lowest) & (evaluation.events <= high)
        label = f"{lowest:,}" if lowest == high else f"{lowest:,} to {int(high):,}"
        parts.append(_part(label, evaluation, mask, models))
    return parts


def by_group(evaluation: Evaluation, group: str, models: Sequence[str]) -> list[Part]:
    """Return each group of one grouping, in numerical order with "unknown" last."""
    values = evaluation.groups[group]
    return [
        _part(label, evaluation, values == label, models)
        for label in sorted(set(values.tolist()), key=_natural)
    ]


def _natural(label: str) -> tuple[bool, float, str]:
    """Return a key that sorts "under 18" before "18-24", and "56 or more" last."""
    digits = "".join(c if c.isdigit() else " " for c in label).split()
    number = float(digits[0]) if digits else float("inf")
    return label == "unknown", number - label.startswith("under"), label


def _part(
    label: str, evaluation: Evaluation, mask: NDArray[np.bool_], models: Sequence[str]
) -> Part:
    ranks = {model: evaluation.ranks[model][mask] for model in models}
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
        share: the users with a hit.
        figures: all metrics of result.json.
    """

    model: str
    share: Share
    figures: dict[str, float]


def comparison(run: Run) -> list[Comparison]:
    """Return all models of a run, best first.

    Organisations that train alone under the same ε are left out: what an organisation can do alone
    needs no noise.
    """
    models = [
        Comparison(name, Share(round(figures["hr@10"] * run.tested), run.tested), dict(figures))
        for name, figures in run.models.items()
        if name != "local"
    ]
    return sorted(models, key=lambda one: -one.figures["ndcg@10"])
