"""The privacy ledger: what this site has released and what that cost together.

It asks before it writes, survives a crash at any instruction, and never forgets a charge.

One SQLite file holds a hash chain of entries (`client.ledger.balance`): charges, refusals, answers,
trusted app bundles, and private home models. The budget belongs to a user base and a privacy unit.
It does not depend on the run, the data file or the process. Private home models have one of their
own: what an organisation shows its users is another matter than what it tells a coordinator.

Order of writing: a charge is on disk before anything is computed from it, and an answer before it
leaves. Each entry is recorded in the anchor (`client.ledger.anchor`) before the caller continues.
All of this happens under locks on the folders of both files, which end with their process:

| the process is killed                    | state of the files            | at the next opening   |
|------------------------------------------|-------------------------------|-----------------------|
| before the entry is committed            | neither file has it           | there is no entry     |
| after that, before the anchor is written | the ledger is one entry ahead | the anchor is updated |
| after the anchor is written              | both have it                  | the entry stands      |

The caller acts on an entry only after the third row, so in the second row nothing was released on
its account. An anchor that is ahead, or more than one entry behind, means that one of the two files
was replaced by an older copy: every method raises, and `client.ledger.recovery` is needed.

A round that was charged but not answered, as after a crash, has released nothing. Computing it
again with the same parameters costs nothing more: only the first answer is ever stored, and only a
stored answer leaves. That a computation failed is an answer, too (`client.guard`). Times are
recorded, but no decision depends on them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.ledger.anchor import Anchor
from client.ledger.balance import Balance, EntryType, form_of, release_of
from client.ledger.limits import Limits
from client.ledger.outbox import Outbox, Room, SentAnswer, check_room_of_run, summarise
from client.ledger.refusals import RefusalCounter
from client.ledger.store import (
    append_entry,
    create_database,
    entry_text,
    ledger_lock,
    open_database,
)
from shared.errors import BudgetExceeded, LedgerError, Refused
from shared.outcomes import Refusal
from shared.privacy.accounting.accountant import epsilon
from shared.privacy.release import Release

__all__ = ["Entry", "Ledger", "Record"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A charge to be made: a release and the request that it answers.

    Attributes:
        run: name of the run.
        round: 1-based.
        release: the noised sums that will leave.
        clip_norm: bound on one user's contribution to a sum, > 0; does not affect the cost.
        request: fingerprint of all other parameters of the request. A round is one request for
            ever: another fingerprint is refused.
    """

    run: str
    round: int
    release: Release
    clip_norm: float = 1.0
    request: str = ""

    @property
    def key(self) -> tuple[str, str, int]:
        """Run, kind and round: each key has at most one charge and one answer."""
        return self.run, str(self.release.kind), self.round

    @property
    def fields(self) -> dict[str, Any]:
        """The fields that the ledger stores."""
        key = {"run": self.run, "round": self.round}
        return key | self.release.fields | {"clip_norm": self.clip_norm, "request": self.request}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """An entry as it is stored in the ledger.

    Attributes:
        number: 1-based.
        type: opened, carried, charge, refusal, answer, trusted or home.
        fields: all other fields, including the time (`at`) and the app's fingerprint (`app`).
        hash: hash of the chain up to this entry, in hex.
    """

    number: int
    type: EntryType
    fields: Mapping[str, Any]
    hash: str


class Ledger:
    """Append-only ledger of one site; opening it checks the whole chain.

    Args:
        path: its file, created by `Ledger.create`, on a local disk.
        user_base: the users whose budget is read and charged.
        anchor: the anchor's file, stored elsewhere.

    Raises:
        LedgerError: a file is missing, unreadable, changed, older than the other, or accessible to
            others; or the ledger belongs to another user base. The message says how to recover.
            Every method raises it as well.
    """

    def __init__(self, path: Path, user_base: str, anchor: Path) -> None:
        self.path, self.user_base, self.anchor = path, user_base, anchor
        self._balance = Balance()
        with self._session():
            pass

    @classmethod
    def create(cls, path: Path, user_base: str, anchor: Path) -> Ledger:
        """Create an empty ledger and its anchor for a new site.

        Raises:
            LedgerError: the file exists already, or an anchor of the user base does.
        """
        with ledger_lock(path, anchor):
            if path.exists():
                raise LedgerError(f"{path}: a ledger is there already and stays.")
            if anchor.exists():
                raise LedgerError(
                    f"{anchor}: this user base has a ledger already, and a second one would forget "
                    f"what the first has spent. Put that one at {path}, or restore it from the "
                    "anchor; if these are other users, give them another user_base."
                )
            create_database(path, user_base, anchor, [])
        return cls(path, user_base, anchor)

    @property
    def id(self) -> str:
        """Random id of the chain, drawn when it was created."""
        return self._balance.ledger

    # --- the budget ----------------------------------------------------------------------------

    def releases(self) -> list[Release]:
        """Return every charged release that may have left, equal ones merged."""
        with self._session():
            return self._balance.releases

    def spent(self, delta: float) -> float:
        """Return the ε of all charged releases at `delta`."""
        return epsilon(self.releases(), delta)

    def spent_if_all_collude(self, delta: float) -> float:
        """Return the ε of all charged releases, where only the site's own noise counts."""
        return epsilon([release.alone for release in self.releases()], delta)

    def epsilon_after(self, release: Release, delta: float) -> float:
        """Return the ε of all charged releases and this one at `delta`; charge nothing."""
        return epsilon([*self.releases(), release], delta)

    def plan(self, run: str, planned: Sequence[Release]) -> list[Release]:
        """Return all charged releases and a run's planned ones; charge nothing.

        Args:
            run: whose charges so far are part of what is planned, and are not counted twice.
            planned: all that the run asks for, from its first request to its last.
        """
        with self._session() as database:
            steps = dict(self._balance.steps)
            rows = database.execute(
                "SELECT body FROM entries WHERE entry = 'charge' AND run = ?", (run,)
            ).fetchall()
        for (body,) in rows:
            fields = json.loads(body)
            steps[form_of(fields)] -= fields["steps"]
        others = [release_of(form, count) for form, count in steps.items() if count]
        return [*others, *planned]

    def check_room_of_plan(
        self, run: str, planned: Sequence[tuple[Room, int]], releases: Sequence[Release]
    ) -> None:
        """Check that all answers of a run can be charged and kept; charge nothing.

        Args:
            run: whose charges so far are part of what is planned.
            planned: what an answer of each kind needs, and how many there will be.
            releases: what they release.

        Raises:
            Refused: there is no room for them.
        """
        with self._session() as database:
            [(others,)] = database.execute(
                "SELECT count(*) FROM entries WHERE entry = 'charge' AND run != ?", (run,)
            ).fetchall()
            self._balance.check_forms(releases)
        check_room_of_run(others, planned)

    def charge(self, entry: Entry, limits: Limits, room: Room | None = None) -> None:
        """Record the entry durably. Call it before computing the release.

        An entry that was charged before is not charged again. If this raises, the ledger is
        unchanged.

        Args:
            entry: the release and its request.
            limits: what all releases together may cost.
            room: what the answer will need; None for no limit.

        Raises:
            BudgetExceeded: ε would exceed a limit.
            Refused: the same round was charged with other parameters, or there is no room.
        """
        with self._session() as database:
            if self._is_to_charge(database, entry, limits, room):
                with self._append(database, EntryType.CHARGE, entry.fields):
                    pass

    def check_charge(self, entry: Entry, limits: Limits, room: Room | None = None) -> None:
        """Raise what `charge` would raise now; charge nothing.

        Call it before private data are read: a refusal, which costs nothing, then takes no time
        that depends on them. Arguments and errors are those of `charge`.
        """
        with self._session() as database:
            self._is_to_charge(database, entry, limits, room)

    def _is_to_charge(
        self, database: sqlite3.Connection, entry: Entry, limits: Limits, room: Room | None
    ) -> bool:
        """Return whether an entry is not charged yet, if it may be."""
        if self._is_charged(database, entry):
            return False
        if room is not None:
            Outbox(database).check_room(entry.run, self._balance.charges, room)
            self._balance.check_forms([entry.release])
        releases = [*self._balance.releases, entry.release]
        limits.check(releases, f"round {entry.round} of run {entry.run}")
        return True

    def refuse(self, code: Refusal, asked: Mapping[str, Any]) -> None:
        """Record a refused request with its parameters; costs nothing.

        Refusals must not fill the disk: of each code, the first `RefusalCounter.DETAILED` of a day
        have an entry of their own, and then one in ever more (`client.ledger.refusals`).
        """
        with self._session() as database:
            counter = RefusalCounter(database, code)
            times = counter.add()
            if not times:
                return
            fields = dict(asked) | {"code": str(code)} | ({"times": times} if times > 1 else {})
            with self._append(database, EntryType.REFUSAL, fields):
                counter.clear()

    # --- what stays at home -----------------------------------------------------------------------

    def home_releases(self) -> list[Release]:
        """Return every private home model that was charged, equal ones merged.

        What was written off is among them: nobody knows what it was.
        """
        with self._session():
            return self._balance.home_releases

    def charge_home(self, release: Release, *, max_epsilon: float, delta: float) -> None:
        """Record a private home model durably, each time anew. Call it before computing one.

        If this raises, the ledger is unchanged.

        Args:
            release: of the kind "home".
            max_epsilon: limit on the ε of all private home models together.
            delta: the δ at which it holds.

        Raises:
            BudgetExceeded: ε would exceed the limit.
        """
        with self._session() as database:
            after = epsilon([*self._balance.home_releases, release], delta)
            if not after <= max_epsilon:  # also refuses NaN
                spent = epsilon(self._balance.home_releases, delta)
                raise BudgetExceeded(
                    f"adapting would lead to ε = {after:.4g} at δ = {delta:g} between your users; "
                    f"{spent:.4g} is spent, and home.max_epsilon is {max_epsilon:g}. Keep the home "
                    "model that is there; only a higher limit, which is less privacy, allows "
                    "another"
                )
            with self._append(database, EntryType.HOME, release.fields):
                pass

    # --- answers -------------------------------------------------------------------------------

    def answer(self, entry: Entry) -> bytes | None:
        """Return the stored answer to this request; None if there is none.

        Raises:
            Refused: the same round was charged with other parameters; or this or a later round of
                the run was answered, and the body is no longer kept.
        """
        with self._session() as database:
            self._is_charged(database, entry)
            return Outbox(database).body(*entry.key)

    def keep_answer(self, entry: Entry, body: bytes, *, room: Room | None = None) -> bytes:
        """Store the answer durably, and return the one to send: the first that was stored.

        Args:
            entry: the charged request.
            body: a safetensors file.
            room: where all bodies need more, those of older runs are deleted; None for no limit.

        Raises:
            Refused: as in `answer`: a slow repeat must not replace an answer whose body was
                deleted.
            LedgerError: the request was not charged.
        """
        with self._session() as database:
            if not self._is_charged(database, entry):
                raise LedgerError(f"{self.path}: an answer that was not charged does not leave.")
            outbox = Outbox(database)
            stored = outbox.body(*entry.key)
            if stored is None:
                run, kind, round_number = entry.key
                fields = {"run": run, "kind": kind, "round": round_number} | summarise(body)
                with self._append(database, EntryType.ANSWER, fields) as number:
                    outbox.put(number, body)
                    if room is not None:
                        outbox.make_room(run, room.max_stored_bytes)
                stored = body
            return stored

    def outbox(self) -> list[SentAnswer]:
        """List every answer that left, oldest first."""
        with self._session() as database:
            return Outbox(database).answers()

    def sent_body(self, number: int) -> bytes | None:
        """Return the bytes of the answer with this entry number; None if they are not kept."""
        with self._session() as database:
            return Outbox(database).kept_body(number)

    # --- the trusted app -----------------------------------------------------------------------

    def trust(self, fingerprint: str, app: str, version: str) -> None:
        """Record the app bundle that the partner trusts from now on, in place of any other.

        Args:
            fingerprint: SHA-256 of the bundle's bytes, in hex.
            app: the app's name.
            version: the app's version.
        """
        fields = {"bundle": fingerprint, "name": app, "version": version}
        with self._session() as database, self._append(database, EntryType.TRUSTED, fields):
            pass

    def trusted_fingerprint(self) -> str:
        """Return the fingerprint of the bundle that was trusted last; "" if none was."""
        with self._session() as database:
            row = database.execute(
                "SELECT json_extract(body, '$.bundle') FROM entries"
                " WHERE entry = 'trusted' ORDER BY seq DESC LIMIT 1"
            ).fetchone()
        return "" if row is None else str(row[0])

    # --- reading and checking ------------------------------------------------------------------

    def history(self, last: int = -1) -> list[Record]:
        """Return the last entries, or all, oldest first."""
        with self._session() as database:
            rows = database.execute(
                "SELECT seq, body, hash FROM entries ORDER BY seq DESC LIMIT ?", (last,)
            ).fetchall()
        return [_record(*row) for row in reversed(rows)]

    def verify(self) -> int:
        """Check everything from the first entry: file, chain, anchor and kept answers.

        Returns:
            The number of entries.
        """
        self._balance = Balance()
        with self._session() as database:
            [(state,)] = database.execute("PRAGMA integrity_check(1)").fetchall()
            if state != "ok":
                raise self._damaged(state)
            Outbox(database).check()
            return self._balance.entries

    # --- private -------------------------------------------------------------------------------

    def _is_charged(self, database: sqlite3.Connection, entry: Entry) -> bool:
        row = database.execute(
            "SELECT body FROM entries"
            " WHERE entry = 'charge' AND run = ? AND kind = ? AND round = ?",
            entry.key,
        ).fetchone()
        if row is None:
            return False
        if not entry.fields.items() <= json.loads(row[0]).items():
            raise Refused(
                Refusal.POLICY,
                f"round {entry.round} of run {entry.run} was charged with other parameters",
            )
        return True

    @contextmanager
    def _append(
        self, database: sqlite3.Connection, what: EntryType, fields: Mapping[str, Any]
    ) -> Iterator[int]:
        """Append an entry in one transaction with the block's writes, then update the anchor.

        Yields:
            The number of the new entry.
        """
        balance = self._balance.copy()
        database.execute("BEGIN IMMEDIATE")
        append_entry(database, balance, entry_text(what, fields))
        yield balance.entries
        database.execute("COMMIT")
        self._balance = balance
        Anchor.of(balance).save(self.anchor)

    @contextmanager
    def _session(self) -> Iterator[sqlite3.Connection]:
        """Lock and open the ledger; check it up to its last entry and against the anchor."""
        try:
            self._check_file()
            with ledger_lock(self.path, self.anchor), open_database(self.path) as database:
                self._catch_up(database)
                self._check_anchor(Anchor.load(self.anchor))
                yield database
        except (sqlite3.Error, OSError) as error:
            raise LedgerError(
                f"{self.path}: the privacy ledger cannot be read or written ({error}), so nothing "
                "is released. Check the disk and the file's permissions; if the file is damaged, "
                "put the newest copy back, or restore it from the anchor."
            ) from error

    def _check_file(self) -> None:
        if not self.path.is_file():
            raise LedgerError(
                f"{self.path}: the privacy ledger is missing, so what was spent is not known and "
                "nothing is released. Put the newest copy back, or restore it from the anchor; a "
                "new site gets its ledger when it is set up."
            )
        mode = self.path.stat().st_mode & 0o777
        if mode & 0o077:
            raise LedgerError(
                f"{self.path}: its permissions are {mode:o}, so others can reach the ledger. Make "
                f"it its owner's alone: chmod 600 {self.path}"
            )

    def _catch_up(self, database: sqlite3.Connection) -> None:
        balance = self._balance
        try:
            rows = database.execute(
                "SELECT seq, body, hash FROM entries WHERE seq >= ? ORDER BY seq",
                (max(balance.entries, 1),),
            )
            if balance.entries:
                balance.check_head(*next(rows, (0, "", b"")))
            for number, text, digest in rows:
                balance.apply(number, text, digest)
        except (ValueError, KeyError, TypeError) as error:
            self._balance = Balance()
            raise self._damaged(str(error)) from error
        if not balance.entries:
            raise self._damaged("it has no entries")
        if balance.user_base != self.user_base:
            raise LedgerError(
                f"{self.path}: this is the ledger of '{balance.user_base}', not of "
                f"'{self.user_base}'. Set user_base back: the same users keep one name for ever."
            )

    def _check_anchor(self, anchor: Anchor) -> None:
        balance = self._balance
        ours = Anchor.of(balance)
        if anchor == ours:
            return
        before = (balance.ledger, balance.entries - 1, balance.previous.hex())
        if (anchor.ledger, anchor.entries, anchor.head) == before:
            ours.save(self.anchor)
            return
        raise LedgerError(
            f"{self.path} has {ours.entries} entries of ledger {ours.ledger[:8]}, its anchor "
            f"{self.anchor} knows of {anchor.entries} of ledger {anchor.ledger[:8]}: one of the "
            "two is an older copy, or was changed. Nothing is released. Put the newest copy of "
            "that file back, or restore the ledger from the larger of the two."
        )

    def _damaged(self, why: str) -> LedgerError:
        return LedgerError(
            f"{self.path}: the privacy ledger is not as it was written ({why}), so nothing is "
            "released. Put the newest copy back, or restore it from the anchor."
        )


def _record(number: int, text: str, digest: bytes) -> Record:
    fields = json.loads(text)
    entry_type = EntryType(fields.pop("entry"))
    return Record(number=number, type=entry_type, fields=fields, hash=digest.hex())
