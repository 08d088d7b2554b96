"""The outbox: every answer that ever left this site, with its time, request and arrays.

The bodies of each run's last answers are kept, so that a repeated request gets the same bytes.
Where they take more room than the policy gives, those of other runs are deleted, oldest first: a
request of such a round is refused from then on, as one of an earlier round is.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared.errors import LedgerError, Refused
from shared.outcomes import Refusal

__all__ = [
    "BODIES_KEPT",
    "ArrayForm",
    "Outbox",
    "Room",
    "SentAnswer",
    "check_room_of_run",
    "figures_of",
    "summarise",
]

BODIES_KEPT = 2
"""Rounds of a run whose bodies are kept: the last, and the one before for a late repeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayForm:
    """One array that left.

    Attributes:
        name: name of the weight or metric.
        dtype: type as safetensors names it, such as "F32".
        shape: its sizes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size_text(self) -> str:
        """The sizes in words, such as 20×8."""
        return "×".join(map(str, self.shape)) or "scalar"


@dataclass(frozen=True, slots=True, kw_only=True)
class SentAnswer:
    """One answer that left, or that was stored just before the node was killed.

    Attributes:
        number: number of its entry in the ledger.
        at: time when it was stored, ISO 8601 in UTC.
        run: name of the run.
        kind: "train", "evaluate" or "statistics".
        round: 1-based.
        bytes: length of the body.
        sha256: SHA-256 of the body, in hex.
        arrays: the arrays in it, sorted by name.
        kept: whether the body is still stored.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What an answer needs, and how much may be stored.

    Attributes:
        answer_bytes: of the answer's arrays.
        max_stored_bytes: of all bodies together.
        max_answers: most requests that are ever charged.
    """

    answer_bytes: int
    max_stored_bytes: float
    max_answers: int


def check_room_of_run(charges: int, planned: Sequence[tuple[Room, int]]) -> None:
    """Check that all answers of a run can be charged, and those that are kept at once be stored.

    Of each kind, `BODIES_KEPT` stay while one more is made. Headers of bodies are not counted.

    Args:
        charges: number of requests that were charged for other runs.
        planned: what an answer of each kind needs, and how many there will be.

    Raises:
        Refused: they cannot.
    """
    answers = charges + sum(count for _, count in planned)
    stored = sum(room.answer_bytes * min(count, BODIES_KEPT) for room, count in planned)
    one_more = [room.answer_bytes for room, count in planned if count > BODIES_KEPT]
    stored += max(one_more, default=0)
    for room, _ in planned:
        if answers > room.max_answers:
            raise Refused(
                Refusal.POLICY,
                f"{answers} requests would be charged; policy.max_answers is {room.max_answers}",
            )
        if stored > room.max_stored_bytes:
            raise Refused(
                Refusal.POLICY,
                f"{stored / 1e6:.1f} MB would be kept of the run; policy.max_stored_mb is "
                f"{room.max_stored_bytes / 1e6:g}",
            )


class Outbox:
    """The answers in an open ledger database."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def body(self, run: str, kind: str, number: int) -> bytes | None:
        """Return the body that answered a round; None if the round was not answered.

        Raises:
            Refused: the body is no longer kept, or a later round of the run was answered.
        """
        row = self._database.execute(
            "SELECT seq FROM entries WHERE entry = 'answer' AND run = ? AND kind = ? AND round = ?",
            (run, kind, number),
        ).fetchone()
        stored = None if row is None else self.kept_body(row[0])
        last = self._last_round(run, kind)
        if stored is None and last is not None and number <= last:
            raise Refused(Refusal.CLOSED, f"round {number} of run {run}; the last is {last}")
        return stored

    def check_room(self, run: str, charges: int, room: Room) -> None:
        """Check that one more answer of a run can be charged and kept beside the run's others.

        Args:
            run: name of the run.
            charges: number of requests that were charged so far.
            room: what the answer needs, and what there is.

        Raises:
            Refused: it cannot.
        """
        if charges >= room.max_answers:
            raise Refused(
                Refusal.POLICY,
                f"{charges} requests were charged; policy.max_answers is {room.max_answers}",
            )
        [(stored,)] = self._database.execute(
            "SELECT coalesce(sum(length(bodies.body)), 0) FROM bodies JOIN entries USING (seq)"
            " WHERE run = ?",
            (run,),
        ).fetchall()
        if stored + room.answer_bytes > room.max_stored_bytes:
            raise Refused(
                Refusal.POLICY,
                f"{stored / 1e6:.1f} MB of run {run} are kept and {room.answer_bytes / 1e6:.1f} MB "
                f"more are asked for; policy.max_stored_mb is {room.max_stored_bytes / 1e6:g}",
            )

    def make_room(self, run: str, max_bytes: float) -> None:
        """Delete the oldest bodies of other runs until all together take at most `max_bytes`."""
        [(total,)] = self._database.execute(
            "SELECT coalesce(sum(length(body)), 0) FROM bodies"
        ).fetchall()
        if total <= max_bytes:
            return
        oldest = self._database.execute(
            "SELECT bodies.seq, length(bodies.body) FROM bodies JOIN entries USING (seq)"
            " WHERE run != ? ORDER BY bodies.seq",
            (run,),
        ).fetchall()
        for number, size in oldest:
            if total <= max_bytes:
                return
            self._database.execute("DELETE FROM bodies WHERE seq = ?", (number,))
            total -= size

    def put(self, entry: int, body: bytes) -> None:
        """Store the body of an entry, and delete the run's bodies that are no longer kept."""
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

    def kept_body(self, entry: int) -> bytes | None:
        """Return the body of an answer's entry; None if it is not kept.

        Raises:
            LedgerError: it was changed after it was stored.
        """
        row = self._database.execute(
            "SELECT bodies.body, json_extract(entries.body, '$.sha256')"
            " FROM bodies JOIN entries USING (seq) WHERE seq = ?",
            (entry,),
        ).fetchone()
        if row is None:
            return None
        if hashlib.sha256(row[0]).hexdigest() != row[1]:
            raise _mismatch(f"the answer of entry {entry}")
        return bytes(row[0])

    def check(self) -> None:
        """Check the bodies and lists of arrays against the digests in the chain.

        Raises:
            LedgerError: one was changed after it was stored, or is missing.
        """
        for (entry,) in self._database.execute("SELECT seq FROM bodies").fetchall():
            self.kept_body(entry)
        layouts = self._layouts()
        for (digest,) in self._database.execute(
            "SELECT DISTINCT json_extract(body, '$.layout') FROM entries WHERE entry = 'answer'"
        ):
            if digest not in layouts:
                raise _mismatch(f"the list of arrays {digest[:12]}")

    def answers(self) -> list[SentAnswer]:
        """List every answer, oldest first.

        Raises:
            LedgerError: a list of arrays was changed after it was stored.
        """
        layouts = self._layouts()
        rows = self._database.execute(
            "SELECT entries.seq, entries.body, bodies.seq IS NOT NULL FROM entries"
            " LEFT JOIN bodies USING (seq) WHERE entry = 'answer' ORDER BY entries.seq"
        )
        return [
            _sent_answer(number, json.loads(text), layouts, kept) for number, text, kept in rows
        ]

    def _layouts(self) -> dict[str, tuple[ArrayForm, ...]]:
        layouts: dict[str, tuple[ArrayForm, ...]] = {}
        for digest, arrays in self._database.execute("SELECT sha256, arrays FROM layouts"):
            if hashlib.sha256(arrays.encode()).hexdigest() != digest:
                raise _mismatch(f"the list of arrays {digest[:12]}")
            layouts[digest] = tuple(
                ArrayForm(name=name, dtype=dtype, shape=tuple(shape))
                for name, dtype, shape in json.loads(arrays)
            )
        return layouts

    def _last_round(self, run: str, kind: str) -> int | None:
        [(last,)] = self._database.execute(
            "SELECT max(round) FROM entries WHERE entry = 'answer' AND run = ? AND kind = ?",
            (run, kind),
        ).fetchall()
        return None if last is None else int(last)


def summarise(body: bytes) -> dict[str, Any]:
    """Return the fields that an answer's entry holds about its body, a safetensors file."""
    digest, _ = _layout(body)
    return {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest(), "layout": digest}


def figures_of(body: bytes) -> dict[str, dict[str, float]]:
    """Summarise the values that left, with their noise.

    Of each array: least, mean, most and standard deviation; of an empty one nothing.

    Args:
        body: a safetensors file.
    """
    import numpy as np  # noqa: PLC0415 the ledger needs none of it
    from safetensors.numpy import load  # noqa: PLC0415 as above

    figures = {}
    for name, array in sorted(load(body).items()):
        values = array.astype(np.float64)
        figures[name] = (
            {
                "least": float(values.min()),
                "mean": float(values.mean()),
                "most": float(values.max()),
                "deviation": float(values.std()),
            }
            if values.size
            else {}
        )
    return figures


def _layout(body: bytes) -> tuple[str, str]:
    """Return digest and text of the arrays' names, types and shapes, from the file's header.

    Most rounds of a run share one list, which is stored once.
    """
    length = int.from_bytes(body[:8], "little")
    header: dict[str, Any] = json.loads(body[8 : 8 + length])
    header.pop("__metadata__", None)
    arrays = json.dumps([[name, at["dtype"], at["shape"]] for name, at in sorted(header.items())])
    return hashlib.sha256(arrays.encode()).hexdigest(), arrays


def _sent_answer(
    number: int, fields: dict[str, Any], layouts: dict[str, tuple[ArrayForm, ...]], kept: int
) -> SentAnswer:
    if fields["layout"] not in layouts:
        raise _mismatch(f"the list of arrays of entry {number}")
    names = ("at", "run", "kind", "round", "bytes", "sha256")
    common = {name: fields[name] for name in names}
    return SentAnswer(number=number, arrays=layouts[fields["layout"]], kept=bool(kept), **common)


def _mismatch(what: str) -> LedgerError:
    return LedgerError(
        f"{what} is not what was stored, and nothing leaves. Put the newest copy of the ledger "
        "back, or restore it from the anchor."
    )
