"""What a run is doing and how far it has come: `RunState`, `RunStatus`, and their file.

The run's own process replaces `progress.json` beside the checkpoint after every event. Anybody who
may read the folder may read it at any moment: it holds public constants, counts, durations and
reasons in Sotto's own words. Counters and times are kept here alone; the checkpoint holds what is
needed to compute on.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from server.state.run_lock import is_at_work
from shared.errors import CheckpointError
from shared.outcomes import Outcome
from shared.system.files import UMASK, write_atomically

__all__ = ["FAULT", "Organisation", "RunState", "RunStatus", "now"]

_FILE = "progress.json"
FAULT = "a fault: "
"""How the reason of a run begins that failed by a programming error or the machine's."""


class RunState(StrEnum):
    """What a run is doing, wherever it is written, shown or measured.

    | state       | what it means                                                    | active |
    |-------------|------------------------------------------------------------------|--------|
    | waiting     | too few organisations are connected for the first round          | yes    |
    | running     | a round is in progress                                           | yes    |
    | retrying    | a round had too few valid replies and is asked for again         | yes    |
    | paused      | all attempts at a round had too few valid replies                | no     |
    | failed      | an error ended it                                                | no     |
    | stopped     | the operator stopped it, or has not started it yet               | no     |
    | interrupted | its process ended without saying why                             | no     |
    | finished    | the model is saved                                               | no     |
    """

    WAITING = "waiting"
    RUNNING = "running"
    RETRYING = "retrying"
    PAUSED = "paused"
    FAILED = "failed"
    STOPPED = "stopped"
    INTERRUPTED = "interrupted"
    FINISHED = "finished"

    @property
    def active(self) -> bool:
        """Whether a process must be at work on the run."""
        return self in (RunState.WAITING, RunState.RUNNING, RunState.RETRYING)

    @property
    def needs_operator(self) -> bool:
        """Whether the run ended unintentionally and stays as it is until the operator acts."""
        return self in (RunState.PAUSED, RunState.FAILED, RunState.INTERRUPTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Organisation:
    """One organisation's part in a run.

    Attributes:
        connected: whether its node was connected at the last look.
        population: its declared number of users.
        outcome: of the last round that it was counted in; "" before the first.
        reason: for that outcome, in Sotto's own words.
        replies: how often each outcome was counted in attempts at rounds and statistics, over all
            starts of the run.
        answered_rounds: finished rounds that its valid reply is part of.
        sums_charged: under secure aggregation, noised sums that it may have charged, also in
            attempts that came to nothing.
        sums_unsure: how many of them the coordinator cannot know to have been charged.
    """

    connected: bool
    population: int
    outcome: str = ""
    reason: str = ""
    replies: Mapping[str, int] = field(default_factory=dict)
    answered_rounds: int = 0
    sums_charged: int = 0
    sums_unsure: int = 0

    def counted(self, outcome: Outcome, reason: str = "") -> Organisation:
        """Return it after one more outcome; a late answer is counted and changes no verdict."""
        replies = {**self.replies, str(outcome): self.replies.get(outcome, 0) + 1}
        if outcome is Outcome.LATE:
            return dataclasses.replace(self, replies=replies)
        return dataclasses.replace(self, outcome=str(outcome), reason=reason, replies=replies)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """What a run is doing, how far it has come, and what it has cost so far.

    Attributes:
        run: its name.
        state: what it is doing.
        reason: why it is retrying, paused, failed, stopped or interrupted; "" otherwise.
        round: last finished round; 0 before the first.
        rounds: how many rounds it is to have.
        organisations: by name.
        declined: why a node takes no part in this start, by the name that its key is on record
            with, or as "node NUMBER" where there is none.
        started: when the run began, ISO 8601 in UTC.
        updated: when this was written, ISO 8601 in UTC; "" before.
        round_finished: when the last round was finished, ISO 8601 in UTC; "" before.
        round_seconds: duration of the last finished round.
        seconds: duration of all finished rounds.
        warm_start_seconds: duration of the warm start; 0 without one.
        starts: how often the run was started or resumed.
        warm_start: what has happened in this start's warm start, a line each.
        missed: attempts at a round that had too few valid replies.
        bytes_up: size of the arrays received in all finished rounds.
        bytes_down: size of the arrays sent in all finished rounds.
        round_bytes_up: size of the arrays received last, in a round or for the warm start.
        round_bytes_down: size of the arrays sent in the last finished round.
        metrics: released with noise; empty where none was asked for.
        metrics_round: the round that they belong to; 0 without any.
        measurements: sums of groups' figures that were released under secure aggregation; one that
            was taken from disk after a resume may be missing.
        group_weights: what users of each group count in training, where it follows from figures;
            "" elsewhere.
        groups: figures of the finished model by public group, released with noise, as
            `server.rounds.groups.measured_groups` returns them; empty where none were asked for.
        schema: raised whenever a field changes its meaning or goes.
    """

    run: str
    state: RunState
    reason: str = ""
    round: int = 0
    rounds: int
    organisations: Mapping[str, Organisation] = field(default_factory=dict)
    declined: Mapping[str, str] = field(default_factory=dict)
    started: str
    updated: str = ""
    round_finished: str = ""
    round_seconds: float = 0.0
    seconds: float = 0.0
    warm_start_seconds: float = 0.0
    starts: int = 0
    warm_start: Sequence[str] = ()
    missed: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    round_bytes_up: int = 0
    round_bytes_down: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    metrics_round: int = 0
    measurements: int = 0
    group_weights: str = ""
    groups: Mapping[str, Any] = field(default_factory=dict)
    schema: int = 1

    @property
    def final(self) -> bool:
        """Whether resuming the run without changing anything would end it the same way."""
        if self.state is RunState.FAILED:
            return not self.reason.startswith(FAULT)
        return self.state in (RunState.PAUSED, RunState.STOPPED, RunState.FINISHED)

    def save(self, folder: Path) -> None:
        """Replace the folder's status.

        Raises:
            OSError: it cannot be written; the old one is as it was.
        """
        text = json.dumps(dataclasses.asdict(self), indent=1, allow_nan=False)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / _FILE, text.encode(), mode=UMASK)

    @classmethod
    def exists(cls, folder: Path) -> bool:
        """Return whether the folder holds one."""
        return (folder / _FILE).is_file()

    @classmethod
    def load(cls, folder: Path) -> RunStatus:
        """Read the folder's status; an active run whose process has ended is interrupted.

        Raises:
            CheckpointError: there is none, or it is damaged.
        """
        file = folder / _FILE
        # Before the file is read: what a coordinator writes last, it writes while at work.
        active = is_at_work(folder)
        try:
            fields = json.loads(file.read_bytes())
            parts = {
                name: _organisation(part, fields["round"])
                for name, part in fields["organisations"].items()
            }
            status = cls(**fields | {"state": RunState(fields["state"]), "organisations": parts})
        except FileNotFoundError as error:
            raise CheckpointError(f"{folder} holds no run: there is no {_FILE}.") from error
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(
                f"{file} cannot be read: delete it; the next round writes a new one."
            ) from error
        if status.state.active and not active:
            return dataclasses.replace(
                status,
                state=RunState.INTERRUPTED,
                reason="its process ended without saying why: resume the run",
            )
        return status


def _organisation(fields: dict[str, Any], rounds: int) -> Organisation:
    """Return a stored organisation; release 0.1 counted attempts alone, not answered rounds."""
    answered = min(fields["replies"].get(Outcome.VALID, 0), rounds)
    return Organisation(**{"answered_rounds": answered} | fields)


def now() -> str:
    """Return this moment, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
