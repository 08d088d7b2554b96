"""curves.json: what is given up for something else, at several strengths; see docs/formats.md.

`sotto-lab fairness` and `sotto-lab rerank` write it, and `sotto-lab report --curves` reads it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from shared.errors import ConfigError
from shared.evaluation.group_figures import TableFigures
from simulations.experiment.config import SETTINGS
from simulations.experiment.result_json import (
    Count,
    Document,
    Finite,
    FromZero,
    GroupTable,
    UnitInterval,
    write,
)
from simulations.experiment.simulation import Simulation

__all__ = [
    "FILE",
    "Curve",
    "CurveKind",
    "CurvePoint",
    "Curves",
    "curves_folder",
    "next_command",
    "table_document",
]

FILE = "curves.json"
CurveKind = Literal["fairness", "rerank"]


class CurvePoint(Document):
    """One strength, and what it does.

    Attributes:
        setting: the strength, in words.
        hr: HR@10.
        ndcg: NDCG@10.
        coverage: share of the catalogue that is in some list.
        exposure_rare: share of the lists' places that the five least popular deciles get.
        calibration_error: of the lists' genres, in nats.
        distance: between the items of a list, by genre.
        tables: exact figures of each table of groups.
    """

    setting: str
    hr: Annotated[UnitInterval | None, Field(alias="hr@10")] = None
    ndcg: Annotated[FromZero, Field(alias="ndcg@10")]
    coverage: Annotated[UnitInterval | None, Field(alias="coverage@10")] = None
    exposure_rare: UnitInterval
    calibration_error: Finite | None = None
    distance: Finite | None = None
    tables: tuple[GroupTable, ...] = ()

    @property
    def worst(self) -> tuple[float | None, ...]:
        """The lowest NDCG@10 of each table's groups; None where fewer than two have any."""
        known = (
            {group.name: group.ndcg for group in one.groups if group.ndcg is not None}
            for one in self.tables
        )
        return tuple(
            None if one.worst is None else ndcg.get(one.worst)
            for one, ndcg in zip(self.tables, known, strict=True)
        )


class Curve(Document):
    """The strengths of one method, weakest first; what they are compared with is not among them."""

    name: str
    points: tuple[CurvePoint, ...]


class CurvesRun(Document):
    """The run that was measured."""

    data: str
    epsilon: FromZero | None = None
    trust: str
    split: str
    users: Count
    seed: Count


class Curves(Document):
    """All of curves.json.

    Attributes:
        kind: which command wrote it.
        run: that was measured.
        plain: the lists of its scores as they are.
        curves: each method.
    """

    schema_: Annotated[Literal[1], Field(alias="schema")] = 1
    kind: CurveKind
    run: CurvesRun
    plain: CurvePoint
    curves: tuple[Curve, ...]

    @classmethod
    def of(
        cls, kind: CurveKind, simulation: Simulation, plain: CurvePoint, curves: list[Curve]
    ) -> Curves:
        """Return the curves of a finished simulation."""
        config = simulation.config
        run = CurvesRun(
            data=simulation.dataset.name,
            epsilon=config.privacy.epsilon if config.privacy.private else None,
            trust=str(config.privacy.trust_asked),
            split=str(config.lab.split),
            users=sum(map(len, simulation.parts)),
            seed=config.seed,
        )
        return cls(kind=kind, run=run, plain=plain, curves=tuple(curves))

    def document(self) -> dict[str, Any]:
        """Return the JSON object, without figures that there are not."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    def write(self, folder: Path) -> Path:
        """Write the file; the folder exists."""
        return write(folder, self.document(), FILE)


def table_document(figures: TableFigures) -> GroupTable:
    """Return a table's figures as the file has them."""
    return GroupTable.model_validate(figures.as_dict(), strict=False)


def curves_folder(folder: Path) -> None:
    """Make the folder for curves, before anything is measured.

    Raises:
        ConfigError: it cannot be made, or holds a run.
    """
    if (folder / SETTINGS).exists():
        raise ConfigError(f"--out {folder}: it is a run's folder; name another one.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {folder}: cannot be made ({error.strerror}).") from error


def next_command(run: Path, folder: Path) -> str:
    """Say where the curves of a run are, and how to draw them."""
    command = f"sotto-lab report {run} --curves {folder} --out report.html"
    return f"Written to {folder}. For a page with its figure: {command}"
