"""What is asked of every organisation: a training step, a statistic, or noised metrics.

And before any of them, whether its policy and budget admit the whole run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from flwr.app import Message

from server.rounds.collection import CollectionSpec, SumSpec
from server.rounds.participants import Partner
from server.rounds.parts import part_of_change, part_of_statistic, part_of_sums
from server.rounds.replies import (
    Floats,
    Sums,
    change_digest,
    checked_change,
    checked_plan,
    checked_statistic,
    checked_sums,
)
from shared.config import LocalTraining, RunConfig
from shared.messages import (
    EVALUATE,
    PLAN,
    STATISTICS,
    TRAIN,
    EvaluateRequest,
    PlanRequest,
    Statistic,
    StatisticsRequest,
    TrainRequest,
    Weights,
)
from shared.models.registry import frozen_fingerprint
from shared.sections import values_of

__all__ = [
    "Terms",
    "evaluate_request",
    "evaluation_spec",
    "groups_request",
    "plan_request",
    "plan_spec",
    "statistic_spec",
    "train_request",
    "training_spec",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What every request of a run holds, beside its parameters.

    Attributes:
        run: name of the run.
        catalogue: fingerprint of the catalogue.
        noise_multiplier: of each training step, that every partner is asked to add; 0 without
            privacy.
        groups_noise: likewise, of the measurement of groups; 0 where there is none.
    """

    run: str
    catalogue: str
    noise_multiplier: float
    groups_noise: float = 0.0


def plan_request(
    config: RunConfig,
    terms: Terms,
    statistics: Mapping[Statistic, float] | None,
    weights: Weights,
    items: int,
    most_own_items: int,
) -> PlanRequest:
    """Return the question whether a partner admits the whole run.

    Args:
        config: the run's parameters.
        terms: what every request holds.
        statistics: noise multiplier of each statistic of the warm start; None if none is asked for.
        weights: those that the run begins with, which a warm start changes.
        items: catalogue size V.
        most_own_items: how many may get a direction of their own.
    """
    every, noise = config.server.evaluate_every, statistics or {}
    warm = statistics is not None
    own_items = min(most_own_items, items) if warm else 0
    largest = max((float(abs(value).max(initial=0.0)) for value in weights.values()), default=0.0)
    return PlanRequest(
        run=terms.run,
        catalogue=terms.catalogue,
        statistics=int(warm),
        popularity_noise=noise.get(Statistic.POPULARITY, 0.0),
        moment_noise=noise.get(Statistic.MOMENT, 0.0),
        training_noise=terms.noise_multiplier,
        model=replace(config.model, own_items=tuple(range(1, own_items + 1))),
        largest_weight=0.0 if warm else largest,
        **values_of(LocalTraining, config.training),
        rounds=config.training.number_of_rounds,
        evaluations=config.training.number_of_rounds // every if every else 0,
        groups=config.groups.tables if config.groups.share else "",
        groups_noise=terms.groups_noise if config.groups.share else 0.0,
        reweighings=max(config.measurements - 1, 0),
        weights_of_groups=config.groups.first_weights,
        over_use=config.task_text,
        trust=config.privacy.trust_asked,
    )


def plan_spec(request: PlanRequest) -> CollectionSpec[bool]:
    """Return the question as a collection; a reply is valid unless the partner says no."""

    def check(reply: Message, _: Partner) -> bool:
        return checked_plan(reply)

    return CollectionSpec(
        name="the question whether all can pay",
        round=0,
        kind=PLAN,
        content=request.to_content(),
        check=check,
    )


def train_request(
    config: RunConfig,
    terms: Terms,
    number: int,
    weights: Weights,
    weights_of_groups: str | None = None,
) -> TrainRequest:
    """Return the request of training round `number`, 1-based, that begins with `weights`.

    Args:
        config: the run's parameters.
        terms: what every request holds.
        number: of the round.
        weights: global trainable weights.
        weights_of_groups: what users of each group count; None takes those of the run.
    """
    if weights_of_groups is None:
        weights_of_groups = config.groups.weights
    return TrainRequest(
        run=terms.run,
        round=number,
        catalogue=terms.catalogue,
        model=config.model,
        weights=weights,
        noise_multiplier=terms.noise_multiplier,
        frozen=frozen_fingerprint(config.model),
        weights_of_groups=weights_of_groups,
        over_use=config.task_text,
        trust=config.privacy.trust_asked,
        **values_of(LocalTraining, config.training.in_round(number)),
    )


def training_spec(request: TrainRequest, max_norm: float) -> CollectionSpec[Weights]:
    """Return a round of training; a change longer than `max_norm` (L2) is refused."""

    def check(reply: Message, _: Partner) -> Weights:
        return checked_change(reply, like=request.weights, max_norm=max_norm)

    return CollectionSpec(
        name=f"round {request.round}",
        round=request.round,
        kind=TRAIN,
        content=request.to_content(),
        check=check,
        digest=change_digest,
        sum=SumSpec(
            request=request,
            length=sum(value.size for value in request.weights.values()),
            part=lambda points, partners: part_of_change(points, request, partners, max_norm),
        ),
    )


def statistic_spec(request: StatisticsRequest, shape: tuple[int, ...]) -> CollectionSpec[Floats]:
    """Return one statistic of a warm start, of this shape."""

    def check(reply: Message, partner: Partner) -> Floats:
        return checked_statistic(reply, request, shape=shape, population=partner.population)

    return CollectionSpec(
        name=f"the {request.statistic} statistic",
        round=0,
        kind=STATISTICS,
        content=request.to_content(),
        check=check,
        sum=SumSpec(
            request=request,
            length=math.prod(shape),
            part=lambda points, partners: part_of_statistic(points, request, partners, shape),
        ),
    )


def evaluate_request(
    config: RunConfig, terms: Terms, number: int, weights: Weights
) -> EvaluateRequest:
    """Return the request for metrics of `weights` after round `number`.

    It has the noise and sample rate of a training step, and costs as much as one.
    """
    return EvaluateRequest(
        run=terms.run,
        round=_evaluation_number(config, number),
        catalogue=terms.catalogue,
        model=config.model,
        weights=weights,
        noise_multiplier=terms.noise_multiplier,
        sample_rate=config.training.sample_rate,
        frozen=frozen_fingerprint(config.model),
        trust=config.privacy.trust_asked,
    )


def groups_request(
    config: RunConfig, terms: Terms, weights: Weights, before: int = 0
) -> EvaluateRequest:
    """Return the request for figures of groups under `weights`, of all users.

    Args:
        config: the run's parameters.
        terms: what every request holds.
        weights: global trainable weights.
        before: the round that it precedes; 0 for the one after the last round.
    """
    return EvaluateRequest(
        run=terms.run,
        round=_evaluation_number(config, config.training.number_of_rounds + 1, before),
        catalogue=terms.catalogue,
        model=config.model,
        weights=weights,
        noise_multiplier=terms.groups_noise,
        sample_rate=1.0,
        frozen=frozen_fingerprint(config.model),
        groups=config.groups.tables,
        trust=config.privacy.trust_asked,
    )


def _evaluation_number(config: RunConfig, after: int, before: int = 0) -> int:
    """Return the number of an evaluation, or of a measurement of groups: they ascend with time.

    Args:
        config: the run's parameters.
        after: the round that an evaluation follows; one more than the last one for the measurement
            after it.
        before: the round that a measurement precedes; 0 for another one.
    """
    if not config.groups.robust:
        return after
    return 2 * before if before else 2 * after + (after <= config.training.number_of_rounds)


def evaluation_spec(request: EvaluateRequest, name: str = "") -> CollectionSpec[Sums]:
    """Return the noised sums of an evaluation; `name` is another one than by its round."""

    def check(reply: Message, partner: Partner) -> Sums:
        return checked_sums(reply, request, partner.population)

    return CollectionSpec(
        name=name or f"the evaluation of round {request.round}",
        round=request.round,
        kind=EVALUATE,
        content=request.to_content(),
        check=check,
        sum=SumSpec(
            request=request,
            length=request.numbers,
            part=lambda points, partners: part_of_sums(points, request, partners),
        ),
    )
