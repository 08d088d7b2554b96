"""Everything that ever left this site: when, for which request, and which arrays.

The bodies of each run's last answers are kept, so that a repeated request gets the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from dataclasses import dataclass
from typing import Any

from shared.errors import LedgerError, Refusal, Refused

__all__ = ["BODIES_KEPT", "ArrayForm", "Outbox", "Sent", "described"]

BODIES_KEPT = 2
"""Rounds of a run whose bodies are kept: the last, and the one before it for a late repeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayForm:
    """One array that left.

    Attributes:
        name: of the weight or figure.
        dtype: as safetensors names it, such as "F32".
        shape: its sizes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One answer that left, or was about to when the node was killed.

    Attributes:
        number: of its entry in the ledger.
        at: when it was stored, ISO 8601 in UTC.
        run: name of the run.
        kind: "train" or "evaluate".
        round: 1-based.
        bytes: length of the body.
        sha256: of the body, in hex.
        arrays: what is in it, in order of name.
        kept: whether the body is still there.
    """

    number: int
    at: str
    run: str
    kind: str
    round: int
    bytes: int
    sha256: str
    arrays: tuple[ArrayForm, ...]
    kept: bool


class Outbox:
    """The answers in an open ledger."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def body(self, run: str, kind: str, number: int) -> bytes | None:
        """The body that answered a round; None if none did.

        Raises:
            Refused: it is no longer kept, or the run was answered in a later round.
        """
        row = self._database.execute(
            "SELECT seq FROM entries WHERE entry = 'answer' AND run = ? AND kind = ? AND round = ?",
            (run, kind, number),
        ).fetchone()
        found = None if row is None else self.kept(row[0])
        last = self._last(run, kind)
        if found is None and last is not None and number <= last:
            raise Refused(Refusal.CLOSED, f"round {number} of run {run}; the last is {last}")
        return found

    def put(self, entry: int, body: bytes) -> None:
        """Stores the body of an entry, and lets go of the run's bodies that are old."""
        database = self._database
        database.execute("INSERT INTO bodies VALUES (?, ?)", (entry, body))
        digest, arrays = _layout(body)
        database.execute("INSERT OR IGNORE INTO layouts VALUES (?, ?)", (digest, arrays))
        database.execute(
            "DELETE FROM bodies WHERE seq IN (SELECT bodies.seq FROM bodies"
            " JOIN entries AS old USING (seq) JOIN entries AS new ON new.seq = ?"
            " WHERE old.run = new.run AND old.kind = new.kind AND old.round <= new.round - ?)",
            (entry, BODIES_KEPT),
        )

    def kept(self, entry: int) -> bytes | None:
        """The body of an answer's entry, if it is kept.

        Raises:
            LedgerError: it is not what was stored.
        """
        row = self._database.execute(
            "SELECT bodies.body, json_extract(entries.body, '$.sha256')"
            " FROM bodies JOIN entries USING (seq) WHERE seq = ?",
            (entry,),
        ).fetchone()
        if row is None:
            return None
        if hashlib.sha256(row[0]).hexdigest() != row[1]:
            raise _changed(f"the answer of entry {entry}")
        return bytes(row[0])

    def check(self) -> None:
        """Checks what is stored beside the chain against what the chain says of it.

        Raises:
            LedgerError: a body or a list of arrays is not what was stored, or is missing.
        """
        for (entry,) in self._database.execute("SELECT seq FROM bodies").fetchall():
            self.kept(entry)
        layouts = self._layouts()
        for (digest,) in self._database.execute(
            "SELECT DISTINCT json_extract(body, '$.layout') FROM entries WHERE entry = 'answer'"
        ):
            if digest not in layouts:
                raise _changed(f"the list of arrays {digest[:12]}")

    def sent(self) -> list[Sent]:
        """Every answer, oldest first.

        Raises:
            LedgerError: a list of arrays is not what was stored.
        """
        layouts = self._layouts()
        rows = self._database.execute(
            "SELECT entries.seq, entries.body, bodies.seq IS NOT NULL FROM entries"
            " LEFT JOIN bodies USING (seq) WHERE entry = 'answer' ORDER BY entries.seq"
        )
        return [_sent(number, json.loads(text), layouts, kept) for number, text, kept in rows]

    def _layouts(self) -> dict[str, tuple[ArrayForm, ...]]:
        found: dict[str, tuple[ArrayForm, ...]] = {}
        for digest, arrays in self._database.execute("SELECT sha256, arrays FROM layouts"):
            if hashlib.sha256(arrays.encode()).hexdigest() != digest:
                raise _changed(f"the list of arrays {digest[:12]}")
            found[digest] = tuple(
                ArrayForm(name=name, dtype=dtype, shape=tuple(shape))
                for name, dtype, shape in json.loads(arrays)
            )
        return found

    def _last(self, run: str, kind: str) -> int | None:
        [(last,)] = self._database.execute(
            "SELECT max(round) FROM entries WHERE entry = 'answer' AND run = ? AND kind = ?",
            (run, kind),
        ).fetchall()
        return None if last is None else int(last)


def described(body: bytes) -> dict[str, Any]:
    """What an answer's entry says of its body, a safetensors file."""
    digest, _ = _layout(body)
    return {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest(), "layout": digest}


def _layout(body: bytes) -> tuple[str, str]:
    """Names, types and shapes of the arrays: the file's own header; most rounds share one."""
    length = int.from_bytes(body[:8], "little")
    header: dict[str, Any] = json.loads(body[8 : 8 + length])
    header.pop("__metadata__", None)
    arrays = json.dumps([[name, at["dtype"], at["shape"]] for name, at in sorted(header.items())])
    return hashlib.sha256(arrays.encode()).hexdigest(), arrays


def _sent(
    number: int, fields: dict[str, Any], layouts: dict[str, tuple[ArrayForm, ...]], kept: int
) -> Sent:
    if fields["layout"] not in layouts:
        raise _changed(f"the list of arrays of entry {number}")
    names = ("at", "run", "kind", "round", "bytes", "sha256")
    noted = {name: fields[name] for name in names}
    return Sent(number=number, arrays=layouts[fields["layout"]], kept=bool(kept), **noted)


def _changed(what: str) -> LedgerError:
    return LedgerError(
        f"{what} is not what was stored, and nothing leaves. Put the newest copy of the ledger "
        "back, or restore it from the anchor."
    )
