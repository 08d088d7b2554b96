"""What reading found: rows, what was dropped or merged and why, ties, and doubts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

__all__ = ["LARGEST_SHARE", "TIED_SHARE", "Summary"]

TIED_SHARE = 0.1
"""Where more of the events than this tie, their order is mostly that of the file."""
LARGEST_SHARE, LARGEST_RATIO = 0.05, 5
"""A user with more than this share of all events, and this many times the mean, is doubtful."""

_REASONS = {
    "duplicate": "repeat an earlier event (same user, item and time)",
    "unknown_item": "have an item outside the catalogue",
    "repeat": "repeat their user's item too soon",
    "over_minute": "are more than the limit of a user's events in a minute",
    "over_day": "are more than the limit of a user's events in a day",
}


_PRIVATE_EXAMPLES = {"duplicate", "limited_user", "short_history", "unknown_item", "user"}
"""Examples under these keys hold ids of users, or of items that no public catalogue has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What reading interactions found; exact figures about private data, never to be sent.

    Attributes:
        rows: rows read.
        dropped: reason -> rows or users left out: `duplicate`, `unknown_item` and those of
            `shared.data.event_limits` count rows, `short_history` users, and `limited_user` users
            who lost rows to these limits. Reading that is not strict adds `unreadable_user`, which
            counts users, and `unreadable_row`, rows without a readable user.
        rewritten: column -> rows whose id was not in the canonical form.
        merged: column -> ids that were written in more than one way.
        events: events kept, before any cut to the last ones.
        ties: events kept that share user and time with another event.
        offered: events of the kept users before limits on how fast they count.
        largest_user: the user with the most of these, and their number.
        users: users kept.
        examples: reason or column -> a few examples.
        hints: sentences about ids that are probably the same.
    """

    rows: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    rewritten: Mapping[str, int] = field(default_factory=dict)
    merged: Mapping[str, int] = field(default_factory=dict)
    events: int = 0
    ties: int = 0
    offered: int = 0
    largest_user: tuple[str, int] = ("", 0)
    users: int = 0
    examples: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    hints: tuple[str, ...] = ()

    def without_private_ids(self) -> Summary:
        """Return the summary for a file that is shown to others: it names no private id."""
        public = {k: shown for k, shown in self.examples.items() if k not in _PRIVATE_EXAMPLES}
        return replace(self, examples=public, hints=(), largest_user=("", self.largest_user[1]))

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as plain data, for JSON."""
        return {
            "rows": self.rows,
            "dropped": dict(self.dropped),
            "rewritten": dict(self.rewritten),
            "merged": dict(self.merged),
            "ties": self.ties,
            "examples": {reason: list(shown) for reason, shown in self.examples.items()},
        }

    def describe(self) -> list[str]:
        """Return a sentence for each kind of row that was left out or read differently."""
        sentences = []
        for reason, text in _REASONS.items():
            if count := self.dropped.get(reason, 0):
                sentences.append(f"{count:,} of {self.rows:,} rows {text}{self._shown(reason)}")
        if count := self.dropped.get("limited_user", 0):
            sentences.append(f"{count:,} users lost events so{self._shown('limited_user')}")
        if count := self.dropped.get("short_history", 0):
            sentences.append(f"{count:,} users have too few events{self._shown('short_history')}")
        if count := self.dropped.get("unreadable_user", 0):
            sentences.append(f"{count:,} users have a row that cannot be read")
        if count := self.dropped.get("unreadable_row", 0):
            sentences.append(f"{count:,} rows have no user that can be read")
        for column, rows in self.rewritten.items():
            if rows:
                merged = self.merged.get(column, 0)
                sentences.append(
                    f"{rows:,} rows write their {column} in another form, and {merged:,} {column}s "
                    f"are written in several ways{self._shown(column)}"
                )
        return sentences

    def warnings(self) -> list[str]:
        """Return a sentence for each doubt: ties, one giant user, ids that are nearly equal."""
        return [text for text in (self.tie_warning(), self.user_warning()) if text] + [*self.hints]

    def tie_warning(self) -> str:
        """Return a sentence where more than `TIED_SHARE` of the events tie, else ""."""
        share = self.ties / self.events if self.events else 0.0
        if share <= TIED_SHARE:
            return ""
        return (
            f"{share:.1%} of the events share their time with another event of the same user: "
            "among these, order is file order, and figures that depend on the order of events "
            "(every next-item figure) may change a lot with it"
        )

    def user_warning(self) -> str:
        """Return a sentence where one user has a doubtful share of all events, else ""."""
        user, count = self.largest_user
        limit = max(LARGEST_SHARE, LARGEST_RATIO / self.users) if self.users else 1.0
        if not self.offered or count <= limit * self.offered:
            return ""
        return (
            f"{f'the user {user!r}' if user else 'one user'} has {count / self.offered:.1%} of all "
            "events: it may stand for unknown users, who would then count as one person"
        )

    def _shown(self, reason: str) -> str:
        shown = self.examples.get(reason, ())
        return f", such as {', '.join(shown)}" if shown else ""
