"""How good models are by what users chose of what they were shown, corrected for positions.

What was recommended, where it was shown and what was chosen of it is in the store of feedback. What
is at the top is chosen more often, whatever it is: so each choice is weighed by 1 / P(look at its
position), see `shared.evaluation.propensity`.

| figure        | what it says                                                                    |
|---------------|---------------------------------------------------------------------------------|
| `shown`       | by model that was served: the share of shown items that were chosen, as it is,  |
|               | and corrected: the share that is chosen of what is looked at                    |
| `models`      | HR and NDCG of each model for what was chosen, after all that the user did      |
|               | before; what is made at home has seen no feedback                               |

A choice of an item that was never shown has no weight: `models` compares models on what the models
in service brought up, and favours those that are like them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.data.feedback import FeedbackEvent
from client.data.interactions import Kind
from client.home.evaluate import NORMAL, build_scorers
from client.home.home_model import MEMORIES
from client.site.own_data import OwnData
from client.site.site import Site
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.errors import SiteError
from shared.evaluation.paired import ndcg_gains
from shared.evaluation.propensity import corrected_rate, look_probabilities, weighted_mean
from shared.evaluation.ranking import Scorer, rank_users

__all__ = ["ChoicesEvaluation", "Corrected", "ShownRate", "evaluate_choices"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ShownRate:
    """What became of the items that one model brought up.

    Attributes:
        model: its name, as the service gives it.
        shown: items that were shown at a known position.
        chosen: how many of them were chosen.
        rate: `chosen` / `shown`.
        half_width: of its 95% interval.
        corrected: share that is chosen of what is looked at.
        corrected_half_width: of its 95% interval.
    """

    model: str
    shown: int
    chosen: int
    rate: float
    half_width: float
    corrected: float
    corrected_half_width: float


@dataclass(frozen=True, slots=True)
class Corrected:
    """Figures of one model, with weights 1 / P(look).

    Attributes:
        hr: weighted share of choices among its first k items.
        ndcg: weighted mean of their parts of NDCG@k.
        half_width: of the 95% interval of `ndcg`.
    """

    hr: float
    ndcg: float
    half_width: float


@dataclass(frozen=True, slots=True)
class ChoicesEvaluation:
    """All figures.

    Attributes:
        eta: η of P(look at p) = p^-η.
        shown: by model that was served, in order of their first list.
        models: by the names of `client.home.evaluate`.
        choices: that were ranked.
        left_out: choices without a position, of an item that is not in the catalogue, or of one
            that the user had before.
    """

    eta: float
    shown: tuple[ShownRate, ...]
    models: dict[str, Corrected]
    choices: int
    left_out: int


@dataclass(frozen=True, slots=True)
class _Choices:
    """What was chosen, ready to be ranked: histories [N], targets [N], positions [N], users [N]."""

    inputs: Histories
    targets: Ints
    positions: Ints
    users: Ints
    left_out: int


def evaluate_choices(
    site: Site,
    catalogue: Catalogue,
    federated: Mapping[str, Scorer],
    *,
    window: int,
    eta: float = 1.0,
    k: int = 10,
    most: int = 10_000,
) -> ChoicesEvaluation:
    """Evaluate by the feedback of a site.

    Args:
        site: whose feedback and data they are.
        catalogue: the items.
        federated: logits of published models: "federated", and "before" if there is one.
        window: events that a federated model reads, the most of all.
        eta: η >= 0 of P(look at p) = p^-η.
        k: the cut-off, in 1..V.
        most: choices that are ranked, >= 1; of more, as many are taken evenly.

    Raises:
        SiteError: the store cannot be read; or nothing was chosen that was shown at a position.
        DataError: the site's data are refused.
    """
    events, kinds = _read(site), set(site.serve.interactions)
    shown = {_key(e): e for e in events if e.kind is Kind.SHOWN and e.position is not None}
    chosen = [event for event in events if str(event.kind) in kinds]
    # Counts and chosen numbers must not have seen what is asked for.
    own = replace(OwnData.of_site(site), feedback=())
    given = own.histories(catalogue)
    choices = _to_rank(given, catalogue, chosen, shown)
    if not len(choices.targets):
        raise SiteError(
            f"serve.feedback = '{site.serve.feedback}': no item was chosen that was shown at a "
            "position. Send SHOWN with exposure and position, and CHOSEN with the same exposure."
        )
    rows = _evenly(len(choices.targets), most)
    inputs, targets = choices.inputs.select(rows), choices.targets[rows]
    weights = 1 / look_probabilities(choices.positions[rows], eta)
    reach = max(window, *(memory.events for memory in MEMORIES))
    scorers, _ = build_scorers(
        given, federated, items=len(catalogue), window=window, caps=site.data.caps
    )
    models = {}
    for name, scorer in scorers.items():
        ranking = rank_users(scorer, inputs, targets, items=len(catalogue), window=reach, k=k)
        places = ranking.ranks.numpy()
        hr, _ = weighted_mean((places <= k).astype(np.float64), weights, choices.users[rows])
        ndcg, error = weighted_mean(ndcg_gains(places, k), weights, choices.users[rows])
        models[name] = Corrected(hr, ndcg, NORMAL * error)
    rates = _rates(shown, {_key(event) for event in chosen}, eta)
    return ChoicesEvaluation(eta, rates, models, len(rows), choices.left_out)


def _read(site: Site) -> list[FeedbackEvent]:
    store = site.open_feedback()
    if store is None:
        place = Path(site.folder, site.serve.feedback.removeprefix("sqlite:///"))
        raise SiteError(f"{place}: there is no feedback yet. sotto-node serve takes it.")
    with closing(store):
        return list(store.events())


def _key(event: FeedbackEvent) -> tuple[str, str, str]:
    return event.user, event.exposure, event.item


def _rates(
    shown: Mapping[tuple[str, str, str], FeedbackEvent],
    chosen: set[tuple[str, str, str]],
    eta: float,
) -> tuple[ShownRate, ...]:
    by_model: dict[str, list[FeedbackEvent]] = defaultdict(list)
    for event in shown.values():
        by_model[event.model].append(event)
    rates = []
    for model, events in by_model.items():
        marks = np.array([_key(event) in chosen for event in events])
        positions = np.array([event.position for event in events], np.int64)
        _, users = np.unique([event.user for event in events], return_inverse=True)
        rate, error = corrected_rate(marks, np.ones(len(marks)), users)
        corrected, wide = corrected_rate(marks, look_probabilities(positions, eta), users)
        rates.append(
            ShownRate(
                *(model, len(marks), int(marks.sum())),
                *(rate, NORMAL * error, corrected, NORMAL * wide),
            )
        )
    return tuple(rates)


def _to_rank(
    given: Histories,
    catalogue: Catalogue,
    chosen: Sequence[FeedbackEvent],
    shown: Mapping[tuple[str, str, str], FeedbackEvent],
) -> _Choices:
    """Return each choice with the user's events before it."""
    row_of = {user: row for row, user in enumerate(given.users)}
    so_far: dict[str, list[int]] = {}
    names = list(dict.fromkeys(event.item for event in chosen))
    number_of = dict(zip(names, catalogue.find(names).tolist(), strict=True))
    inputs, targets, positions, users = [], [], [], []
    numbers: dict[str, int] = {}
    for event in chosen:
        if event.user not in so_far:
            row = row_of.get(event.user)
            so_far[event.user] = [] if row is None else given[row].tolist()
        own, item, seen = so_far[event.user], number_of[event.item], shown.get(_key(event))
        if item and item not in own and seen is not None:
            inputs.append(list(own))
            targets.append(item)
            positions.append(seen.position)
            users.append(numbers.setdefault(event.user, len(numbers)))
        if item and item not in own:
            own.append(item)
    return _Choices(
        Histories.from_lists(inputs),
        np.array(targets, np.int64),
        np.array(positions, np.int64),
        np.array(users, np.int64),
        len(chosen) - len(targets),
    )


def _evenly(count: int, most: int) -> Ints:
    return np.linspace(0, count - 1, min(most, count)).astype(np.int64)
