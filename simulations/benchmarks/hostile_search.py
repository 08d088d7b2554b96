"""Searches for weights with which one user moves a clipped sum beyond the clip norm.

    python -m simulations.benchmarks.hostile_search [--minutes 5] [--seed 0] [--threads 1]

A coordinator sends any finite weights. From random hostile ones, and from those of the attacks that
were found by hand, a climb changes one thing at a time and keeps what raises the objective: the
largest length, in clip norms, of what a step's clipped sum changes by when one user is left out,
plus how far that change is from what the user adds alone. Both are to be 1 and 0 at most, however
long the search. It goes through the trainer, batches as it makes them.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from client.compute import noise_optimiser
from client.compute.batches import Beside
from client.compute.steps import LocalPlan
from client.compute.trainer import train
from shared.config import Optimiser
from shared.data.histories import Histories
from shared.models.attention import AttentionRecommender, trainable
from shared.models.attention_config import AttentionConfig
from shared.privacy.noise import RandomSource, SeededRandom

__all__ = ["ATTACKS", "PLAN", "Excess", "climb", "clipped_sums", "excess", "hostile_model"]

Lists = Sequence[Sequence[int]]
MakeBeside = Callable[[Histories], Beside]
LARGEST = float(np.finfo(np.float32).max)
PLAN = LocalPlan(
    local_steps=1,
    sample_rate=1.0,
    population=10,
    clip_norm=1.0,
    noise_multiplier=1.0,
    optimiser=Optimiser.SGD,
    learning_rate=1.0,
)
ITEMS, WIDTH, LENGTH = 12, 8, 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Excess:
    """What one user's presence did to a clipped sum, in clip norms.

    Attributes:
        moved: length of the change of the sum; claimed: 1 at most.
        others: length of the part of it that is not the user's own; claimed: 0.
        finite: whether all numbers are.
    """

    moved: float
    others: float
    finite: bool

    @property
    def objective(self) -> float:
        """What a search raises."""
        return self.moved + self.others if self.finite else math.inf


def clipped_sums(
    model: AttentionRecommender,
    users: Lists,
    plan: LocalPlan = PLAN,
    random: RandomSource | None = None,
    beside: MakeBeside | None = None,
) -> Tensor:
    """Return the sums that noise would be added to in the last step, flat, as the trainer forms."""
    sums: list[Tensor] = []

    def recorded(total: Tensor, *_: object) -> Tensor:
        sums.append(total.detach().double().flatten().clone())
        return torch.zeros_like(total)

    with patch.object(noise_optimiser, "noised", recorded), _weights_kept(model):
        histories = Histories.from_lists(users)
        read = None if beside is None else beside(histories)
        train(model, histories, plan, random or SeededRandom(3), beside=read)
    return torch.cat(sums[-len(trainable(model)) :])


@contextmanager
def _weights_kept(model: AttentionRecommender) -> Iterator[None]:
    before = [(p, p.detach().clone()) for p in model.parameters()]
    try:
        yield
    finally:
        with torch.no_grad():
            for p, value in before:
                p.copy_(value)


def excess(
    model: AttentionRecommender,
    others: Lists,
    user: Sequence[int],
    plan: LocalPlan = PLAN,
    beside: MakeBeside | None = None,
) -> Excess:
    """Return what a user's presence, as the last of all, does to the sum of the others.

    Args:
        model: with a coordinator's weights.
        others: histories.
        user: history of the user who comes and goes.
        plan: public constants.
        beside: makes what the model reads of users beside their histories.
    """
    with_user = clipped_sums(model, [*others, user], plan, beside=beside)
    change = with_user - clipped_sums(model, others, plan, beside=beside)
    # Under the name that it has among the others: random numbers go by name.
    user_only = clipped_sums(model, [*([] for _ in others), user], plan, beside=beside)
    return Excess(
        moved=float(change.norm()) / plan.clip_norm,
        others=float((change - user_only).norm()) / plan.clip_norm,
        finite=bool(with_user.isfinite().all() and user_only.isfinite().all()),
    )


def hostile_model(
    random: np.random.Generator,
    kind: type[AttentionRecommender] = AttentionRecommender,
    **shape: Any,  # noqa: ANN401
) -> AttentionRecommender:
    """Return a recommender of a kind whose every trainable weight is one of `_values`."""
    fields: dict[str, Any] = {
        "items": ITEMS,
        "item_representation": str(random.choice(["ids", "features", "both"])),
        "tied": bool(random.integers(2)),
        "item_bias": bool(random.integers(2)),
        "feature_size": 5,
        "hidden_size": WIDTH,
        "layers": int(random.integers(1, 3)),
        "heads": int(random.choice([1, 2, 8])),
        "recency": float(random.choice([1.0, 0.75, 0.4362265434125641, 1e-3])),
        "max_length": LENGTH,
        "dropout": 0.0,
    }
    features = torch.from_numpy(random.standard_normal((ITEMS, 5))).float()
    model = kind(kind.shape(**fields | shape), features)
    with torch.no_grad():
        for weight in trainable(model).values():
            weight.copy_(_values(random, tuple(weight.shape)))
    return model


def _values(random: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
    """Zeros, one large number, spikes, a constant, halves of opposite sign, or normals."""
    scale = 2.0 ** random.integers(-60, 61) if random.random() < 0.5 else 1.0
    scale = LARGEST if random.random() < 0.03 else scale
    normals = random.standard_normal(shape)
    kind = random.choice(["zero", "spikes", "constant", "halves", "ones", "normal", "normal"])
    if kind == "zero":
        normals *= 0
    elif kind == "spikes":
        normals = np.sign(normals) * (random.random(shape) < 2 / max(shape))
    elif kind == "constant":
        normals = np.ones(shape)
    elif kind == "halves":
        normals = np.broadcast_to(random.standard_normal(shape[-1:]), shape).copy()
        normals[len(normals) // 2 :] *= -1
    elif kind == "ones":
        return torch.ones(shape)
    return torch.from_numpy(np.clip(normals * scale, -LARGEST, LARGEST)).float()


def _by_overflow(model: AttentionRecommender) -> None:
    """A user of item 3 gets inf times 0 in a norm's allowance for rounding, of a large layer."""
    weights = trainable(model)
    weights["item.weight"][:, 1] = 10.0
    weights["item.weight"][2] = 0.0
    weights["item.weight"][2, 0] = 10.0
    weights["blocks.0.feed_norm.weight"].fill_(1.0)
    weights["blocks.0.feed.0.weight"][0, 0] = 1e20
    weights["blocks.0.feed.0.weight"][0, 1] = -1e20


def _by_amplified_rounding(model: AttentionRecommender) -> None:
    """The last bit of attention decides everybody's state."""
    weights, large = trainable(model), 2.0**30
    weights["position.weight"][:, 0] = -large
    weights["blocks.0.attention.value.bias"][0] = large
    weights["blocks.0.attention.out.weight"].copy_(torch.eye(len(weights["norm.weight"])))
    weights["norm.weight"].fill_(1e4)
    weights["item_scores.offset"][0] = 100.0


def _by_cancellation(model: AttentionRecommender) -> None:
    """The two halves of a history have opposite states, and their shares cancel."""
    weights = trainable(model)
    values = torch.linspace(0.5, 1.5, weights["norm.weight"].numel())
    half = len(weights["position.weight"]) // 2
    weights["position.weight"][:half] = values - values.mean()
    weights["position.weight"][half:] = values.mean() - values
    weights["norm.weight"].copy_(values.flip(0) * 1e6)


ATTACKS = {
    "overflow": _by_overflow,
    "amplified rounding": _by_amplified_rounding,
    "cancellation": _by_cancellation,
}
"""Found by hand; each sets weights that were 0, of a model of ids with one block and offsets."""
_WIDTHS = {"overflow": 96}


def attack(name: str, *, length: int = LENGTH, recency: float = 0.4362265434125641) -> Any:  # noqa: ANN401
    """Return the recommender of one of `ATTACKS`."""
    config = AttentionConfig(
        items=ITEMS,
        item_representation="ids",
        hidden_size=_WIDTHS.get(name, WIDTH),
        layers=1,
        heads=1,
        recency=recency,
        max_length=length,
        dropout=0.0,
    )
    model = AttentionRecommender(config)
    with torch.no_grad():
        for weight in trainable(model).values():
            weight.zero_()
        ATTACKS[name](model)
    return model


def _histories(random: np.random.Generator) -> tuple[Lists, list[int]]:
    """Return other users, and one: short, long, empty, repeated."""

    def history(events: int) -> list[int]:
        few = int(random.choice([1, 2, ITEMS]))
        return [int(item) for item in random.integers(1, few + 1, events)]

    others = [history(int(random.integers(0, LENGTH + 3))) for _ in range(random.integers(1, 12))]
    return others, history(int(random.choice([1, 2, 5, LENGTH, LENGTH + 1, 3 * LENGTH])))


def climb(
    model: AttentionRecommender, random: np.random.Generator, seconds: float
) -> tuple[Excess, int]:
    """Change weights and histories one at a time for so long, and keep what raises the objective.

    Returns:
        The worst excess, and how many were tried.
    """
    others, user = _histories(random)
    plan = replace(PLAN, clip_norm=float(2.0 ** random.integers(-8, 9)))
    best, tried, end = excess(model, others, user, plan), 1, time.monotonic() + seconds
    while time.monotonic() < end and best.finite:
        weight = random.choice(np.array(list(trainable(model)), object))
        target = trainable(model)[str(weight)]
        before, people = target.detach().clone(), (others, user)
        with torch.no_grad():
            target.copy_(_changed(random, before))
        if random.random() < 0.2:
            others, user = _histories(random)
        now = excess(model, others, user, plan)
        tried += 1
        if now.objective >= best.objective:
            best = now
        else:
            others, user = people
            with torch.no_grad():
                target.copy_(before)
    return best, tried


def _changed(random: np.random.Generator, weight: Tensor) -> Tensor:
    kind = random.integers(4)
    if kind == 0:
        return _values(random, tuple(weight.shape))
    factor = math.ldexp(1.0, int(random.integers(-12, 13)))
    if kind == 1:
        return (weight * factor).clamp(-LARGEST, LARGEST)
    normals = torch.from_numpy(random.standard_normal(tuple(weight.shape))).float()
    if kind == 2:
        return (weight + 0.1 * weight.abs().mean() * normals).clamp(-LARGEST, LARGEST)
    return weight.where(normals.abs() < 1.5, -weight)


def main() -> None:
    """Search for so many minutes; exit with 1 if a claim was broken."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds-a-climb", type=float, default=10.0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    random, end = np.random.default_rng(options.seed), time.monotonic() + 60 * options.minutes
    worst = Excess(moved=0.0, others=0.0, finite=True)
    climbs, tried = 0, 0
    while time.monotonic() < end and worst.finite:
        start = climbs % (2 * len(ATTACKS))
        names = list(ATTACKS)
        model = attack(names[start]) if start < len(names) else hostile_model(random)
        steepest, steps = climb(model, random, min(options.seconds_a_climb, end - time.monotonic()))
        climbs, tried = climbs + 1, tried + steps
        worst = Excess(
            moved=max(worst.moved, steepest.moved),
            others=max(worst.others, steepest.others),
            finite=worst.finite and steepest.finite,
        )
    sys.stdout.write(f"{climbs} climbs, {tried} neighbouring sums: {worst}\n")
    sys.exit(not (worst.finite and worst.moved <= 1 and worst.others == 0))


if __name__ == "__main__":
    main()
