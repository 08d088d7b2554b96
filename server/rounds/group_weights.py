"""Weights of groups that follow from noised figures within a run (`groups.robust`).

Group distributionally robust optimisation (Sagawa, Koh, Hashimoto & Liang 2020, arXiv:1911.08731,
algorithm 1) with the noised release in the place of exact losses, and a loss in [0, 1]: before some
rounds the groups are measured under the weights that the round begins with, and

    w_g ∝ w_g · exp(η · loss_g),  loss_g = 1 - NDCG_g,  the largest 1, none below `LEAST_WEIGHT`

| case                                   | what counts                                          |
|----------------------------------------|------------------------------------------------------|
| a figure outside of [0, 1], by noise   | the nearer end                                       |
| a group that noise hides               | the figure of all users                              |
| noise hides all users, or nobody       | the weights stay as they are                         |
|   answered                             |                                                      |

They depend on the figures that were released, on nothing else of the data, and are public from then
on. As each is at most 1, nobody adds more to a sum than without them: the noise stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from shared.groups import GroupsConfig, tables_of, weighted_of, weights_text

__all__ = ["LEAST_WEIGHT", "next_weights", "reweighed"]

LEAST_WEIGHT = 0.1
"""What a user of the best served group counts at least: noise is not to switch a group off."""


def next_weights(
    before: Sequence[float], losses: Sequence[float], rate: float
) -> tuple[float, ...]:
    """Return the weights after one step of exponentiated gradient, in [`LEAST_WEIGHT`, 1].

    Args:
        before: weights so far, of each group, in (0, 1].
        losses: of each group, in [0, 1].
        rate: η, >= 0.

    >>> [round(w, 3) for w in next_weights((1.0, 0.5, 1.0), (0.9, 0.9, 0.8), 5.0)]
    [1.0, 0.5, 0.607]
    """
    highest = max(losses)
    grown = [w * math.exp(rate * (loss - highest)) for w, loss in zip(before, losses, strict=True)]
    largest = max(grown)
    return tuple(max(weight / largest, LEAST_WEIGHT) for weight in grown)


def reweighed(settings: GroupsConfig, before: str, figures: Mapping[str, Any]) -> str:
    """Return the weights after a measurement, as `groups.weights` states them.

    Args:
        settings: with `robust` above 0.
        before: the weights so far, in the same form.
        figures: as `server.rounds.groups.measured_groups` returns them.
    """
    weighted = weighted_of(before)
    if not figures or weighted is None:
        return before
    everybody = figures["all"]["ndcg"]
    groups = figures["tables"][0]["groups"]
    found = [everybody if group["ndcg"] is None else group["ndcg"] for group in groups]
    losses = [1 - min(max(ndcg, 0.0), 1.0) for ndcg in found]
    table = tables_of(settings.tables)[0]
    return weights_text(table, next_weights(weighted.weights, losses, settings.robust))
