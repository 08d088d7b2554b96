"""What is looked at, what serving counted, and work in the background."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from prometheus_client import generate_latest

from client.console.access import Access
from client.console.accounts import Accounts
from client.console.app import PartnerConsole
from client.console.desk import Desk
from client.console.health import Fact, Level, examine, parse_serving, read_serving, versions
from client.console.jobs import FAULT, Job
from client.serving.service.metrics import ServiceMetrics
from client.site.lock import lock_node
from client.site.site import Site
from shared.errors import ConfigError, LedgerError
from shared.system.health_server import metrics_answer, serve_health
from tests.client.console.desks import Visitor
from tests.client.ledger.spending import Spending

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Sites


def counted() -> ServiceMetrics:
    metrics = ServiceMetrics()
    metrics.requests.labels("recommend", "grpc", "OK").inc(90)
    metrics.requests.labels("similar", "http", "OK").inc(8)
    metrics.requests.labels("recommend", "http", "INTERNAL").inc(2)
    for seconds in (*[0.004] * 60, *[0.02] * 39, 0.2):
        metrics.seconds.labels("recommend").observe(seconds)
    metrics.empty.inc(3)
    metrics.feedback.labels("chosen").inc(5)
    metrics.feedback.labels("shown").inc(6)
    metrics.reloads.labels("model", "failed").inc()
    metrics.model.labels("61532e0d").set(1)
    return metrics


def facts_of(site: Site, folder: Path | None = None) -> dict[str, Fact]:
    try:
        books = Accounts(site).read()
    except LedgerError as error:
        return {f.name: f for f in examine(site, error, Desk(site, folder), "nothing.")}
    return {f.name: f for f in examine(site, books, Desk(site, folder), read_serving(site))}


def test_what_serving_counted_is_read() -> None:
    serving = parse_serving(generate_latest(counted().registry).decode())
    assert (serving.answered, serving.refused) == (98, {"INTERNAL": 2})
    assert serving.seconds == (0.005, 0.025)
    assert (serving.empty, serving.feedback, serving.reloads_failed) == (3, 11, 1)
    assert serving.model == "61532e0d"
    assert parse_serving("").seconds is None


def test_serving_is_asked_where_site_toml_says(sites: Sites) -> None:
    registry = counted().registry
    routes = {"/metrics": lambda accept: metrics_answer(registry, accept)}
    with serve_health(("127.0.0.1", 0), routes) as (host, port):
        site = Site.load(sites.make("alpha", {"serve.metrics": f"{host}:{port}"}))
        fact = facts_of(site)["Serving"]
    assert fact.level is Level.LOOK
    assert "2 requests ended with a fault" in fact.found
    assert "1 times, changed files could not be used" in fact.found
    assert "Nothing answers at serve.metrics" in facts_of(site)["Serving"].found


def test_a_new_site_is_told_what_to_do_next(sites: Sites) -> None:
    facts = facts_of(Site.load(sites.make("alpha", {"policy.max_epsilon": 2.0})))
    assert "sotto-node trust" in facts["Vetted app"].remedy
    assert "sotto-node up" in facts["Node"].remedy
    assert "sotto-node console PUBLISHED" in facts["Model"].remedy
    assert facts["Budget"].level is facts["Ledger"].level is Level.FINE


def test_a_node_that_runs_and_a_budget_that_is_spent(sites: Sites) -> None:
    spending = Spending(sites.make("alpha", {"policy.max_epsilon": 2.0}))
    spending.live()
    folder = spending.folder
    with lock_node(folder):
        assert facts_of(spending.site)["Node"].level is Level.FINE
    text, almost = (folder / "site.toml").read_text(), 1.001 * spending.ledger.spent(1e-3)
    (folder / "site.toml").write_text(text.replace("max_epsilon = 2.0", f"max_epsilon = {almost}"))
    assert facts_of(spending.site)["Budget"].level is Level.LOOK
    spending.site.ledger_file.unlink()
    assert facts_of(spending.site)["Ledger"].level is Level.WRONG


def test_versions_are_those_that_run() -> None:
    found = dict(versions())
    assert {"Python", "sotto", "torch", "flwr"} <= set(found)


def test_checks_run_in_the_background(sites: Sites) -> None:
    site = Site.load(sites.make("alpha", {"policy.max_epsilon": 2.0}))
    console = PartnerConsole(site, None, None, Access(site.folder))
    visitor = Visitor(console)
    assert visitor.post("/api/check", {"do": "start"}).json()["running"]
    console.check.join(60)
    progress = visitor.client.get("/api/check").json()
    assert (progress["running"], progress["problem"], progress["done"]) == (False, "", True)
    part = visitor.get("/part/check")
    assert "<strong>coordinator.</strong>" in part or "<strong>app.</strong>" in part
    assert "Next:" in part
    console.close()


def test_work_says_how_far_it_is_and_stops_when_told(caplog: pytest.LogCaptureFixture) -> None:
    ready, free = threading.Event(), threading.Event()

    def work(say: Callable[[str, float], None]) -> int:
        say("one", 0.25)
        ready.set()
        assert free.wait(20)
        say("two", 0.5)
        return 7

    job = Job("count", work)
    job.start()
    assert ready.wait(20)
    job.start()  # runs already
    assert (job.progress.running, job.progress.step, job.progress.share) == (True, "one", 0.25)
    job.stop()
    free.set()
    job.join(20)
    assert (job.progress.running, job.progress.problem, job.progress.result) == (
        *(False, "stopped.", None),
    )
    job.start()
    job.join(20)
    assert job.progress.result == 7

    def fail(error: Exception) -> str:
        def work(_: object) -> None:
            raise error

        failing = Job("fail", work)
        failing.start()
        failing.join(20)
        return failing.progress.problem

    assert fail(ConfigError("name the folder.")) == "name the folder."
    assert fail(KeyError("user 17")) == FAULT
    assert "user 17" not in caplog.text
