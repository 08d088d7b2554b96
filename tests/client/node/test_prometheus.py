"""A node's metrics and probes: what the ledger says, and nothing that it does not."""

from __future__ import annotations

import ast
import json
import math
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from safetensors.torch import save

import client.ledger.store
import client.node.prometheus
from client.ledger.ledger import Entry
from client.ledger.limits import Limits
from client.node.health import serve_node_health
from client.node.prometheus import BUCKETS, NodeMetrics
from client.site.node import NodeConfig
from client.site.site import Site
from shared.errors import ConfigError, SiteError
from shared.hash_chain import canonical_text
from shared.outcomes import Refusal
from shared.privacy.accounting.accountant import epsilon
from shared.privacy.release import Release, ReleaseKind
from shared.system.supervise import Processes, Restart, Start
from tests.client.authority import Authority, serving

if TYPE_CHECKING:
    from tests.client.partner import Partner

ROOT = Path(__file__).parents[3]
DASHBOARD = ROOT / "client" / "deploy" / "grafana.json"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def release(kind: ReleaseKind = ReleaseKind.TRAIN) -> Release:
    return Release(kind=kind, noise_multiplier=1.0, sample_rate=0.1, steps=2)


def spend(site: Site, *, rounds: int = 3, kind: ReleaseKind = ReleaseKind.TRAIN) -> bytes:
    """Charged and answered rounds; gives a body."""
    ledger, body = site.open_ledger(), save({"change": torch.zeros(4)})
    for number in range(1, rounds + 1):
        entry = Entry(run="r", round=number, release=release(kind))
        ledger.charge(entry, Limits(max_epsilon=8, delta=1e-4))
        ledger.keep_answer(entry, body)
    return body


def samples(site: Site, processes: Processes | None = None) -> Samples:
    """Every sample, as a scraper reads it."""
    registry = CollectorRegistry()
    registry.register(NodeMetrics(site, processes or Processes()))
    return read(generate_latest(registry).decode())


def read(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(found: Samples, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


@pytest.fixture
def site(partner: Partner) -> Site:
    partner.init()
    return partner.loaded


# --- the ledger's figures ----------------------------------------------------------------------


def test_requests_are_those_of_the_ledger(site: Site) -> None:
    body = spend(site)
    spend(site, rounds=1, kind=ReleaseKind.EVALUATE)
    ledger = site.open_ledger()
    ledger.refuse(Refusal.BUDGET, {"kind": "train"})
    ledger.refuse(Refusal.POLICY, {"kind": "describe"})
    ledger.refuse(Refusal.POLICY, {"kind": "train"})
    found = samples(site)
    name = "sotto_node_requests_total"
    assert of(found, name, kind="train", outcome="answered") == 3
    assert of(found, name, kind="evaluate", outcome="answered") == 1
    assert of(found, name, kind="train", outcome="refused") == 2
    assert of(found, name, kind="describe", outcome="refused") == 1
    assert of(found, "sotto_node_refusals_total", code="policy") == 2
    assert of(found, "sotto_node_refusals_total", code="budget") == 1
    assert of(found, "sotto_node_sent_bytes_total") == 4 * len(body)
    assert of(found, "sotto_node_ledger_entries") == 1 + 2 * 4 + 3
    assert of(found, "sotto_node_ledger_readable") == 1


def test_epsilon_is_what_the_accountant_says(site: Site) -> None:
    assert of(samples(site), "sotto_node_epsilon_spent") == 0
    spend(site)
    found, spent = samples(site), epsilon([release()] * 3, 1e-4)
    assert of(found, "sotto_node_epsilon_spent") == pytest.approx(spent)
    assert of(found, "sotto_node_epsilon_limit") == 8
    assert of(found, "sotto_node_epsilon_left") == pytest.approx(8 - spent)


def test_no_limit_is_infinite(partner: Partner, site: Site) -> None:
    partner.edit("max_epsilon = 8.0", "max_epsilon = inf")
    assert of(samples(partner.loaded), "sotto_node_epsilon_left") == math.inf


def test_a_spent_budget_is_not_below_0(partner: Partner, site: Site) -> None:
    spend(site)
    partner.edit("max_epsilon = 8.0", "max_epsilon = 0.01")
    assert of(samples(partner.loaded), "sotto_node_epsilon_left") == 0


def test_durations_go_from_charge_to_answer(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    text, times = client.ledger.store.entry_text, iter([0, 2.5, 60, 60 + 400.0])

    def at(what: object, fields: object) -> str:
        noted = json.loads(text(what, fields))  # type: ignore[arg-type]
        seconds = next(times)
        noted["at"] = f"2025-03-01T00:{int(seconds // 60):02}:{seconds % 60:06.3f}+00:00"
        return canonical_text(noted)

    monkeypatch.setattr("client.ledger.ledger.entry_text", at)
    spend(site, rounds=2)
    found = samples(site)
    name = "sotto_node_answer_seconds"
    assert of(found, f"{name}_count", kind="train") == 2
    assert of(found, f"{name}_sum", kind="train") == pytest.approx(402.5)
    counts = [of(found, f"{name}_bucket", kind="train", le=f"{b}") for b in BUCKETS]
    assert counts == [0, 1, 1, 1, 1, 1, 2]
    assert of(found, f"{name}_bucket", kind="train", le="+Inf") == 2
    last = of(found, "sotto_node_last_request_timestamp_seconds")
    assert last == pytest.approx(1740787200 + 460)


def test_a_ledger_that_does_not_open_is_reported_without_figures(site: Site) -> None:
    spend(site)
    site.anchor_file.rename(site.anchor_file.with_name("away"))
    found = samples(site)
    assert of(found, "sotto_node_ledger_readable") == 0
    assert not [name for name, _ in found if "epsilon" in name or "requests" in name]


def test_what_is_added_is_seen_by_the_next_scrape(site: Site) -> None:
    registry = CollectorRegistry()
    registry.register(NodeMetrics(site, Processes()))
    before = read(generate_latest(registry).decode())
    spend(site)
    after = read(generate_latest(registry).decode())
    name = "sotto_node_requests_total"
    assert (name, frozenset({("kind", "train"), ("outcome", "answered")})) not in before
    assert of(after, name, kind="train", outcome="answered") == 3
    assert of(after, "sotto_node_epsilon_spent") > of(before, "sotto_node_epsilon_spent")


# --- what is not in the ledger -----------------------------------------------------------------


def test_processes_and_restarts(site: Site) -> None:
    processes = Processes()
    assert not processes.all_running
    for change in (
        Start("SuperNode"),
        Start("executor"),
        Restart(program="SuperNode", code=1, seconds=10),
    ):
        processes.record(change)
    found = samples(site, processes)
    assert of(found, "sotto_node_process_running", process="SuperNode") == 0
    assert of(found, "sotto_node_process_running", process="executor") == 1
    assert of(found, "sotto_node_restarts_total", process="SuperNode") == 1
    assert not processes.all_running
    processes.record(Start("SuperNode"))
    assert processes.all_running


def test_the_trusted_bundle(partner: Partner, site: Site) -> None:
    partner.install_app()
    found = samples(site)
    fingerprint = site.open_ledger().trusted_fingerprint()
    bundle = of(found, "sotto_node_bundle_info", version="0.1.0", fingerprint=fingerprint)
    assert bundle == 1


def test_memory_of_gpus(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\necho '0, 1024, 81559'\necho '1, [N/A], [N/A]'\n")
    script.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found = samples(site)
    assert of(found, "sotto_node_gpu_memory_bytes", device="0", state="used") == 2**30
    assert of(found, "sotto_node_gpu_memory_bytes", device="0", state="total") == 81559 * 2**20
    assert not [labels for _, labels in found if ("device", "1") in labels]
    script.write_text("#!/bin/sh\nexit 9\n")
    assert not [name for name, _ in samples(site) if "gpu" in name]


def test_nothing_that_depends_on_a_user_is_exported(partner: Partner) -> None:
    """The same ledger over other data gives the same metrics."""
    partner.init()
    spend(partner.loaded)
    before = samples(partner.loaded)
    partner.events.write_text("user_id,item_id,timestamp\nc4nary,i1,1600000000\n")
    assert samples(partner.loaded) == before


def reached_from(module: str) -> set[str]:
    """Modules that importing one brings, as the sources have it."""
    seen, left = set(), [module]
    while left:
        name = left.pop()
        file = ROOT / f"{name.replace('.', '/')}.py"
        if name in seen:
            continue
        seen.add(name)
        if file.exists():
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom):
                    left += [str(node.module), *(f"{node.module}.{a.name}" for a in node.names)]
                elif isinstance(node, ast.Import):
                    left += [alias.name for alias in node.names]
    return seen


def test_a_request_does_not_load_it() -> None:
    assert "prometheus_client" in reached_from("client.node.up")
    for module in ("client.app", "client.node.worker", "client.node.executor"):
        reached = reached_from(module)
        assert "shared.errors" in reached
        assert "prometheus_client" not in reached, module


# --- over HTTP ---------------------------------------------------------------------------------


def get(address: tuple[str, int], path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{address[0]}:{address[1]}{path}") as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture
def joined(partner: Partner, tmp_path: Path) -> Iterator[Partner]:
    """A site whose coordinator answers, and that wants its metrics on any port."""
    authority = Authority(tmp_path / "authority")
    with serving(authority.server()) as address:
        partner.init({"--superlink": address, "--root-certificates": authority.certificate})
        partner.edit('# metrics = "127.0.0.1:9464"', 'metrics = "127.0.0.1:1"')
        partner.install_app()
        partner.patch.setattr(
            type(partner.loaded.node), "metrics_address", property(lambda _: ("127.0.0.1", 0))
        )
        yield partner


def running() -> Processes:
    processes = Processes()
    for name in ("SuperNode", "executor"):
        processes.record(Start(name))
    return processes


def test_a_node_that_is_well_is_ready(joined: Partner) -> None:
    with serve_node_health(joined.loaded, running()) as address:
        assert address is not None
        assert get(address, "/healthz") == (200, '{"processes": true}\n')
        status, body = get(address, "/readyz")
        assert status == 200
        assert set(json.loads(body)) == {"processes", "ledger", "bundle", "coordinator"}
        status, text = get(address, "/metrics?name=x")
        assert status == 200
        assert of(read(text), "sotto_node_ledger_readable") == 1
        assert get(address, "/site.toml")[0] == 404


def test_a_failing_node_is_neither_healthy_nor_ready(joined: Partner) -> None:
    with serve_node_health(joined.loaded, Processes()) as address:
        assert address is not None
        assert get(address, "/healthz")[0] == 503
        assert get(address, "/readyz")[0] == 503


@pytest.mark.parametrize("name", ["ledger", "bundle", "coordinator"])
def test_readiness_says_what_is_missing_and_not_why(joined: Partner, name: str) -> None:
    spoil: dict[str, Callable[[], object]] = {
        "ledger": lambda: joined.loaded.ledger_file.chmod(0o644),
        "bundle": (joined.site / "flower" / "trusted.fab").unlink,
        "coordinator": lambda: joined.edit(joined.loaded.coordinator.superlink, "127.0.0.1:1"),
    }
    spoil[name]()
    with serve_node_health(joined.loaded, running()) as address:
        assert address is not None
        assert get(address, "/healthz")[0] == 200
        status, body = get(address, "/readyz")
        assert status == 503
        wrong = {key for key, fine in json.loads(body).items() if not fine}
        assert wrong == ({"ledger", "bundle"} if name == "ledger" else {name})
        assert str(joined.site) not in body


def test_none_is_the_default(partner: Partner, site: Site) -> None:
    assert site.node.metrics_address is None
    with serve_node_health(site, running()) as address:
        assert address is None


def test_a_port_that_is_taken_is_said(joined: Partner) -> None:
    with serve_node_health(joined.loaded, running()) as address:
        assert address is not None
        joined.patch.setattr(
            type(joined.loaded.node), "metrics_address", property(lambda _: address)
        )
        with (
            pytest.raises(SiteError, match="cannot listen there"),
            serve_node_health(joined.loaded, running()),
        ):
            pass


@pytest.mark.parametrize("text", ["9464", "https://x:1", "127.0.0.1", "127.0.0.1:0", "a b:1"])
def test_an_address_that_is_none_is_refused(text: str) -> None:

    with pytest.raises(ConfigError, match=r"node\.metrics"):
        NodeConfig(metrics=text)
