"""Sums under secure aggregation that are known, on disk before anything is computed from them.

A partner charges each attempt at a sum. Between a sum and the checkpoint that follows from it other
sums may be asked for, and the run may pause or be killed: so each is kept until that checkpoint is
saved, and a run that is resumed takes it instead of asking again. All of it was released.

| what is kept of a request      | and a run that is resumed                                   |
|--------------------------------|-------------------------------------------------------------|
| its sum                        | takes it                                                    |
| that it was asked for, of what | does not ask again: the attempt may have been charged, and  |
| is asked for once              | nothing depends on its answer                               |
| nothing                        | asks                                                        |
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from shared.errors import CheckpointError
from shared.system.files import write_atomically

__all__ = ["KeptSum", "KeptSums"]

_FOLDER, _POINTS, _SURVIVORS = "sums", "points", "survivors"


@dataclass(frozen=True, slots=True)
class KeptSum:
    """What is known of the answers to one request.

    Attributes:
        points: the sum in steps of the grid, int64 [m]; empty where there is none, and none is to
            be asked for again.
        survivors: each organisation in it, and its declared users.
    """

    points: NDArray[np.int64]
    survivors: tuple[tuple[str, int], ...] = ()


class KeptSums:
    """The sums of one run, beside its checkpoint.

    Args:
        folder: of the checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / _FOLDER

    def keep(
        self,
        number: int,
        digest: bytes,
        points: NDArray[np.int64] | None,
        survivors: Sequence[tuple[str, int]] = (),
    ) -> None:
        """Keep a sum, or with None that it was asked for; it is on disk when this returns.

        Args:
            number: of the round that it belongs to; 0 for what precedes the first.
            digest: of the request, its run and weights included.
            points: int64 [m].
            survivors: organisations in the sum, with their declared users.

        Raises:
            CheckpointError: it cannot be written.
        """
        arrays = {
            _POINTS: np.zeros(0, np.int64) if points is None else np.ascontiguousarray(points)
        }
        metadata = {_SURVIVORS: json.dumps([list(pair) for pair in survivors])}
        file = self._file(number, digest)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, save(arrays, metadata=metadata))
        except OSError as error:
            raise CheckpointError(
                f"{file} cannot be written ({error.strerror}). Make room or correct the folder's "
                "permissions, and resume."
            ) from error

    def find(self, number: int, digest: bytes) -> KeptSum | None:
        """Return what is known of the answers to a request; None where nothing is.

        Raises:
            CheckpointError: the file is damaged.
        """
        file = self._file(number, digest)
        if not file.is_file():
            return None
        try:
            with safe_open(file, framework="numpy") as opened:
                survivors = json.loads(opened.metadata()[_SURVIVORS])
                points = opened.get_tensor(_POINTS)
            return KeptSum(points, tuple((str(name), int(users)) for name, users in survivors))
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{file} is damaged ({error}): put a copy of it back, or delete it; without it the "
                "sum is asked for again, and charged again."
            ) from error

    def drop(self, number: int) -> None:
        """Delete the sums of rounds up to this one: a checkpoint holds what follows from them."""
        for file in self._folder.glob("*-*.safetensors"):
            kept = file.name.partition("-")[0]
            if kept.isdigit() and int(kept) <= number:
                file.unlink(missing_ok=True)

    def _file(self, number: int, digest: bytes) -> Path:
        return self._folder / f"{number}-{digest.hex()[:32]}.safetensors"
