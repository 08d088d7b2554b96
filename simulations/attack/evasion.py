"""Small changes of one history that flip its list, and what a smoothed scorer does about them.

An attacker who can add, replace or remove one event of a user (a shared account, a mistaken click,
a compromised device) tries `_TRIES` changes of each kind, half of them at the last event, which
weighs most. What is measured is the share of the first ten that stays: on average over the tries,
and of the worst try of each user.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from client.serving.smoothed import DELETED, Smoothed
from shared.data.histories import Histories
from shared.evaluation.ranking import Scorer, rank_users, top_items
from simulations.attack.attacked import BLEND, FEDERATED, Models
from simulations.attack.plan import AttackPlan, Parts
from simulations.attack.targets import Scene

__all__ = ["Change", "changed_histories", "kept_shares", "measure_evasion"]

Ints = NDArray[np.int64]
_K, _TRIES, SAMPLES = 10, 6, 20
_BATCH = 64


class Change(StrEnum):
    """What is done to one event."""

    REPLACE = "replace"
    INSERT = "insert"
    REMOVE = "remove"


def measure_evasion(models: Models, plan: AttackPlan) -> list[dict[str, Any]]:
    """Return a row for each model, scorer and change.

    Args:
        models: of the attacked organisation; no crafted user takes part.
        plan: of how many users, and the seed.
    """
    simulation = models.simulation
    train = simulation.split.train.select(simulation.parts[models.number])
    nobody, own = train.select(np.zeros(0, np.int64)), set(train.users)
    asked = simulation.evaluation_split
    rows = np.array([n for n, user in enumerate(asked.test_inputs.users) if user in own], np.int64)
    inputs, targets = asked.test_inputs.select(rows), asked.test_targets[rows]
    some = np.linspace(0, len(rows) - 1, min(plan.evasion, len(rows))).astype(np.int64)
    scene, items = Scene.of(train, simulation.dataset.catalogue), len(simulation.dataset.catalogue)
    plain: dict[str, tuple[Scorer, bool]] = {FEDERATED: (models.federated(nobody), True)}
    if plan.parts is not Parts.FEDERATED:
        plain[BLEND] = models.at_home(nobody, capped=True)[BLEND], False
    found = []
    for name, (scorer, logits) in plain.items():
        for smoothed in (False, True):
            used = Smoothed(scorer, logits, SAMPLES, DELETED) if smoothed else scorer
            began = time.perf_counter()
            ranking = rank_users(used, inputs, targets, items=items, window=models.window)
            seconds = (time.perf_counter() - began) / len(inputs)
            figures = {
                "model": name,
                "samples": SAMPLES if smoothed else 0,
                "deleted": DELETED if smoothed else 0.0,
                "ndcg@10": ranking.metrics().ndcg,
                "seconds_per_list": seconds,
                "users": len(some),
            }
            for change in Change:
                mean, worst = kept_shares(
                    *(used, inputs.select(some), change, scene.popular(0)),
                    window=models.window,
                    seed=plan.seed,
                )
                found.append(figures | {"change": str(change), "kept": mean, "kept_worst": worst})
    return found


def kept_shares(
    scorer: Scorer, histories: Histories, change: Change, others: Ints, *, window: int, seed: int
) -> tuple[float, float]:
    """Return the share of the first ten that stays after one change: mean, and worst of each user.

    Args:
        scorer: the model.
        histories: of users with an event at least.
        change: what is done to one event.
        others: items that are put in.
        window: events that the scorer reads.
        seed: of the changes.
    """
    rng = np.random.default_rng([seed, list(Change).index(change)])
    plain = _lists(scorer, list(histories), window)
    tries = [list(changed_histories(own, change, others, window, rng)) for own in histories]
    lists = _lists(scorer, [one for own in tries for one in own], window)
    shares = [
        len(set(before) & set(after)) / _K
        for before, after in zip(
            (before for before, own in zip(plain, tries, strict=True) for _ in own),
            lists,
            strict=True,
        )
    ]
    by_user = np.array(shares).reshape(len(histories), _TRIES)
    return float(by_user.mean()), float(by_user.min(1).mean())


def changed_histories(
    history: Ints, change: Change, others: Ints, window: int, rng: np.random.Generator
) -> Iterator[Ints]:
    """Yield `_TRIES` histories that differ in one event.

    Args:
        history: oldest first, at least one event.
        change: what is done.
        others: items that are put in, where they are not there.
        window: events at the end that are changed.
        rng: draws places and items.
    """
    new = np.setdiff1d(others, history)
    new = others if not len(new) else new
    for number in range(_TRIES):
        place = len(history) - 1
        if number % 2:
            place = int(rng.integers(max(0, len(history) - window), len(history)))
        item = int(rng.choice(new))
        if change is Change.REPLACE:
            yield np.concatenate([history[:place], [item], history[place + 1 :]])
        elif change is Change.INSERT:
            yield np.insert(history, place + 1, item)
        else:
            yield np.delete(history, place)


def _lists(scorer: Scorer, histories: Sequence[Ints], window: int) -> list[list[int]]:
    """Return the first ten of each history, among what it does not hold."""
    given, found = Histories.from_lists([own.tolist() for own in histories]), []
    for start in range(0, len(given), _BATCH):
        rows = np.arange(start, min(start + _BATCH, len(given)))
        longest = max(1, int(given.lengths[rows].max()))
        with torch.no_grad():
            scores = scorer(given.padded(rows, min(window, longest))).float().cpu()
        found += top_items(scores, given.padded(rows, longest), _K).tolist()
    return found
