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

from shared.config import Masking
from shared.errors import ReportError
from shared.evaluation.exposure import DECILES
from shared.privacy.release import Release
from shared.sections import Value, flat_tables
from simulations.datasets.groups import RESERVED
from simulations.experiment import result_json
from simulations.experiment.result_json import (
    FILE,
    Data,
    Exposure,
    Joining,
    Privacy,
    Result,
    Timing,
)
from simulations.experiment.user_ranks import EVALUATION
from simulations.report.reading.documents import field_error, read_document

__all__ = ["CONFIG", "Evaluation", "Organisation", "Run", "read_run"]

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
        epsilon_if_all_collude: under secure aggregation, where only its own noise counts.
    """

    name: str
    population: int
    epsilon: float | None
    releases: tuple[Release, ...]
    epsilon_if_all_collude: float | None = None


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
        warnings: what is doubtful about the data, as sentences without a full stop.
        private: whether noise was added.
        delta: δ of the claim.
        organisations: in the order of result.json.
        tested: number of evaluated users.
        split: `lab.split`: which of their items is the target.
        protocol: of the evaluation.
        ties: how equal scores are ranked; None if an earlier version wrote result.json.
        timing: how the targets lie in time; None likewise.
        models: by name, the metrics of each.
        joining: what all organisations, and each of them, gained by joining; () likewise.
        exposure: None if an earlier version wrote result.json.
        evaluation: None if an earlier version wrote the run.
        config: every setting, by its key.
        config_text: the text of config.toml.
        versions: by package.
        seed: of the run.
        seconds: in total.
        colluding: under secure aggregation, how many organisations may collude with the
            coordinator; None with local trust.
        masked: whether answers were masked under secure aggregation.
        plan: what was planned of its rounds, as a sentence; "" where they were chosen by hand.
    """

    folder: Path
    data: str
    users: int
    items: int
    interactions: int
    warnings: tuple[str, ...]
    private: bool
    delta: float
    organisations: tuple[Organisation, ...]
    tested: int
    split: str
    protocol: str
    ties: str | None
    timing: Timing | None
    models: Mapping[str, Mapping[str, float]]
    joining: tuple[Joining, ...]
    exposure: Exposure | None
    evaluation: Evaluation | None
    config: Mapping[str, Value]
    config_text: str
    versions: Mapping[str, str]
    seed: int
    seconds: float
    colluding: int | None = None
    masked: bool = True
    plan: str = ""

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
    file = folder / FILE
    result = read_document(file, Result, REMEDY)
    data, evaluation = result.data, result.evaluation
    _check_exposure(file, evaluation)
    text, config = _config(folder / CONFIG)
    return Run(
        folder=folder,
        data=data.name,
        users=data.users,
        items=data.items,
        interactions=data.interactions,
        warnings=data.warnings,
        private=result.privacy.private,
        delta=result.privacy.delta,
        organisations=_organisations(file, data, result.privacy),
        tested=evaluation.users,
        split=evaluation.split,
        protocol=evaluation.protocol,
        ties=evaluation.ties,
        timing=evaluation.time,
        models=evaluation.models,
        joining=evaluation.joining or (),
        exposure=evaluation.exposure,
        evaluation=_read_evaluation(folder / EVALUATION, evaluation.models, evaluation.users),
        config=config,
        config_text=text,
        versions=result.versions,
        seed=result.seed,
        seconds=result.cost.seconds.total,
        colluding=result.privacy.colluding,
        masked=result.privacy.masking != Masking.OFF,
        plan=result.plan.sentence if result.plan else "",
    )


def _config(file: Path) -> tuple[str, dict[str, Value]]:
    try:
        text = file.read_text(encoding="utf-8")
        return text, flat_tables(tomllib.loads(text))
    except OSError as error:
        raise ReportError(f"{file} cannot be read ({error.strerror}): {REMEDY}") from error
    except ValueError as error:
        raise ReportError(f"{file} is not valid TOML ({error}): {REMEDY}") from error


def _organisations(file: Path, data: Data, privacy: Privacy) -> tuple[Organisation, ...]:
    populations = {one.name: one.population for one in data.organisations}
    organisations = []
    for place, one in enumerate(privacy.organisations):
        path = ("privacy", "organisations", place)
        if one.name not in populations:
            raise field_error(file, (*path, "name"), "one of data.organisations", one.name)
        if privacy.private and one.epsilon is None:
            raise field_error(file, (*path, "epsilon"), "a number", None)
        organisations.append(
            Organisation(
                name=one.name,
                population=populations[one.name],
                epsilon=one.epsilon if privacy.private else None,
                releases=one.releases,
                epsilon_if_all_collude=one.epsilon_if_all_collude,
            )
        )
    return tuple(organisations)


def _check_exposure(file: Path, evaluation: result_json.Evaluation) -> None:
    """Check that there are shares of every model, if of any."""
    for name in evaluation.models:
        if evaluation.exposure is not None and name not in evaluation.exposure.models:
            path = ("evaluation", "exposure", "models", name)
            raise field_error(file, path, f"{DECILES} numbers")


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
