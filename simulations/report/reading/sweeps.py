"""Read a sweep's folder: many runs that differ in a few settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shared.errors import ReportError

__all__ = ["REMEDY", "SETTINGS", "TABLE", "Measured", "Sweep", "read_sweep"]

SETTINGS, TABLE, RUNS = "sweep.toml", "sweep.parquet", "runs"
EPSILON, SEED = "privacy.epsilon", "seed"
FIXED_COLUMNS = (
    *("run", "status", EPSILON, "privacy.delta", SEED, "split", "model", "epsilon_spent"),
    *("seconds_train", "seconds_total"),
)
"""Columns that are not varied settings; a frontier does not compare δ."""
REMEDY = "give the folder of a finished sweep, which `sotto-lab sweep --out` wrote."


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One model of one run.

    Attributes:
        run: name of its folder.
        epsilon: of the settings; infinity without privacy.
        seed: of the run.
        others: every other setting that was varied, by its key, as text.
        model: as in result.json.
        figures: metrics by name.
    """

    run: str
    epsilon: float
    seed: int
    others: tuple[tuple[str, str], ...]
    model: str
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sweep:
    """All runs of a sweep.

    Attributes:
        folder: of the sweep.
        rows: of the finished runs, one for each model.
        unfinished: names of the other runs, each with its status.
        settings: the text of sweep.toml; "" without one.
    """

    folder: Path
    rows: tuple[Measured, ...]
    unfinished: tuple[tuple[str, str], ...]
    settings: str

    @property
    def runs(self) -> list[str]:
        """Return the names of the finished runs."""
        return list(dict.fromkeys(row.run for row in self.rows))

    def run_folder(self, name: str) -> Path:
        """Return the folder of a run."""
        return self.folder / RUNS / name


def read_sweep(folder: Path) -> Sweep:
    """Read a sweep's folder.

    Raises:
        ReportError: its table is missing or damaged, or no run has finished.
    """
    file = folder / TABLE
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise ReportError(f"{file} cannot be read ({error!s:.80}): {REMEDY}") from error
    missing = [
        name for name in ("run", "status", "model", "ndcg@10") if name not in table.column_names
    ]
    if missing:
        raise ReportError(f"{file} lacks the columns {', '.join(missing)}: {REMEDY}")
    rows, unfinished = [], {}
    for row in table.to_pylist():
        if row["model"] is None or row["ndcg@10"] is None:
            unfinished[str(row["run"])] = str(row["status"])
        else:
            rows.append(_measured(row, file))
    if not rows:
        raise ReportError(f"{file} has no finished run: continue the sweep first.")
    settings = folder / SETTINGS
    return Sweep(
        folder=folder,
        rows=tuple(rows),
        unfinished=tuple(unfinished.items()),
        settings=settings.read_text(encoding="utf-8") if settings.is_file() else "",
    )


def _measured(row: Mapping[str, Any], file: Path) -> Measured:
    figures = {k: v for k, v in row.items() if "@" in k and isinstance(v, float)}
    others = {
        key: value
        for key, value in row.items()
        if key not in FIXED_COLUMNS and "@" not in key and value is not None
    }
    if not all(math.isfinite(value) for value in figures.values()):
        raise ReportError(f"{file}, run '{row['run']}': a figure is not finite. Run it again.")
    epsilon = row.get(EPSILON)
    return Measured(
        run=str(row["run"]),
        epsilon=float("nan") if epsilon is None else float(epsilon),
        seed=int(row.get(SEED) or 0),
        others=tuple(sorted((key, str(value)) for key, value in others.items())),
        model=str(row["model"]),
        figures=figures,
    )
