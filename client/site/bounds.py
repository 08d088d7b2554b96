"""Bounds on what a request may ask: shapes, weights, memory and the size of an answer.

All of it follows from public constants (the request, site.toml, the catalogue) and is checked
before the data are read or the budget is charged. So a refusal tells nothing about a user, and what
is admitted fits a machine that has `policy.max_memory_gb`, whatever the data hold. Above each bound
of the policy is one of the app, which no site.toml raises.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from client.compute.batches import most_rows
from client.site.policy import Policy
from shared.config import ModelConfig, ModelKind, Trust
from shared.errors import Refused
from shared.messages import (
    EvaluateRequest,
    Request,
    Statistic,
    StatisticsRequest,
    TrainRequest,
)
from shared.models.registry import Examples, bare, examples_of, shape_of_model
from shared.outcomes import Refusal

__all__ = [
    "LARGEST_WEIGHT",
    "MEGABYTE",
    "answer_bytes",
    "answer_numbers",
    "check_bounds",
    "needed_memory",
    "training_memory",
]

GIGABYTE, MEGABYTE = 1e9, 1e6
MOST_EVENTS, MOST_LAYERS, MOST_HEADS, WIDEST = 10_000, 64, 256, 8192
MOST_OWN_ITEMS, MOST_CANDIDATES, MOST_FRIENDS = 10_000, 1_000_000, 64
LARGEST_WEIGHT, LARGEST_NOISE, LARGEST_RATE = 1e6, 1e6, 1e4
SMALLEST_SAMPLE_RATE, SMALLEST_RECENCY, LARGEST_DROPOUT = 1e-9, 1e-6, 0.95
"""Bounds of the app, for every site."""

_BYTES, _BATCH_COPIES, _WEIGHT_COPIES = 4, 5, 12
"""Bytes of a number, and how often the numbers of a batch and of the weights are held."""
_MASKED_BYTES = 8
"""Of a masked number."""
_RANKED_ROWS = 1
"""Users that are ranked together."""


@dataclass(frozen=True, slots=True)
class _Limit:
    """One bound: `asked` must be at most `most`, and at least `least`; NaN is neither."""

    name: str
    asked: float
    most: float = np.inf
    least: float = -np.inf

    def check(self) -> None:
        """Raise Refused where the bound does not hold."""
        if not self.least <= self.asked <= self.most:
            limit = f">= {self.least:g}" if self.asked < self.least else f"<= {self.most:g}"
            raise Refused(Refusal.POLICY, f"{self.name} {self.asked:g}, where {limit} is allowed")


def check_bounds(
    request: Request, policy: Policy, *, population: int, items: int, device: str
) -> None:
    """Refuse a request that asks for more than the app or the policy allows.

    Args:
        request: any.
        policy: the partner's.
        population: declared users.
        items: catalogue size V.
        device: "cpu" or "cuda".

    Raises:
        Refused: it asks for more, or names items that are not there.
    """
    _check_kind(request.model, policy)
    for limit in (*_shape_limits(request.model, policy), *_request_limits(request, policy, items)):
        limit.check()
    _check_model(request, items)
    memory = needed_memory(request, policy, population=population, items=items, device=device)
    for limit in (
        _Limit("memory in GB", memory / GIGABYTE, policy.max_memory_gb),
        _Limit("answer in MB", answer_bytes(request, items) / MEGABYTE, policy.max_answer_mb),
    ):
        limit.check()


def needed_memory(
    request: Request, policy: Policy, *, population: int, items: int, device: str
) -> float:
    """Return about how many bytes an answer takes beside the data: an upper estimate.

    Arguments are those of `check_bounds`. With constant shapes (`client.compute.batches`) the data
    do not change it; a statistic is counted at the longest history that the policy lets in.
    """
    model = request.model
    shape = shape_of_model(model, items)
    if isinstance(request, StatisticsRequest):
        # States and their sums in float64, of one user at a time, and some sums [F, F].
        size = model.described
        part = 6.0 * policy.max_events * size + 4.0 * size * size + 2.0 * items
    elif isinstance(request, EvaluateRequest):
        part = float(_RANKED_ROWS * shape.ranking_numbers())
    else:
        expected = request.sample_rate * population
        return training_memory(
            model, request.candidates, expected=expected, items=items, device=device
        )
    return _BYTES * (_BATCH_COPIES * part + _WEIGHT_COPIES * shape.weight_numbers())


def training_memory(
    model: ModelConfig, candidates: int, *, expected: float, items: int, device: str
) -> float:
    """Return about how many bytes training takes beside the data: an upper estimate.

    Five times a physical batch (`client.compute.batches`) and twelve times the weights, in float32.
    The factors cover what was measured on a CPU from 10,000 to 400,000 items, and are up to twice
    as much.

    Args:
        model: the recommender's shape.
        candidates: drawn for each user; 0 ranks the whole catalogue.
        expected: users in a step, sample rate times declared population.
        items: catalogue size V.
        device: "cpu" or "cuda".
    """
    shape = shape_of_model(model, items)
    rows = most_rows(shape, candidates, expected, device)
    part = float(rows * (shape.pass_numbers(candidates) + shape.mask_numbers()))
    return _BYTES * (_BATCH_COPIES * part + _WEIGHT_COPIES * shape.weight_numbers())


def answer_bytes(request: Request, items: int) -> int:
    """Return the size of the answer's arrays; a masked number takes twice as much as a float32."""
    size = _BYTES if request.trust is Trust.LOCAL else _MASKED_BYTES
    return size * answer_numbers(request, items)


def answer_numbers(request: Request, items: int) -> int:
    """Return how many numbers an answer has, from the model's shape, which is within bounds."""
    if isinstance(request, TrainRequest):
        return _trained_numbers(request.model, items)
    if isinstance(request, EvaluateRequest):
        return request.numbers
    is_popularity = request.statistic is Statistic.POPULARITY
    return items if is_popularity else request.model.described**2


@lru_cache(maxsize=8)
def _trained_numbers(model: ModelConfig, items: int) -> int:
    # torch takes seconds, and an estimate of memory needs no model
    from shared.models.attention import trainable  # noqa: PLC0415
    from shared.models.shapes import shapes_alone  # noqa: PLC0415

    with shapes_alone():
        made = bare(model, items)
    return sum(weight.numel() for weight in trainable(made).values())


def _check_kind(model: ModelConfig, policy: Policy) -> None:
    if model.kind not in policy.kinds:
        raise Refused(
            Refusal.POLICY,
            f"model.kind '{model.kind}', where policy.kinds allows "
            f"{', '.join(policy.kinds) or 'none'}",
        )


def _shape_limits(model: ModelConfig, policy: Policy) -> Iterator[_Limit]:
    yield _Limit("max_length", model.max_length, min(policy.max_length, MOST_EVENTS))
    yield _Limit("layers", model.layers, min(policy.max_layers, MOST_LAYERS))
    yield _Limit("heads", model.heads, min(policy.max_heads, MOST_HEADS))
    yield _Limit("width", model.width, min(policy.max_width, WIDEST))
    yield _Limit("recurrent_size", model.recurrent_size, min(policy.max_width, WIDEST))
    yield _Limit("attention_size", model.attention_size, min(policy.max_width, WIDEST))
    yield _Limit("query_size", model.query_size, min(policy.max_width, WIDEST))
    yield _Limit("text_width", model.text_width, min(policy.max_width, WIDEST))
    yield _Limit("text_blocks", model.text_blocks, min(policy.max_layers, MOST_LAYERS))
    yield _Limit("lora_rank", model.lora_rank, min(policy.max_width, WIDEST))
    yield _Limit("friends", model.friends, MOST_FRIENDS)
    yield _Limit("feature_size", model.feature_size, min(policy.max_width, WIDEST))
    yield _Limit("own items", len(model.own_items), min(policy.max_own_items, MOST_OWN_ITEMS))
    yield _Limit("recency", model.recency, least=SMALLEST_RECENCY)
    yield _Limit("dropout", model.dropout, LARGEST_DROPOUT)
    yield _Limit("augment", model.augment, LARGEST_DROPOUT)


def _request_limits(request: Request, policy: Policy, items: int) -> Iterator[_Limit]:
    noise = min(policy.max_noise_multiplier, LARGEST_NOISE)
    yield _Limit("noise multiplier", request.noise_multiplier, noise)
    if isinstance(request, StatisticsRequest):
        return
    yield _Limit("sample rate", request.sample_rate, least=SMALLEST_SAMPLE_RATE)
    weight = max((float(np.abs(v).max(initial=0.0)) for v in request.weights.values()), default=0.0)
    yield _Limit("largest weight", weight, min(policy.max_weight, LARGEST_WEIGHT))
    if isinstance(request, EvaluateRequest):
        yield _Limit("k", request.k, items)
        return
    yield _Limit("candidates", request.candidates, min(policy.max_candidates, MOST_CANDIDATES))
    yield _Limit("learning rate", request.learning_rate, LARGEST_RATE)
    yield _Limit("weight decay", request.weight_decay, LARGEST_RATE)


def _check_model(request: Request, items: int) -> None:
    model = request.model
    if model.own_items and model.own_items[-1] > items:
        raise Refused(
            Refusal.MALFORMED, f"model.own_items names item {model.own_items[-1]} of {items}"
        )
    if examples_of(model.kind) is not Examples.HISTORIES and not isinstance(request, TrainRequest):
        raise Refused(Refusal.MALFORMED, f"model.kind '{model.kind}' is trained, and nothing else")
    if isinstance(request, TrainRequest):
        _check_linked(request)
    if isinstance(request, StatisticsRequest) and not model.items.uses_features:
        raise Refused(Refusal.MALFORMED, f"a statistic with model.items = '{model.items}'")


def _check_linked(request: TrainRequest) -> None:
    """Refuse a private step over some of the users where a user is in samples of others, too.

    Poisson sampling makes a step cheaper by how seldom a user is in it, which then is more often.
    """
    if request.model.kind is ModelKind.SOCIAL and request.noise_multiplier:
        _Limit("sample rate of linked users", request.sample_rate, least=1.0).check()
