"""The templates say what the code does, and each is of its own kind's form."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

import server.cli
from server.service.prometheus import health_routes
from server.service.proxy import FLEET, PARTNERS
from server.settings import Listen
from shared.system.address import Address

DEPLOY = Path(__file__).parents[3] / "server" / "deploy"
COMMANDS = set(server.cli.app.commands)
PUBLIC = Address.parse(Listen().partners)


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def test_no_template_is_left_out_here() -> None:
    found = {str(file.relative_to(DEPLOY)) for file in DEPLOY.rglob("*") if file.is_file()}
    assert found == {
        *("Dockerfile", "compose.yaml", "nginx.conf", "sotto-server.service"),
        *("grafana.json", "alerts.yaml", "prometheus.yaml"),
        "kubernetes/coordinator.yaml",
    }


# --- systemd -----------------------------------------------------------------------------------


def test_the_unit_starts_the_command_as_nobody_special() -> None:
    unit = configparser.ConfigParser(strict=True, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(DEPLOY / "sotto-server.service")
    service = unit["Service"]
    program, command, *options = service["ExecStart"].split()
    assert (Path(program).name, command, options[0]) == ("sotto-server", "up", "--server")
    assert command in COMMANDS
    assert service["Type"] == "notify"
    assert service["Restart"] == "always"
    assert service["User"] != "root"
    assert options[1].startswith(service["ReadWritePaths"])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_knows_every_line_of_the_unit(tmp_path: Path) -> None:
    program = tmp_path / "sotto-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = (DEPLOY / "sotto-server.service").read_text()
    text = text.replace("/opt/sotto/.venv/bin/sotto-server up", f"{program} up")
    text = re.sub(r"^(User|Group)=sotto$", r"\1=daemon", text, flags=re.MULTILINE)
    unit = tmp_path / "sotto-server.service"
    unit.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if "sotto-server.service" in line]
    assert said == []


# --- containers --------------------------------------------------------------------------------


def test_the_image_holds_the_bundles_source_and_starts_unprivileged() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    words = [line.split() for line in lines if line and not line.startswith("#")]
    known = {"FROM", "ARG", "RUN", "ENV", "WORKDIR", "COPY", "USER", "VOLUME", "EXPOSE"}
    known |= {"STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
    assert {line[0] for line in words} <= known
    copied = {line[-1].rstrip("/") for line in words if line[0] == "COPY"}
    assert {f"/opt/source/{name}" for name in ("server", "client", "shared")} <= copied
    [user] = [line[1] for line in words if line[0] == "USER"]
    assert int(user) > 0
    assert ["EXPOSE", str(PUBLIC.port if PUBLIC else "")] in words
    [check] = [line for line in words if line[0] == "HEALTHCHECK"]
    assert check[-1].strip('"]') in COMMANDS


def metrics_port(name: str) -> int:
    """Port of `--metrics` in a template's `init`."""
    [text] = re.findall(r"--metrics (\S+)", (DEPLOY / name).read_text())
    address = Address.parse(text)
    assert address is not None
    return address.port


def test_compose_publishes_the_partners_port_alone() -> None:
    [found] = documents("compose.yaml")
    assert set(found) == {"name", "services", "volumes"}
    service = found["services"]["coordinator"]
    assert service["command"][0] in COMMANDS
    port = metrics_port("compose.yaml")
    assert service["ports"] == ["9092:9092", f"127.0.0.1:{port}:{port}"]
    assert service["restart"] == "always"
    assert service["cap_drop"] == ["ALL"]
    assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    named = {volume.partition(":")[0] for volume in service["volumes"]}
    assert named - {"${SOTTO_DATA"} == set(found["volumes"])
    assert next(volume for volume in service["volumes"] if "/data" in volume).endswith(":ro")


# --- Kubernetes --------------------------------------------------------------------------------


KUBERNETES = ("1.34", "1.37")


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_knows_every_field_of_the_manifests(version: str) -> None:
    for part in documents("kubernetes/coordinator.yaml"):
        kubernetes_validate.validate(part, version, strict=True)
    [part, *_] = documents("kubernetes/coordinator.yaml")
    [container] = part["spec"]["template"]["spec"]["containers"]
    container["startupProbe"]["failureTreshold"] = 36
    with pytest.raises(kubernetes_validate.ValidationError, match="failureTreshold"):
        kubernetes_validate.validate(part, version, strict=True)


def test_the_manifests_have_probes_and_one_open_port() -> None:
    found = {part["kind"]: part for part in documents("kubernetes/coordinator.yaml")}
    assert {kind: part["apiVersion"] for kind, part in found.items()} == {
        "StatefulSet": "apps/v1",
        "Service": "v1",
        "NetworkPolicy": "networking.k8s.io/v1",
    }
    spec = found["StatefulSet"]["spec"]
    pod = spec["template"]["spec"]
    [container] = pod["containers"]
    assert spec["replicas"] == 1
    assert container["args"][0] in COMMANDS
    for probe in ("startupProbe", "readinessProbe"):
        program, command = container[probe]["exec"]["command"]
        assert (program, command in COMMANDS) == ("sotto-server", True)
    port, metrics = container["ports"]
    [service] = found["Service"]["spec"]["ports"]
    ingress, scraped = found["NetworkPolicy"]["spec"]["ingress"]
    assert port["name"] == service["targetPort"] == ingress["ports"][0]["port"]
    asked = container["livenessProbe"]["httpGet"]
    assert metrics["name"] == asked["port"] == scraped["ports"][0]["port"]
    assert metrics["containerPort"] == metrics_port("kubernetes/coordinator.yaml")
    annotations = spec["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(metrics["containerPort"])
    assert asked["path"] in health_routes(lambda: ([], 0), dict, lambda: True)
    [peer] = scraped["from"]
    assert peer["podSelector"]["matchLabels"]
    labels = spec["template"]["metadata"]["labels"]
    selectors = [
        spec["selector"]["matchLabels"],
        found["Service"]["spec"]["selector"],
        found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ]
    assert selectors == [labels] * 3
    for one in (container, *pod["initContainers"]):
        assert one["securityContext"]["allowPrivilegeEscalation"] is False
        assert one["securityContext"]["readOnlyRootFilesystem"] is True
    volumes = {volume["name"] for volume in pod["volumes"]}
    volumes |= {claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes


# --- Prometheus --------------------------------------------------------------------------------


def test_prometheus_asks_where_the_unit_makes_it_answer() -> None:
    [found] = documents("prometheus.yaml")
    assert [(DEPLOY / name).is_file() for name in found["rule_files"]] == [True]
    [job] = found["scrape_configs"]
    [target] = job["static_configs"][0]["targets"]
    assert target == f"127.0.0.1:{metrics_port('sotto-server.service')}"
    assert f'metrics = "{target}"' in (DEPLOY / "prometheus.yaml").read_text()


# --- nginx -------------------------------------------------------------------------------------

NGINX = (DEPLOY / "nginx.conf").read_text()


def test_nginx_lets_the_same_paths_through() -> None:
    [pattern] = re.findall(r'\$request_uri !~ "(.*)"', NGINX)
    for name in FLEET:
        path = f"/v1/fleet/{name}"
        assert re.search(pattern, path)
        assert PARTNERS.paths.fullmatch(path.encode())
    for path in (
        "/v1/control/list-runs",
        "/v1/fleet/x",
        "/v1/fleet/get-run?a",
        "//v1/fleet/get-run",
    ):
        assert not re.search(pattern, path)
        assert not PARTNERS.paths.fullmatch(path.encode())
    assert NGINX.count("proxy_pass") == 1


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
def test_nginx_reads_its_file(tmp_path: Path) -> None:
    from server.service.certificates import Authority  # noqa: PLC0415 for this alone

    authority = Authority(tmp_path / "ca.crt", tmp_path / "ca.key")
    authority.create("The test's")
    authority.sign(["localhost"], tmp_path / "server.crt", tmp_path / "server.key")
    text = NGINX.replace("/etc/sotto", str(tmp_path)).replace("/var/log/nginx", str(tmp_path))
    (tmp_path / "nginx.conf").write_text(text.replace("/run/", f"{tmp_path}/"))
    done = subprocess.run(
        ["nginx", "-t", "-c", str(tmp_path / "nginx.conf"), "-p", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
