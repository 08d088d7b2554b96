"""Answer /metrics, /healthz and /readyz of the coordinator, for Prometheus and load balancers.

Each request reads the state of every run from its files and asks whether the processes run, so that
it is answered while a run's own process is dead. Counters continue over restarts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from server.state.status import RunState, RunStatus
from shared.system.health_server import Answer, Routes, json_answer, metrics_answer

__all__ = ["RunCollector", "Running", "Statuses", "health_routes"]

Statuses = Callable[[], tuple[Sequence[RunStatus], int]]
"""Returns the status of every run that can be read, and how many cannot, now."""
Running = Callable[[], Mapping[str, bool]]
"""Returns whether each process that should run does, now."""

GAUGES: Mapping[str, tuple[str, Callable[[RunStatus], float]]] = {
    "sotto_round": ("The last finished round.", lambda s: s.round),
    "sotto_rounds": ("Rounds that the run is to have.", lambda s: s.rounds),
    "sotto_round_seconds": ("Duration of the last finished round.", lambda s: s.round_seconds),
    "sotto_round_finished_timestamp_seconds": (
        "When the last round was finished, or when the run began before the first.",
        lambda s: _seconds(s.round_finished or s.started),
    ),
    "sotto_organisations_connected": (
        "Organisations whose node was connected at the last look.",
        lambda s: sum(organisation.connected for organisation in s.organisations.values()),
    ),
}
COUNTERS: Mapping[str, tuple[str, Callable[[RunStatus], float]]] = {
    "sotto_rounds_seconds": ("Duration of all finished rounds.", lambda s: s.seconds),
    "sotto_starts": ("How often the run was started or resumed.", lambda s: s.starts),
    "sotto_missed_attempts": (
        "Attempts at a round that had too few valid replies.",
        lambda s: s.missed,
    ),
    "sotto_received_bytes": ("Arrays received in finished rounds.", lambda s: s.bytes_up),
    "sotto_sent_bytes": ("Arrays sent in finished rounds.", lambda s: s.bytes_down),
}


class RunCollector:
    """Reads every run's status when Prometheus collects.

    Args:
        statuses: returns every run's status.
        processes: returns whether each process runs.
    """

    def __init__(self, statuses: Statuses, processes: Running) -> None:
        self._statuses, self._processes = statuses, processes

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics, as Prometheus's client calls it."""
        runs, unreadable = self._statuses()
        for name, (text, value) in GAUGES.items():
            yield _filled(GaugeMetricFamily(name, text, labels=["run"]), runs, value)
        for name, (text, value) in COUNTERS.items():
            yield _filled(CounterMetricFamily(name, text, labels=["run"]), runs, value)
        yield _states(runs)
        yield _replies(runs)
        yield _released(runs)
        yield GaugeMetricFamily(
            "sotto_unreadable_runs", "Runs whose status cannot be read.", value=unreadable
        )
        up = GaugeMetricFamily("sotto_process_up", "Whether a process runs.", labels=["process"])
        for name, runs_now in self._processes().items():
            up.add_metric([name], float(runs_now))
        yield up


def health_routes(statuses: Statuses, processes: Running, answers: Callable[[], bool]) -> Routes:
    """Return the answers of the coordinator, for `serve_health` on an address of its own.

    | path     | 200                                   | 503                                      |
    |----------|---------------------------------------|------------------------------------------|
    | /healthz | always                                | never                                    |
    | /readyz  | every process runs, the proxy and the | otherwise: the body names processes and  |
    |          | SuperLink answer, and no run is       | runs, and says why                       |
    |          | paused, failed or interrupted         |                                          |
    | /metrics | in Prometheus's or OpenMetrics' form  | never                                    |

    Args:
        statuses: returns every run's status.
        processes: returns whether each process runs.
        answers: returns whether the proxy and the SuperLink behind it answer.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(RunCollector(statuses, processes))

    def readyz(_: str) -> Answer:
        problems = _problems(*statuses(), processes(), answers)
        body = {"status": "not ready" if problems else "ok", "problems": problems}
        return json_answer(body, ok=not problems)

    return {
        "/healthz": lambda _: json_answer({"status": "ok"}, ok=True),
        "/readyz": readyz,
        "/metrics": lambda accept: metrics_answer(registry, accept),
    }


def _filled(
    family: GaugeMetricFamily | CounterMetricFamily,
    runs: Iterable[RunStatus],
    value: Callable[[RunStatus], float],
) -> Metric:
    for status in runs:
        family.add_metric([status.run], value(status))
    return family


def _states(runs: Iterable[RunStatus]) -> Metric:
    family = GaugeMetricFamily(
        "sotto_run_state", "1 for the state that the run is in.", labels=["run", "state"]
    )
    for status in runs:
        for state in RunState:
            family.add_metric([status.run, state], float(status.state is state))
    return family


def _replies(runs: Iterable[RunStatus]) -> Metric:
    family = CounterMetricFamily(
        "sotto_replies",
        "Outcomes of each organisation in attempts at rounds.",
        labels=["run", "organisation", "outcome"],
    )
    for status in runs:
        for name, organisation in status.organisations.items():
            for outcome, count in organisation.replies.items():
                family.add_metric([status.run, name, outcome], count)
    return family


def _released(runs: Iterable[RunStatus]) -> Metric:
    family = GaugeMetricFamily(
        "sotto_released_metric",
        "Metrics that the partners released last, with noise.",
        labels=["run", "metric"],
    )
    for status in runs:
        for name, value in status.metrics.items():
            family.add_metric([status.run, name], value)
    return family


def _problems(
    runs: Sequence[RunStatus],
    unreadable: int,
    processes: Mapping[str, bool],
    answers: Callable[[], bool],
) -> list[str]:
    problems = [f"{name} is not running" for name, up in processes.items() if not up]
    if not problems and not answers():
        problems.append("the proxy or the SuperLink behind it does not answer")
    problems += [
        f"run {status.run} is {status.state}: {status.reason}"
        for status in runs
        if status.state.needs_operator
    ]
    return problems + ([f"the status of {unreadable} runs cannot be read"] if unreadable else [])


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
