"""The templates of `sotto-node serve`: each is read by a tool or a rule that can fail."""

from __future__ import annotations

import json
import os
import re
import shlex
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import kubernetes_validate
import pytest
import yaml

from client.serving.service.clients import add_client
from client.serving.service.metrics import ServiceMetrics
from client.site.serve import ServeConfig
from shared.sections import parse_sections
from simulations.faults.processes import free_port, wait_for
from tests.client.authority import Authority
from tests.client.deploy.test_deploy import DEPLOY, ROOT, SANDBOX, parsed, understood
from tests.client.serving.service.running import publish

if TYPE_CHECKING:
    from tests.conftest import Sites

SERVE = {"certificate": "c", "key": "k", "clients": "c.toml"}


def test_the_unit_is_shut_in_and_reloads() -> None:
    found = parsed(DEPLOY / "sotto-serve.service")
    assert {key: found[key] for key in SANDBOX} == {key: [at] for key, at in SANDBOX.items()}
    assert found["CapabilityBoundingSet"] == [""]
    assert found["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert int(found["TimeoutStopSec"][0]) > ServeConfig().grace_seconds


def test_the_container_serves_what_the_settings_say() -> None:
    [service] = yaml.safe_load((DEPLOY / "compose.serve.yaml").read_text())["services"].values()
    understood(service["command"])
    assert service["cap_drop"] == ["ALL"]
    assert service["read_only"] is True
    text = (DEPLOY / "compose.serve.yaml").read_text()
    assert re.findall(r'metrics = "127\.0\.0\.1:(\d+)"', text) == re.findall(
        r"127\.0\.0\.1:(\d+)/healthz", text
    )
    ports = {name: ServeConfig.__dataclass_fields__[name].default for name in ("grpc", "http")}
    inner = [port.partition(":")[2] for port in service["ports"]]
    assert inner == [str(address).rpartition(":")[2] for address in ports.values()]
    base = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    volumes = {volume.partition(":")[0] for volume in service["volumes"]} - {"${SOTTO_DATA"}
    assert volumes <= set(base["volumes"])


@pytest.mark.parametrize("version", ["1.34", "1.37"])
def test_kubernetes_knows_every_field(version: str) -> None:
    parts = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "serve.yaml").read_text()))
    for part in parts:
        kubernetes_validate.validate(part, version, strict=True)
    deployment, service = parts
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    understood(container["args"])
    names = {port["name"]: port["containerPort"] for port in container["ports"]}
    addresses = {name: f"0.0.0.0:{port}" for name, port in names.items()}
    text = (DEPLOY / "kubernetes" / "serve.yaml").read_text()
    assert all(f'{name} = "{address}"' in text for name, address in addresses.items())
    parse_sections(ServeConfig, SERVE | addresses)
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] in names
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= set(names)


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    metrics = ServiceMetrics()
    families = list(metrics.registry.collect())
    there = {sample.name for family in families for sample in family.samples}
    there |= {f"{family.name}_total" for family in families if family.type == "counter"}
    there |= {
        f"{family.name}_{part}"
        for family in families
        if family.type == "histogram"
        for part in ("bucket", "sum", "count")
    }
    there |= {family.name for family in families if family.type == "gauge"}
    dashboard = json.loads((DEPLOY / "grafana-serve.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [v["query"] for v in dashboard["templating"]["list"] if v["type"] == "query"]
    asked = {name for query in queries for name in re.findall(r"sotto_\w+", query)}
    assert asked - there == set()
    shown = {re.sub("_(total|bucket|sum|count)$", "", name) for name in asked}
    assert {family.name for family in families} - shown == set()
    page = (ROOT / "docs" / "serve.md").read_text()
    assert [family.name for family in families if family.name not in page] == []


def test_the_page_names_every_setting() -> None:
    page = (ROOT / "docs" / "serve.md").read_text()
    keys = ServeConfig.__dataclass_fields__
    assert [key for key in keys if f"`{key}`" not in page] == []
    assert Path(DEPLOY / "sotto-serve.service").is_file()


# --- the templates' own commands, each as a process ---------------------------------------------


@dataclass
class Started:
    """A process that a template's command started, and its site.

    Attributes:
        process: it.
        authority: whose certificate it shows.
        ports: by the names that the Kubernetes template has for them.
        log: what it writes.
    """

    process: subprocess.Popen[bytes]
    authority: Authority
    ports: dict[str, int]
    log: Path

    def probe(self, scheme: str, name: str, path: str) -> int:
        """Ask as a probe does: without a token."""
        trusted = ssl.create_default_context(cafile=self.authority.certificate)
        address = f"{scheme}://127.0.0.1:{self.ports[name]}{path}"
        return httpx.get(address, verify=trusted, timeout=10).status_code

    def wait_for_log(self, words: str) -> None:
        wait_for(words, lambda: words in self.log.read_text(), 60)


@contextmanager
def started(
    sites: Sites, folder: Path, words: list[str], variables: dict[str, str]
) -> Iterator[Started]:
    """Run `sotto-node WORDS` for a site as the templates ask for it; the site's is `SITE`."""
    authority = Authority(folder)
    certificate, key = authority.server()
    ports = {name: free_port() for name in ("grpc", "http", "metrics")}
    published = publish(sites, folder / "published")
    settings: dict[str, object] = {
        f"serve.{name}": f"0.0.0.0:{port}" for name, port in ports.items()
    }
    settings |= {"serve.certificate": str(certificate), "serve.key": str(key)}
    settings |= {"serve.clients": "clients.toml", "serve.model": str(published)}
    site = sites.make(users=30, changes=settings)
    add_client(site / "clients.toml", "shop")
    command = [sys.executable, "-P", "-c", "from client.cli import main; main()"]
    log = folder / "serve.log"
    given = {name: value.replace("SITE", str(site)) for name, value in variables.items()}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, *(word.replace("SITE", str(site)) for word in words)],
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | given,
            stdout=out,
            stderr=out,
        )
    made = Started(process, authority, ports, log)
    try:
        made.wait_for_log("recommendations are served")
        yield made
    finally:
        process.kill()
        process.wait()


def test_the_units_command_serves_reloads_and_ends(sites: Sites, tmp_path: Path) -> None:
    unit = parsed(DEPLOY / "sotto-serve.service")
    program, *words = shlex.split(unit["ExecStart"][0])
    assert Path(program).name == "sotto-node"
    words = [word.replace("/var/lib/sotto/site", "SITE") for word in words]
    pairs = (pair.partition("=") for pair in unit["Environment"] if "HOME" not in pair)
    variables = {name: value for name, _, value in pairs}
    with started(sites, tmp_path, words, variables) as service:
        assert service.probe("https", "http", "/readyz") == 200
        reload = unit["ExecReload"][0].replace("$MAINPID", str(service.process.pid))
        subprocess.run(shlex.split(reload), check=True)
        service.wait_for_log("what changed on disk is in use")
        service.process.terminate()
        assert service.process.wait(int(unit["TimeoutStopSec"][0])) == 0
        lines = service.log.read_text().splitlines()
        assert [line for line in lines if "leaked" in line] == []  # by DuckDB, as it ends
        assert all(json.loads(line) for line in lines if line.startswith("{"))
        assert any(line.startswith("{") for line in lines)  # SOTTO_LOG=json


def test_the_containers_command_answers_the_probes(sites: Sites, tmp_path: Path) -> None:
    """Of Kubernetes, and of the compose file: the image's entry point with the template's words."""
    image = (DEPLOY / "Dockerfile").read_text()
    assert 'ENTRYPOINT ["sotto-node"]' in image
    [site] = re.findall(r"SOTTO_SITE=(\S+)", image)
    deployment, _ = yaml.safe_load_all((DEPLOY / "kubernetes" / "serve.yaml").read_text())
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    [compose] = yaml.safe_load((DEPLOY / "compose.serve.yaml").read_text())["services"].values()
    assert compose["command"] == container["args"]
    assert site == "/var/lib/sotto/site"
    with started(sites, tmp_path, container["args"], {"SOTTO_SITE": "SITE"}) as service:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = container[probe]["httpGet"]
            scheme = asked.get("scheme", "HTTP").lower()
            assert service.probe(scheme, asked["port"], asked["path"]) == 200
        kind, program, *words = compose["healthcheck"]["test"]
        assert (kind, program) == ("CMD", "python")
        words = [word.replace(":9472", f":{service.ports['metrics']}") for word in words]
        subprocess.run([sys.executable, *words], check=True)
        service.process.terminate()
        seconds = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        assert service.process.wait(seconds) == 0
