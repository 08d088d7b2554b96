"""What this site has released and what that cost: durable, and never forgotten.

One SQLite file holds the charges and the answers. A charge is on disk before anything is computed
from it, an answer before anything leaves. The budget belongs to a user base, whatever the run,
the data file or the process.

An entry that was charged but never answered (a crash in between) is paid for and never left: doing
it over, with the same parameters, costs nothing more, because only the first answer is ever kept.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from shared.errors import BudgetExceeded, LedgerError, Refusal, Refused
from shared.privacy.accounting import epsilon
from shared.privacy.release import Release, ReleaseKind, merge

__all__ = ["Entry", "Ledger"]

ANSWERS_KEPT = 2
"""Rounds of a run whose answers are kept: the last, and the one before it for a late repeat."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS charges (
    id INTEGER PRIMARY KEY,
    user_base TEXT NOT NULL, run TEXT NOT NULL, round INTEGER NOT NULL, kind TEXT NOT NULL,
    noise_multiplier REAL NOT NULL, sample_rate REAL NOT NULL, steps INTEGER NOT NULL,
    charged_at TEXT NOT NULL,
    UNIQUE (user_base, run, round, kind)
);
CREATE TABLE IF NOT EXISTS answers (
    run TEXT NOT NULL, round INTEGER NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (run, round)
);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One charge: a release, and the request it answers.

    Attributes:
        run: name of the run.
        round: 1-based.
        release: what will leave.
    """

    run: str
    round: int
    release: Release


class Ledger:
    """One site's privacy ledger.

    Args:
        path: its file, made by `Ledger.create`.
        user_base: whose budget is read and charged.

    Raises:
        LedgerError: the file is missing or is not a ledger.
    """

    def __init__(self, path: Path, user_base: str) -> None:
        if not path.is_file():
            raise LedgerError(
                f"{path}: the privacy ledger is missing, so what was spent is not known and "
                "nothing is trained. Put the file back from your copy; a new site gets its "
                "ledger when it is set up."
            )
        self.path, self.user_base = path, user_base

    @classmethod
    def create(cls, path: Path, user_base: str) -> Ledger:
        """Makes an empty ledger for a new site.

        Raises:
            LedgerError: there is a file already, whatever it holds.
        """
        try:
            path.touch(mode=0o600, exist_ok=False)
        except FileExistsError as error:
            raise LedgerError(f"{path}: a ledger is there already and stays.") from error
        except OSError as error:
            raise LedgerError(f"{path}: cannot be made ({error.strerror}).") from error
        ledger = cls(path, user_base)
        with ledger._open() as database:
            database.executescript(_SCHEMA)
        return ledger

    def releases(self) -> list[Release]:
        """Every release charged to the user base, equal ones merged."""
        with self._open() as database:
            return self._releases(database)

    def spent(self, delta: float) -> float:
        """The ε of all releases at `delta`."""
        return epsilon(self.releases(), delta)

    def charge(self, entry: Entry, *, max_epsilon: float, delta: float) -> None:
        """Records the entry durably, or changes nothing. Call it before computing the release.

        An entry that is there already is not charged again.

        Raises:
            BudgetExceeded: it would lead to more than `max_epsilon`.
            Refused: the same round was charged with other parameters.
            LedgerError: the file cannot be read or written.
        """
        with self._open() as database:
            # Takes the write lock first: two processes cannot both see the same budget left.
            database.execute("BEGIN IMMEDIATE")
            if self._charged(database, entry):
                return
            after = epsilon([*self._releases(database), entry.release], delta)
            if not after <= max_epsilon:
                raise BudgetExceeded(
                    f"round {entry.round} of run {entry.run} would lead to ε = {after:.4g} at "
                    f"δ = {delta:g}; policy.max_epsilon is {max_epsilon:g}"
                )
            release = entry.release
            database.execute(
                "INSERT INTO charges (user_base, run, round, kind, noise_multiplier, sample_rate,"
                " steps, charged_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(self.user_base, entry.run, entry.round, str(release.kind)),
                    *(release.noise_multiplier, release.sample_rate, release.steps),
                    datetime.now(UTC).isoformat(),
                ),
            )

    def answer(self, run: str, round_number: int) -> bytes | None:
        """The answer once given to this round, if it is kept.

        Raises:
            Refused: the run has later answers, so this one was given and is no longer kept.
        """
        with self._open() as database:
            return _kept(database, run, round_number)

    def keep_answer(self, run: str, round_number: int, body: bytes) -> bytes:
        """Stores the answer durably and returns the one to send: the first that was stored.

        Raises:
            Refused: as `answer`; a slow repeat must not replace an answer that was let go.
        """
        with self._open() as database:
            database.execute("BEGIN IMMEDIATE")
            kept = _kept(database, run, round_number)
            if kept is not None:
                return kept
            database.execute("INSERT INTO answers VALUES (?, ?, ?)", (run, round_number, body))
            database.execute(
                "DELETE FROM answers WHERE run = ? AND round <= ?",
                (run, round_number - ANSWERS_KEPT),
            )
        return body

    def _releases(self, database: sqlite3.Connection) -> list[Release]:
        rows = database.execute(
            "SELECT kind, noise_multiplier, sample_rate, steps FROM charges"
            " WHERE user_base = ? ORDER BY id",
            (self.user_base,),
        )
        return merge([self._release(*row) for row in rows])

    def _charged(self, database: sqlite3.Connection, entry: Entry) -> bool:
        row = database.execute(
            "SELECT kind, noise_multiplier, sample_rate, steps FROM charges"
            " WHERE user_base = ? AND run = ? AND round = ? AND kind = ?",
            (self.user_base, entry.run, entry.round, str(entry.release.kind)),
        ).fetchone()
        if row is not None and self._release(*row) != entry.release:
            raise Refused(
                Refusal.POLICY,
                f"round {entry.round} of run {entry.run} was charged with other parameters",
            )
        return row is not None

    def _release(
        self, kind: str, noise_multiplier: float, sample_rate: float, steps: int
    ) -> Release:
        try:
            return Release(
                kind=ReleaseKind(kind),
                noise_multiplier=noise_multiplier,
                sample_rate=sample_rate,
                steps=steps,
            )
        except (TypeError, ValueError) as error:
            raise LedgerError(f"{self.path}: an entry is not a release ({error}).") from error

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            # Mode rw: a file that went missing is not made anew.
            uri = f"{self.path.resolve().as_uri()}?mode=rw"
            database = sqlite3.connect(uri, uri=True, timeout=60, isolation_level=None)
            try:
                database.execute("PRAGMA journal_mode = WAL")
                database.execute("PRAGMA synchronous = FULL")
                yield database
                if database.in_transaction:
                    database.execute("COMMIT")
            finally:
                database.close()  # rolls back what was not committed
        except sqlite3.Error as error:
            raise LedgerError(
                f"{self.path}: the privacy ledger cannot be read or written ({error}), so nothing "
                "is trained. Check the disk and the file's permissions."
            ) from error


def _kept(database: sqlite3.Connection, run: str, round_number: int) -> bytes | None:
    row = database.execute(
        "SELECT body FROM answers WHERE run = ? AND round = ?", (run, round_number)
    ).fetchone()
    last = database.execute("SELECT max(round) FROM answers WHERE run = ?", (run,)).fetchone()[0]
    if row is None and last is not None and round_number < last:
        raise Refused(Refusal.CLOSED, f"round {round_number} of run {run}; the last is {last}")
    return None if row is None else bytes(row[0])
