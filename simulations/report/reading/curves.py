"""Read the curves.json of a folder."""

from __future__ import annotations

from pathlib import Path

from simulations.experiment.curves import FILE, Curves
from simulations.report.reading.documents import read_document

__all__ = ["read_curves"]

REMEDY = "give a folder that `sotto-lab fairness --out` or `sotto-lab rerank --out` wrote."


def read_curves(folder: Path) -> Curves:
    """Read the curves.json of a folder.

    Raises:
        ReportError: it is missing or damaged.
    """
    return read_document(folder / FILE, Curves, REMEDY)
