"""The templates of `sotto-node serve`: each is read by a tool or a rule that can fail."""

from __future__ import annotations

import json
import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from client.serving.service.metrics import ServiceMetrics
from client.site.serve import ServeConfig
from shared.sections import parse_sections
from tests.client.deploy.test_deploy import DEPLOY, ROOT, SANDBOX, parsed, understood

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
