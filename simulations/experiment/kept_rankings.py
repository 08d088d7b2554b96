"""Rankings of baselines that do not depend on ε, kept for further runs on the same data.

A file is named by what decides these rankings: the evaluated cases, the training events, and the
users of each organisation. So a run on other data, with another seed or with another split does not
find it. Two runs that start together may both compute them; one of the equal files stays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from shared.evaluation.ranking import Ranking
from shared.system.files import UMASK, write_atomically
from simulations.experiment.simulation import Simulation

__all__ = ["KeptRankings"]

_VERSION = "2"
"""Raise it when a baseline changes."""


class KeptRankings:
    """A folder of rankings.

    Args:
        folder: may be absent.
        simulation: whose data the rankings are of.
    """

    def __init__(self, folder: Path, simulation: Simulation) -> None:
        asked = simulation.evaluation_split
        arrays = [asked.train.items, asked.train.offsets, asked.test_targets]
        arrays += [asked.test_inputs.items, asked.test_inputs.offsets, *simulation.parts]
        window = simulation.config.model.max_length
        digest = hashlib.sha256(f"{_VERSION} {len(simulation.dataset.catalogue)} {window}".encode())
        digest.update("\n".join(simulation.dataset.catalogue.domains).encode())
        for array in arrays:
            digest.update(len(array).to_bytes(8, "big"))
            digest.update(np.ascontiguousarray(array).tobytes())
        self._folder, self._name = folder, digest.hexdigest()[:32]
        self._items = len(simulation.dataset.catalogue)

    def get(self, kind: str) -> dict[str, Ranking] | None:
        """Return the rankings of one kind, by model; None without a sound file."""
        try:
            arrays = load(self._file(kind).read_bytes())
        except (OSError, SafetensorError):
            return None
        names = [name.removesuffix(".ranks") for name in arrays if name.endswith(".ranks")]
        order = arrays["order"].tolist()
        return {
            name: Ranking(
                ranks=arrays[f"{name}.ranks"],
                top=arrays[f"{name}.top"],
                items=self._items,
                k=int(arrays["k"]),
            )
            for _, name in sorted(zip(order, sorted(names), strict=True))
        }

    def put(self, kind: str, rankings: Mapping[str, Ranking]) -> None:
        """Keep the rankings of one kind."""
        names = list(rankings)
        arrays = {"order": torch.tensor([names.index(name) for name in sorted(names)])}
        arrays["k"] = torch.tensor(next(iter(rankings.values())).k)
        for name, ranking in rankings.items():
            arrays |= {f"{name}.ranks": ranking.ranks, f"{name}.top": ranking.top}
        self._folder.mkdir(parents=True, exist_ok=True)
        copies = {
            name: array.clone(memory_format=torch.contiguous_format)
            for name, array in arrays.items()
        }
        write_atomically(self._file(kind), save(copies), mode=UMASK)

    def _file(self, kind: str) -> Path:
        return self._folder / f"{self._name}-{kind}.safetensors"
