"""A run's parameters, read from the flat `section.key` form that Flower's run config has.

Frozen, keyword-only, validated when built; an unknown key is refused. What decides privacy
(`privacy.epsilon`, `privacy.delta`) has no default.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Any, TypeVar

from shared.errors import ConfigError

__all__ = [
    "Aggregation",
    "Decay",
    "ItemRepresentation",
    "ModelConfig",
    "Optimiser",
    "PathsConfig",
    "PrivacyConfig",
    "RunConfig",
    "ServerConfig",
    "StrategyName",
    "Trained",
    "TrainingConfig",
    "Value",
    "WarmStartConfig",
    "Weighting",
    "flat_tables",
    "flatten",
    "parse_sections",
]

Value = int | float | bool | str
"""What a Flower run config can hold."""


class ItemRepresentation(StrEnum):
    """What stands for an item at the model's input and output."""

    IDS = "ids"
    FEATURES = "features"
    BOTH = "both"

    @property
    def learns_ids(self) -> bool:
        """Whether every item has a learned vector."""
        return self is not ItemRepresentation.FEATURES

    @property
    def uses_features(self) -> bool:
        """Whether the catalogue's public features are read."""
        return self is not ItemRepresentation.IDS


class Trained(StrEnum):
    """Which weights training changes, and messages carry."""

    ALL = "all"
    SCORES = "scores"
    """How states score features, and the items' offsets: what a warm start sets."""


class Optimiser(StrEnum):
    """The local update rule; anything after the noise is post-processing."""

    SGD = "sgd"
    ADAM = "adam"


class Decay(StrEnum):
    """How the local learning rate changes over the rounds."""

    CONSTANT = "constant"
    LINEAR = "linear"


class StrategyName(StrEnum):
    """Which of Flower's strategies turns the round's mean change into the next weights."""

    FEDAVG = "fedavg"
    FEDAVGM = "fedavgm"
    FEDADAM = "fedadam"


class Aggregation(StrEnum):
    """Which rule makes one change out of a round's; see `server.aggregation.robust`."""

    MEAN = "mean"
    MEDIAN = "median"
    TRIMMED_MEAN = "trimmed-mean"
    MULTI_KRUM = "multi-krum"


class Weighting(StrEnum):
    """How organisations count in the mean."""

    EQUAL = "equal"
    POPULATION = "population"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The recommender's shape.

    Attributes:
        items: "ids" (learned), "features" (public, frozen) or "both".
        tied: whether learned ids serve as input and as output.
        item_bias: whether each item has a learned offset, its popularity.
        feature_size: directions of the public features, >= 1.
        own_items: internal ids of items that have a direction of their own beside the features; a
            warm start chooses them, nobody sets them.
        hidden_size: width, a multiple of `heads`; 0 is as wide as the features and own directions.
        layers: attention blocks, >= 1.
        heads: attention heads, >= 1.
        recency: what an event weighs at first, relative to the one after it, in (0, 1].
        max_length: last events of a history that are read, >= 1.
        dropout: in [0, 1).
        trained: "scores" trains how states score features, and offsets; "all" every weight.
    """

    items: ItemRepresentation = ItemRepresentation.FEATURES
    tied: bool = True
    item_bias: bool = True
    feature_size: int = 256
    own_items: tuple[int, ...] = ()
    hidden_size: int = 0
    layers: int = 1
    heads: int = 1
    recency: float = 0.75
    max_length: int = 50
    dropout: float = 0.0
    trained: Trained = Trained.SCORES

    def __post_init__(self) -> None:
        _at_least_one(
            "model",
            feature_size=self.feature_size,
            layers=self.layers,
            heads=self.heads,
            max_length=self.max_length,
        )
        _require(
            self.items.uses_features or self.hidden_size != 0,
            "model.hidden_size = 0 is as wide as the features, and model.items = 'ids' has none: "
            "choose a whole number >= 1.",
        )
        _require(
            self.items is ItemRepresentation.FEATURES or self.trained is Trained.ALL,
            f"model.trained = '{self.trained}' with model.items = '{self.items}', whose vectors "
            "are to be learned: choose 'all'.",
        )
        _require(
            self.hidden_size >= 0, f"model.hidden_size = {self.hidden_size}: choose a number >= 0."
        )
        _require(
            self.width % self.heads == 0,
            f"model.hidden_size = {self.width} is not a multiple of model.heads = "
            f"{self.heads}: choose a multiple.",
        )
        _require(
            0 < self.recency <= 1, f"model.recency = {self.recency}: choose a number in (0, 1]."
        )
        _require(
            all(0 < a < b for a, b in pairwise((*self.own_items, sys.maxsize))),
            f"model.own_items = {self.own_items}: give internal ids, ascending.",
        )
        _require(
            0 <= self.dropout < 1, f"model.dropout = {self.dropout}: choose a number in [0, 1)."
        )

    @property
    def described(self) -> int:
        """Directions that describe an item: the features', and those of its own items."""
        return self.feature_size + len(self.own_items) if self.items.uses_features else 0

    @property
    def width(self) -> int:
        """The hidden size that holds."""
        return self.hidden_size or self.described


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmStartConfig:
    """What training begins with, see `server.warm_start.warm_start`; needs items with features.

    Attributes:
        share: of ε, in [0, 1), for two noised statistics of each site (popularity, and a moment of
            past and next items), from which the first weights are computed. Training gets the
            rest; with no rounds of training, statistics get all. 0 asks for none.
        own_items: how many items at most get a direction of their own, >= 0: the most popular of
            those that stand out from the noise.
        steps: gradient steps, >= 0, towards weights whose predictions have the noised moment, on
            states of public users: none without public interactions, and no privacy is spent.
    """

    share: float = 0.7
    own_items: int = 200
    steps: int = 8

    def __post_init__(self) -> None:
        _require(
            0 <= self.share < 1, f"warm_start.share = {self.share}: choose a number in [0, 1)."
        )
        _require(
            self.own_items >= 0,
            f"warm_start.own_items = {self.own_items}: choose a whole number >= 0.",
        )
        _require(self.steps >= 0, f"warm_start.steps = {self.steps}: choose a whole number >= 0.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """What every site is asked to do in a round.

    Attributes:
        rounds: how many rounds, >= 0; 0 leaves it at the warm start.
        local_steps: steps a site takes in a round, >= 1.
        sample_rate: chance of each user to be in a step, in (0, 1].
        clip_norm: bound on one user's gradient norm, > 0.
        optimiser: "sgd" or "adam", fresh in each round.
        learning_rate: of the local optimiser in the first round, > 0.
        decay: of the learning rate over the rounds: "constant", or "linear" towards 0.
        weight_decay: >= 0, outside the loss.
        candidates: items drawn for each user in a step, among which its next ones are ranked; 0
            ranks them among the whole catalogue.
    """

    rounds: int = 0
    local_steps: int = 1
    sample_rate: float = 1.0
    clip_norm: float = 1.0
    optimiser: Optimiser = Optimiser.SGD
    learning_rate: float = 1.0
    decay: Decay = Decay.CONSTANT
    weight_decay: float = 0.0
    candidates: int = 0

    def __post_init__(self) -> None:
        _at_least_one("training", local_steps=self.local_steps)
        _require(self.rounds >= 0, f"training.rounds = {self.rounds}: choose a whole number >= 0.")
        _positive("training", clip_norm=self.clip_norm, learning_rate=self.learning_rate)
        _require(
            0 < self.sample_rate <= 1,
            f"training.sample_rate = {self.sample_rate}: choose a number in (0, 1].",
        )
        _require(
            0 <= self.weight_decay < float("inf"),
            f"training.weight_decay = {self.weight_decay}: choose a number >= 0.",
        )
        _require(
            self.candidates >= 0,
            f"training.candidates = {self.candidates}: choose how many items, or 0 for all.",
        )

    @property
    def steps(self) -> int:
        """Noised steps of a site in the whole run."""
        return self.rounds * self.local_steps

    def learning_rate_in(self, round_number: int) -> float:
        """The local learning rate of a round, counted from 1; always above 0.

        >>> config = TrainingConfig(rounds=4, learning_rate=1.0, decay=Decay.LINEAR)
        >>> [config.learning_rate_in(number) for number in (1, 2, 4)]
        [1.0, 0.75, 0.25]
        """
        if self.decay is Decay.CONSTANT:
            return self.learning_rate
        return self.learning_rate * (1 - (round_number - 1) / self.rounds)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyConfig:
    """The claim: each organisation's run is (ε, δ)-private for each of its users.

    Attributes:
        epsilon: > 0, or None for a run without privacy.
        delta: in (0, 1), and below 1 / population at every site.
    """

    epsilon: float | None
    delta: float

    def __post_init__(self) -> None:
        _require(
            self.epsilon is None or 0 < self.epsilon < float("inf"),
            f"privacy.epsilon = {self.epsilon}: choose a positive number (1 is strict, 8 is "
            "loose), or 'none' to train without privacy.",
        )
        _require(
            0 < self.delta < 1,
            f"privacy.delta = {self.delta}: choose a number above 0 and below 1 / the smallest "
            "organisation's users.",
        )

    @property
    def private(self) -> bool:
        """Whether noise is added at all."""
        return self.epsilon is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """How replies become the next weights, and when a round counts.

    Attributes:
        strategy: "fedavg", "fedavgm" or "fedadam".
        learning_rate: of the server's optimiser, > 0; without effect for "fedavg".
        momentum: of "fedavgm", or the first decay rate of "fedadam", in [0, 1).
        tau: of "fedadam": added to the root of the second moment, > 0 (arXiv:2003.00295).
        weighting: "equal", or by declared "population": nobody checks what a partner declares.
        aggregation: "mean", or a rule that withstands attackers among the organisations, from
            whose changes, and statistics, it makes one: "median", "trimmed-mean", "multi-krum".
        malicious: attackers that the rule is to withstand, >= 0; a mean withstands none.
        organisations: how many must be connected before the first round, >= 1.
        quorum: share of the organisations whose valid replies make a round, in (0, 1]: of those
            that are asked, or of `organisations` where that is more.
        deadline_seconds: how long an attempt at a round waits for replies, > 0.
        retries: further attempts at a round that has too few valid replies, >= 0.
        retry_seconds: wait before the first of them, >= 0; each wait is twice the one before.
        max_update_norm: a reply whose change is longer than this is refused, > 0.
        evaluate_every: rounds between requests for noised metrics, each of which costs what a
            training step costs; 0 asks for none.
        mlflow: address of an MLflow server that the run's figures are sent to; "" sends none.
    """

    strategy: StrategyName = StrategyName.FEDAVG
    learning_rate: float = 0.03
    momentum: float = 0.9
    tau: float = 0.001
    weighting: Weighting = Weighting.EQUAL
    aggregation: Aggregation = Aggregation.MEAN
    malicious: int = 0
    organisations: int = 1
    quorum: float = 0.5
    deadline_seconds: float = 600.0
    retries: int = 3
    retry_seconds: float = 10.0
    max_update_norm: float = 1e4
    evaluate_every: int = 0
    mlflow: str = ""

    def __post_init__(self) -> None:
        _at_least_one("server", organisations=self.organisations)
        _positive(
            "server",
            learning_rate=self.learning_rate,
            tau=self.tau,
            deadline_seconds=self.deadline_seconds,
            max_update_norm=self.max_update_norm,
        )
        _require(
            self.evaluate_every >= 0,
            f"server.evaluate_every = {self.evaluate_every}: choose a whole number >= 0.",
        )
        _require(0 <= self.momentum < 1, f"server.momentum = {self.momentum}: choose from [0, 1).")
        _require(0 < self.quorum <= 1, f"server.quorum = {self.quorum}: choose from (0, 1].")
        _require(self.malicious >= 0, f"server.malicious = {self.malicious}: choose a number >= 0.")
        _require(self.retries >= 0, f"server.retries = {self.retries}: choose a number >= 0.")
        _require(
            0 <= self.retry_seconds < float("inf"),
            f"server.retry_seconds = {self.retry_seconds}: choose a number >= 0.",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PathsConfig:
    """Where things lie on the machine that reads them.

    Attributes:
        catalogue: the coordinator's catalogue folder.
        out: where the coordinator keeps checkpoint and model.
        resume: whether to go on from the checkpoint in `out`.
        sites: simulated nodes alone: the folder that holds one folder a site.
    """

    catalogue: str = ""
    out: str = ""
    resume: bool = False
    sites: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """All of a run.

    Attributes:
        privacy: the claim.
        model: the recommender's shape.
        warm_start: what training begins with.
        training: what a site does in a round.
        server: how replies become weights.
        paths: where things lie; not part of the run's identity.
        seed: of the initial weights, >= 0. Noise is never seeded from here.
    """

    privacy: PrivacyConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    warm_start: WarmStartConfig = field(default_factory=WarmStartConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.seed >= 0, f"seed = {self.seed}: choose a whole number >= 0.")
        _require(
            self.privacy.private or not self.server.evaluate_every,
            f"server.evaluate_every = {self.server.evaluate_every} without privacy: a site's "
            "metrics are never exact. Set it to 0, or set privacy.epsilon.",
        )

        _require(
            self.training.rounds > 0 or self.warm_start.share > 0,
            "training.rounds = 0 and warm_start.share = 0: nothing would be learned. Set one.",
        )
        _require(
            self.model.items.uses_features or not self.warm_start.share,
            f"warm_start.share = {self.warm_start.share} with model.items = '{self.model.items}': "
            "a warm start needs item features. Set the share to 0, or items to 'features'.",
        )
        _require(
            not self.warm_start.share or self.model.hidden_size == 0,
            f"model.hidden_size = {self.model.hidden_size} with a warm start, whose model is as "
            "wide as the features: set it to 0, or warm_start.share to 0.",
        )

    @property
    def statistics_share(self) -> float:
        """Of ε, what the warm start's statistics may cost: all of it where nothing follows."""
        return 1.0 if self.warm_start.share and not self.noised_sums else self.warm_start.share

    @property
    def noised_sums(self) -> int:
        """What training asks of a site in all: steps and evaluations, of one form."""
        every = self.server.evaluate_every
        return self.training.steps + (self.training.rounds // every if every else 0)

    @classmethod
    def from_flat(cls, flat: Mapping[str, Value]) -> RunConfig:
        """Reads `section.key` entries.

        Raises:
            ConfigError: an unknown key, a value of the wrong type or out of range, or no
                `privacy.epsilon` or `privacy.delta`.
        """
        return parse_sections(cls, flat)

    def to_flat(self) -> dict[str, Value]:
        """The inverse of `from_flat`."""
        return flatten(self)

    @property
    def identity(self) -> dict[str, Value]:
        """What may not change between a run and its continuation."""
        free = ("paths.", *(f"server.{name}" for name in _FREE))
        return {key: value for key, value in self.to_flat().items() if not key.startswith(free)}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the identity, in hex."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()


_FREE = ("deadline_seconds", "mlflow", "quorum", "retries", "retry_seconds")
"""What may be changed of the server's part when a run is resumed."""
T = TypeVar("T")


def parse_sections(cls: type[T], flat: Mapping[str, Value]) -> T:
    """Builds the dataclass `cls`, whose fields may be dataclasses, from `section.key` entries.

    Raises:
        ConfigError: an unknown key, a missing one without default, or a value that does not fit.
    """
    known = _keys(cls)
    for key in flat:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known)}."
            raise ConfigError(f"unknown configuration key '{key}' = {flat[key]!r}: {hint}")
    return _build(cls, flat, "")


def flat_tables(tables: Mapping[str, object], prefix: str = "") -> dict[str, Value]:
    """`section.key` entries of nested tables, as a TOML file has them.

    Raises:
        ConfigError: a value is neither a table nor a plain value.

    >>> flat_tables({"seed": 1, "model": {"heads": 2}})
    {'seed': 1, 'model.heads': 2}
    """
    flat: dict[str, Value] = {}
    for key, value in tables.items():
        if isinstance(value, Mapping):
            flat |= flat_tables(value, f"{prefix}{key}.")
        elif isinstance(value, int | float | bool | str):
            flat[prefix + key] = value
        else:
            raise ConfigError(f"'{prefix}{key}' = {value!r}: a plain value is wanted.")
    return flat


def flatten(config: object) -> dict[str, Value]:
    """`section.key` entries of a dataclass made of values and dataclasses."""
    flat: dict[str, Value] = {}
    for item in dataclasses.fields(typing.cast(Any, config)):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            flat |= {f"{item.name}.{key}": inner for key, inner in flatten(value).items()}
        else:
            flat[item.name] = "none" if value is None else _plain(value)
    return flat


def _plain(value: Value | tuple[Value, ...]) -> Value:
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    return str(value) if isinstance(value, StrEnum) else value


def _keys(cls: type) -> list[str]:
    keys: list[str] = []
    for name, kind in typing.get_type_hints(cls).items():
        section = isinstance(kind, type) and dataclasses.is_dataclass(kind)
        inner = [f"{name}.{key}" for key in _keys(kind)] if section else []
        keys += inner or [name]
    return keys


def _build(cls: type[T], flat: Mapping[str, Value], prefix: str) -> T:
    arguments: dict[str, object] = {}
    hints = typing.get_type_hints(cls)
    for item in dataclasses.fields(typing.cast(Any, cls)):
        key, kind = prefix + item.name, hints[item.name]
        if dataclasses.is_dataclass(kind):
            arguments[item.name] = _build(typing.cast(type, kind), flat, key + ".")
        elif key in flat:
            arguments[item.name] = _convert(key, flat[key], kind)
        elif item.default is dataclasses.MISSING:
            raise ConfigError(f"'{key}' is not set, and it has no default: state it.")
    return cls(**arguments)


def _convert(key: str, value: Value, kind: Any) -> object:  # noqa: ANN401 a type form
    """The value as its field's type; a tuple is written as its parts with commas between."""
    if typing.get_origin(kind) is tuple and isinstance(value, str):
        inner = typing.get_args(kind)[0]
        parts = (part.strip() for part in value.split(",") if part)
        return tuple(_convert(key, _number(part, inner), inner) for part in parts)
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if value == "none" and type(None) in options:
        return None
    for option in options:
        if option is type(None):
            continue
        if isinstance(option, type) and issubclass(option, StrEnum):
            if value in list(option):
                return option(value)
        elif option is float and type(value) in (int, float):
            return float(value)
        elif type(value) is option:
            return value
    wanted = " or ".join(_describe(option) for option in options)
    raise ConfigError(f"{key} = {value!r} does not fit: it takes {wanted}.")


def _number(text: str, kind: type) -> Value:
    return int(text) if kind is int and text.isascii() and text.isdigit() else text


def _describe(option: Any) -> str:  # noqa: ANN401 a type form
    if option is type(None):
        return "'none'"
    if typing.get_origin(option) is tuple:
        return f"a list of {_describe(typing.get_args(option)[0])}"
    if issubclass(option, StrEnum):
        return " or ".join(f"'{name}'" for name in option)
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return names[option]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _at_least_one(section: str, **values: int) -> None:
    for name, value in values.items():
        _require(value >= 1, f"{section}.{name} = {value}: choose a whole number >= 1.")


def _positive(section: str, **values: float) -> None:
    for name, value in values.items():
        _require(0 < value < float("inf"), f"{section}.{name} = {value}: choose a number above 0.")
