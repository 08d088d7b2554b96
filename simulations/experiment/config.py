"""Parameters of a simulation: those of the run, and those of the lab around it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import field, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import tomli_w

from shared.config import (
    ModelConfig,
    PathsConfig,
    PrivacyConfig,
    RunConfig,
    ServerConfig,
    TrainingConfig,
    Trust,
    WarmStartConfig,
)
from shared.data.columns import Columns, ItemColumns
from shared.data.event_limits import LIMITS, NO_LIMITS, EventLimits
from shared.data.ids import MISSING
from shared.errors import ConfigError
from shared.groups import GroupsConfig
from shared.models.influence import CAPS, NO_CAPS, InfluenceCaps
from shared.over_use_task import OverUseTask
from shared.rerank.settings import RerankConfig
from shared.sections import (
    Choice,
    OptionalOf,
    PositiveInt,
    PositiveNumber,
    Require,
    TextsOf,
    Value,
    flat_tables,
    flatten,
    nested_tables,
    parse_sections,
    section,
)
from simulations.experiment.partition import Scheme

__all__ = [
    "OWN_DEFAULTS",
    "RERANK",
    "SETTINGS",
    "Engine",
    "HomeConfig",
    "LabConfig",
    "SimulationConfig",
    "Split",
    "by_itself",
    "plain_value",
    "read_settings",
    "read_toml",
]


SETTINGS = "config.toml"
"""The file of a run that holds its settings."""
RERANK = "rerank"
"""The section that may change when a run is resumed."""
OWN_DEFAULTS = {"server.deadline_seconds": 86_400.0}
"""Defaults that differ from those of a real run: organisations that compute one after the other on
one machine are not late."""
UNUSED_DELTA = 1e-9
"""Stands where a δ must, in a run without privacy, where it means nothing."""


class Engine(StrEnum):
    """What runs the apps: this process, or Flower's Ray engine."""

    INPROCESS = "inprocess"
    RAY = "ray"


class Split(StrEnum):
    """How events are held out, and which of them are asked for; training sees none of them.

    TEST: leave-one-out, each user's last event. VALIDATION: the one before it. TEMPORAL: one cut in
    time for all, each user's first event after it. TEMPORAL_VALIDATION: the window before that.
    """

    TEST = "test"
    VALIDATION = "validation"
    TEMPORAL = "temporal"
    TEMPORAL_VALIDATION = "temporal-validation"

    @property
    def temporal(self) -> bool:
        """Whether events are held out by time."""
        return self in (Split.TEMPORAL, Split.TEMPORAL_VALIDATION)

    @property
    def validation(self) -> bool:
        """Whether the events are those that a search over settings may use."""
        return self in (Split.VALIDATION, Split.TEMPORAL_VALIDATION)

    @property
    def on_validation(self) -> Split:
        """The validation events of the same split."""
        return Split.TEMPORAL_VALIDATION if self.temporal else Split.VALIDATION

    @property
    def on_test(self) -> Split:
        """The test events of the same split."""
        return Split.TEMPORAL if self.temporal else Split.TEST


ShareOfEvents = Annotated[float, Require(lambda x: 0 < x < 1, "choose a number in (0, 1)")]


@section("lab")
class LabConfig:
    """What a simulation adds to a run.

    Attributes:
        data: folder of interactions and items; "" is the embedded MovieLens latest-small.
        catalogue: folder that `sotto-lab items encode` wrote, of the same items; its strongest
            `model.feature_size` features are used. "" makes features of tf-idf.
        public: folder of interactions that everybody may know, in one of the forms of `data`, with
            the same item ids: they make features, and a warm start expects what they say.
        queries: table of what users asked for in words, for the kind "query"
            (`simulations.datasets.queries`); "" has none.
        query_attributes: columns of that table that hold what users have declared.
        friends: table of who is whose friend (`shared.data.friends`), for the kind "social"; ""
            has none. Friends count within an organisation only.
        organisations: how many share the users, >= 1.
        partition: "user", "size" or "taste"; or a column of the interactions or of users.* that
            names each user's organisation, which decides `organisations`, too.
        concentration: of the Dirichlet behind "size" and "taste", > 0; smaller is more skewed.
        domains: parts of the catalogue, >= 1, of which each organisation has one
            (`simulations.experiment.domains`): with 2, every other one has one half of the items,
            and no event on the other half.
        engine: "inprocess" or "ray".
        device: every simulated site's: "auto", "cpu" or "cuda".
        alone: whether to train each organisation alone too, under the same ε, for researchers: an
            organisation alone needs no noise (`home` in result.json).
        cold: share of the items, in [0, 1), that leave all training data, to measure how well
            items that nobody chose yet are ranked.
        split: "test" asks for each user's last event, "validation" for the one before it, as a
            search over settings must; training sees neither. "temporal" cuts all events at one
            time and asks for each user's first event after it, "temporal-validation" likewise in
            the window before; training sees what is before both.
        validation_share: with a temporal split, share of all events in the validation window.
        test_share: with a temporal split, share of all events in the test window, the last.
        user: column of the interactions; "" as the file's form has it. So are the next ones.
        item: column of the interactions.
        time: column of the interactions.
        missing: spellings of a missing id, with commas between; "" for none.
        catalogue_item: column of the items.
        catalogue_title: column of the items.
        cohort: users that are invented for the task "over-use" where there is no `data`, >= 50.
        limits: whether events are limited as a partner's are by default (`[data]` of site.toml):
            how fast they count, and how much one user adds to own counts.
    """

    data: str = ""
    catalogue: str = ""
    public: str = ""
    queries: str = ""
    query_attributes: TextsOf = ()
    friends: str = ""
    organisations: int = 4
    partition: str = str(Scheme.USER)
    concentration: float = 0.5
    domains: PositiveInt = 1
    engine: Choice[Engine] = Engine.INPROCESS
    device: str = "auto"
    alone: bool = False
    cold: float = 0.0
    split: Choice[Split] = Split.TEST
    validation_share: ShareOfEvents = 0.1
    test_share: ShareOfEvents = 0.1
    user: str = ""
    item: str = ""
    time: str = ""
    missing: TextsOf = MISSING
    catalogue_item: str = ""
    catalogue_title: str = ""
    cohort: Annotated[int, Require(lambda n: n >= 50, "choose a whole number >= 50")] = 2000
    limits: bool = True

    def __post_init__(self) -> None:
        if self.query_attributes and not self.queries:
            raise ConfigError(
                f"lab.query_attributes = '{','.join(self.query_attributes)}' are columns of the "
                "table lab.queries, which is not stated: state it, or leave both out."
            )

    @property
    def event_limits(self) -> EventLimits:
        """How fast a user's events count."""
        return LIMITS if self.limits else NO_LIMITS

    @property
    def caps(self) -> InfluenceCaps:
        """How much one user adds to an organisation's own counts."""
        return CAPS if self.limits else NO_CAPS

    @property
    def scheme(self) -> Scheme | None:
        """How the lab assigns users; None where a column of the data does."""
        return Scheme(self.partition) if self.partition in {*Scheme} else None

    @property
    def columns(self) -> Columns:
        """Names of the interaction columns; the defaults where none was given."""
        default = Columns()
        return Columns(
            user=self.user or default.user,
            item=self.item or default.item,
            time=self.time or default.time,
            missing=self.missing,
        )

    @property
    def item_columns(self) -> ItemColumns | None:
        """Names of the item columns, if any was given."""
        if not (self.catalogue_item or self.catalogue_title):
            return None
        default = ItemColumns()
        return ItemColumns(
            item=self.catalogue_item or default.item, title=self.catalogue_title or default.title
        )


@section("home")
class HomeConfig:
    """What organisations do at home, beside the exact blend of counts that is always measured.

    Attributes:
        private: whether a private home model of each organisation is measured as well, which hides
            its users from one another (`client.home.private`). Its δ is `privacy.delta`.
        epsilon: its ε, beside that of the run; no default.
        attention: whether each organisation also trains an attention model on its own data, exact,
            and takes it where it is measurably better: about a minute of one core for each.
    """

    private: bool = False
    epsilon: OptionalOf[PositiveNumber] = None
    attention: bool = False

    def __post_init__(self) -> None:
        if self.private and self.epsilon is None:
            raise ConfigError(
                "home.private = true needs home.epsilon, which has no default: 8 is a loose "
                "budget, 1 a strict one."
            )


@section()
class SimulationConfig:
    """All of a simulation; the sections are those of `RunConfig`, `lab`, `rerank` and `home`.

    Attributes:
        privacy: see `RunConfig`; so are the next ones, and `seed`.
        model: the recommender's shape.
        warm_start: what training begins with.
        training: what a site does in a round.
        server: how replies become weights.
        groups: public groups of users.
        over_use: what the task "over-use" reads; the lab sets `until`.
        lab: data, organisations, engine.
        rerank: how lists are chosen from the scores, for a second measurement; training has no part
            in it, so it may change when a run is resumed.
        home: what organisations do at home.
        seed: of partition, initial weights, samples and noise: the lab's alone.
    """

    privacy: PrivacyConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    warm_start: WarmStartConfig = field(default_factory=WarmStartConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    groups: GroupsConfig = field(default_factory=GroupsConfig)
    over_use: OverUseTask = field(default_factory=OverUseTask)
    lab: LabConfig = field(default_factory=LabConfig)
    rerank: RerankConfig = field(default_factory=RerankConfig)
    home: HomeConfig = field(default_factory=HomeConfig)
    seed: int = 0

    @property
    def planned(self) -> RunConfig:
        """The run as it is known before there is any folder: enough to tell its noise."""
        here = Path()
        return self.run(
            organisations=self.lab.organisations, catalogue=here, out=here, resume=False
        )

    def run(self, *, organisations: int, catalogue: Path, out: Path, resume: bool) -> RunConfig:
        """Return the settings of the run for a coordinator of so many organisations."""
        own = ("lab.", "home.", f"{RERANK}.")
        flat = {k: v for k, v in flatten(self).items() if not k.startswith(own)}
        paths = PathsConfig(catalogue=str(catalogue), out=str(out), resume=resume)
        return RunConfig.from_flat(
            flat
            | {"server.organisations": organisations}
            | {f"paths.{key}": value for key, value in flatten(paths).items()}
        )

    def to_toml(self) -> str:
        """Return the text of a file that `read_settings` reads back."""
        return tomli_w.dumps(nested_tables(flatten(self)))


def by_itself(config: SimulationConfig) -> SimulationConfig:
    """Return the settings of an organisation that trains by itself: its noise is its own."""
    return replace(config, privacy=replace(config.privacy, trust=Trust.LOCAL))


def read_settings(
    file: Path | None, options: Mapping[str, Value | None], assignments: Iterable[str]
) -> SimulationConfig:
    """Put a configuration together; the later of two values wins.

    Args:
        file: TOML with the sections of `SimulationConfig`.
        options: `section.key` -> value from the command line; None was not given.
        assignments: `section.key=value` texts.

    Raises:
        ConfigError: the file cannot be read, or a key or value does not fit.
    """
    flat: dict[str, Value] = dict(OWN_DEFAULTS)
    flat |= read_toml(file) if file is not None else {}
    flat |= {key: value for key, value in options.items() if value is not None}
    flat |= dict(_assignment(text) for text in assignments)
    if flat.get("privacy.epsilon") == "none":
        flat.setdefault("privacy.delta", UNUSED_DELTA)
    for key in ("privacy.epsilon", "privacy.delta"):
        if key not in flat:
            option = f"--{key.removeprefix('privacy.')}"
            raise ConfigError(f"{key} has no default: state it with {option}, or in the file.")
    return parse_sections(SimulationConfig, flat)


def read_toml(file: Path) -> dict[str, Value]:
    """Return the settings that a file states, by `section.key`, unchecked.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        return flat_tables(_joined(tomllib.loads(file.read_text(encoding="utf-8"))))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror}): check the path.") from error
    except ValueError as error:
        raise ConfigError(f"{file} is not valid TOML ({error}): mend that line.") from error


def _assignment(text: str) -> tuple[str, Value]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r} does not fit: write --set section.key=value.")
    return key.strip(), plain_value(value.strip())


def plain_value(text: str) -> Value:
    """Read a text as a TOML value, or else as itself: text needs no quotes on a command line.

    A list of texts is one text with commas between them, as in a file.

    >>> plain_value("8"), plain_value("none"), plain_value("true"), plain_value('["a", "b"]')
    (8, 'none', True, 'a,b')
    """
    try:
        value: Any = _joined(tomllib.loads(f"value = {text}"))["value"]
    except ValueError:
        return text
    return value if isinstance(value, int | float | bool | str) else text


def _joined(table: dict[str, Any]) -> dict[str, Any]:
    """Write lists of texts as a run config has them: one text with commas between."""
    return {
        key: _joined(value)
        if isinstance(value, dict)
        else ",".join(value)
        if isinstance(value, list) and all(isinstance(part, str) for part in value)
        else value
        for key, value in table.items()
    }
