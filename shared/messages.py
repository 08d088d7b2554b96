"""Every message between coordinator and partner, typed both ways.

A request or reply is a frozen dataclass with `to_content` and `from_content`, to and from Flower's
records (`shared.message_records`). Content of another form is a `WireError`, raised before anything
is computed from it. A request's values are checked by the constraint types of `shared.sections`.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import numpy as np
from flwr.app import Error, Message, MessageType, RecordDict
from numpy.typing import NDArray

from shared.config import LocalTraining, ModelConfig, ModelKind, Trust
from shared.errors import ConfigError, SecureAggregationError, WireError
from shared.groups import Table, Weighted, tables_of, weighted_of
from shared.message_records import (
    ARRAYS,
    FIELDS,
    MESSAGE,
    STEP,
    Arrays,
    array_bytes,
    field_types,
    has_field,
    only_records,
    pack,
    pack_step,
    read_bytes,
    read_fields,
    read_weights,
    without_step,
)
from shared.outcomes import Refusal
from shared.over_use_task import OverUseTask, task_of
from shared.sections import (
    LONGEST_NAME,
    Choice,
    Fraction,
    NonNegativeInt,
    NonNegativeNumber,
    PositiveInt,
    PositiveNumber,
    Require,
    ShareAboveZero,
    Unchecked,
    Value,
    flatten,
    is_name,
    parse_sections,
    section,
)
from shared.secure_aggregation.signing import public_from_text

__all__ = [
    "AGGREGATE",
    "AGGREGATE_ACTION",
    "DESCRIBE",
    "DESCRIBE_ACTION",
    "EVALUATE",
    "LARGEST_STEP",
    "MASKED_STEP",
    "PLAN",
    "PLAN_ACTION",
    "PROTOCOL",
    "STATISTICS",
    "STATISTICS_ACTION",
    "STEPS",
    "SUMS",
    "TRAIN",
    "AggregateReply",
    "AggregateRequest",
    "DescribeReply",
    "DescribeRequest",
    "EvaluateReply",
    "EvaluateRequest",
    "PlanReply",
    "PlanRequest",
    "Request",
    "Statistic",
    "StatisticsReply",
    "StatisticsRequest",
    "Summed",
    "TrainReply",
    "TrainRequest",
    "Weights",
    "evaluation_bound",
    "largest_masked_input",
    "refusal_in",
    "refusal_reply",
    "request_digest",
    "said_fields",
    "summed_kind",
    "traffic",
]

TRAIN = MessageType.TRAIN
EVALUATE = MessageType.EVALUATE
DESCRIBE_ACTION = "describe"
DESCRIBE = f"{MessageType.QUERY}.{DESCRIBE_ACTION}"
PLAN_ACTION = "plan"
PLAN = f"{MessageType.QUERY}.{PLAN_ACTION}"
STATISTICS_ACTION = "statistics"
STATISTICS = f"{MessageType.TRAIN}.{STATISTICS_ACTION}"
AGGREGATE_ACTION = "aggregate"
AGGREGATE = f"{MessageType.QUERY}.{AGGREGATE_ACTION}"
PROTOCOL = 2
"""Version of the messages; increased when one changes its form."""
SUMS = ("hr", "ndcg", "users")
"""The sums of an evaluation, in order; each user adds a value in [0, 1] to each. With groups, those
over all users come first, then those of each table's cells."""

STEPS = range(1, 6)
"""Steps of secure aggregation; see `shared.secure_aggregation.messages`."""
MASKED_STEP = 3
"""The step that comes with the summed request, and whose answer is the masked input."""
LARGEST_STEP = 2**20
"""Most bytes of a step's message, but for the masked input: what the most organisations need."""
_MASKED_HEADER = 100
"""Most bytes of a masked input beside its numbers."""

Weights = Arrays
"""Trainable weights, or their change, by parameter name."""
UncheckedWeights = Annotated[Weights, Unchecked]
"""Weights as a field: `read_weights` has checked each array's form as it was read."""

_SUMS, _TOTAL = "sums", "total"
_LEFT_OUT: dict[str, Value] = {
    "trust": str(Trust.LOCAL),
    "aggregation_key": "",
    "groups": "",
    "weights_of_groups": "",
    "groups_noise": 0.0,
    "reweighings": 0,
    "model.kind": str(ModelKind.ATTENTION),
    "model.recurrent_size": ModelConfig().recurrent_size,
    "model.query_size": ModelConfig().query_size,
    "model.augment": 0.0,
    "model.text_width": ModelConfig().text_width,
    "model.text_blocks": ModelConfig().text_blocks,
    "model.lora_rank": ModelConfig().lora_rank,
    "model.friends": ModelConfig().friends,
    "model.attention_size": ModelConfig().attention_size,
    "over_use": "",
}
"""Fields that a message leaves out where they say nothing, and what they say then: an earlier
version, which does not know them, reads such a message."""
_REFUSAL_BASE = 1000
"""Error codes from here on are ours; Flower's own are below."""


def _is_public_key(text: str) -> bool:
    try:
        public_from_text(text)
    except SecureAggregationError:
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribeRequest:
    """Asks a partner for its public constants."""

    protocol: int = PROTOCOL

    def to_content(self) -> RecordDict:
        """Return the message as Flower records."""
        return pack({"protocol": self.protocol})

    @classmethod
    def from_content(cls, content: RecordDict) -> DescribeRequest:
        """Read the message from Flower records; raises WireError."""
        return cls(protocol=_protocol_of(content))


@section(error=WireError)
class DescribeReply:
    """A partner's public constants; none depends on its data.

    Attributes:
        organisation: the name it goes by; see `is_name`.
        population: declared users, >= 1.
        catalogue: fingerprint of the catalogue it holds.
        aggregation_key: the public key that its peers know it by under secure aggregation, as
            `public_to_text` writes it; "" from a site that has none.
    """

    organisation: Annotated[str, Require(is_name, "a partner's name can be shown")]
    population: Annotated[int, Require(lambda users: users >= 1, "a partner has users")]
    catalogue: str
    aggregation_key: Annotated[
        str,
        Require(lambda text: not text or _is_public_key(text), "a key is a point on P-384"),
    ] = ""

    def to_content(self) -> RecordDict:
        """Return the message as Flower records."""
        return pack(said_fields(flatten(self)))

    @classmethod
    def from_content(cls, content: RecordDict) -> DescribeReply:
        """Read the message from Flower records; raises WireError."""
        record = only_records(content, FIELDS)
        return cls(**read_fields(record, _without_absent(field_types(cls), record)))


@section(error=WireError)
class PlanRequest(LocalTraining):
    """Asks whether a partner would answer every request of a run, before anything is charged.

    Beside the fields here it holds those of the first round of training. `sample_rate` is that of
    an evaluation, too.

    Attributes:
        run: name of the run; what was charged for it already is not counted twice.
        catalogue: fingerprint that the partner's catalogue must have.
        model: shape of the recommender, with as many own items as may be chosen.
        largest_weight: largest absolute value of the weights that training begins with, >= 0; 0
            where they are not known yet.
        statistics: 1 if each statistic of the warm start is asked for, 0 if none is.
        popularity_noise: noise multiplier of that statistic; 0 asks for none.
        moment_noise: noise multiplier of that statistic; 0 asks for none.
        training_noise: noise multiplier of each training step, and of each evaluation.
        rounds: of training, >= 0.
        evaluations: how many are asked for, >= 0.
        groups: whose figures are asked for once, as in an `EvaluateRequest`.
        groups_noise: noise multiplier of that, >= 0.
        reweighings: how many more times they are asked for, between rounds, >= 0.
        weights_of_groups: as in a `TrainRequest`.
        over_use: as in a `TrainRequest`.
        trust: as in a `TrainRequest`, of all of them.
    """

    run: str
    catalogue: str
    model: ModelConfig
    largest_weight: NonNegativeNumber
    statistics: NonNegativeInt
    popularity_noise: NonNegativeNumber
    moment_noise: NonNegativeNumber
    training_noise: NonNegativeNumber
    rounds: NonNegativeInt
    evaluations: NonNegativeInt
    groups: str = ""
    groups_noise: NonNegativeNumber = 0.0
    reweighings: NonNegativeInt = 0
    weights_of_groups: str = ""
    over_use: str = ""
    trust: Choice[Trust] = Trust.LOCAL

    def __post_init__(self) -> None:
        _check_groups(self.groups, self.weights_of_groups)
        _check_task(self.over_use, self.model)

    def to_content(self) -> RecordDict:
        """Return the message as Flower records."""
        return pack(_request_fields(self))

    @classmethod
    def from_content(cls, content: RecordDict) -> PlanRequest:
        """Read the message from Flower records; raises WireError."""
        return cls(**_read_request(content, cls, FIELDS))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReply:
    """Yes: the whole run is within policy, bounds, budget and room. A no is a refusal."""

    protocol: int = PROTOCOL

    def to_content(self) -> RecordDict:
        """Return the message as Flower records."""
        return pack({"protocol": self.protocol})

    @classmethod
    def from_content(cls, content: RecordDict) -> PlanReply:
        """Read the message from Flower records; raises WireError."""
        return cls(protocol=_protocol_of(content))


@section(error=WireError)
class TrainRequest(LocalTraining):
    """One round of training that the coordinator asks for; the partner's guard decides.

    Attributes:
        run: name of the run; with `round` it tells a repeated request from a new one.
        round: 1-based.
        catalogue: fingerprint that the partner's catalogue must have.
        model: shape of the recommender.
        weights: global trainable weights.
        noise_multiplier: noise over clip norm; 0 asks for a run without privacy.
        frozen: fingerprint of the weights that the partner's model must have beside these; ""
            leaves them unchecked.
        weights_of_groups: what users of each group count, see `shared.groups`; "" all alike.
        over_use: what is read for a model of over-use, see `shared.over_use_task`; "" for others.
        trust: "local", the noise is the partner's whole one; or "secure-aggregation", its share.
    """

    run: str
    round: PositiveInt
    catalogue: str
    model: ModelConfig
    weights: UncheckedWeights
    noise_multiplier: NonNegativeNumber
    frozen: str = ""
    weights_of_groups: str = ""
    over_use: str = ""
    trust: Choice[Trust] = Trust.LOCAL

    def __post_init__(self) -> None:
        _check_groups("", self.weights_of_groups)
        _check_task(self.over_use, self.model)

    @property
    def weighted(self) -> Weighted | None:
        """What users of each group count; None where all count alike."""
        return weighted_of(self.weights_of_groups)

    @property
    def task(self) -> OverUseTask | None:
        """What is read for a model of over-use; None for another kind."""
        return task_of(self.over_use) if self.over_use else None

    def to_content(self) -> RecordDict:
        """Return the message as Flower records."""
        return pack(_request_fields(self), self.weights)

    @classmethod
    def from_content(cls, content: RecordDict) -> TrainRequest:
        """Read the message from Flower records; raises WireError."""
        fields = _read_request(content, cls)
        return cls(weights=read_weights(content), **fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReply:
    """The noised change of the trainable weights, and nothing else.

    No example count, no loss, no norm: each would depend on the data without noise.
    """

    change: Weights

    def to_content(self) -> RecordDict:
        """Return the message as Flower records."""
        return pack(None, self.change)

    @classmethod
    def from_content(cls, content: RecordDict) -> TrainReply:
        """Read the message; raises WireError, also for any field besides the change."""
        return cls(change=read_weights(only_records(content, ARRAYS)))


@section(error=WireError)
class EvaluateRequest:
    """Asks how well the global weights rank each user's last event (`client.compute.evaluation`).

    Attributes:
        run: name of the run.
        round: 1-based.
        catalogue: fingerprint that the partner's catalogue must have.
        model: shape of the recommender.
        weights: global trainable weights.
        noise_multiplier: noise over `clip_norm`, > 0: metrics are never exact.
        sample_rate: in (0, 1].
        k: cut-off of the ranking, >= 1.
        frozen: as in a `TrainRequest`; so is `trust`.
        groups: tables of groups whose figures are asked for, see `shared.groups`; "" asks for
            those of all users alone.
        trust: whose noise protects the partner's users.
    """

    run: str
    round: PositiveInt
    catalogue: str
    model: ModelConfig
    weights: UncheckedWeights
    noise_multiplier: PositiveNumber
    sample_rate: ShareAboveZero
    k: PositiveInt = 10
    frozen: str = ""
    groups: str = ""
    trust: Choice[Trust] = Trust.LOCAL

    def __post_init__(self) -> None:
        _check_groups(self.groups, "")

    @property
    def tables(self) -> tuple[Table, ...]:
        """The tables of groups."""
        return tables_of(self.groups)

    @property
    def numbers(self) -> int:
        """How many sums are asked for: those over all users, and those of each cell."""
        return len(SUMS) * (1 + sum(table.size for table in self.tables))

    @property
    def clip_norm(self) -> float:
        """The public bound on one user's part of the sums: its length where all are 1.

        √(3 (1 + G)): the user counts once for all users and in one cell of each of G tables.
        """
        return evaluation_bound(len(self.tables))

    def to_content(self) -> RecordDict:
        """Return the message as Flower records."""
        return pack(_request_fields(self), self.weights)

    @classmethod
    def from_content(cls, content: RecordDict) -> EvaluateRequest:
        """Read the message from Flower records; raises WireError."""
        fields = _read_request(content, cls)
        return cls(weights=read_weights(content), **fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateReply:
    """Noised sums over a site's users, and nothing else.

    Attributes:
        sums: float32 [m], in the order of `SUMS`, over all users, then of each table's cells.
    """

    sums: NDArray[np.float32]

    def to_content(self) -> RecordDict:
        """Return the message as Flower records."""
        return pack(None, {_SUMS: self.sums})

    @classmethod
    def from_content(cls, content: RecordDict, numbers: int = len(SUMS)) -> EvaluateReply:
        """Read the message; raises WireError, also for any field besides so many sums."""
        arrays = read_weights(only_records(content, ARRAYS))
        if set(arrays) != {_SUMS} or arrays[_SUMS].shape != (numbers,):
            shapes = {name: value.shape for name, value in arrays.items()}
            raise WireError(f"an evaluation holds {shapes}, not {numbers} sums alone.")
        return cls(sums=arrays[_SUMS])


class Statistic(StrEnum):
    """What a warm start asks for, see `shared.models.moments`."""

    POPULARITY = "popularity"
    MOMENT = "moment"


@section(error=WireError)
class StatisticsRequest:
    """Asks for one noised statistic of all of a site's users; it does not depend on any weights.

    Attributes:
        run: name of the run.
        round: 1-based; a run asks for each statistic in a round of its own.
        catalogue: fingerprint that the partner's catalogue must have.
        model: how items are described, and what recency weighs.
        noise_multiplier: noise over the clip norm, which is 1; 0 asks for a run without privacy.
        statistic: which one.
        fade: how a user's older events weigh in popularity, in [0, 1].
        weights_of_groups: as in a `TrainRequest`; so is `trust`.
        trust: whose noise protects the partner's users.
    """

    run: str
    round: PositiveInt
    catalogue: str
    model: ModelConfig
    noise_multiplier: NonNegativeNumber
    statistic: Choice[Statistic]
    fade: Fraction
    weights_of_groups: str = ""
    trust: Choice[Trust] = Trust.LOCAL

    def __post_init__(self) -> None:
        _check_groups("", self.weights_of_groups)

    @property
    def weighted(self) -> Weighted | None:
        """What users of each group count; None where all count alike."""
        return weighted_of(self.weights_of_groups)

    def to_content(self) -> RecordDict:
        """Return the message as Flower records."""
        return pack(_request_fields(self))

    @classmethod
    def from_content(cls, content: RecordDict) -> StatisticsRequest:
        """Read the message from Flower records; raises WireError."""
        return cls(**_read_request(content, cls, FIELDS))


@dataclass(frozen=True, slots=True, kw_only=True)
class StatisticsReply:
    """A noised statistic, and nothing else.

    Attributes:
        total: float32 [V] or [F, F].
    """

    total: NDArray[np.float32]

    def to_content(self) -> RecordDict:
        """Return the message as Flower records."""
        return pack(None, {_TOTAL: self.total})

    @classmethod
    def from_content(cls, content: RecordDict) -> StatisticsReply:
        """Read the message; raises WireError, also for any field besides the total."""
        arrays = read_weights(only_records(content, ARRAYS))
        if set(arrays) != {_TOTAL}:
            raise WireError(f"a statistic holds {sorted(arrays)}, not a total alone.")
        return cls(total=arrays[_TOTAL])


Request = TrainRequest | EvaluateRequest | StatisticsRequest
"""The requests that are charged to the ledger."""


class Summed(StrEnum):
    """What is summed under secure aggregation."""

    TRAIN = "train"
    EVALUATE = "evaluate"
    STATISTICS = "statistics"


_SUMMED: dict[Summed, type[Request]] = {
    Summed.TRAIN: TrainRequest,
    Summed.EVALUATE: EvaluateRequest,
    Summed.STATISTICS: StatisticsRequest,
}


@section(error=WireError)
class AggregateRequest:
    """One step of secure aggregation (`shared.secure_aggregation`).

    Attributes:
        run: name of the run.
        attempt: number of the attempt at a sum; it grows with each one within a run, whatever is
            summed, and never repeats. It is the protocol's round.
        kind: what is summed.
        step: 1 to 5.
        message: the protocol's, at most `LARGEST_STEP` bytes.
        request: whose answers are summed; in step 3, and in no other.
    """

    run: str
    attempt: PositiveInt
    kind: Choice[Summed]
    step: Annotated[int, Require(lambda step: step in STEPS, "choose a step from 1 to 5")]
    message: Annotated[bytes, Unchecked]
    request: Annotated[Request | None, Unchecked] = None

    def __post_init__(self) -> None:
        asked = self.request
        if (asked is not None) != (self.step == MASKED_STEP):
            raise WireError(f"step {self.step} {'comes with' if asked else 'lacks'} a request.")
        if asked is not None and (summed_kind(asked), asked.run) != (self.kind, self.run):
            raise WireError(f"the summed request is not of kind '{self.kind}' and of this run.")

    def to_content(self, summed: RecordDict | None = None) -> RecordDict:
        """Return the message as Flower records.

        Args:
            summed: the content of `request`, where it was made before: equal for all partners.
        """
        request = None
        if self.request is not None:
            request = self.request.to_content() if summed is None else summed
        fields: dict[str, Value] = {
            "protocol": PROTOCOL,
            "run": self.run,
            "attempt": self.attempt,
            "kind": str(self.kind),
            "step": self.step,
        }
        return pack_step(fields, self.message, request)

    @classmethod
    def from_content(cls, content: RecordDict) -> AggregateRequest:
        """Read the message from Flower records; raises WireError."""
        asked = without_step(content)
        only_records(content, MESSAGE, STEP, *asked)
        fields = read_fields(content, {"protocol": int} | field_types(cls), STEP)
        _protocol(fields)
        kind, request = fields["kind"], None
        if kind not in list(Summed):
            raise WireError(f"'{kind[:LONGEST_NAME]}' is nothing that is summed.")
        if fields["step"] == MASKED_STEP:
            request = _SUMMED[Summed(kind)].from_content(asked)
        else:
            only_records(content, MESSAGE, STEP)
        return cls(message=read_bytes(content, LARGEST_STEP), request=request, **fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregateReply:
    """A partner's message of a step of secure aggregation, and nothing else."""

    message: bytes

    def to_content(self) -> RecordDict:
        """Return the message as Flower records."""
        return pack_step(None, self.message)

    @classmethod
    def from_content(cls, content: RecordDict, most: int) -> AggregateReply:
        """Read the message; raises WireError, also for one of more than `most` bytes."""
        return cls(message=read_bytes(only_records(content, MESSAGE), most))


def evaluation_bound(tables: int) -> float:
    """Return how long one user's part of an evaluation with so many tables of groups may be."""
    return math.sqrt(len(SUMS) * (1 + tables))


def largest_masked_input(length: int) -> int:
    """Return the most bytes of a masked input of so many numbers."""
    return 8 * length + _MASKED_HEADER


def summed_kind(request: Request) -> Summed:
    """Return what a request's answers are, where they are summed."""
    return next(kind for kind, cls in _SUMMED.items() if isinstance(request, cls))


def request_digest(request: Request) -> bytes:
    """Return SHA-256 of all that a request says, its weights included: equal on both sides."""
    digest = hashlib.sha256()
    fields = {"kind": str(summed_kind(request))} | _request_fields(request)
    digest.update(json.dumps(fields, sort_keys=True).encode())
    weights = {} if isinstance(request, StatisticsRequest) else request.weights
    for name in sorted(weights):
        value = np.ascontiguousarray(weights[name], "<f4")
        # Lengths first, so that no two requests are one row of bytes.
        digest.update(json.dumps([name, *weights[name].shape]).encode() + b"\0")
        digest.update(value.tobytes())
    return digest.digest()


def refusal_reply(code: Refusal, request: Message) -> Message:
    """Return the answer to a request that was declined: a code and its fixed sentence."""
    number = _REFUSAL_BASE + list(Refusal).index(code)
    return Message(Error(number, f"{code}: {code.sentence}"), reply_to=request)


def refusal_in(reply: Message) -> Refusal | None:
    """Return the refusal that a reply carries; None for content, or an error that is not ours."""
    if not reply.has_error():
        return None
    number = reply.error.code - _REFUSAL_BASE
    return list(Refusal)[number] if 0 <= number < len(Refusal) else None


def traffic(message: Message) -> int:
    """Return the bytes of arrays in a message."""
    return array_bytes(message.content) if message.has_content() else 0


def said_fields(fields: dict[str, Value]) -> dict[str, Value]:
    """Leave out fields that say nothing (`_LEFT_OUT`): so says a message without them."""
    return {key: value for key, value in fields.items() if _LEFT_OUT.get(key) != value}


def _check_groups(tables: str, weights: str) -> None:
    try:
        tables_of(tables)
        weighted_of(weights)
    except ConfigError as error:
        raise WireError(str(error)) from None


def _check_task(text: str, model: ModelConfig) -> None:
    """Refuse a task that is none, or that the kind of model does not go with."""
    if bool(text) != (model.kind is ModelKind.OVER_USE):
        task = "comes with" if text else "lacks"
        raise WireError(f"a request for model.kind = '{model.kind}' {task} a task of over-use.")
    try:
        if text:
            task_of(text)
    except ConfigError as error:
        raise WireError(str(error)) from None


def _request_fields(request: Request | PlanRequest) -> dict[str, Value]:
    flat = said_fields(flatten(request, without=("weights",)))
    fields = {name: flat.pop(name) for name in field_types(type(request)) if name in flat}
    return {"protocol": PROTOCOL} | fields | flat  # what is left is the model's


def _read_request(
    content: RecordDict, cls: type[Request | PlanRequest], *records: str
) -> dict[str, Any]:
    record = only_records(content, *(records or (ARRAYS, FIELDS)))
    model_types = {f"model.{key}": type(v) for key, v in flatten(ModelConfig()).items()}
    model_types = _without_absent(model_types, record)
    types = _without_absent(field_types(cls), record)
    fields = read_fields(record, {"protocol": int} | types | model_types)
    _protocol(fields)
    model = {key.removeprefix("model."): fields.pop(key) for key in model_types}
    _check_kind(model.get("kind", ModelKind.ATTENTION))
    try:
        return fields | {"model": parse_sections(ModelConfig, model)}
    except ConfigError as error:
        raise WireError(str(error)) from error


def _without_absent(types: dict[str, type], content: RecordDict) -> dict[str, type]:
    """Leave out fields that say nothing and that a message does not hold."""
    absent = {name for name in _LEFT_OUT if not has_field(content, name)}
    return {name: kind for name, kind in types.items() if name not in absent}


def _check_kind(kind: str) -> None:
    if kind not in list(ModelKind):
        raise WireError(
            f"model.kind = {kind[:LONGEST_NAME]!r}, and this release knows "
            f"{', '.join(ModelKind)}: install the coordinator's release, or decline."
        )


def _protocol_of(content: RecordDict) -> int:
    """Return the protocol of a message that holds nothing else."""
    return _protocol(read_fields(only_records(content, FIELDS), {"protocol": int}))


def _protocol(fields: dict[str, Any]) -> int:
    version = int(fields.pop("protocol"))
    if version != PROTOCOL:
        raise WireError(
            f"the message follows protocol {version}, this side {PROTOCOL}: "
            "both sides must run the same release."
        )
    return version
