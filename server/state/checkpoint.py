"""Weights, round and server optimiser, saved together and atomically.

One safetensors file holds all of it, so no crash can leave a round of one with the weights of
another. Nothing is unpickled.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from server.state.run_lock import replace_file
from shared.errors import CheckpointError
from shared.messages import Weights

__all__ = ["Checkpoint", "Progress", "State"]

_FILE = "checkpoint.safetensors"
_WEIGHT, _STATE = "weight/", "state/"
State = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run has come.

    Attributes:
        run: its name, drawn once; partners know a repeated request by it.
        round: last finished round; 0 before the first.
        config: fingerprint of the run's parameters.
        catalogue: fingerprint of the catalogue.
        seconds: spent in rounds so far, over all starts.
        bytes_up: arrays received in the last round.
        bytes_down: arrays sent in the last round.
        warm: whether the warm start is over, if there is one.
        popularity_part: what popularity gets of its budget; None until it is decided.
        own_items: what it chose, see `ModelConfig`; None until it has.
        answers: digests of the partners' last answers; see `server.rounds.round.Memory`.
    """

    run: str
    round: int
    config: str
    catalogue: str
    seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    warm: bool = False
    popularity_part: float | None = None
    own_items: tuple[int, ...] | None = None
    answers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """All that a run needs to go on after `progress.round`.

    Attributes:
        progress: how far it has come.
        weights: global trainable weights.
        state: the server optimiser's arrays by name; empty for an optimiser without state.
    """

    progress: Progress
    weights: Weights
    state: State

    def save(self, folder: Path) -> None:
        """Replaces the folder's checkpoint; a crash leaves the old one or the new one.

        Raises:
            CheckpointError: it cannot be written; the old one is as it was.
        """
        arrays = {_WEIGHT + name: value for name, value in self.weights.items()}
        arrays |= {_STATE + name: value for name, value in self.state.items()}
        arrays = {name: np.asarray(value, order="C") for name, value in arrays.items()}
        metadata = {"progress": json.dumps(dataclasses.asdict(self.progress))}
        try:
            replace_file(folder / _FILE, save(arrays, metadata=metadata))
        except OSError as error:
            raise CheckpointError(
                f"the checkpoint of round {self.progress.round} cannot be written to {folder} "
                f"({error.strerror}): the one before is whole. Make room or mend the folder's "
                "permissions, and resume: no partner pays again."
            ) from error

    @classmethod
    def exists(cls, folder: Path) -> bool:
        """Whether the folder holds one."""
        return (folder / _FILE).exists()

    @classmethod
    def load(cls, folder: Path) -> Checkpoint:
        """Reads the folder's checkpoint.

        Raises:
            CheckpointError: there is none, or it is damaged.
        """
        file = folder / _FILE
        if not file.is_file():
            raise CheckpointError(f"{folder} holds no checkpoint: start the run without --resume.")
        try:
            with safe_open(file, framework="numpy") as opened:
                fields = json.loads(opened.metadata()["progress"])
                own = fields["own_items"]
                fields["own_items"] = None if own is None else tuple(own)
                progress = Progress(**fields)
                arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{file} is damaged ({error}): put a copy of it back, or start anew elsewhere."
            ) from error
        return cls(progress=progress, weights=_part(arrays, _WEIGHT), state=_part(arrays, _STATE))

    def check(self, *, config: str, catalogue: str) -> None:
        """Refuses to go on with other parameters or another catalogue.

        Raises:
            CheckpointError: a fingerprint differs.
        """
        for what, found, given in (
            ("configuration", self.progress.config, config),
            ("catalogue", self.progress.catalogue, catalogue),
        ):
            if found != given:
                raise CheckpointError(
                    f"the checkpoint belongs to another {what} ({found[:12]}, now {given[:12]}): "
                    f"resume with the same {what}, or start a new run in another folder."
                )


def _part(arrays: dict[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {
        name.removeprefix(prefix): value
        for name, value in arrays.items()
        if name.startswith(prefix)
    }
