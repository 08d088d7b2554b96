"""result.json: the outcome of a run as data; docs/formats.md explains the fields.

`Result` is its schema, for those who write it and for those who read it. A new column is a field
here and a value in `simulations.experiment.result_sections`.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_serializer

from shared.evaluation.exposure import DECILES
from shared.privacy.release import Release
from shared.sections import Require
from shared.system.files import UMASK, write_atomically

__all__ = [
    "FILE",
    "BeforeAfter",
    "Cold",
    "Cost",
    "Count",
    "Data",
    "DataOrganisation",
    "Document",
    "Evaluation",
    "Exposure",
    "Finite",
    "Friends",
    "FromZero",
    "GroupTable",
    "Groups",
    "GroupsRelease",
    "Joining",
    "Plan",
    "Privacy",
    "PrivacyOrganisation",
    "Reranking",
    "Result",
    "Round",
    "Seconds",
    "TimeCut",
    "Timing",
    "UnitInterval",
    "versions",
    "write",
]

FILE = "result.json"
_PACKAGES = ("sotto", "flwr", "torch", "opacus", "transformers", "numpy")


# Each text says what is expected, for `simulations.report.reading.documents`.
Count = Annotated[int, Require(lambda n: n >= 0, "a whole number of 0 or more")]
Finite = Annotated[float, Require(math.isfinite, "a finite number")]
FromZero = Annotated[float, Require(lambda x: 0 <= x < math.inf, "a number from 0 to inf")]
UnitInterval = Annotated[float, Require(lambda x: 0 <= x <= 1, "a number from 0 to 1")]
Deciles = Annotated[
    tuple[UnitInterval, ...], Require(lambda shares: len(shares) == DECILES, f"{DECILES} numbers")
]
Metrics = dict[str, Finite]


class Document(BaseModel):
    """An object of a JSON file, checked strictly as it is built or read.

    A field that is not known is ignored: a later version may have added it.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", validate_by_name=True)
    schemas: ClassVar[tuple[int, ...]] = (1,)
    """Values of the file's field `schema` that can be read."""


class DataOrganisation(Document):
    """An organisation and its declared number of users."""

    name: str
    population: Count


class Data(Document):
    """The data set, how many users each organisation has, and what reading found.

    The last fields are those of `shared.data.summary.Summary`; earlier versions wrote none.
    """

    name: str
    users: Count
    items: Count
    interactions: Count
    organisations: tuple[DataOrganisation, ...]
    rows: Count | None = None
    dropped: dict[str, Count] = Field(default_factory=dict)
    rewritten: dict[str, Count] = Field(default_factory=dict)
    merged: dict[str, Count] = Field(default_factory=dict)
    ties: Count | None = None
    examples: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class Friends(Document):
    """What a model of the kind "social" learned, and from how many friends.

    Attributes:
        alpha: weight of the score without friends.
        beta: how much more friends with like states count.
        given: friends in the table, in both directions.
        within: of these, at the same organisation.
        bounded: of these, within the bound that training needs.
    """

    alpha: UnitInterval
    beta: float
    given: Count
    within: Count
    bounded: Count


class Plan(Document):
    """What `server.training_plan` chose, and the noise that it chose it by."""

    noise: FromZero
    statistics_share: UnitInterval
    rounds: Count
    learning_rate: FromZero
    drowned: bool
    sentence: str = ""


class PrivacyOrganisation(Document):
    """What left an organisation, and the ε that it cost; None without privacy.

    Attributes:
        name: of the organisation.
        epsilon: against the coordinator; under secure aggregation, with `Privacy.colluding` others.
        epsilon_if_all_collude: under secure aggregation, if all others colluded with it.
        releases: what it rests on.
    """

    name: str
    epsilon: FromZero | None
    epsilon_if_all_collude: FromZero | None = None
    releases: tuple[Release, ...]

    @field_serializer("releases")
    def _releases(self, releases: tuple[Release, ...]) -> list[dict[str, str | float | int]]:
        return [release.fields for release in releases]


class Privacy(Document):
    """The claim, and the releases that it rests on.

    The fields from `colluding` to `masking` are those of `shared.config.PrivacyConfig`, and are
    there under secure aggregation alone. `home_epsilon` is that of each private home model, where
    there are any.
    """

    private: bool
    unit: str = "user"
    adjacency: str = "add-or-remove-one"
    delta: UnitInterval
    trust: str = "local"
    colluding: Count | None = None
    dropouts: Count | None = None
    masking: str | None = None
    organisations: Annotated[
        tuple[PrivacyOrganisation, ...], Require(bool, "at least one organisation")
    ]
    home_epsilon: FromZero | None = None


class Exposure(Document):
    """Shares by popularity decile, most popular first, each [10].

    Attributes:
        deciles: what they are, in words.
        chosen: of the test users' next items.
        models: of the items that each model shows.
    """

    deciles: str = ""
    chosen: Deciles
    models: dict[str, Deciles]


class Cold(Document):
    """Metrics over the users whose test item left the training data."""

    items: Count
    users: Count
    models: dict[str, Metrics]


class TimeCut(Document):
    """One cut in time for all: training | validation | test.

    Attributes:
        validation_from: first moment of the validation window, ISO 8601 in UTC.
        test_from: first moment of the test window.
        new_users: users of the evaluated window without an earlier event; not evaluated.
        untrained_users: evaluated users without a training event.
        new_items: items of the evaluated window without a training event.
    """

    validation_from: str
    test_from: str
    new_users: Count
    untrained_users: Count
    new_items: Count


class Timing(Document):
    """How the evaluated events lie in time.

    Attributes:
        later_training_share: share of the training events that are later than a user's test event,
            mean over the test users; None where the data have no times.
        unseen_targets: test events of items without a training event.
        cut: None for leave-one-out.
    """

    later_training_share: UnitInterval | None
    unseen_targets: Count
    cut: TimeCut | None = None


class Joining(Document):
    """What an organisation gained by joining, at home.

    Attributes:
        name: of the organisation; None for all of them together.
        users: test users.
        home: NDCG@10 of the best home model of its own data alone.
        federated_home: NDCG@10 of the best one that may use the federated model.
        p: of a two-sided paired t-test of both over the users; None where they do not differ.
    """

    name: str | None
    users: Count
    home: UnitInterval
    federated_home: UnitInterval
    p: UnitInterval | None


class Evaluation(Document):
    """Metrics of every model over the same users.

    Attributes:
        protocol: how targets are chosen and ranked.
        split: the held-out events that are asked for.
        users: number of test users.
        models: by name, the metrics of each.
        ties: how equal scores are ranked.
        time: how the evaluated events lie in time; earlier versions did not say it.
        skipped: by name of a baseline, why it was not computed.
        exposure: of the recommendations.
        cold: figures over cold items.
        joining: what all organisations together, and each of them, gained by joining.
    """

    protocol: str
    split: str
    users: Count
    models: Annotated[dict[str, Metrics], Require(bool, "at least one model")]
    ties: str | None = None
    time: Timing | None = None
    skipped: dict[str, str] | None = None
    exposure: Exposure | None = None
    cold: Cold | None = None
    joining: tuple[Joining, ...] | None = None


class GroupFigures(Document):
    """How well one public group is served; see `shared.evaluation.group_figures`."""

    name: str
    users: Finite
    hr: Finite | None = None
    ndcg: Finite | None = None
    low: Finite | None = None
    high: Finite | None = None


class GroupTable(Document):
    """The groups of one table, the worst of them and the gap to the best."""

    table: str
    groups: tuple[GroupFigures, ...]
    worst: str | None = None
    best: str | None = None
    gap: Finite | None = None
    gap_low: Finite | None = None
    gap_high: Finite | None = None


class GroupsRelease(Document):
    """What the organisations released of groups, with noise; see `server.rounds.groups`.

    Attributes:
        k: cut-off of both figures.
        organisations: how many answered.
        noise: standard deviation of the noise in each sum.
        share: of the run's budget, that it got.
        epsilon_alone: what it would cost by itself.
        all: figures of all users together.
        tables: of groups.
    """

    k: Count
    organisations: Count
    noise: FromZero
    share: UnitInterval
    epsilon_alone: FromZero
    all: dict[str, Finite]
    tables: tuple[GroupTable, ...]


class Groups(Document):
    """How well public groups are served.

    Attributes:
        exact: by model, each table; of the events that are asked for.
        released: of each user's last training event; None where nothing was released, or noise
            hides it.
    """

    exact: dict[str, tuple[GroupTable, ...]]
    released: GroupsRelease | None = None


class BeforeAfter(Document):
    """Figures of one model, by name, of the lists of the highest scores and of those chosen."""

    before: Metrics
    after: Metrics


class Reranking(Document):
    """What another order of lists costs; see `shared.rerank`.

    Attributes:
        method: "calibrated", "diverse" or "exposure".
        strength: in [0, 1].
        by: what is looked at of items.
        rare_places: share of places that rare items got in any case; None where it is the method.
        rare: how many of the ten popularity deciles are rare.
        candidates: of the highest scores that a list was chosen from.
        models: by name; with the figures of `shared.rerank.price.Price`.
    """

    method: str
    strength: UnitInterval
    by: str
    rare_places: UnitInterval | None = None
    rare: Count
    candidates: Count
    models: dict[str, BeforeAfter]


class Round(Document):
    """A finished round of training.

    Attributes:
        number: from 1.
        epsilon: the highest ε of an organisation after it; None without privacy, or where the
            process ended before it was written down.
        seconds: from the first request to the sum.
        bytes_up: size of the arrays received.
        bytes_down: size of the arrays sent.
        outcomes: by organisation, how its answer counted.
    """

    number: Count
    epsilon: FromZero | None
    seconds: FromZero
    bytes_up: Count
    bytes_down: Count
    outcomes: dict[str, str]


class Seconds(Document):
    """Wall-clock time; `train` is that of the federated run."""

    total: FromZero
    train: FromZero | None = None
    evaluate: FromZero | None = None


class Cost(Document):
    """Time, traffic and memory."""

    seconds: Seconds
    bytes_up_per_round: Count | None = None
    bytes_down_per_round: Count | None = None
    peak_rss_bytes: Count | None = None


class Result(Document):
    """All of result.json, schema 2.

    A field with a default is optional: an early version did not write it, or not in every run.
    Schema 1 had no `rounds`, and `local` among the models; what both have means the same. `gates`
    is what each block of features weighs in a model of the kind "modalities"; `friends` belongs to
    the kind "social".
    """

    schemas: ClassVar[tuple[int, ...]] = (1, 2)
    schema_: Annotated[Literal[1, 2], Field(alias="schema")] = 2
    data: Data
    privacy: Privacy
    plan: Plan | None = None
    gates: dict[str, UnitInterval] | None = None
    friends: Friends | None = None
    evaluation: Evaluation
    rerank: Reranking | None = None
    groups: Groups | None = None
    rounds: tuple[Round, ...] = ()
    cost: Cost
    seed: Count
    versions: dict[str, str]

    def document(self) -> dict[str, Any]:
        """Return the JSON object, without optional fields that were not set."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a result."""
    return {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}


def write(folder: Path, result: Mapping[str, Any], name: str = FILE) -> Path:
    """Write result.json, or a file of another name, atomically."""
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    write_atomically(folder / name, text.encode(), mode=UMASK)
    return folder / name
