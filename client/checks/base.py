"""The types of a check, and what all checks read of a site.

A check examines one thing and returns a verdict. An error of Sotto's or of the operating system
within a check becomes its verdict. A check is skipped if another one that it needs did not pass.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from client.checks.handshake import Handshake, shake_hands
from client.ledger.ledger import Ledger
from client.site.site import Site
from shared.config import ModelConfig
from shared.data.catalogue import Catalogue
from shared.data.domains import within
from shared.data.histories import Histories
from shared.errors import ConfigError, DataError, SottoError
from shared.groups import Table, tables_of

__all__ = [
    "Check",
    "Expected",
    "Facts",
    "Finding",
    "Status",
    "Verdict",
    "doubtful",
    "failed",
    "passed",
]


class Status(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a check.

    Attributes:
        status: how it ended.
        observation: what was seen, as a clause without a full stop.
        remedy: what to do, as a sentence; "" where there is nothing to do.
        details: figures for `check --json`; None for none.
    """

    status: Status
    observation: str
    remedy: str = ""
    details: Mapping[str, Any] | None = None


def passed(observation: str) -> Verdict:
    """Return that all is well."""
    return Verdict(Status.OK, observation)


def doubtful(observation: str, remedy: str) -> Verdict:
    """Return a warning: the node can run, but this is probably a mistake."""
    return Verdict(Status.WARNING, observation, remedy)


def failed(observation: str, remedy: str) -> Verdict:
    """Return an error: the node cannot run, or cannot run safely."""
    return Verdict(Status.ERROR, observation, remedy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A verdict with the name of its check."""

    name: str
    status: Status
    observation: str
    remedy: str = ""
    details: Mapping[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as plain data, without details where there are none."""
        fields = {"name": self.name, "status": self.status, "found": self.observation}
        details = {} if self.details is None else {"details": dict(self.details)}
        return {**fields, "remedy": self.remedy, **details}


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the coordinator is expected to ask for. It is used for estimates only.

    Attributes:
        noise_multiplier: of a round, > 0; None takes the last charged round's.
        sample_rate: of a round, in (0, 1]; None takes the last charged round's.
        local_steps: noised sums in a round, >= 1; None takes the last charged round's, or 1.
        model: shape of the recommender.
        groups: tables of public groups, as a run's `groups.tables`; "" expects none.
        candidates: as in `client.compute.steps.LocalPlan`, >= 0.

    Raises:
        ConfigError: a value is out of its range.
    """

    noise_multiplier: float | None = None
    sample_rate: float | None = None
    local_steps: int | None = None
    model: ModelConfig = field(default_factory=ModelConfig)
    candidates: int = 0
    groups: str = ""

    def __post_init__(self) -> None:
        noise, rate, steps = self.noise_multiplier, self.sample_rate, self.local_steps
        # NaN fails every comparison: each range is stated as what must hold.
        ranges = (
            ("--noise-multiplier", noise, noise is None or 0 < noise < math.inf, "above 0"),
            ("--sample-rate", rate, rate is None or 0 < rate <= 1, "in (0, 1]"),
            ("--local-steps", steps, steps is None or steps >= 1, "of 1 or more"),
            ("--candidates", self.candidates, self.candidates >= 0, "of 0 or more"),
        )
        for flag, value, holds, allowed in ranges:
            if not holds:
                raise ConfigError(f"{flag} {value}: choose a number {allowed}.")
        try:
            tables_of(self.groups)
        except ConfigError as error:
            raise ConfigError(f"--groups: {error}") from None

    @property
    def tables(self) -> tuple[Table, ...]:
        """The tables of public groups."""
        return tables_of(self.groups)


class Facts:
    """A site and what checks read of it. Each part is read once, when it is first used.

    Args:
        site: the site.
        expected: what the coordinator is expected to ask for.
    """

    def __init__(self, site: Site, expected: Expected) -> None:
        self.site, self.expected = site, expected

    @cached_property
    def catalogue(self) -> Catalogue:
        """The public item list."""
        whole = Catalogue.load(Path(self.site.folder, self.site.catalogue))
        return within(whole, self.site.data.domains)

    @cached_property
    def histories(self) -> Histories:
        """All events of all users."""
        return self.site.load_histories(self.catalogue, sys.maxsize)

    @cached_property
    def ledger(self) -> Ledger:
        """The privacy ledger, checked."""
        return self.site.open_ledger()

    @cached_property
    def handshake(self) -> Handshake:
        """The coordinator's certificate and clock, from a TLS handshake."""
        return shake_hands(self.site.coordinator.address, self.site.root_certificates_file)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to examine.

    Attributes:
        name: its name, in the output and in --skip; it never changes.
        examine: returns the verdict.
        remedy: what to do if `examine` raises an error.
        needs: names of checks that must have passed before.
        may_be_skipped: whether the node may start although the check failed. Never true of a
            check that protects privacy.
    """

    name: str
    examine: Callable[[Facts], Verdict]
    remedy: str
    needs: tuple[str, ...] = ()
    may_be_skipped: bool = False

    def run(self, facts: Facts) -> Verdict:
        """Return the verdict. An error that a user can correct becomes a verdict, too."""
        try:
            return self.examine(facts)
        except DataError as error:
            problem = str(error).removesuffix(f" {error.remedy}").removesuffix(".")
            return failed(problem, error.remedy)
        except SottoError as error:
            return failed(str(error).removesuffix("."), self.remedy)
        except OSError as error:
            return failed(f"{error.filename or ''} {error.strerror or error}".strip(), self.remedy)
