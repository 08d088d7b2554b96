"""A run's attempts at sums under secure aggregation: their numbers, and what they may have cost.

A partner answers an attempt only if its number is above the last one's. So a number is on disk
before the first message of its attempt leaves, and a coordinator that is killed goes on above it.

A partner charges its ledger at the step that asks for its masked input. So whom that step is sent
to, and for which release, is on disk before it leaves, too:

| what comes back                             | counts                                         |
|---------------------------------------------|------------------------------------------------|
| the masked input                            | as charged                                     |
| a refusal that comes before the charge      | as not charged                                 |
| anything else, or nothing before a kill     | as charged: it may have been; `Charges.unsure` |
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from server.state.sums import KeptSums
from shared.errors import CheckpointError
from shared.privacy.release import Release, ReleaseKind, merge
from shared.system.files import write_atomically

__all__ = ["Attempts", "Charges"]

_FILE = "attempts.json"


@dataclass(frozen=True, slots=True)
class Charges:
    """What one organisation may have charged for its part in a run's attempts.

    Attributes:
        releases: equal ones merged.
        unsure: how many of the sums the coordinator cannot know to have been charged.
    """

    releases: tuple[Release, ...] = ()
    unsure: int = 0

    @property
    def sums(self) -> int:
        """How many noised sums it may have charged."""
        return sum(release.steps for release in self.releases)

    def plus(self, release: Release) -> Charges:
        """Return them after one more that may be charged."""
        return Charges(tuple(merge([*self.releases, release])), self.unsure + release.steps)

    def settled(self, release: Release, *, charged: bool) -> Charges:
        """Return them once it is known whether one of these was charged."""
        unsure = self.unsure - release.steps
        if charged:
            return replace(self, unsure=unsure)
        left = list[Release]()
        for other in self.releases:
            same = replace(other, steps=release.steps) == release
            if steps := other.steps - (release.steps if same else 0):
                left.append(replace(other, steps=steps))
        return Charges(tuple(left), unsure)


class Attempts:
    """The record of one run, beside its checkpoint.

    Args:
        folder: of the checkpoint.
        run: name of the run; another run in the same folder begins anew.
    """

    def __init__(self, folder: Path, run: str) -> None:
        self._file, self._run = folder / _FILE, run
        self.sums = KeptSums(folder)
        """What came of them, until a checkpoint holds it."""

    @property
    def last(self) -> int:
        """The number of the last attempt; 0 before the first.

        Raises:
            CheckpointError: the file is damaged.
        """
        return self._load()[0]

    @property
    def charges(self) -> Mapping[str, Charges]:
        """What each organisation may have charged, by name; without those that were not asked.

        Raises:
            CheckpointError: the file is damaged.
        """
        return self._load()[1]

    def begin(self) -> int:
        """Return the number of a new attempt, >= 1; it is on disk when this returns.

        Raises:
            CheckpointError: the file is damaged, or cannot be written.
        """
        last, charges = self._load()
        self._save(last + 1, charges)
        return last + 1

    def ask(self, release: Release, organisations: Iterable[str]) -> None:
        """Count what organisations may charge; it is on disk when this returns.

        Args:
            release: that each of them is asked for.
            organisations: that the step at which they charge is about to be sent to.

        Raises:
            CheckpointError: the file is damaged, or cannot be written.
        """
        last, charges = self._load()
        asked = {name: charges.get(name, Charges()).plus(release) for name in organisations}
        if asked:
            self._save(last, {**charges, **asked})

    def settle(self, release: Release, charged: Mapping[str, bool]) -> None:
        """Count whether organisations charged what they were asked for, where that is known.

        Args:
            release: that they were asked for.
            charged: by organisation: True if its masked input came, False if it refused before
                the charge.

        Raises:
            CheckpointError: the file is damaged, or cannot be written.
        """
        last, charges = self._load()
        known = {name: charges[name].settled(release, charged=was) for name, was in charged.items()}
        if known:
            self._save(last, {**charges, **known})

    def _load(self) -> tuple[int, dict[str, Charges]]:
        """Return the last number, and the charges by organisation."""
        try:
            stored = json.loads(self._file.read_bytes())
            if stored["run"] != self._run:
                return 0, {}
            charges = stored.get("charges", {})
            return int(stored["last"]), {name: _charges(it) for name, it in charges.items()}
        except FileNotFoundError:
            return 0, {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{self._file} is damaged ({error}): put a copy of it back, or write the last "
                f'attempt of the audit log there: {{"run": "{self._run}", "last": NUMBER}}.'
            ) from error

    def _save(self, last: int, charges: Mapping[str, Charges]) -> None:
        stored = {
            name: {"releases": [one.fields for one in it.releases], "unsure": it.unsure}
            for name, it in sorted(charges.items())
        }
        text = json.dumps({"run": self._run, "last": last, "charges": stored}) + "\n"
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._file, text.encode())
        except OSError as error:
            raise CheckpointError(
                f"{self._file} cannot be written ({error.strerror}), so no sum is asked for. Make "
                "room or correct the folder's permissions, and resume."
            ) from error


def _charges(stored: Mapping[str, Any]) -> Charges:
    releases = [
        Release(**{**fields, "kind": ReleaseKind(fields["kind"])}) for fields in stored["releases"]
    ]
    return Charges(tuple(releases), int(stored["unsure"]))
