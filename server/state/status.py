"""How far a run has come, for whoever asks: a file beside its checkpoint.

It is written whole after everything that happens, and may be read at any moment by anybody who may
read the folder: it holds public constants, counts and reasons in our own words.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from server.state.run_lock import at_work, replace_file
from shared.errors import CheckpointError, Outcome

__all__ = ["Organisation", "RunState", "RunStatus", "now"]

_FILE = "progress.json"


class RunState(StrEnum):
    """What a run is doing."""

    WAITING = "waiting"
    RUNNING = "running"
    RETRYING = "retrying"
    PAUSED = "paused"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    FINISHED = "finished"

    @property
    def active(self) -> bool:
        """Whether a coordinator must be at work on it."""
        return self in (RunState.WAITING, RunState.RUNNING, RunState.RETRYING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Organisation:
    """What is known of a partner.

    Attributes:
        connected: whether its node was there at the last look.
        population: its declared users.
        outcome: of its part in the last round that it was counted in; "" before.
        reason: in our own words.
        replies: how often each outcome was counted, over all starts of the run.
    """

    connected: bool
    population: int
    outcome: str = ""
    reason: str = ""
    replies: Mapping[str, int] = field(default_factory=dict)

    def counted(self, outcome: Outcome, reason: str = "") -> Organisation:
        """The same after one more outcome; a late answer is counted and changes no verdict."""
        replies = {**self.replies, str(outcome): self.replies.get(outcome, 0) + 1}
        if outcome is Outcome.LATE:
            return dataclasses.replace(self, replies=replies)
        return dataclasses.replace(self, outcome=str(outcome), reason=reason, replies=replies)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """How far a run has come.

    Attributes:
        run: its name.
        state: what it is doing.
        reason: why it is waiting, retrying, paused or failed; "" otherwise.
        round: last finished round; 0 before the first.
        rounds: how many there are to be.
        organisations: by name.
        started: when the run began, ISO 8601 in UTC.
        updated: when this was written.
        round_finished: when the last round was finished; "" before.
        round_seconds: how long it took.
        seconds: that all finished rounds took.
        starts: how often a coordinator began or resumed it.
        missed: attempts that had too few valid replies.
        bytes_up: arrays received in finished rounds.
        bytes_down: arrays sent in finished rounds.
        metrics: released with noise; empty where none was asked for.
        metrics_round: the round that they belong to; 0 without any.
        schema: raised whenever this changes its form.
    """

    run: str
    state: RunState
    reason: str = ""
    round: int = 0
    rounds: int
    organisations: Mapping[str, Organisation] = field(default_factory=dict)
    started: str
    updated: str = ""
    round_finished: str = ""
    round_seconds: float = 0.0
    seconds: float = 0.0
    starts: int = 0
    missed: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    metrics_round: int = 0
    schema: int = 1

    def save(self, folder: Path) -> None:
        """Replaces the folder's status.

        Raises:
            OSError: it cannot be written; the old one is as it was.
        """
        text = json.dumps(dataclasses.asdict(self), indent=1, allow_nan=False)
        replace_file(folder / _FILE, text.encode())

    @classmethod
    def exists(cls, folder: Path) -> bool:
        """Whether the folder holds one."""
        return (folder / _FILE).is_file()

    @classmethod
    def load(cls, folder: Path) -> RunStatus:
        """Reads the folder's status; a run whose coordinator is gone is interrupted.

        Raises:
            CheckpointError: there is none, or it is damaged.
        """
        file = folder / _FILE
        # Before the file is read: what a coordinator writes last, it writes while at work.
        active = at_work(folder)
        try:
            fields = json.loads(file.read_bytes())
            parts = {name: Organisation(**part) for name, part in fields["organisations"].items()}
            status = cls(**fields | {"state": RunState(fields["state"]), "organisations": parts})
        except FileNotFoundError as error:
            raise CheckpointError(f"{folder} holds no run: no {_FILE} is there.") from error
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(
                f"{file} cannot be read: delete it; the next round writes it anew."
            ) from error
        if status.state.active and not active:
            return dataclasses.replace(
                status,
                state=RunState.INTERRUPTED,
                reason="its coordinator is gone: resume the run",
            )
        return status


def now() -> str:
    """This moment, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
