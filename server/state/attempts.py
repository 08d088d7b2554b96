"""The numbers of a run's attempts at sums under secure aggregation: each is used once, for ever.

A partner answers an attempt only if its number is above the last one's. So a number is on disk
before the first message of its attempt leaves, and a coordinator that is killed goes on above it.
"""

from __future__ import annotations

import json
from pathlib import Path

from shared.errors import CheckpointError
from shared.system.files import write_atomically

__all__ = ["Attempts"]

_FILE = "attempts.json"


class Attempts:
    """The counter of one run, beside its checkpoint.

    Args:
        folder: of the checkpoint.
        run: name of the run; another run in the same folder begins anew.
    """

    def __init__(self, folder: Path, run: str) -> None:
        self._file, self._run = folder / _FILE, run

    @property
    def last(self) -> int:
        """The number of the last attempt; 0 before the first.

        Raises:
            CheckpointError: the file is damaged.
        """
        try:
            stored = json.loads(self._file.read_bytes())
            return int(stored["last"]) if stored["run"] == self._run else 0
        except FileNotFoundError:
            return 0
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{self._file} is damaged ({error}): put a copy of it back, or write the last "
                f'attempt of the audit log there: {{"run": "{self._run}", "last": NUMBER}}.'
            ) from error

    def begin(self) -> int:
        """Return the number of a new attempt, >= 1; it is on disk when this returns.

        Raises:
            CheckpointError: the file is damaged, or cannot be written.
        """
        number = self.last + 1
        text = json.dumps({"run": self._run, "last": number}) + "\n"
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._file, text.encode())
        except OSError as error:
            raise CheckpointError(
                f"{self._file} cannot be written ({error.strerror}), so no sum is asked for. Make "
                "room or correct the folder's permissions, and resume."
            ) from error
        return number
