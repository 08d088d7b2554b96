from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from server.service.prometheus import health_routes
from server.state.status import Organisation, RunState, RunStatus
from shared.outcomes import Outcome
from shared.system.health_server import Routes, answer_request

DEPLOY = Path(__file__).parents[3] / "server" / "deploy"
STATUS = RunStatus(
    run="r1",
    state=RunState.PAUSED,
    reason="round 4 has 1 valid replies of 2",
    round=3,
    rounds=60,
    organisations={
        "alpha": Organisation(
            connected=True, population=12, outcome="valid", replies={"valid": 3, "missing": 1}
        ),
        "beta": Organisation(
            connected=False, population=9, outcome="refused-budget", replies={"refused-budget": 4}
        ),
    },
    started="2026-01-02T03:00:00.000+00:00",
    updated="2026-01-02T03:05:00.000+00:00",
    round_finished="2026-01-02T03:04:05.000+00:00",
    round_seconds=2.5,
    seconds=7.5,
    starts=2,
    missed=1,
    bytes_up=1000,
    bytes_down=2000,
    metrics={"hr@10": 0.25, "noise": 0.01},
    metrics_round=3,
)


class Client:
    """Asks without a socket."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes

    def get(self, path: str, accept: str = "") -> httpx.Response:
        return self.ask("GET", path, accept)

    def ask(self, method: str, path: str, accept: str = "") -> httpx.Response:
        answer = answer_request(self._routes, method, path, accept)
        headers = {"content-type": answer.content_type}
        return httpx.Response(answer.status, headers=headers, content=answer.body)


def client(*runs: RunStatus, unreadable: int = 0, answers: bool = True, **up: bool) -> Client:
    return Client(health_routes(lambda: (runs, unreadable), lambda: up, lambda: answers))


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_figure_of_the_status_is_there() -> None:
    answer = client(STATUS, superlink=True, executor=False).get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    found, run = samples(answer.text), ("run", "r1")
    plain = {name: value for (name, labels), value in found.items() if labels == (run,)}
    assert plain == {
        "sotto_round": 3,
        "sotto_rounds": 60,
        "sotto_round_seconds": 2.5,
        "sotto_round_finished_timestamp_seconds": 1767323045,
        "sotto_organisations_connected": 1,
        "sotto_rounds_seconds_total": 7.5,
        "sotto_starts_total": 2,
        "sotto_missed_attempts_total": 1,
        "sotto_received_bytes_total": 1000,
        "sotto_sent_bytes_total": 2000,
    }
    replies = {labels: v for (name, labels), v in found.items() if name == "sotto_replies_total"}
    assert replies == {
        (("organisation", "alpha"), ("outcome", "valid"), run): 3,
        (("organisation", "alpha"), ("outcome", "missing"), run): 1,
        (("organisation", "beta"), ("outcome", "refused-budget"), run): 4,
    }
    states = {dict(labels)["state"]: v for (n, labels), v in found.items() if "run_state" in n}
    assert states == {state: float(state is RunState.PAUSED) for state in RunState}
    assert found["sotto_released_metric", (("metric", "hr@10"), run)] == 0.25
    assert found["sotto_process_up", (("process", "superlink"),)] == 1
    assert found["sotto_process_up", (("process", "executor"),)] == 0


def test_it_is_ready_when_nobody_is_needed() -> None:
    for state in (RunState.WAITING, RunState.RUNNING, RunState.STOPPED, RunState.FINISHED):
        answer = client(replace(STATUS, state=state), superlink=True).get("/readyz")
        assert answer.status_code == 200
        assert answer.json() == {"status": "ok", "problems": []}


@pytest.mark.parametrize("state", [RunState.PAUSED, RunState.FAILED, RunState.INTERRUPTED])
def test_it_says_what_is_the_matter(state: RunState) -> None:
    asked = client(replace(STATUS, state=state), unreadable=1, superlink=False)
    answer = asked.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["problems"] == [
        "superlink is not running",
        f"run r1 is {state}: round 4 has 1 valid replies of 2",
        "the status of 1 runs cannot be read",
    ]
    assert samples(asked.get("/metrics").text)["sotto_unreadable_runs", ()] == 1
    assert asked.get("/healthz").json() == {"status": "ok"}


def test_processes_that_run_and_do_not_answer_are_not_ready() -> None:
    answer = client(answers=False, superlink=True, proxy=True).get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["problems"] == ["the proxy or the SuperLink behind it does not answer"]


def test_there_is_nothing_else() -> None:
    asked = client()
    assert [asked.get(path).status_code for path in ("/", "/docs", "/progress.json")] == [404] * 3
    assert asked.ask("POST", "/metrics").status_code == 405
    openmetrics = asked.get("/metrics", "application/openmetrics-text; version=1.0.0")
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
    assert openmetrics.text.endswith("# EOF\n")


# --- dashboard and alerts ------------------------------------------------------------------------


def expressions() -> list[str]:
    board = json.loads((DEPLOY / "grafana.json").read_text())
    shown = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    rules = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"][0]["rules"]
    return [*shown, *(rule["expr"] for rule in rules)]


def test_dashboard_alerts_and_runbook_name_what_there_is() -> None:
    """Each name and label of theirs, and every name of ours."""
    found = samples(client(STATUS, superlink=True).get("/metrics").text)
    names = {name for name, _ in found}
    labels = {label for _, pairs in found for label, _ in pairs}
    named = {name for text in expressions() for name in re.findall(r"sotto_\w+", text)}
    assert named == names
    runbook = (DEPLOY.parents[1] / "docs" / "runbook.md").read_text()
    section = runbook.split("## Metrics and probes\n")[1].split("\n## ")[0]
    assert set(re.findall(r"`(sotto_\w+)", section)) == names
    used = {
        label for text in expressions() for label in re.findall(r"(\w+)\s*(?:=~|!=|=)\s*\"", text)
    }
    assert used <= labels
    assert "outcome" in used


def test_alerts_name_states_and_outcomes_that_exist() -> None:
    text = (DEPLOY / "alerts.yaml").read_text()
    states = {name for part in re.findall(r'state=~"([^"]+)"', text) for name in part.split("|")}
    outcomes = {
        n for part in re.findall(r'outcome(?:=~|!=)"([^"]+)"', text) for n in part.split("|")
    }
    assert states == {state for state in RunState if state.active or state.needs_operator}
    assert outcomes <= set(Outcome)
    assert Outcome.NOT_FINITE in outcomes
