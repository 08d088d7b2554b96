"""What this site has released and what that cost: durable, append-only, and never forgotten.

One SQLite file holds a chain of entries (`client.ledger.balance`): charges, refusals, answers, and
which app bundle was trusted. A charge
is on disk before anything is computed from it, an answer before anything leaves, and the anchor
(`client.ledger.anchor`) knows of either before the caller does. The budget belongs to a user base
and a privacy unit, whatever the run, the data file or the process.

Every entry is written under a lock that ends with its process, in this order:

| killed                                   | what is found then             | what happens        |
|------------------------------------------|--------------------------------|---------------------|
| before the entry is committed            | neither file has it            | it never was        |
| after that, before the anchor is written | the ledger is one entry ahead  | the anchor follows  |
| after the anchor is written              | both have it                   | it stands           |

Whoever writes an entry acts on it after the third line only, so a ledger from before the second
line hides nothing. An anchor that is ahead, or more than one entry behind, means that one of the
two files was replaced by an older copy: everything stops (`client.ledger.recovery`).

An entry that was charged but never answered is paid for and never left: doing it over, with the
same parameters, costs nothing more, because only the first answer is ever kept, and only what is
kept leaves. Time is noted, and decides nothing.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from client.ledger.anchor import Anchor
from client.ledger.balance import Balance, What
from client.ledger.outbox import Outbox, Sent, described
from client.ledger.store import append, connected, entry_text, ledger_lock, write_new
from shared.errors import BudgetExceeded, LedgerError, Refusal, Refused
from shared.privacy.accounting.accountant import epsilon
from shared.privacy.release import Release, merge

__all__ = ["Entry", "Ledger", "Record"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One charge: a release, and the request it answers.

    Attributes:
        run: name of the run.
        round: 1-based.
        release: what will leave.
        clip_norm: bound on what one user adds to a sum, > 0; without effect on the cost.
        request: fingerprint of all else that is asked: a round is one request, for ever.
    """

    run: str
    round: int
    release: Release
    clip_norm: float = 1.0
    request: str = ""

    @property
    def key(self) -> tuple[str, str, int]:
        """What there is one charge and one answer of: run, kind and round."""
        return self.run, str(self.release.kind), self.round

    @property
    def fields(self) -> dict[str, Any]:
        """What the ledger notes of it."""
        place = {"run": self.run, "round": self.round}
        return place | self.release.fields | {"clip_norm": self.clip_norm, "request": self.request}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """An entry as it stands in the ledger.

    Attributes:
        number: 1-based.
        what: opened, carried, charge, refusal, answer or trusted.
        fields: all that was noted, the time (`at`) and the app's fingerprint (`app`) among it.
        hash: of the chain up to here, in hex.
    """

    number: int
    what: What
    fields: Mapping[str, Any]
    hash: str


class Ledger:
    """One site's privacy ledger; opening it checks the whole chain.

    Args:
        path: its file, made by `Ledger.create`, on a local disk.
        user_base: whose budget is read and charged.
        anchor: the file, kept elsewhere, that knows how far the ledger had come.

    Raises:
        LedgerError: a file is missing, unreadable, changed, older than the other, or open to
            others; or the ledger is another user base's. The message says how to recover. Every
            method raises it too, as soon as that is so.
    """

    def __init__(self, path: Path, user_base: str, anchor: Path) -> None:
        self.path, self.user_base, self.anchor = path, user_base, anchor
        self._balance = Balance()
        with self._session():
            pass

    @classmethod
    def create(cls, path: Path, user_base: str, anchor: Path) -> Ledger:
        """Makes an empty ledger and its anchor for a new site.

        Raises:
            LedgerError: there is a file already, or an anchor of the user base, whatever it holds.
        """
        if path.exists():
            raise LedgerError(f"{path}: a ledger is there already and stays.")
        if anchor.exists():
            raise LedgerError(
                f"{anchor}: this user base has a ledger already, and a second one would forget "
                f"what the first has spent. Put that one at {path}, or restore it from the "
                "anchor; if these are other users, give them another user_base."
            )
        write_new(path, user_base, anchor, [])
        return cls(path, user_base, anchor)

    # --- what was spent ------------------------------------------------------------------------

    def releases(self) -> list[Release]:
        """Every release charged to the user base, equal ones merged."""
        with self._session():
            return self._balance.releases

    def spent(self, delta: float) -> float:
        """The ε of all releases at `delta`."""
        return epsilon(self.releases(), delta)

    def epsilon_after(self, release: Release, delta: float) -> float:
        """The ε of all releases and this one at `delta`; charges nothing."""
        return epsilon([*self.releases(), release], delta)

    def charge(self, entry: Entry, *, max_epsilon: float, delta: float) -> None:
        """Records the entry durably, or changes nothing. Call it before computing the release.

        An entry that is there already is not charged again.

        Raises:
            BudgetExceeded: it would lead to more than `max_epsilon`.
            Refused: the same round was charged with other parameters.
        """
        with self._session() as database:
            if self._charged(database, entry):
                return
            releases = [*self._balance.releases, entry.release]
            if not _surely_within(releases, max_epsilon, delta):
                after = epsilon(releases, delta)
                if not after <= max_epsilon:
                    raise BudgetExceeded(
                        f"round {entry.round} of run {entry.run} would lead to ε = {after:.4g} at "
                        f"δ = {delta:g}; policy.max_epsilon is {max_epsilon:g}"
                    )
            with self._appending(database, What.CHARGE, entry.fields):
                pass

    def refuse(self, code: Refusal, asked: Mapping[str, Any]) -> None:
        """Records that a request was refused, and what it asked; costs nothing."""
        fields = dict(asked) | {"code": str(code)}
        with self._session() as database, self._appending(database, What.REFUSAL, fields):
            pass

    # --- what left -----------------------------------------------------------------------------

    def answer(self, entry: Entry) -> bytes | None:
        """The answer once given to this request; None if there was none.

        Raises:
            Refused: the same round was charged with other parameters; or the run was answered in
                this or a later round, and no body is kept.
        """
        with self._session() as database:
            self._charged(database, entry)
            return Outbox(database).body(*entry.key)

    def keep_answer(self, entry: Entry, body: bytes) -> bytes:
        """Stores the answer durably and returns the one to send: the first that was stored.

        Args:
            entry: what it answers; was charged.
            body: a safetensors file.

        Raises:
            Refused: as `answer`; a slow repeat must not replace an answer that was let go.
            LedgerError: nothing was charged for it.
        """
        with self._session() as database:
            if not self._charged(database, entry):
                raise LedgerError(f"{self.path}: an answer that was not charged does not leave.")
            outbox = Outbox(database)
            kept = outbox.body(*entry.key)
            if kept is None:
                run, kind, number = entry.key
                about = {"run": run, "kind": kind, "round": number} | described(body)
                with self._appending(database, What.ANSWER, about) as place:
                    outbox.put(place, body)
                kept = body
            return kept

    def outbox(self) -> list[Sent]:
        """Everything that ever left, oldest first."""
        with self._session() as database:
            return Outbox(database).sent()

    def sent_body(self, number: int) -> bytes | None:
        """The bytes of the answer with this entry number; None where none are kept."""
        with self._session() as database:
            return Outbox(database).kept(number)

    # --- whose app may run ---------------------------------------------------------------------

    def trust(self, fingerprint: str, app: str, version: str) -> None:
        """Records that the partner trusts an app bundle from here on, in place of any other.

        Args:
            fingerprint: SHA-256 of its bytes, in hex.
            app: its name.
            version: its version.
        """
        fields = {"bundle": fingerprint, "name": app, "version": version}
        with self._session() as database, self._appending(database, What.TRUSTED, fields):
            pass

    def trusted(self) -> str:
        """Fingerprint of the bundle that was trusted last; "" where none was."""
        with self._session() as database:
            row = database.execute(
                "SELECT json_extract(body, '$.bundle') FROM entries"
                " WHERE entry = 'trusted' ORDER BY seq DESC LIMIT 1"
            ).fetchone()
        return "" if row is None else str(row[0])

    # --- what it says of itself ----------------------------------------------------------------

    def history(self, last: int = -1) -> list[Record]:
        """The last entries, or all, oldest first."""
        with self._session() as database:
            rows = database.execute(
                "SELECT seq, body, hash FROM entries ORDER BY seq DESC LIMIT ?", (last,)
            ).fetchall()
        return [_record(*row) for row in reversed(rows)]

    def verify(self) -> int:
        """Checks everything again from the first entry: file, chain, anchor and kept answers.

        Returns:
            How many entries there are.
        """
        self._balance = Balance()
        with self._session() as database:
            [(state,)] = database.execute("PRAGMA integrity_check(1)").fetchall()
            if state != "ok":
                raise self._broken(state)
            Outbox(database).check()
            return self._balance.entries

    # --- inside --------------------------------------------------------------------------------

    def _charged(self, database: sqlite3.Connection, entry: Entry) -> bool:
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
    def _appending(
        self, database: sqlite3.Connection, what: What, fields: Mapping[str, Any]
    ) -> Iterator[int]:
        """Appends an entry, with whatever is written within; then the anchor follows."""
        balance = self._balance.copy()
        database.execute("BEGIN IMMEDIATE")
        append(database, balance, entry_text(what, fields))
        yield balance.entries
        database.execute("COMMIT")
        self._balance = balance
        Anchor.of(balance).save(self.anchor)

    @contextmanager
    def _session(self) -> Iterator[sqlite3.Connection]:
        """The ledger, held alone, and checked up to its last entry."""
        try:
            self._check_file()
            with ledger_lock(self.path), connected(self.path) as database:
                self._catch_up(database)
                self._compare(Anchor.load(self.anchor))
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
                balance.follow(number, text, digest)
        except (ValueError, KeyError, TypeError) as error:
            self._balance = Balance()
            raise self._broken(str(error)) from error
        if not balance.entries:
            raise self._broken("it has no entries")
        if balance.user_base != self.user_base:
            raise LedgerError(
                f"{self.path}: this is the ledger of '{balance.user_base}', not of "
                f"'{self.user_base}'. Set user_base back: the same users keep one name for ever."
            )

    def _compare(self, anchor: Anchor) -> None:
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

    def _broken(self, why: str) -> LedgerError:
        return LedgerError(
            f"{self.path}: the privacy ledger is not as it was written ({why}), so nothing is "
            "released. Put the newest copy back, or restore it from the anchor."
        )


def _surely_within(releases: list[Release], max_epsilon: float, delta: float) -> bool:
    """Whether even somewhat more than these releases stays below the limit.

    More steps never cost less. Rounded up to five binary digits, the sums of many rounds are one
    question to the accountant, who takes longer than all else here; he remembers his answers.
    """
    more = [replace(release, steps=_rounded_up(release.steps)) for release in merge(releases)]
    return epsilon(more, delta) <= 0.98 * max_epsilon


def _rounded_up(steps: int) -> int:
    """The next number of five binary digits and zeros; at most 1/16 more.

    >>> [_rounded_up(steps) for steps in (31, 33, 1000)]
    [31, 34, 1024]
    """
    unit = 1 << max(0, steps.bit_length() - 5)
    return -(-steps // unit) * unit


def _record(number: int, text: str, digest: bytes) -> Record:
    fields = json.loads(text)
    what = What(fields.pop("entry"))
    return Record(number=number, what=what, fields=fields, hash=digest.hex())
