"""What each request is charged as, and the requests that a run will make."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from client.ledger.ledger import Entry
from client.site.policy import Ask, Policy
from shared.config import LocalTraining
from shared.hash_chain import canonical_text
from shared.messages import (
    EvaluateRequest,
    PlanRequest,
    Request,
    Statistic,
    StatisticsRequest,
    TrainRequest,
    said_fields,
)
from shared.models.moments import STATISTIC_CLIP_NORM
from shared.privacy.release import Release, ReleaseKind
from shared.sections import flatten, values_of

__all__ = ["ask_of", "entry_of", "planned_requests"]

_UNCHARGED = ("weights", "frozen")
"""What a request's fingerprint leaves out; the frozen weights follow from the model's shape."""


def ask_of(request: Request) -> Ask:
    """Return what a policy has to list for a request."""
    if isinstance(request, TrainRequest):
        return Ask.TRAIN
    return Ask.EVALUATE if isinstance(request, EvaluateRequest) else Ask.STATISTICS


def entry_of(request: Request) -> Entry:
    """Return the ledger entry that a request would be charged as, with its own noise alone.

    Its fingerprint leaves the weights out: a coordinator that repeats a round with others gets
    the first answer, which tells it nothing new.
    """
    # Earlier versions recorded fingerprints without the fields that say nothing.
    asked = said_fields(flatten(request, without=_UNCHARGED))
    return Entry(
        run=request.run,
        round=request.round,
        release=_release(request),
        clip_norm=STATISTIC_CLIP_NORM
        if isinstance(request, StatisticsRequest)
        else request.clip_norm,
        request=hashlib.sha256(canonical_text(asked).encode()).hexdigest(),
    )


def _release(request: Request) -> Release:
    """Return the noised sums that a request asks for: of all users, or of a sample."""
    kind, rate, steps = ReleaseKind.STATISTICS, 1.0, 1
    if isinstance(request, TrainRequest):
        kind, rate, steps = ReleaseKind.TRAIN, request.sample_rate, request.local_steps
    elif isinstance(request, EvaluateRequest):
        kind, rate = ReleaseKind.EVALUATE, request.sample_rate
    return Release(
        kind=kind, noise_multiplier=request.noise_multiplier, sample_rate=rate, steps=steps
    )


def planned_requests(plan: PlanRequest, policy: Policy) -> Iterator[tuple[Request, int]]:
    """Yield each kind of request that a run makes, and how often.

    The largest of the weights stands for all of them, which are not known yet.
    """
    common: dict[str, Any] = {
        "run": plan.run,
        "round": 1,
        "catalogue": plan.catalogue,
        "model": plan.model,
        "trust": plan.trust,
    }
    largest = min(plan.largest_weight, float(np.finfo(np.float32).max))
    weights = {"largest": np.array([largest], np.float32)}
    noise = {
        Statistic.POPULARITY: plan.popularity_noise,
        Statistic.MOMENT: plan.moment_noise,
    }
    if plan.statistics:
        for statistic, sigma in noise.items():
            asked = StatisticsRequest(
                **common, statistic=statistic, noise_multiplier=sigma, fade=1.0
            )
            yield asked, plan.statistics
    if plan.rounds:
        terms = values_of(LocalTraining, plan)
        asked_for: dict[str, Any] = {
            "noise_multiplier": plan.training_noise,
            "over_use": plan.over_use,
        }
        yield TrainRequest(**common, weights=weights, **asked_for, **terms), plan.rounds
    # Where a site does not answer it, the run does without this site's metrics.
    if plan.evaluations and Ask.EVALUATE in policy.answers:
        yield (
            EvaluateRequest(
                **common,
                weights=weights,
                noise_multiplier=plan.training_noise,
                sample_rate=plan.sample_rate,
            ),
            plan.evaluations,
        )
    if plan.groups and Ask.EVALUATE in policy.answers:
        measured = EvaluateRequest(
            **common,
            weights=weights,
            noise_multiplier=plan.groups_noise,
            sample_rate=1.0,
            groups=plan.groups,
        )
        yield measured, 1 + plan.reweighings
