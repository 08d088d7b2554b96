"""The state of the node and of serving, in words, and what to do next where something is wrong.

Only what this machine knows: the site's files, and the node's own probes and the service's metrics
on their addresses. The coordinator is not asked.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from client.console.accounts import Books
from client.console.desk import Desk
from client.site.lock import node_is_running
from client.site.site import Site
from shared.errors import SottoError
from shared.system.address import Address

__all__ = ["Fact", "Level", "Serving", "examine", "parse_serving", "read_serving", "versions"]

_LIBRARIES = ("sotto", "flwr", "torch", "opacus", "transformers", "numpy", "starlette")
_SECONDS, _LONG = 2.0, timedelta(days=30)
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 it is asked, not listened on


class Level(StrEnum):
    """How things are."""

    FINE = "fine"
    LOOK = "look"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that was looked at.

    Attributes:
        name: what it is.
        level: how it is.
        found: what was seen, as a sentence.
        remedy: what to do; "" where there is nothing to do.
    """

    name: str
    level: Level
    found: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Serving:
    """What `sotto-node serve` counted since it was started.

    Attributes:
        answered: requests that were answered.
        refused: requests that were not, by code.
        seconds: of a request, the median and the value that 99% stay below, as upper bounds of the
            histogram's buckets; None before the first.
        empty: lists without any item.
        feedback: events that were stored.
        reloads_failed: replacements that failed.
        model: its name.
    """

    answered: int
    refused: dict[str, int]
    seconds: tuple[float, float] | None
    empty: int
    feedback: int
    reloads_failed: int
    model: str


def examine(
    site: Site, books: Books | SottoError, desk: Desk, serving: Serving | str
) -> list[Fact]:
    """Return all facts, the ledger's first.

    Args:
        site: the site.
        books: what the ledger says, or why it does not open.
        desk: model and data.
        serving: what the service counted, or why that is not known.
    """
    facts = [_ledger(books)]
    if not isinstance(books, SottoError):
        facts += [_budget(books), _bundle(books), _node(site), _last(books)]
    else:
        facts.append(_node(site))
    return [*facts, *_model(desk), _service(site, serving)]


def versions() -> list[tuple[str, str]]:
    """Return names and versions of what the node runs with."""
    found = [("Python", ".".join(map(str, sys.version_info[:3])))]
    for name in _LIBRARIES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return found


def read_serving(site: Site) -> Serving | str:
    """Ask the service's metrics; return a sentence where that is not possible."""
    address = Address.parse(site.serve.metrics)
    if address is None:
        return "serve.metrics has no address in site.toml, so nothing is known of serving."
    at = Address(_ANY.get(address.host, address.host), address.port)
    try:
        with httpx.Client(trust_env=False, timeout=_SECONDS) as client:
            answer = client.get(f"http://{at}/metrics").raise_for_status()
        return parse_serving(answer.text)
    except (httpx.HTTPError, ValueError):
        return f"nothing answers at serve.metrics = '{site.serve.metrics}'."


def parse_serving(text: str) -> Serving:
    """Read what the service's metrics say.

    Args:
        text: in Prometheus's text format.

    Raises:
        ValueError: it is not in that format.
    """
    samples = [one for family in text_string_to_metric_families(text) for one in family.samples]

    def total(name: str, **labels: str) -> float:
        return sum(
            one.value
            for one in samples
            if one.name == name and labels.items() <= one.labels.items()
        )

    refused: dict[str, int] = {}
    buckets: dict[float, float] = {}
    for one in samples:
        if one.name == "sotto_serve_requests_total" and one.labels["code"] != "OK":
            code = one.labels["code"]
            refused[code] = refused.get(code, 0) + int(one.value)
        elif one.name == "sotto_serve_seconds_bucket":
            bound = float(one.labels["le"])
            buckets[bound] = buckets.get(bound, 0.0) + one.value
    models = [one.labels["model"] for one in samples if one.name == "sotto_serve_model_info"]
    return Serving(
        answered=int(total("sotto_serve_requests_total", code="OK")),
        refused={code: number for code, number in sorted(refused.items()) if number},
        seconds=_quantiles(buckets),
        empty=int(total("sotto_serve_empty_lists_total")),
        feedback=int(total("sotto_serve_feedback_events_total")),
        reloads_failed=int(total("sotto_serve_reloads_total", outcome="failed")),
        model=models[-1] if models else "",
    )


def _quantiles(buckets: dict[float, float]) -> tuple[float, float] | None:
    whole = max(buckets.values(), default=0.0)
    if not whole:
        return None
    bounds = sorted(buckets)
    median, most = (
        next(bound for bound in bounds if buckets[bound] >= share * whole) for share in (0.5, 0.99)
    )
    return median, most


def _ledger(books: Books | SottoError) -> Fact:
    if isinstance(books, SottoError):
        return Fact(
            "Ledger",
            Level.WRONG,
            str(books),
            "While it does not open, nothing is trained and nothing leaves. To repair it: "
            "sotto-node budget restore",
        )
    entries = books.statement.entries
    return Fact("Ledger", Level.FINE, f"Whole: {entries:,} entries, each in its place.")


def _budget(books: Books) -> Fact:
    coming = books.forecast
    if coming is None:
        return Fact("Budget", Level.FINE, "Nothing is spent yet.")
    if coming.refreshes == 0:
        return Fact(
            "Budget",
            Level.LOOK,
            "No further refresh like the last one fits your limit.",
            "Go on with the model that you have. Only a higher policy.max_epsilon in site.toml, "
            "which is less privacy for your users, would allow one.",
        )
    if coming.refreshes is None:
        return Fact("Budget", Level.LOOK, "There is no limit: policy.max_epsilon is infinite.")
    more = " or more" if coming.at_least else ""
    return Fact(
        "Budget", Level.FINE, f"Refreshes like the last one that fit: {coming.refreshes:,}{more}."
    )


def _bundle(books: Books) -> Fact:
    if books.trusted is None:
        return Fact(
            "Vetted app",
            Level.LOOK,
            "No app bundle is trusted yet, so the node answers nobody.",
            "Read the bundle that the coordinator sent, then: sotto-node trust FILE.fab",
        )
    name, number, fingerprint = books.trusted
    return Fact("Vetted app", Level.FINE, f"{name} {number}, SHA-256 {fingerprint[:16]}.")


def _node(site: Site) -> Fact:
    if node_is_running(Path(site.folder)):
        return Fact("Node", Level.FINE, "It is up, and answers what your policy allows.")
    return Fact(
        "Node",
        Level.LOOK,
        "It is not running on this machine: it takes part in no run.",
        "To take part: sotto-node up. Before the first time: sotto-node check",
    )


def _last(books: Books) -> Fact:
    if books.last is None:
        return Fact("Last request", Level.FINE, "No coordinator has asked for anything yet.")
    ago = datetime.now(UTC) - books.last
    found = f"{books.last.astimezone(UTC):%Y-%m-%d %H:%M} UTC."
    if ago > _LONG:
        return Fact(
            "Last request",
            Level.LOOK,
            f"{found} That is {ago.days} days ago.",
            "Ask the coordinator whether a refresh is planned, or whether your node was missed.",
        )
    return Fact("Last request", Level.FINE, found)


def _model(desk: Desk) -> list[Fact]:
    if desk.folder is None:
        return [
            Fact(
                "Model",
                Level.LOOK,
                "No published folder is named, so there is nothing to try or to evaluate.",
                "Start the console with it: sotto-node console PUBLISHED, or set model below "
                "[serve] in site.toml.",
            )
        ]
    progress, table = desk.progress, desk.table
    if table is None:
        if progress.running:
            return [Fact("Model", Level.FINE, f"Being loaded: {progress.step}.")]
        return [
            Fact(
                "Model",
                Level.WRONG,
                progress.problem or "It is not loaded.",
                "Mend what it says, and start the console again.",
            )
        ]
    loaded = table.loaded
    items, users = len(loaded.recommender.catalogue), len(loaded.histories)
    found = Fact("Model", Level.FINE, f"{loaded.model}: {items:,} items, {users:,} of your users.")
    if table.adapted:
        return [found, Fact("At home", Level.FINE, "The model is adapted to your own users.")]
    return [
        found,
        Fact(
            "At home",
            Level.LOOK,
            "The model is not adapted to your own users.",
            f"Nothing is sent and nothing is charged by it: sotto-node adapt {desk.folder}",
        ),
    ]


def _service(site: Site, serving: Serving | str) -> Fact:
    if isinstance(serving, str):
        asked = bool(site.serve.metrics)
        remedy = (
            "Start it: sotto-node serve"
            if asked
            else 'To see it here, set metrics = "127.0.0.1:9472" below [serve], and serve.'
        )
        return Fact("Serving", Level.LOOK if asked else Level.FINE, _capital(serving), remedy)
    problems = _service_problems(serving)
    if problems:
        return Fact("Serving", Level.LOOK, " ".join(problems), "Its log names the cause.")
    return Fact("Serving", Level.FINE, f"{serving.answered:,} requests answered.")


def _service_problems(serving: Serving) -> Sequence[str]:
    faults = serving.refused.get("INTERNAL", 0)
    late = serving.refused.get("DEADLINE_EXCEEDED", 0) + serving.refused.get(
        "RESOURCE_EXHAUSTED", 0
    )
    return [
        sentence
        for number, sentence in (
            (faults, f"{faults:,} requests ended with a fault of the service."),
            (late, f"{late:,} requests came when too much waited, or were answered too late."),
            (
                serving.reloads_failed,
                f"{serving.reloads_failed:,} times, changed files could not be used.",
            ),
        )
        if number
    ]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
