"""Prometheus metrics of a node, read from the ledger and the processes at each scrape.

Each request has a process of its own, so nothing is counted in memory. The ledger records what was
asked, answered and refused, also before this node was started. No figure in it depends on a single
user, and so no metric does.
"""

from __future__ import annotations

import csv
import math
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from client.bundle.trust import read_trusted
from client.ledger.balance import EntryType
from client.ledger.ledger import Ledger, Record
from client.site.site import Site
from shared.errors import BundleError, LedgerError
from shared.privacy.accounting.accountant import epsilon
from shared.privacy.release import Release
from shared.system.supervise import Processes

__all__ = ["BUCKETS", "NodeMetrics"]

BUCKETS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
"""Seconds from charge to answer."""
_SMI = ["--query-gpu=index,memory.used,memory.total", "--format=csv,noheader,nounits"]
_MIB = 1024 * 1024
_PATIENCE = 5.0


class NodeMetrics(Collector):
    """All metrics of a site's node.

    Args:
        site: whose ledger and app are read.
        processes: of its node.
    """

    def __init__(self, site: Site, processes: Processes) -> None:
        self._site, self._processes = site, processes
        self._ledger: Ledger | None = None
        self._epsilon: tuple[list[Release], float] = ([], 0.0)

    def describe(self) -> list[Metric]:
        """Return nothing, so that registering the collector does not read the ledger."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield every metric; those of the ledger only if it can be read."""
        yield from self._of_processes()
        yield from _of_gpus()
        readable = GaugeMetricFamily(
            "sotto_node_ledger_readable", "Whether the privacy ledger opens; 0 trains nothing."
        )
        try:
            records, spent = self._read()
        except LedgerError:
            self._ledger = None
            readable.add_metric([], 0)
            yield readable
            return
        readable.add_metric([], 1)
        yield readable
        yield from self._of_budget(spent)
        yield from _of_requests(records)

    def _read(self) -> tuple[list[Record], float]:
        if self._ledger is None:
            self._ledger = self._site.open_ledger()
        releases = self._ledger.releases()
        if releases != self._epsilon[0]:
            self._epsilon = releases, epsilon(releases, self._site.policy.delta)
        return self._ledger.history(), self._epsilon[1]

    def _of_processes(self) -> Iterator[Metric]:
        running = GaugeMetricFamily(
            "sotto_node_process_running", "Whether a process of the node runs.", labels=["process"]
        )
        restarts = CounterMetricFamily(
            "sotto_node_restarts", "Starts after the first.", labels=["process"]
        )
        for name, runs in self._processes.running.items():
            running.add_metric([name], int(runs))
            restarts.add_metric([name], self._processes.restarts[name])
        yield running
        yield restarts
        bundle = GaugeMetricFamily(
            "sotto_node_bundle_info", "The app that is trusted.", labels=["version", "fingerprint"]
        )
        try:
            trusted = read_trusted(self._site.flower_home)
        except BundleError:
            trusted = None
        if trusted is not None:
            bundle.add_metric([trusted.bundle.version, trusted.bundle.fingerprint], 1)
        yield bundle

    def _of_budget(self, spent: float) -> Iterator[Metric]:
        limit = self._site.policy.max_epsilon
        left = math.inf if limit == math.inf else max(0.0, limit - spent)
        for name, text, value in (
            ("spent", "ε that the users have spent, at the policy's δ.", spent),
            ("limit", "ε that they may spend in all.", limit),
            ("left", "ε between the two.", left),
        ):
            yield GaugeMetricFamily(f"sotto_node_epsilon_{name}", text, value=value)


def _of_requests(records: Sequence[Record]) -> Iterator[Metric]:
    """Answered and refused, by the ledger."""
    answers = [record.fields for record in records if record.type is EntryType.ANSWER]
    refusals = [record.fields for record in records if record.type is EntryType.REFUSAL]
    requests = CounterMetricFamily(
        "sotto_node_requests",
        "Requests by kind and outcome; one that was answered again counts once.",
        labels=["kind", "outcome"],
    )
    for kind, count in Counter(fields["kind"] for fields in answers).items():
        requests.add_metric([kind, "answered"], count)
    kinds: Counter[str] = Counter()
    refusal_codes: Counter[str] = Counter()
    for fields in refusals:
        times = fields.get("times", 1)
        kinds[fields.get("kind", "")] += times
        refusal_codes[fields["code"]] += times
    for kind, count in kinds.items():
        requests.add_metric([kind, "refused"], count)
    yield requests
    codes = CounterMetricFamily(
        "sotto_node_refusals", "Refusals by what the coordinator was told.", labels=["code"]
    )
    for code, count in refusal_codes.items():
        codes.add_metric([code], count)
    yield codes
    sent = sum(fields["bytes"] for fields in answers)
    yield CounterMetricFamily("sotto_node_sent_bytes", "Bytes of answers.", value=sent)
    asked = [
        r.fields["at"]
        for r in records
        if r.type in (EntryType.CHARGE, EntryType.ANSWER, EntryType.REFUSAL)
    ]
    last = datetime.fromisoformat(asked[-1]).timestamp() if asked else 0.0
    yield GaugeMetricFamily(
        "sotto_node_last_request_timestamp_seconds", "Of the ledger's last request.", value=last
    )
    yield GaugeMetricFamily("sotto_node_ledger_entries", "Of the ledger.", value=len(records))
    yield _durations(records)


def _durations(records: Sequence[Record]) -> Metric:
    """From charge to answer. One that a crash came between took until it was answered."""
    family = HistogramMetricFamily(
        "sotto_node_answer_seconds", "From charge to answer.", labels=["kind"]
    )
    charged: dict[tuple[str, str, int], datetime] = {}
    taken: dict[str, list[float]] = {}
    for record in records:
        if record.type in (EntryType.CHARGE, EntryType.ANSWER):
            fields = record.fields
            key = fields["run"], fields["kind"], fields["round"]
            at = datetime.fromisoformat(fields["at"])
            if record.type is EntryType.CHARGE:
                charged[key] = at
            elif key in charged:
                seconds = (at - charged[key]).total_seconds()
                taken.setdefault(fields["kind"], []).append(max(0.0, seconds))
    for kind, times in taken.items():
        bounds = (*BUCKETS, math.inf)
        counts = [(_bound(b), float(sum(t <= b for t in times))) for b in bounds]
        family.add_metric([kind], counts, sum(times))
    return family


def _bound(seconds: float) -> str:
    """Format a histogram bound as Prometheus does."""
    return "+Inf" if seconds == math.inf else str(seconds)


def _of_gpus() -> Iterator[Metric]:
    """Memory of each GPU, where there is one: this process itself stays off it."""
    memory = GaugeMetricFamily(
        "sotto_node_gpu_memory_bytes", "Memory of a GPU.", labels=["device", "state"]
    )
    for index, used, total in _gpus():
        memory.add_metric([index, "used"], float(used) * _MIB)
        memory.add_metric([index, "total"], float(total) * _MIB)
    yield memory


def _gpus() -> list[list[str]]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        done = subprocess.run(
            [program, *_SMI], capture_output=True, text=True, timeout=_PATIENCE, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    rows = csv.reader(done.stdout.splitlines(), skipinitialspace=True)
    return [row for row in rows if len(row) == 3 and all(text.isdigit() for text in row)]
