"""What a run needs to go on: weights, round and server optimiser, saved together and atomically.

One safetensors file holds all of it, so that after a crash round and weights still belong together.
Nothing is unpickled.
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

from shared.errors import CheckpointError
from shared.messages import Weights
from shared.system.files import UMASK, write_atomically

__all__ = ["Checkpoint", "State"]

_FILE = "checkpoint.safetensors"
_WEIGHT, _BEST, _STATE = "weight/", "best/", "state/"
_METADATA = "progress"
_RENAMED = {"warm": "warm_started", "popularity_part": "popularity_share"}
_DROPPED = ("seconds", "bytes_up", "bytes_down")
"""Keys of checkpoints before release 0.2: renamed since, and moved to the status."""
State = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """All that a run needs to go on after its last finished round, and nothing else.

    Counters and times are in `server.state.status.RunStatus`.

    Attributes:
        run: name of the run, drawn once; partners recognise a repeated request by it.
        round: last finished round; 0 before the first.
        config: fingerprint of the run's parameters.
        catalogue: fingerprint of the catalogue.
        warm_started: whether the warm start is over, if there is one.
        popularity_share: what popularity gets of the statistics' budget; None until it is chosen.
        own_items: items with a direction of their own, see `ModelConfig`; None until the warm
            start has chosen them.
        answers: digests of the partners' last answers; see `server.rounds.collection.Memory`.
        groups: figures of the finished model by public group, {} where noise hides them; None until
            they were asked for.
        group_weights: what users of each group count, as `groups.weights` states it, where it
            follows from figures; "" before the first.
        weighed: the last round that groups were measured for; 0 before the first.
        best_metric: the best noised metric so far; None before the first, and where none decides
            when training stops (`server.state.early_stop`). So are the next four.
        best_round: the round that it is of.
        waited: evaluations since then.
        stopped: whether training is over before its last round.
        weights: global trainable weights.
        best_weights: those that the best metric is of; empty before the first.
        optimiser: the server optimiser's arrays by name; empty for one without state.
    """

    run: str
    round: int
    config: str
    catalogue: str
    warm_started: bool = False
    popularity_share: float | None = None
    own_items: tuple[int, ...] | None = None
    answers: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, Any] | None = None
    group_weights: str = ""
    weighed: int = 0
    best_metric: float | None = None
    best_round: int = 0
    waited: int = 0
    stopped: bool = False
    weights: Weights
    best_weights: Weights = field(default_factory=dict)
    optimiser: State = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Replace the folder's checkpoint; a crash leaves the old one or the new one.

        Raises:
            CheckpointError: it cannot be written; the old one is as it was.
        """
        arrays = {_WEIGHT + name: value for name, value in self.weights.items()}
        arrays |= {_BEST + name: value for name, value in self.best_weights.items()}
        arrays |= {_STATE + name: value for name, value in self.optimiser.items()}
        arrays = {name: np.asarray(value, order="C") for name, value in arrays.items()}
        metadata = {_METADATA: json.dumps({name: getattr(self, name) for name in _FIELDS})}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / _FILE, save(arrays, metadata=metadata), mode=UMASK)
        except OSError as error:
            raise CheckpointError(
                f"the checkpoint of round {self.round} cannot be written to {folder} "
                f"({error.strerror}): the one before is whole. Make room or correct the "
                "folder's permissions, and resume: no partner is charged again."
            ) from error

    @classmethod
    def exists(cls, folder: Path) -> bool:
        """Return whether the folder holds one."""
        return (folder / _FILE).exists()

    @classmethod
    def load(cls, folder: Path) -> Checkpoint:
        """Read the folder's checkpoint.

        Raises:
            CheckpointError: there is none, or it is damaged.
        """
        file = folder / _FILE
        if not file.is_file():
            raise CheckpointError(f"{folder} holds no checkpoint: start the run without --resume.")
        try:
            with safe_open(file, framework="numpy") as opened:
                fields = _fields(opened.metadata()[_METADATA])
                arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            return cls(
                **fields,
                weights=_part(arrays, _WEIGHT),
                best_weights=_part(arrays, _BEST),
                optimiser=_part(arrays, _STATE),
            )
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{file} is damaged ({error}): put a copy of it back, or start a new run in "
                "another folder."
            ) from error

    def check(self, *, config: str, catalogue: str) -> None:
        """Refuse to go on with other parameters or another catalogue.

        Raises:
            CheckpointError: a fingerprint differs.
        """
        for what, stored, given in (
            ("configuration", self.config, config),
            ("catalogue", self.catalogue, catalogue),
        ):
            if stored != given:
                raise CheckpointError(
                    f"the checkpoint belongs to another {what} ({stored[:12]}, now {given[:12]}): "
                    f"resume with the same {what}, or start a new run in another folder."
                )


_FIELDS = tuple(
    item.name
    for item in dataclasses.fields(Checkpoint)
    if item.name not in ("weights", "best_weights", "optimiser")
)
"""What is stored as JSON, not as arrays."""


def _fields(text: str) -> dict[str, Any]:
    """Return the stored fields under today's names.

    Raises:
        KeyError, TypeError, ValueError: they are damaged.
    """
    stored = {key: value for key, value in dict(json.loads(text)).items() if key not in _DROPPED}
    fields = {_RENAMED.get(key, key): value for key, value in stored.items()}
    own_items = fields["own_items"]
    fields["own_items"] = None if own_items is None else tuple(own_items)
    return fields


def _part(arrays: dict[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {
        name.removeprefix(prefix): value
        for name, value in arrays.items()
        if name.startswith(prefix)
    }
