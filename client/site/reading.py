"""A site's files, each read once in a process and again when it has changed.

The node of a simulation answers many rounds in one process. What is odd about the data is noted
when they are read, without a number.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from pathlib import Path

from client.ledger.ledger import Ledger
from client.logs import Event, note
from client.site.over_use import load_examples, users_stamp
from client.site.policy import Ask
from client.site.site import Site
from client.site.user_count import keep_user_count
from shared.data.catalogue import Catalogue
from shared.data.domains import within
from shared.data.histories import Histories
from shared.data.queries import Asked
from shared.over_use.examples import Examples as OverUseExamples
from shared.over_use_task import OverUseTask, task_of

__all__ = [
    "ledger_of",
    "read_catalogue",
    "read_histories",
    "read_over_use",
    "read_queries",
    "read_training_histories",
]


@lru_cache(maxsize=64)
def ledger_of(site: Site) -> Ledger:
    """Open the ledger, and check its whole chain, once in a process; then only what was added."""
    return site.open_ledger()


def read_catalogue(site: Site) -> Catalogue:
    """Return the catalogue; sites of several domains share its items and features."""
    folder = Path(site.folder, site.catalogue).resolve()  # simulated sites share one folder
    return _catalogue(folder, _stamp(folder / "items.parquet"), site.data.domains)


def read_training_histories(site: Site, catalogue: Catalogue) -> Histories:
    """Return the training events, without each user's last event if evaluations are answered."""
    held_out = int(Ask.EVALUATE in site.policy.answers)
    read = read_histories(site, catalogue)
    if not site.simulated and keep_user_count(site, len(read)):
        note(Event.USERS)
    return read.without_last(held_out) if held_out else read


def read_histories(site: Site, catalogue: Catalogue) -> Histories:
    """Read as much as the policy says, whatever is asked: a request does not decide what is read.

    A model that reads fewer events gets each user's last ones from `Histories.padded`.
    """
    version = site.data_version()
    if version is None:
        return _load_histories(site, catalogue)
    return _histories(site, catalogue, version)


def read_queries(site: Site, catalogue: Catalogue) -> list[Asked]:
    """Return what the table `data.queries` says that users looked for."""
    table = Path(site.folder, site.data.queries)
    if not table.is_file():
        return _load_queries(site, catalogue)
    return _queries(site, catalogue, _stamp(table))


def read_over_use(
    site: Site, catalogue: Catalogue, task: OverUseTask, sessions: int
) -> OverUseExamples:
    """Return users as examples of the model of over-use, each with so many sessions at most."""
    version = site.data_version()
    if version is None:
        return load_examples(site, catalogue, task, sessions)
    return _over_use(site, catalogue, task.text, sessions, (version, users_stamp(site)))


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=8)
def _catalogue(folder: Path, stamp: tuple[int, int], domains: tuple[str, ...]) -> Catalogue:
    if domains:
        return within(_catalogue(folder, stamp, ()), domains)
    return Catalogue.load(folder)


@lru_cache(maxsize=64)
def _histories(site: Site, catalogue: Catalogue, _: Hashable) -> Histories:
    return _load_histories(site, catalogue)


def _load_histories(site: Site, catalogue: Catalogue) -> Histories:
    histories = site.load_histories(catalogue, site.policy.max_events, strict=False)
    if histories.dropped["unreadable_user"] or histories.dropped["unreadable_row"]:
        note(Event.UNREADABLE)
    if histories.dropped["limited_user"]:
        note(Event.LIMITED)
    return histories


@lru_cache(maxsize=64)
def _queries(site: Site, catalogue: Catalogue, _: Hashable) -> list[Asked]:
    return _load_queries(site, catalogue)


def _load_queries(site: Site, catalogue: Catalogue) -> list[Asked]:
    return site.load_queries(catalogue, strict=False)


@lru_cache(maxsize=64)
def _over_use(
    site: Site, catalogue: Catalogue, task: str, sessions: int, _: Hashable
) -> OverUseExamples:
    return load_examples(site, catalogue, task_of(task), sessions)
