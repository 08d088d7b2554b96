"""What each organisation does at home, with the federated model and without it.

`home` is the best that an organisation gets from its own data alone, exact; `federated_home` is the
best with the federated model as well. Both are chosen on its own held-out events, never on those
that are measured (`client.home.adapt`). With `home.private`, `federated_home_private` is its
private home model (`client.home.private`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from client.home.adapt import HeldOutEvents, build_home, choose, last_events
from client.home.home_model import HomeModel
from client.home.private import Guarantee, build_private_home, measure_own_sums, release_for
from shared.data.domains import ItemSet
from shared.data.histories import Histories
from shared.evaluation.paired import ndcg_gains, paired_p
from shared.evaluation.ranking import Ranking, Scorer, ndcg
from shared.evaluation.reordering import Reorder, Reordered
from shared.models.influence import NO_CAPS
from shared.privacy.noise import SeededRandom
from simulations.experiment.baselines import Cases
from simulations.experiment.kept_rankings import KeptRankings
from simulations.experiment.result_json import Joining
from simulations.experiment.simulation import Simulation

__all__ = ["RERANKED", "joining_section", "rank_home"]

UNCAPPED = "-uncapped"
HOME, ATTENTION, PRIVATE = "home", "home-attention", "federated_home_private"
RERANKED = "_reranked"
"""Ends the names of rankings whose lists are in another order."""
_MODELS = ("federated", "federated_home")
_MODEL_NOISE = 1
"""Tells the noise of private home models from all else before the first round."""


def rank_home(
    simulation: Simulation,
    cases: Cases,
    federated: Scorer,
    kept: KeptRankings | None = None,
    reorder: Reorder | None = None,
) -> dict[str, Ranking]:
    """Rank every organisation's users with the federated model and with its home models.

    With `reorder`, also "federated_reranked" and "federated_home_reranked".

    Args:
        simulation: whose organisations adapt the model.
        cases: whose test items are ranked.
        federated: the federated model's logits.
        kept: of earlier runs on the same data.
        reorder: puts lists into another order.
    """
    scorers = list[list[Scorer]]()
    reordered = [f"{name}{RERANKED}" for name in _MODELS] if reorder else []
    names = [*_MODELS, *reordered, *[PRIVATE] * simulation.config.home.private, HOME]
    kind = ATTENTION if simulation.config.home.attention else HOME
    caps = simulation.config.lab.caps
    kind += UNCAPPED * (caps == NO_CAPS)
    home = kept.get(kind) if kept else None
    for number, rows in enumerate(simulation.parts):
        place = _Place.of(simulation, number, simulation.split.train.select(rows), federated)
        train, events, items, logits = place.train, place.events, place.items, place.logits
        attention = events.train_attention(items) if simulation.config.home.attention else None
        choice = choose(
            *(events, logits), items=items, window=cases.window, attention=attention, caps=caps
        )
        adapted = build_home(choice.chosen, train, logits, items, attention, caps)
        own: list[Scorer] = [place.shown(logits), place.shown(adapted)]
        if reorder is not None:
            own += [Reordered(model, reorder, logits=model is own[0]) for model in tuple(own)]
        if simulation.config.home.private:
            own.append(place.shown(_private_home(simulation, number, place)))
        if home is None:
            own.append(place.shown(build_home(choice.home, train, logits, items, attention, caps)))
        scorers.append(own)
    rankings = dict(zip(names, cases.rank_each(scorers), strict=False))
    if home is None:
        home = {HOME: rankings[HOME]}
        if kept:
            kept.put(kind, home)
    ordered = ("federated", HOME, "federated_home", *names[len(_MODELS) : -1])
    return {name: (rankings | home)[name] for name in ordered}


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """What an organisation has at home, by the ids of its own items.

    Attributes:
        train: its training events.
        events: by which its home model is chosen.
        items: how many items it has.
        logits: of the federated model.
        own: its items of the catalogue; None for all.
    """

    train: Histories
    events: HeldOutEvents
    items: int
    logits: Scorer
    own: ItemSet | None

    @classmethod
    def of(cls, simulation: Simulation, number: int, train: Histories, federated: Scorer) -> _Place:
        """Return that of organisation `number`, counted from 0."""
        events, sets = _held_out(simulation, train), simulation.item_sets
        logits = _Remembered(federated)
        if sets is None:
            return cls(train, events, len(simulation.dataset.catalogue), logits, None)
        own = sets[number]
        held_out = HeldOutEvents(
            own.narrow(events.counted),
            own.narrow(events.inputs),
            own.numbers[events.targets],
            events.users,
        )
        return cls(own.narrow(train), held_out, len(own.rows), own.shrink(logits), own)

    def shown(self, scorer: Scorer) -> Scorer:
        """Return a scorer of the whole catalogue, for the lab to rank by."""
        return scorer if self.own is None else self.own.widen(scorer)

    def narrowed(self, histories: Histories) -> Histories:
        """Return histories by the ids of the own items."""
        return histories if self.own is None else self.own.narrow(histories)


def _private_home(simulation: Simulation, number: int, place: _Place) -> HomeModel:
    """Return an organisation's private home model, with the seeded noise of a simulation."""
    config, histories = simulation.config, place.narrowed(simulation.histories(number))
    assert config.home.epsilon is not None
    release = release_for(Guarantee(config.home.epsilon, config.privacy.delta))
    random = SeededRandom(config.seed, number, 0, _MODEL_NOISE)
    sums = measure_own_sums(histories, place.items, release, random)
    return build_private_home(sums, place.logits)


class _Remembered:
    """A scorer that keeps the scores of the histories that it was last given."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._last: tuple[Tensor, Tensor] | None = None

    def __call__(self, histories: Tensor, /) -> Tensor:
        if self._last is None or self._last[0] is not histories:
            self._last = histories, self._scorer(histories)
        return self._last[1]


def _held_out(simulation: Simulation, train: Histories) -> HeldOutEvents:
    """Return an organisation's validation events, or its last ones where those are measured.

    Where it has few users, events before them are held out as well.
    """
    split = simulation.split
    if simulation.evaluation_split is not split:
        return last_events(train)
    own = set(train.users)
    rows = [row for row, user in enumerate(split.validation_inputs.users) if user in own]
    number = {user: row for row, user in enumerate(train.users)}
    inputs = split.validation_inputs.select(rows)
    users = np.array([number[user] for user in inputs.users], np.int64)
    before = last_events(train, apart=1)
    validation = HeldOutEvents(train, inputs, split.validation_targets[rows], users)
    return HeldOutEvents.joined([validation, before])


def joining_section(
    simulation: Simulation, cases: Cases, rankings: dict[str, Ranking]
) -> tuple[Joining, ...]:
    """Return what each organisation, and all of them together, gained by joining."""
    everybody = np.arange(len(rankings["home"].ranks))
    parts = [
        (name, rows) for name, rows in zip(simulation.names, cases.parts, strict=True) if len(rows)
    ]
    return tuple(_joining(name, rows, rankings) for name, rows in ((None, everybody), *parts))


def _joining(name: str | None, rows: NDArray[np.int64], rankings: dict[str, Ranking]) -> Joining:
    home, joined = (rankings[model].select(rows) for model in ("home", "federated_home"))
    gains = (ndcg_gains(ranking.ranks.numpy(), ranking.k) for ranking in (joined, home))
    return Joining(
        name=name,
        users=len(rows),
        home=ndcg(home.ranks, home.k),
        federated_home=ndcg(joined.ranks, joined.k),
        p=paired_p(*gains),
    )
