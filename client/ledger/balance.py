"""The entries of the ledger's hash chain, and what they add up to; see `shared.hash_chain`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from shared.errors import Refused
from shared.hash_chain import INITIAL_HASH, next_hash
from shared.outcomes import Refusal
from shared.privacy.release import Release, ReleaseKind

__all__ = [
    "FORMAT",
    "MOST_FORMS",
    "UNIT",
    "Balance",
    "EntryType",
    "Form",
    "form_of",
    "release_of",
]

Form = tuple[str, float, float, int]
"""Kind, noise multiplier, sample rate and shares of a release."""

UNIT = "user"
"""The privacy unit: one user's whole history."""
FORMAT = 1
"""Version of the entries' format."""
MOST_FORMS = 1000
"""Releases of another kind, noise or sample rate that are ever charged. Each new one is composed
with all others, which takes about a millisecond for each of them; a run has four."""


class EntryType(StrEnum):
    """What an entry of the ledger records."""

    OPENED = "opened"
    CARRIED = "carried"
    CHARGE = "charge"
    REFUSAL = "refusal"
    ANSWER = "answer"
    TRUSTED = "trusted"
    HOME = "home"


@dataclass(slots=True)
class Balance:
    """The sum of a chain's entries, which are checked and added one by one.

    Attributes:
        ledger: random id of the chain, drawn when it was created; "" before the first entry.
        user_base: the users whose budget it is.
        entries: number of entries.
        head: hash of the last entry.
        previous: hash of the entry before the last.
        charges: number of requests that were charged.
        steps: total steps charged of each form of release that may leave.
        home_steps: the same of private home models, which stay at home and have a limit of their
            own.
    """

    ledger: str = ""
    user_base: str = ""
    entries: int = 0
    head: bytes = INITIAL_HASH
    previous: bytes = INITIAL_HASH
    charges: int = 0
    steps: dict[Form, int] = field(default_factory=dict)
    home_steps: dict[Form, int] = field(default_factory=dict)

    def apply(self, number: int, text: str, digest: bytes) -> None:
        """Check the next entry and add it.

        Args:
            number: its number, 1-based.
            text: its canonical text.
            digest: its stored hash.

        Raises:
            ValueError: it does not continue the chain, or has invalid fields.
        """
        if number != self.entries + 1:
            raise ValueError(f"entry {self.entries + 1} is missing")
        if next_hash(self.head, text) != digest:
            raise ValueError(f"entry {number} or one before it was changed after it was written")
        fields = json.loads(text)
        what = fields["entry"]
        if (what == EntryType.OPENED) != (number == 1):
            raise ValueError(f"entry {number} does not belong where it stands")
        if what == EntryType.OPENED:
            self._open(fields)
        elif what in (EntryType.CHARGE, EntryType.CARRIED, EntryType.HOME):
            self._add(what, form_of(fields), _count(fields["steps"]))
        self.entries, self.previous, self.head = number, self.head, digest

    def check_head(self, number: int, text: str, digest: bytes) -> None:
        """Check that this is the entry that was added last.

        Raises:
            ValueError: it is another entry.
        """
        if (number, digest) != (self.entries, self.head) or next_hash(
            self.previous, text
        ) != digest:
            raise ValueError("it is another file than a moment ago")

    @property
    def releases(self) -> list[Release]:
        """All charged releases that may have left, equal ones merged, in order of appearance."""
        return [release_of(form, steps) for form, steps in self.steps.items()]

    @property
    def home_releases(self) -> list[Release]:
        """The charged private home models, and what was written off, which may have been some."""
        lost = [release for release in self.releases if release.kind is ReleaseKind.WRITTEN_OFF]
        return [*lost, *(release_of(form, steps) for form, steps in self.home_steps.items())]

    def check_forms(self, releases: Iterable[Release]) -> None:
        """Check that there is room for these releases beside those that were charged.

        Raises:
            Refused: there would be more than `MOST_FORMS` forms, and some are new.
        """
        forms = {(str(r.kind), r.noise_multiplier, r.sample_rate, r.shares) for r in releases}
        if not forms <= self.steps.keys() and len(self.steps.keys() | forms) > MOST_FORMS:
            raise Refused(
                Refusal.POLICY,
                f"{len(self.steps)} combinations of kind, noise and sample rate were charged; "
                f"{MOST_FORMS} are the most: ask for one of them",
            )

    def copy(self) -> Balance:
        """Return an independent copy."""
        return replace(self, steps=dict(self.steps), home_steps=dict(self.home_steps))

    def _add(self, what: str, form: Form, steps: int) -> None:
        at_home = form[0] == ReleaseKind.HOME
        if what != EntryType.CARRIED and at_home is not (what == EntryType.HOME):
            raise ValueError(f"a release of kind '{form[0]}' is no {what}")
        charged = self.home_steps if at_home else self.steps
        if form not in charged:
            release_of(form, 1)  # raises ValueError for invalid fields
        charged[form] = charged.get(form, 0) + steps
        self.charges += what == EntryType.CHARGE

    def _open(self, fields: Mapping[str, Any]) -> None:
        if (fields["format"], fields["unit"]) != (FORMAT, UNIT):
            raise ValueError(f"its format is {fields['format']} for the unit '{fields['unit']}'")
        self.ledger, self.user_base = fields["ledger"], fields["user_base"]


def form_of(fields: Mapping[str, Any]) -> Form:
    """Return the form of the release in a charge's fields; raises KeyError."""
    kind, noise, rate = (fields[key] for key in ("kind", "noise_multiplier", "sample_rate"))
    return kind, noise, rate, fields.get("shares", 1)


def release_of(form: Form, steps: int) -> Release:
    """Build a release from its form and its steps.

    Raises:
        ValueError: a value is out of its range.
    """
    kind, noise_multiplier, sample_rate, shares = form
    if type(shares) is not int:
        raise ValueError(f"{shares!r} shares were charged")
    return Release(
        kind=ReleaseKind(kind),
        noise_multiplier=noise_multiplier,
        sample_rate=sample_rate,
        steps=steps,
        shares=shares,
    )


def _count(steps: int) -> int:
    if type(steps) is not int or steps < 1:
        raise ValueError(f"{steps!r} steps were charged")
    return steps
