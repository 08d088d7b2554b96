"""A run's settings, in sections; Flower's run config has them in the flat form `section.key`.

What decides privacy (`privacy.epsilon`, `privacy.delta`) has no default.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import field, replace
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Literal

from shared.errors import ConfigError
from shared.groups import TASTE, GroupsConfig, tables_of
from shared.over_use_task import NO_END, OverUseTask
from shared.sections import (
    Choice,
    Fraction,
    ListOf,
    NonNegativeInt,
    NonNegativeNumber,
    OptionalOf,
    PositiveInt,
    PositiveNumber,
    Require,
    ShareAboveZero,
    ShareBelowOne,
    Value,
    flatten,
    parse_sections,
    section,
)

__all__ = [
    "Aggregation",
    "Decay",
    "ItemRepresentation",
    "LocalTraining",
    "Masking",
    "ModelConfig",
    "ModelKind",
    "Optimiser",
    "PathsConfig",
    "PrivacyConfig",
    "RunConfig",
    "ServerConfig",
    "StrategyName",
    "Trained",
    "TrainingConfig",
    "Trust",
    "WarmStartConfig",
    "Weighting",
]


class ModelKind(StrEnum):
    """Which model of the family is trained; see `shared.models.registry`."""

    ATTENTION = "attention"
    LSTM = "lstm"
    QUERY = "query"
    MODALITIES = "modalities"
    TEXT = "text"
    SOCIAL = "social"
    OVER_USE = "over-use"
    """No recommender: the risk of over-use, from when users were active (`shared.over_use`)."""


class ItemRepresentation(StrEnum):
    """The representation of an item at the model's input and output."""

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
    ATTENTION = "attention"
    """That, and which past events attention looks for."""


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


class Trust(StrEnum):
    """Whose noise an organisation's users are protected by, see `shared.privacy.distributed_noise`.

    A request says it, too: which noise the organisation is asked to add.
    """

    LOCAL = "local"
    """Its own alone: it trusts nobody."""
    SECURE_AGGREGATION = "secure-aggregation"
    """That of all honest organisations: the coordinator sees no single answer."""


class Masking(StrEnum):
    """Whether answers are masked under secure aggregation."""

    ON = "on"
    OFF = "off"
    """The noise alone, which protects nobody: for simulations."""


def _ascend(ids: tuple[int, ...]) -> bool:
    return all(0 < a < b for a, b in pairwise((*ids, sys.maxsize)))


@section("model")
class ModelConfig:
    """The recommender's shape.

    Attributes:
        kind: which model of the family: "attention", "lstm", "query", "modalities", "text" or
            "social".
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
        augment: share of a history's events that each training pass crops, masks or reorders, in
            [0, 1); 0 leaves them as they are (`shared.models.augmentation`).
        recurrent_size: width of the recurrence of kind "lstm", >= 1.
        query_size: width of the two towers of kind "query", >= 1.
        text_width: width of the encoder of kind "text", >= 1, as the catalogue has it.
        text_blocks: last blocks of that encoder that have adapters, >= 1, as the catalogue has it.
        lora_rank: rank of these adapters, >= 1.
        friends: of kind "social": how many friends of a user are read, and how many others' friend
            a user is at most, >= 1.
        attention_size: where `trained` is "attention": how many features attention compares events
            by, the strongest, >= 1.
        trained: "scores" trains how states score features, and offsets; "attention" also which
            past events attention looks for; "all" every weight.
    """

    kind: Choice[ModelKind] = ModelKind.ATTENTION
    items: Choice[ItemRepresentation] = ItemRepresentation.FEATURES
    tied: bool = True
    item_bias: bool = True
    feature_size: PositiveInt = 256
    own_items: Annotated[ListOf[int], Require(_ascend, "give internal ids, ascending")] = ()
    hidden_size: NonNegativeInt = 0
    layers: PositiveInt = 1
    heads: PositiveInt = 1
    recency: ShareAboveZero = 0.75
    max_length: PositiveInt = 50
    dropout: ShareBelowOne = 0.0
    augment: ShareBelowOne = 0.0
    recurrent_size: PositiveInt = 32
    query_size: PositiveInt = 32
    text_width: PositiveInt = 384
    text_blocks: PositiveInt = 1
    lora_rank: PositiveInt = 8
    friends: PositiveInt = 4
    attention_size: PositiveInt = 64
    trained: Choice[Trained] = Trained.ATTENTION

    def __post_init__(self) -> None:
        _require(
            self.kind is not ModelKind.LSTM or self.trained is Trained.ALL,
            f"model.trained = '{self.trained}' with model.kind = '{self.kind}', whose own weights "
            "would stay as they are: choose 'all'.",
        )
        _require(
            self.kind is not ModelKind.MODALITIES or self.items.uses_features,
            f"model.kind = '{self.kind}' weighs blocks of features, and model.items = "
            f"'{self.items}' has none: choose 'features' or 'both'.",
        )
        _require(
            self.kind is not ModelKind.TEXT or self.items.uses_features,
            f"model.items = '{self.items}' with model.kind = '{self.kind}', whose items are their "
            "text: choose 'features'.",
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
            self.trained is not Trained.ATTENTION or self.layers == 1,
            f"model.trained = '{self.trained}' with model.layers = {self.layers}: choose one "
            "layer, or model.trained = 'scores' or 'all'.",
        )
        _require(
            self.width % self.heads == 0,
            f"model.hidden_size = {self.width} is not a multiple of model.heads = "
            f"{self.heads}: choose a multiple.",
        )

    @property
    def compared(self) -> int:
        """Features that attention compares events by; 0 where it learns no comparison of its own.

        These are the first columns of the hidden state.
        """
        if self.trained is not Trained.ATTENTION:
            return 0
        return min(self.attention_size, self.feature_size, self.width)

    @property
    def described(self) -> int:
        """Directions that describe an item: the features', and those of its own items."""
        return self.feature_size + len(self.own_items) if self.items.uses_features else 0

    @property
    def width(self) -> int:
        """The hidden size that holds."""
        return self.hidden_size or self.described


@section("warm_start")
class WarmStartConfig:
    """What training begins with, see `server.warm_start.warm_start`; needs items with features.

    Attributes:
        share: of ε, in [0, 1), for two noised statistics of each site (popularity, and a moment of
            past and next items), from which the first weights are computed. Training gets the
            rest; with no rounds of training, statistics get all. 0 asks for none. Where rounds are
            planned, the plan chooses it.
        own_items: how many items at most get a direction of their own, >= 0: the most popular of
            those that stand out from the noise. With little noise it is up to four times as many
            (`server.noise_plan.most_own_items`).
        steps: gradient steps, >= 0, towards weights whose predictions have the noised moment, on
            states of public users: none without public interactions, and no privacy is spent.
    """

    share: ShareBelowOne = 0.7
    own_items: NonNegativeInt = 200
    steps: NonNegativeInt = 8


@section("training")
class LocalTraining:
    """How a site takes its steps: public constants that the coordinator chooses.

    Declared once, in the order of the wire. A run's settings (`TrainingConfig`), the request to a
    partner (`shared.messages.TrainRequest`) and what the partner's trainer takes
    (`client.compute.steps.LocalPlan`) extend it.

    Attributes:
        sample_rate: chance of each user to be in a step, in (0, 1].
        clip_norm: bound C on one user's gradient norm, > 0; ignored without noise.
        local_steps: noised steps a site takes in a round, >= 1.
        optimiser: local update rule, "sgd" or "adam", fresh in each round.
        learning_rate: of the local optimiser, > 0; a run's is that of its first round.
        weight_decay: decoupled from the loss, >= 0.
        candidates: items drawn for each user in a step, among which its next ones are ranked; 0
            ranks them among the whole catalogue.
    """

    sample_rate: ShareAboveZero = 1.0
    clip_norm: PositiveNumber = 1.0
    local_steps: PositiveInt = 1
    optimiser: Choice[Optimiser] = Optimiser.SGD
    learning_rate: PositiveNumber = 1.0
    weight_decay: NonNegativeNumber = 0.0
    candidates: NonNegativeInt = 0


@section("training")
class TrainingConfig(LocalTraining):
    """What every site is asked to do in a round, and how often.

    Attributes:
        rounds: how many rounds, >= 0; 0 leaves it at the warm start. "plan" has them, how long
            their steps are, and `warm_start.share`, chosen from ε, organisations, users and items
            when the run is made (`server.training_plan`).
        decay: of the learning rate over the rounds: "constant", or "linear" towards 0.
        debias: τ in [0, 1] of logit adjustment (arXiv:2007.07314): the loss adds τ times an item's
            log popularity to its score, so that the published scores leave it out. 0 leaves
            nothing out; with 1 no item is ahead for being popular.
        patience: evaluations in a row (`server.evaluate_every`) whose noised NDCG is not above the
            best so far by more than the standard deviation of its noise, after which training
            stops; the weights of the best are published. 0 runs all rounds.
    """

    rounds: NonNegativeInt | Literal["plan"] = "plan"
    decay: Choice[Decay] = Decay.CONSTANT
    debias: Fraction = 0.0
    patience: NonNegativeInt = 0

    @property
    def planned(self) -> bool:
        """Whether a plan is still to choose the rounds."""
        return self.rounds == "plan"

    @property
    def number_of_rounds(self) -> int:
        """The rounds, >= 0.

        Raises:
            ConfigError: a plan is still to choose them.
        """
        if self.rounds == "plan":
            raise ConfigError("training.rounds = 'plan': the plan is made with the run.")
        return self.rounds

    @property
    def steps(self) -> int:
        """Noised steps of a site in the whole run; raises ConfigError as `number_of_rounds`."""
        return self.number_of_rounds * self.local_steps

    def in_round(self, number: int) -> TrainingConfig:
        """Return the settings of a round, counted from 1, with its local learning rate.

        The rate of the last round is above 0.

        >>> config = TrainingConfig(rounds=4, learning_rate=1.0, decay=Decay.LINEAR)
        >>> [config.in_round(number).learning_rate for number in (1, 2, 4)]
        [1.0, 0.75, 0.25]
        """
        if self.decay is Decay.CONSTANT:
            return self
        rate = self.learning_rate * (1 - (number - 1) / self.number_of_rounds)
        return replace(self, learning_rate=rate)


@section("privacy")
class PrivacyConfig:
    """The claim: each organisation's run is (ε, δ)-private for each of its users.

    Attributes:
        epsilon: > 0, or None for a run without privacy.
        delta: in (0, 1), and below 1 / population at every site.
        trust: "local", each organisation adds the whole noise; or "secure-aggregation", each adds a
            share, and ε holds against a coordinator that sees their sum alone.
        colluding: under secure aggregation, how many organisations may collude with the
            coordinator, >= 0; "none" is a third of them, rounded down, at least 1.
        dropouts: under secure aggregation, how many may be missing from a sum, >= 0.
        masking: "on"; or "off", in the lab: the noise of secure aggregation without its masks.
    """

    epsilon: OptionalOf[
        Annotated[
            float,
            Require(
                lambda epsilon: 0 < epsilon < math.inf,
                "choose a positive number (1 is strict, 8 is loose), or 'none' to train without "
                "privacy",
            ),
        ]
    ]
    delta: Annotated[
        float,
        Require(
            lambda delta: 0 < delta < 1,
            "choose a number above 0 and below 1 / the smallest organisation's users",
        ),
    ]
    trust: Choice[Trust] = Trust.LOCAL
    colluding: OptionalOf[NonNegativeInt] = None
    dropouts: NonNegativeInt = 0
    masking: Choice[Masking] = Masking.ON

    @property
    def private(self) -> bool:
        """Whether noise is added at all."""
        return self.epsilon is not None

    @property
    def secure(self) -> bool:
        """Whether each organisation adds a share of one noise."""
        return self.private and self.trust is Trust.SECURE_AGGREGATION

    @property
    def masked(self) -> bool:
        """Whether the coordinator learns sums alone."""
        return self.secure and self.masking is Masking.ON

    @property
    def trust_asked(self) -> Trust:
        """What a request says; a run without privacy asks for no noise at all."""
        return self.trust if self.private else Trust.LOCAL

    def colluding_of(self, organisations: int) -> int:
        """Return how many of so many organisations may collude with the coordinator.

        >>> [PrivacyConfig(epsilon=1.0, delta=1e-5).colluding_of(n) for n in (4, 8, 100)]
        [1, 2, 33]
        """
        return max(1, organisations // 3) if self.colluding is None else self.colluding

    def honest_shares(self, organisations: int) -> int:
        """Return how many organisations' noise is what was promised: n - colluding - dropouts.

        1 with local trust, where each organisation's own noise is.
        """
        if not self.secure:
            return 1
        return organisations - self.colluding_of(organisations) - self.dropouts


@section("server")
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
        users: of all organisations together, as they declare them, >= 0: what a plan reckons with;
            0 is not stated.
        quorum: share of the organisations whose valid replies make a round, in (0, 1]: of those
            that are asked, or of `organisations` where that is more.
        deadline_seconds: how long an attempt at a round waits for replies, > 0.
        retries: further attempts at a round that has too few valid replies, >= 0.
        retry_seconds: wait before the first of them, >= 0; each wait is twice the one before.
        max_update_norm: a reply whose change is longer than this is refused, > 0.
        max_population: a node that declares more users than this takes no part, >= 1.
        evaluate_every: rounds between requests for noised metrics, each of which costs what a
            training step costs; 0 asks for none.
        mlflow: address of an MLflow server that the run's figures are sent to; "" sends none.
    """

    strategy: Choice[StrategyName] = StrategyName.FEDAVG
    learning_rate: PositiveNumber = 0.03
    momentum: ShareBelowOne = 0.9
    tau: PositiveNumber = 0.001
    weighting: Choice[Weighting] = Weighting.EQUAL
    aggregation: Choice[Aggregation] = Aggregation.MEAN
    malicious: NonNegativeInt = 0
    organisations: PositiveInt = 1
    users: NonNegativeInt = 0
    quorum: ShareAboveZero = 0.5
    deadline_seconds: PositiveNumber = 600.0
    retries: NonNegativeInt = 3
    retry_seconds: NonNegativeNumber = 10.0
    max_update_norm: PositiveNumber = 1e4
    max_population: PositiveInt = 100_000_000
    evaluate_every: NonNegativeInt = 0
    mlflow: str = ""


@section("paths")
class PathsConfig:
    """Paths on the machine that reads them.

    Attributes:
        catalogue: the coordinator's catalogue folder.
        out: where the coordinator keeps checkpoint and model.
        resume: whether to continue from the checkpoint in `out`.
        sites: simulated nodes alone: the folder that holds one folder a site.
        partners: the coordinator's record of its partners, which says what the organisation of
            each node is called; "" believes what nodes declare, as in a simulation.
    """

    catalogue: str = ""
    out: str = ""
    resume: bool = False
    sites: str = ""
    partners: str = ""


@section()
class RunConfig:
    """All of a run.

    Attributes:
        privacy: the claim.
        model: the recommender's shape.
        warm_start: what training begins with.
        training: what a site does in a round.
        server: how replies become weights.
        groups: public groups of users, see `shared.groups`.
        over_use: what a run of the kind "over-use" reads, see `shared.over_use_task`.
        paths: files and folders; not part of the run's identity.
        seed: of the initial weights, >= 0. Noise is never seeded from here.
    """

    privacy: PrivacyConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    warm_start: WarmStartConfig = field(default_factory=WarmStartConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    groups: GroupsConfig = field(default_factory=GroupsConfig)
    over_use: OverUseTask = field(default_factory=OverUseTask)
    paths: PathsConfig = field(default_factory=PathsConfig)
    seed: NonNegativeInt = 0

    def __post_init__(self) -> None:
        _require(
            self.privacy.private or not self.server.evaluate_every,
            f"server.evaluate_every = {self.server.evaluate_every} without privacy: a site's "
            "metrics are never exact. Set it to 0, or set privacy.epsilon.",
        )
        _require(
            self.server.evaluate_every > 0 or not self.training.patience,
            f"training.patience = {self.training.patience} without noised metrics that would stop "
            "a run: set server.evaluate_every, or training.patience = 0.",
        )
        _require(
            self.training.rounds != 0 or self.warm_start.share > 0,
            "training.rounds = 0 and warm_start.share = 0: nothing would be learned. Set one.",
        )
        _require(
            self.model.items.uses_features or not self.warm_start.share,
            f"warm_start.share = {self.warm_start.share} with model.items = '{self.model.items}': "
            "a warm start needs item features. Set the share to 0, or items to 'features'.",
        )
        _require(
            not self.warm_start.share
            or self.model.hidden_size == 0
            or self.model.kind is ModelKind.OVER_USE,
            f"model.hidden_size = {self.model.hidden_size} with a warm start, whose model is as "
            "wide as the features: set it to 0, or warm_start.share to 0.",
        )
        if self.privacy.secure:
            _check_secure(self)
        _check_groups(self)
        if self.model.kind is ModelKind.OVER_USE:
            _check_over_use(self)
        _require(
            self.model.kind is not ModelKind.SOCIAL
            or not self.privacy.private
            or self.training.sample_rate == 1,
            f"training.sample_rate = {self.training.sample_rate:g} with model.kind = "
            f"'{self.model.kind}': a user is in the samples of others, too, and so in more steps "
            "than an amplification by sampling reckons with. Choose 1.",
        )

    @property
    def task_text(self) -> str:
        """What a request says of `over_use`; "" for other kinds."""
        return self.over_use.text if self.model.kind is ModelKind.OVER_USE else ""

    @property
    def statistics_share(self) -> float:
        """Of ε, what the warm start's statistics may cost: all of it where nothing follows."""
        return 1.0 if self.warm_start.share and not self.noised_sums else self.warm_start.share

    @property
    def noised_sums(self) -> int:
        """What training asks of a site in all: steps and evaluations, of one form."""
        every = self.server.evaluate_every
        rounds = self.training.number_of_rounds
        return self.training.steps + (rounds // every if every else 0)

    @property
    def measurements(self) -> int:
        """How often groups are measured: after the last round, and before those that weigh anew."""
        if not self.groups.share:
            return 0
        return 1 + len(self.groups.measured_before(self.training.number_of_rounds))

    @classmethod
    def from_flat(cls, flat: Mapping[str, Value]) -> RunConfig:
        """Read `section.key` entries.

        Raises:
            ConfigError: an unknown key, a value of the wrong type or out of range, or no
                `privacy.epsilon` or `privacy.delta`.
        """
        return parse_sections(cls, flat)

    def to_flat(self) -> dict[str, Value]:
        """Return the inverse of `from_flat`."""
        return flatten(self)

    @property
    def identity(self) -> dict[str, Value]:
        """What may not change between a run and its continuation."""
        free = ("paths.", *(f"server.{name}" for name in _FREE))
        if not self.privacy.secure:
            free += tuple(f"privacy.{name}" for name in _SECURE)
        if self.groups == GroupsConfig():  # as of runs of versions that had no groups
            free += ("groups.",)
        if not self.training.debias:
            free += ("training.debias",)
        if not self.training.patience:
            free += ("training.patience",)
        if not self.model.augment:
            free += ("model.augment",)
        if self.model.kind is ModelKind.ATTENTION:  # as of runs of versions that had no other
            free += ("model.kind",)
        if self.model.kind is not ModelKind.LSTM:
            free += ("model.recurrent_size",)
        if self.model.kind is not ModelKind.QUERY:
            free += ("model.query_size",)
        if self.model.kind is not ModelKind.TEXT:
            free += ("model.text_width", "model.text_blocks", "model.lora_rank")
        if self.model.kind is not ModelKind.SOCIAL:
            free += ("model.friends",)
        if self.model.trained is not Trained.ATTENTION:
            free += ("model.attention_size",)
        if self.model.kind is not ModelKind.OVER_USE:  # says nothing of them
            free += ("over_use.",)
        return {key: value for key, value in self.to_flat().items() if not key.startswith(free)}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the identity, in hex."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()


_FREE = (
    *("deadline_seconds", "max_population", "mlflow", "quorum", "retries", "retry_seconds"),
    "users",
)
"""What may be changed of the server's part when a run is resumed."""
_SECURE = ("trust", "colluding", "dropouts", "masking")
"""What says nothing of a run without secure aggregation."""


def _check_secure(config: RunConfig) -> None:
    """Refuse what secure aggregation cannot keep a promise with."""
    privacy, organisations = config.privacy, config.server.organisations
    colluding, dropouts = privacy.colluding_of(organisations), privacy.dropouts
    _require(
        organisations >= 3 + colluding,
        f"privacy.trust = '{privacy.trust}' with {organisations} organisations, of which "
        f"privacy.colluding = {colluding} may collude: {3 + colluding} or more are needed, so that "
        "no sum is one honest organisation's own. Choose 'local'.",
    )
    _require(
        organisations > colluding + 2 * dropouts,
        f"privacy.dropouts = {dropouts} with {organisations} organisations, of which "
        f"privacy.colluding = {colluding} may collude: colluding + 2 dropouts must be less than "
        "the organisations. Choose fewer dropouts.",
    )
    _require(
        config.server.aggregation is Aggregation.MEAN,
        f"server.aggregation = '{config.server.aggregation}' with privacy.trust = "
        f"'{privacy.trust}': a robust rule compares single answers, and nobody sees them. Choose "
        "'mean'.",
    )
    if config.training.rounds not in (0, "plan"):  # a plan's choice is checked when it is made
        _require(
            config.training.local_steps == 1 and config.training.optimiser is Optimiser.SGD,
            f"training.local_steps = {config.training.local_steps} and training.optimiser = "
            f"'{config.training.optimiser}' with privacy.trust = '{privacy.trust}': only the sum "
            "of all organisations has the promised noise, so that each may take one plain step. "
            "Choose 1 and 'sgd', and server.strategy = 'fedadam' for an adaptive step.",
        )
        _require(
            config.server.weighting is Weighting.POPULATION,
            f"server.weighting = '{config.server.weighting}' with privacy.trust = "
            f"'{privacy.trust}': what is summed is over all users alike. Choose 'population'.",
        )


def _check_groups(config: RunConfig) -> None:
    """Refuse what groups cannot be measured or weighed by."""
    groups, model = config.groups, config.model
    _require(
        config.privacy.private or not groups.share,
        f"groups.share = {groups.share} without privacy: a site's metrics are never exact. Set it "
        "to 0, or set privacy.epsilon.",
    )
    named = {factor.name for table in tables_of(groups.tables) for factor in table.factors}
    _require(
        model.item_bias or not (TASTE in named or config.training.debias),
        "model.item_bias = false with groups of taste or with training.debias: the model has no "
        "popularity of its own. Set it to true.",
    )


def _check_over_use(config: RunConfig) -> None:
    """Refuse what a model of over-use does not have: statistics, rankings, popularity."""
    _require(bool(config.over_use.until), NO_END)
    share = config.warm_start.share
    _require(
        config.training.planned or not share,
        f"warm_start.share = {share} with model.kind = '{config.model.kind}', which has no warm "
        "start: set it to 0, or leave training.rounds to the plan.",
    )
    absent = {
        "server.evaluate_every": config.server.evaluate_every,
        "groups.share": config.groups.share,
        "groups.weights": config.groups.weights,
        "training.debias": config.training.debias,
        "training.candidates": config.training.candidates,
    }
    for key, value in absent.items():
        _require(
            not value,
            f"{key} = {value} with model.kind = '{config.model.kind}', which ranks nothing: leave "
            "it out. How good its risks are is measured at home, and in the lab.",
        )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)
