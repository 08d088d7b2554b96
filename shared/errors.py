"""Everything that can go wrong, in one tree.

SottoError
├── ConfigError          a run's parameters do not make sense
├── DataError            a file of interactions or items is not what it should be
├── AccountingError      no noise can meet the target, or no ε follows from the releases
├── ClippingError        no bound on one user's share can be proven for a model or a loss
├── SiteError            a partner's site.toml is missing, unreadable or inconsistent
├── ServerError          the coordinator's files, partners, runs or services are not as needed
├── BundleError          an app bundle is malformed, or is not the one that the partner vetted
├── ProcessError         a program cannot be kept running
├── LedgerError          the privacy ledger cannot be read or written: nothing may be trained
├── Refused              the partner's guard declined a request; carries a public code
│   └── BudgetExceeded   the request would overspend the partner's ε
├── WireError            a message does not have the form that `shared.messages` states
├── ReplyError           a partner's reply was refused before any arithmetic saw it
├── QuorumError          too few organisations answered a round
├── SecureAggregationError  a step of secure aggregation was refused; nothing was released by it
│   └── TooFewPartners   too few partners take part in a step of secure aggregation
├── CheckpointError      a checkpoint is missing, damaged, or belongs to another run
├── AuditError           the audit log cannot be written, or was changed
├── ReportError          what a report is to show is missing, damaged, or not of one run
├── RequestError         a request for recommendations asks for what cannot be
│   └── UnknownItemError  it names an item that the catalogue does not have
└── FetchError           a download failed or does not match its checksum

Each message says what is wrong, the value, and the remedy. Commands print it and exit 2;
anything outside this tree is a fault of ours and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from shared.outcomes import Outcome, Refusal

__all__ = [
    "AccountingError",
    "AuditError",
    "BudgetExceeded",
    "BundleError",
    "CheckpointError",
    "ClippingError",
    "ConfigError",
    "DataError",
    "FetchError",
    "LedgerError",
    "ProcessError",
    "QuorumError",
    "Refused",
    "ReplyError",
    "ReportError",
    "RequestError",
    "SecureAggregationError",
    "ServerError",
    "SiteError",
    "SottoError",
    "TooFewPartners",
    "UnknownItemError",
    "WireError",
]


class SottoError(Exception):
    """Base of every error that a user can cause and mend."""


class ConfigError(SottoError):
    """A run's parameters do not make sense."""


class DataError(SottoError):
    """A file of interactions or items is not what it should be.

    Args:
        problem: what is wrong, as a clause without a full stop.
        file: the file or folder it was found in.
        remedy: what to do, as a sentence.
        row: 1-based data row (the header is not counted), if one row is at fault.
        field: the column, if one column is at fault.
        value: the offending value, if there is one.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: Path | str,
        remedy: str,
        row: int | None = None,
        field: str | None = None,
        value: object = None,
    ) -> None:
        self.problem, self.file, self.remedy = problem, str(file), remedy
        self.row, self.field, self.value = row, field, value
        where = [self.file]
        if row is not None:
            where.append(f"row {row}")
        if field is not None:
            where.append(f"field '{field}'")
        if value is not None:
            where.append(f"value {value!r}")
        super().__init__(f"{', '.join(where)}: {problem}. {remedy}")


class AccountingError(SottoError):
    """No noise can meet the target, or no ε follows from the releases."""


class ClippingError(SottoError):
    """A model or a loss for which no bound on a user's share can be proven."""


class SiteError(SottoError):
    """A partner's site.toml is missing, unreadable or inconsistent."""


class ServerError(SottoError):
    """The coordinator's files, partners, runs or services are not as needed."""


class BundleError(SottoError):
    """An app bundle is malformed, or is not the one that the partner vetted."""


class ProcessError(SottoError):
    """A program cannot be kept running."""


class LedgerError(SottoError):
    """The privacy ledger cannot be read or written: nothing may be trained."""


class Refused(SottoError):
    """The partner's guard declined a request.

    Args:
        code: what the coordinator is told.
        detail: what the partner's own log is told; never leaves the organisation.
    """

    def __init__(self, code: Refusal, detail: str) -> None:
        self.code, self.detail = code, detail
        super().__init__(f"{code.sentence}: {detail}")


class BudgetExceeded(Refused):
    """The request would overspend the partner's ε; the ledger is unchanged."""

    def __init__(self, detail: str) -> None:
        super().__init__(Refusal.BUDGET, detail)


class WireError(SottoError):
    """A message does not have the form that `shared.messages` states."""


class ReplyError(SottoError):
    """A partner's reply was refused before any arithmetic saw it.

    Args:
        outcome: what it counts as.
        reason: in our own words, as a clause without a full stop.
    """

    def __init__(self, outcome: Outcome, reason: str) -> None:
        self.outcome = outcome
        super().__init__(reason)


class QuorumError(SottoError):
    """Too few organisations answered a round."""


class SecureAggregationError(SottoError, ValueError):
    """A step of secure aggregation was refused; nothing was released by it.

    Args:
        problem: what is wrong, as a sentence.
        suspect: the partner whose message is at fault; "" for the coordinator, or nobody known.
    """

    def __init__(self, problem: str, suspect: str = "") -> None:
        self.suspect = suspect
        super().__init__(problem)


class TooFewPartners(SecureAggregationError):
    """Too few partners take part in a step of secure aggregation."""


class CheckpointError(SottoError):
    """A checkpoint is missing, damaged, or belongs to another run."""


class AuditError(SottoError):
    """The audit log cannot be written, or was changed after it was written."""


class ReportError(SottoError):
    """What a report is to show is missing, damaged, or does not belong together."""


class RequestError(SottoError, ValueError):
    """A request for recommendations asks for what cannot be."""


class UnknownItemError(RequestError):
    """A request names an item that the catalogue does not have.

    Args:
        items: the public ids that it does not have, at least one.
        where: what names them, such as "the history".
        domains: those of the catalogue that it has items of; none where there are none.
    """

    def __init__(self, items: Sequence[str], where: str, domains: Sequence[str] = ()) -> None:
        self.items = tuple(items)
        more = f" (and {len(items) - 1:,} more)" if len(items) > 1 else ""
        lacks = f" in {' and '.join(map(repr, domains))}" if domains else ""
        super().__init__(
            f"{where} names item {items[0]!r}{more}, which the catalogue does not have{lacks}. "
            "Leave it out, or take the catalogue that has it."
        )


class FetchError(SottoError):
    """A download failed or does not match its checksum."""
