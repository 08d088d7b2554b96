"""How many refusals there were, so that they take a bounded room in the ledger.

A refusal is free and a coordinator can cause as many as it likes. Of each code, the first
`DETAILED` of a day (UTC) get an entry each; after them only the 128th, 256th, ..., whose field
`times` says how many refusals it stands for. The counts are in a table beside the chain that is
updated in place. The clock decides how much detail is recorded, and nothing about the budget.
"""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from typing import ClassVar

from shared.outcomes import Refusal

__all__ = ["RefusalCounter"]


class RefusalCounter:
    """Counts the refusals of one code in an open ledger database."""

    DETAILED: ClassVar[int] = 100
    """Refusals of a code and a day that get an entry each."""

    def __init__(self, database: sqlite3.Connection, code: Refusal) -> None:
        self._database, self._code = database, str(code)
        database.execute(  # ledgers of earlier releases do not have it
            "CREATE TABLE IF NOT EXISTS refusals (code TEXT PRIMARY KEY, day TEXT NOT NULL,"
            " seen INTEGER NOT NULL, unrecorded INTEGER NOT NULL)"
        )

    def add(self) -> int:
        """Count a refusal; return how many the entry to be written stands for, 0 for no entry."""
        today = datetime.now(UTC).date().isoformat()
        row = self._database.execute(
            "SELECT day, seen, unrecorded FROM refusals WHERE code = ?", (self._code,)
        ).fetchone()
        day, seen, unrecorded = row or (today, 0, 0)
        seen = seen + 1 if day == today else 1
        self._database.execute(
            "INSERT OR REPLACE INTO refusals VALUES (?, ?, ?, ?)",
            (self._code, today, seen, unrecorded + 1),
        )
        is_recorded = seen <= self.DETAILED or seen & (seen - 1) == 0
        return unrecorded + 1 if is_recorded else 0

    def clear(self) -> None:
        """Note, in the open transaction, that an entry stands for all refusals so far."""
        self._database.execute("UPDATE refusals SET unrecorded = 0 WHERE code = ?", (self._code,))
