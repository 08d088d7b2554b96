"""What the ledger's chain of entries holds, and what it comes to; see `shared.hash_chain`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from shared.hash_chain import START, linked
from shared.privacy.release import Release, ReleaseKind

__all__ = ["FORMAT", "UNIT", "Balance", "What", "release_of"]

UNIT = "user"
"""The privacy unit: one user's whole history."""
FORMAT = 1
"""Raised whenever an entry changes its form."""


class What(StrEnum):
    """What an entry records."""

    OPENED = "opened"
    CARRIED = "carried"
    CHARGE = "charge"
    REFUSAL = "refusal"
    ANSWER = "answer"
    TRUSTED = "trusted"


@dataclass(slots=True)
class Balance:
    """What a chain comes to so far: followed entry by entry, each one checked.

    Attributes:
        ledger: drawn once when the chain was started; "" before its first entry.
        user_base: whose budget it is.
        entries: how many there are.
        head: the last one's hash.
        previous: the hash before that.
        steps: (kind, noise multiplier, sample rate) -> steps charged in all.
    """

    ledger: str = ""
    user_base: str = ""
    entries: int = 0
    head: bytes = START
    previous: bytes = START
    steps: dict[tuple[str, float, float], int] = field(default_factory=dict)

    def follow(self, number: int, text: str, digest: bytes) -> None:
        """Checks the next entry and adds it up.

        Raises:
            ValueError: it does not continue the chain, or says what no entry says.
        """
        if number != self.entries + 1:
            raise ValueError(f"entry {self.entries + 1} is missing")
        if linked(self.head, text) != digest:
            raise ValueError(f"entry {number} or one before it was changed after it was written")
        fields = json.loads(text)
        what = fields["entry"]
        if (what == What.OPENED) != (number == 1):
            raise ValueError(f"entry {number} does not belong where it stands")
        if what == What.OPENED:
            self._open(fields)
        elif what in (What.CHARGE, What.CARRIED):
            form = (fields["kind"], fields["noise_multiplier"], fields["sample_rate"])
            if form not in self.steps:
                release_of(form, 1)  # checks it
            self.steps[form] = self.steps.get(form, 0) + _count(fields["steps"])
        self.entries, self.previous, self.head = number, self.head, digest

    def check_head(self, number: int, text: str, digest: bytes) -> None:
        """Checks that this is the entry that came last.

        Raises:
            ValueError: it is not.
        """
        if (number, digest) != (self.entries, self.head) or linked(self.previous, text) != digest:
            raise ValueError("it is another file than a moment ago")

    @property
    def releases(self) -> list[Release]:
        """All that was charged, equal releases merged, in order of first appearance."""
        return [release_of(form, steps) for form, steps in self.steps.items()]

    def copy(self) -> Balance:
        """The same, to go on from separately."""
        return replace(self, steps=dict(self.steps))

    def _open(self, fields: Mapping[str, Any]) -> None:
        if (fields["format"], fields["unit"]) != (FORMAT, UNIT):
            raise ValueError(f"its format is {fields['format']} for the unit '{fields['unit']}'")
        self.ledger, self.user_base = fields["ledger"], fields["user_base"]


def release_of(form: tuple[str, float, float], steps: int) -> Release:
    """A release by its kind, noise multiplier and sample rate; raises ValueError."""
    kind, noise_multiplier, sample_rate = form
    return Release(
        kind=ReleaseKind(kind),
        noise_multiplier=noise_multiplier,
        sample_rate=sample_rate,
        steps=steps,
    )


def _count(steps: int) -> int:
    if type(steps) is not int or steps < 1:
        raise ValueError(f"{steps!r} steps were charged")
    return steps
