"""Rounds of DP-SGD over several organisations, each with its own users and its own ledger.

What a node does for the recommender, in the same order and with the same parts: each organisation
checks the model, charges its ledger on disk, and only then computes a clipped, noised gradient of
its users (`client.compute.over_use`). Under secure aggregation it adds its share of one noise, on
the grid, and the coordinator adds the organisations' integers modulo 2^64. Left out are masks,
which cancel in that sum, and the transport.

Noise, steps and sample rate follow from ε and public constants, so that the releases of all rounds
together cost each organisation's users ε at most; its ledger would refuse a round beyond that. What
the coordinator does with a noised sum (Adam, the mean of the last weights) costs nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from client.compute.over_use import (
    Examples,
    OverUsePlan,
    check_model,
    gradient_points,
    gradient_sum,
)
from client.ledger.ledger import Entry, Ledger
from shared.config import PrivacyConfig, Trust
from shared.errors import ConfigError
from shared.hash_chain import canonical_text
from shared.over_use.model import OverUseConfig, OverUseModel
from shared.privacy.accounting.accountant import noise_multiplier_for
from shared.privacy.distributed_noise import MOST_ORGANISATIONS, share_for
from shared.privacy.noise import SeededRandom
from shared.privacy.noise_share import from_points
from shared.privacy.release import Release, ReleaseKind
from shared.sections import PositiveInt, PositiveNumber, ShareAboveZero, flatten, section

__all__ = ["Cost", "Organisation", "Training", "initial_model", "train_alone", "train_together"]

_RUN = "over-use"
_MOMENTS = (0.9, 0.999)
"""Decay of Adam's means of gradients and of their squares."""


@section("over_use")
class Training:
    """How the model is trained: public constants.

    Attributes:
        rounds: steps with noise.
        rounds_without_noise: steps of a run without privacy.
        learning_rate: of the coordinator's Adam, on the mean gradient.
        clip_norm: bound on what one user adds.
        sample_rate: chance that a given user is in a step.
        averaged: share of the steps, from the last one back, of whose weights the mean is taken.
    """

    rounds: PositiveInt = 60
    rounds_without_noise: PositiveInt = 150
    learning_rate: PositiveNumber = 0.1
    clip_norm: PositiveNumber = 1.0
    sample_rate: ShareAboveZero = 1.0
    averaged: ShareAboveZero = 0.3


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Organisation:
    """One of them: its users, and where its ledger is.

    Attributes:
        name: and user base.
        examples: its training users.
        folder: of its ledger; created where it is missing.
    """

    name: str
    examples: Examples
    folder: Path

    def ledger(self) -> Ledger:
        """Create the organisation's ledger."""
        self.folder.mkdir(parents=True)
        return Ledger.create(self.folder / "ledger.sqlite", self.name, self.folder / "anchor")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What the ledger of one organisation says after a run.

    Attributes:
        epsilon: of all releases; None without noise.
        epsilon_if_all_collude: where only its own noise counts.
        noise_multiplier: of a step, that the claim rests on.
        steps: that were charged.
    """

    epsilon: float | None
    epsilon_if_all_collude: float | None
    noise_multiplier: float
    steps: int


def initial_model(config: OverUseConfig, seed: int) -> OverUseModel:
    """Return the model that everybody begins with; the same for the same seed."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return OverUseModel(config)


def train_together(
    organisations: Sequence[Organisation],
    model: OverUseModel,
    training: Training,
    privacy: PrivacyConfig,
    seed: int,
) -> dict[str, Cost]:
    """Train the model in place, and return what it cost at each organisation.

    Args:
        organisations: none of them has a ledger yet.
        model: the initial one.
        training: how.
        privacy: the claim; without an ε there is no noise.
        seed: of samples and noise; the lab's data are public.

    Raises:
        AccountingError: no noise meets ε.
        ConfigError: nothing is left of the honest organisations, there are too many, or δ is not
            below one over an organisation's users.
        ClippingError: no bound on a user's part can be proven on this machine.
    """
    plans, release = _plan(organisations, training, privacy)
    ledgers = [organisation.ledger() for organisation in organisations]
    steps = training.rounds if privacy.private else training.rounds_without_noise
    users = training.sample_rate * sum(plan.population for plan in plans)
    coordinator = _Coordinator(model, training, steps)
    for number in range(1, steps + 1):
        for ledger, plan in zip(ledgers, plans, strict=True):
            check_model(model, plan)
            _charge(ledger, release, plan, number, privacy)
        coordinator.step(_total(model, organisations, plans, (seed, number)), users)
    coordinator.finish()
    return {
        one.name: _cost(ledger, privacy.delta)
        for one, ledger in zip(organisations, ledgers, strict=True)
    }


def train_alone(examples: Examples, model: OverUseModel, training: Training, seed: int) -> None:
    """Train the model in place on one organisation's users, at home: without noise, no ledger."""
    plan = OverUsePlan(
        population=len(examples.labels),
        sample_rate=training.sample_rate,
        clip_norm=training.clip_norm,
        noise_multiplier=0.0,
    )
    coordinator = _Coordinator(model, training, training.rounds_without_noise)
    for number in range(training.rounds_without_noise):
        total = gradient_sum(model, examples, plan, SeededRandom(seed, 0, number))
        coordinator.step(total, plan.sample_rate * plan.population)
    coordinator.finish()


def _plan(
    organisations: Sequence[Organisation], training: Training, privacy: PrivacyConfig
) -> tuple[list[OverUsePlan], Release]:
    """Return what each organisation is asked for, and what a step is to its ledger."""
    count, share = len(organisations), 0.0
    shares = privacy.honest_shares(count)
    if privacy.secure and not 1 <= shares <= count <= MOST_ORGANISATIONS:
        raise ConfigError(
            f"of {count} organisations {shares} are counted on: take from 2 to "
            f"{MOST_ORGANISATIONS}, or fewer that may collude."
        )
    fewest = min(len(one.examples.labels) for one in organisations)
    if privacy.private and not privacy.delta * fewest < 1:
        raise ConfigError(
            f"δ = {privacy.delta:g}, and an organisation has {fewest} training users: choose a δ "
            "below one over its users."
        )
    if privacy.epsilon is not None:
        noise = noise_multiplier_for(
            privacy.epsilon,
            privacy.delta,
            sample_rate=training.sample_rate,
            steps=training.rounds,
        )
        share = share_for(noise, shares) if privacy.secure else noise
    plans = [
        OverUsePlan(
            population=len(one.examples.labels),
            sample_rate=training.sample_rate,
            clip_norm=training.clip_norm,
            noise_multiplier=share,
            trust=privacy.trust_asked,
        )
        for one in organisations
    ]
    own = Release(
        kind=ReleaseKind.TRAIN,
        noise_multiplier=share,
        sample_rate=training.sample_rate,
        steps=1,
    )
    return plans, own.with_shares(shares) if privacy.secure else own


def _charge(
    ledger: Ledger, release: Release, plan: OverUsePlan, number: int, privacy: PrivacyConfig
) -> None:
    asked = canonical_text(flatten(plan))
    entry = Entry(
        run=_RUN,
        round=number,
        release=release,
        clip_norm=plan.clip_norm,
        request=hashlib.sha256(asked.encode()).hexdigest(),
    )
    most = math.inf if privacy.epsilon is None else privacy.epsilon
    ledger.charge(entry, max_epsilon=most, delta=privacy.delta)


def _total(
    model: OverUseModel,
    organisations: Sequence[Organisation],
    plans: Sequence[OverUsePlan],
    path: tuple[int, int],
) -> dict[str, Tensor]:
    """Return the sum of all organisations' answers to one round, float64 by name.

    Args:
        model: with the global weights.
        organisations: whose answers are summed.
        plans: what each is asked for.
        path: seed and number of the round.
    """
    seed, number = path
    asked = [
        (one.examples, plan, SeededRandom(seed, place, number))
        for place, (one, plan) in enumerate(zip(organisations, plans, strict=True))
    ]
    if plans[0].trust is Trust.SECURE_AGGREGATION:
        points = [gradient_points(model, *terms) for terms in asked]
        # int64 wraps, and so does the sum under masks.
        return _named(from_points(torch.from_numpy(np.sum(points, 0)), plans[0].clip_norm), model)
    answers = [gradient_sum(model, *terms) for terms in asked]
    return {name: torch.stack([answer[name] for answer in answers]).sum(0) for name in answers[0]}


def _named(numbers: Tensor, model: OverUseModel) -> dict[str, Tensor]:
    """Cut numbers of all weights, one after the other by name."""
    weights = dict(sorted(model.named_parameters()))
    parts = numbers.split([p.numel() for p in weights.values()])
    return {name: part.view(weights[name].shape) for name, part in zip(weights, parts, strict=True)}


class _Coordinator:
    """Takes steps along noised sums, by Adam (Kingma & Ba 2015, arXiv:1412.6980)."""

    def __init__(self, model: OverUseModel, training: Training, steps: int) -> None:
        self._weights, self._rate = dict(model.named_parameters()), training.learning_rate
        self._first = steps - max(1, round(training.averaged * steps))
        self._step, zeros = 0, {name: torch.zeros_like(p) for name, p in self._weights.items()}
        self._mean, self._square, self._kept = ({**zeros} for _ in range(3))

    def step(self, total: dict[str, Tensor], users: float) -> None:
        """Step along the sum over the expected users."""
        self._step += 1
        with torch.no_grad():
            for name, p in self._weights.items():
                gradient = (total[name] / users).to(p.dtype)
                self._mean[name] = _MOMENTS[0] * self._mean[name] + (1 - _MOMENTS[0]) * gradient
                square = (1 - _MOMENTS[1]) * gradient**2
                self._square[name] = _MOMENTS[1] * self._square[name] + square
                mean = self._mean[name] / (1 - _MOMENTS[0] ** self._step)
                root = (self._square[name] / (1 - _MOMENTS[1] ** self._step)).sqrt()
                p.sub_(self._rate * mean / (root + 1e-8))
                if self._step > self._first:
                    self._kept[name] = self._kept[name] + p

    def finish(self) -> None:
        """Give the model the mean of the last weights."""
        with torch.no_grad():
            for name, p in self._weights.items():
                p.copy_(self._kept[name] / (self._step - self._first))


def _cost(ledger: Ledger, delta: float) -> Cost:
    releases = ledger.releases()
    epsilon, alone = ledger.spent(delta), ledger.spent_if_all_collude(delta)
    return Cost(
        epsilon=epsilon if math.isfinite(epsilon) else None,
        epsilon_if_all_collude=alone if math.isfinite(alone) else None,
        noise_multiplier=releases[0].noise_multiplier,
        steps=sum(release.steps for release in releases),
    )
