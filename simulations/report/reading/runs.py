"""Read a run's folder: result.json, config.toml and, if present, evaluation.parquet."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shared.errors import ReportError
from shared.evaluation.exposure import DECILES
from shared.privacy.release import Release, ReleaseKind
from shared.sections import Value, flat_tables
from simulations.datasets.groups import RESERVED
from simulations.experiment.results import FILE
from simulations.experiment.user_ranks import EVALUATION
from simulations.report.reading.fields import Fields, read_json

__all__ = ["CONFIG", "Evaluation", "Exposure", "Organisation", "Run", "read_run"]

K, CONFIG = 10, "config.toml"
REMEDY = "give the folder of a finished run, which `sotto-lab simulate --out` wrote."


@dataclass(frozen=True, slots=True, kw_only=True)
class Organisation:
    """One organisation of a run.

    Attributes:
        name: as in result.json.
        population: declared number of users.
        epsilon: spent in total; None without privacy.
        releases: its noised releases.
    """

    name: str
    population: int
    epsilon: float | None
    releases: tuple[Release, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """Shares by popularity decile, most popular first, each [10].

    Attributes:
        chosen: of the test users' next items.
        models: of the items that each model shows.
    """

    chosen: tuple[float, ...]
    models: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """The M test users, and the rank of each one's item under each model.

    Attributes:
        organisations: [M], the user's organisation.
        events: int64 [M], training events.
        groups: by name, [M].
        ranks: by model, int64 [M], 1 the best.
    """

    organisations: NDArray[np.str_]
    events: NDArray[np.int64]
    groups: Mapping[str, NDArray[np.str_]]
    ranks: Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """One simulation.

    Attributes:
        folder: of the run.
        data: name of the data set.
        users: number of users.
        items: number of items in the catalogue.
        interactions: number of interactions.
        private: whether noise was added.
        delta: δ of the claim.
        organisations: in the order of result.json.
        tested: number of evaluated users.
        split: which of their items is the target: "test" or "validation".
        protocol: of the evaluation.
        models: by name, the metrics of each.
        exposure: None if an earlier version wrote result.json.
        evaluation: None if an earlier version wrote the run.
        config: every setting, by its key.
        config_text: the text of config.toml.
        versions: by package.
        seed: of the run.
        seconds: in total.
    """

    folder: Path
    data: str
    users: int
    items: int
    interactions: int
    private: bool
    delta: float
    organisations: tuple[Organisation, ...]
    tested: int
    split: str
    protocol: str
    models: Mapping[str, Mapping[str, float]]
    exposure: Exposure | None
    evaluation: Evaluation | None
    config: Mapping[str, Value]
    config_text: str
    versions: Mapping[str, str]
    seed: int
    seconds: float

    @property
    def worst(self) -> Organisation:
        """Return the organisation with the highest ε; any one without privacy."""
        return max(self.organisations, key=lambda one: one.epsilon or 0.0)

    @property
    def cap(self) -> float | None:
        """Return the ε that a site may spend; None without privacy."""
        value = self.config.get("privacy.epsilon")
        return float(value) if isinstance(value, int | float) else None


def read_run(folder: Path) -> Run:
    """Read a run's folder.

    Raises:
        ReportError: a file is missing or damaged, or files are of different runs.
    """
    fields = read_json(folder / FILE, REMEDY)
    data, privacy = fields.section("data"), fields.section("privacy")
    evaluation, versions = fields.section("evaluation"), fields.section("versions")
    section = evaluation.section("models")
    models = {name: _figures(section.section(name)) for name in section.keys()}  # noqa: SIM118
    if not models:
        raise evaluation.wrong("models", "at least one model")
    tested = evaluation.count("users")
    text, config = _config(folder / CONFIG)
    return Run(
        folder=folder,
        data=data.text("name"),
        users=data.count("users"),
        items=data.count("items"),
        interactions=data.count("interactions"),
        private=privacy.flag("private"),
        delta=privacy.number("delta", 0, 1),
        organisations=_organisations(data, privacy),
        tested=tested,
        split=evaluation.text("split"),
        protocol=evaluation.text("protocol"),
        models=models,
        exposure=_exposure(evaluation, models),
        evaluation=_read_evaluation(folder / EVALUATION, models, tested),
        config=config,
        config_text=text,
        versions={name: versions.text(name) for name in versions.keys()},  # noqa: SIM118
        seed=fields.count("seed"),
        seconds=fields.section("cost").section("seconds").number("total", low=0),
    )


def _figures(fields: Fields) -> dict[str, float]:
    return {name: fields.number(name) for name in fields.keys()}  # noqa: SIM118


def _config(file: Path) -> tuple[str, dict[str, Value]]:
    try:
        text = file.read_text(encoding="utf-8")
        return text, flat_tables(tomllib.loads(text))
    except OSError as error:
        raise ReportError(f"{file} cannot be read ({error.strerror}): {REMEDY}") from error
    except ValueError as error:
        raise ReportError(f"{file} is not valid TOML ({error}): {REMEDY}") from error


def _organisations(data: Fields, privacy: Fields) -> tuple[Organisation, ...]:
    populations = {
        one.text("name"): one.count("population") for one in data.sections("organisations")
    }
    private, organisations = privacy.flag("private"), []
    for one in privacy.sections("organisations"):
        name = one.text("name")
        if name not in populations:
            raise one.wrong("name", "one of data.organisations")
        organisations.append(
            Organisation(
                name=name,
                population=populations[name],
                epsilon=one.number("epsilon", low=0) if private else None,
                releases=tuple(_release(release) for release in one.sections("releases")),
            )
        )
    if not organisations:
        raise privacy.wrong("organisations", "at least one organisation")
    return tuple(organisations)


def _release(fields: Fields) -> Release:
    kind = fields.text("kind")
    try:
        return Release(
            kind=ReleaseKind(kind),
            noise_multiplier=fields.number("noise_multiplier", low=0),
            sample_rate=fields.number("sample_rate", 0, 1),
            steps=fields.count("steps"),
        )
    except ValueError as error:
        raise fields.wrong("kind", f"a release ({error})") from error


def _exposure(evaluation: Fields, models: Mapping[str, object]) -> Exposure | None:
    if "exposure" not in evaluation:
        return None
    section = evaluation.section("exposure")
    shares = section.section("models")
    return Exposure(
        chosen=_deciles(section, "chosen"),
        models={name: _deciles(shares, name) for name in models},
    )


def _deciles(fields: Fields, key: str) -> tuple[float, ...]:
    deciles = fields.numbers(key, 0, 1)
    if len(deciles) != DECILES:
        raise fields.wrong(key, f"{DECILES} numbers")
    return deciles


# --- each user's rank ----------------------------------------------------------------------------


def _read_evaluation(
    file: Path, models: Mapping[str, Mapping[str, float]], tested: int
) -> Evaluation | None:
    if not file.exists():
        return None
    try:
        table = pq.read_table(file)
        return _evaluation(table, file, models, tested)
    except (OSError, pa.ArrowException) as error:
        raise ReportError(
            f"{file} is damaged ({error!s:.80}): run the simulation again."
        ) from error


def _evaluation(
    table: pa.Table, file: Path, models: Mapping[str, Mapping[str, float]], tested: int
) -> Evaluation:
    missing = [name for name in RESERVED if name not in table.column_names]
    if missing:
        raise ReportError(f"{file} lacks the columns {', '.join(missing)}: {REMEDY}")
    names = np.array(table["model"].to_pylist(), str)
    parts = {name: table.filter(pa.array(names == name)) for name in models}
    first = next(iter(parts.values()))
    for name, part in parts.items():
        if len(part) != tested or part["user"].to_pylist() != first["user"].to_pylist():
            raise ReportError(
                f"{file} has {len(part)} rows of the model {name!r}, and {FILE} has {tested} "
                "users: they are of different runs."
            )
    ranks = {name: part["rank"].to_numpy() for name, part in parts.items()}
    for name, figures in models.items():
        _check_hits(file, name, ranks[name], figures)
    groups = [name for name in table.column_names if name not in RESERVED]
    return Evaluation(
        organisations=np.array(first["organisation"].to_pylist(), str),
        events=first["events"].to_numpy(),
        groups={name: np.array(first[name].to_pylist(), str) for name in groups},
        ranks=ranks,
    )


def _check_hits(
    file: Path, model: str, ranks: NDArray[np.int64], figures: Mapping[str, float]
) -> None:
    """Refuse ranks that do not match result.json."""
    measured, stated = float((ranks <= K).mean()), figures.get(f"hr@{K}")
    if stated is None or abs(measured - stated) > 1e-9:
        raise ReportError(
            f"{file} gives the model {model!r} an hr@{K} of {measured:.6f}, and {FILE} one of "
            f"{stated}: they are of different runs."
        )
