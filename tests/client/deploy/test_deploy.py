"""The partner's deployment templates: each is read by a tool or a rule that can fail."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from client.cli import app
from client.node.prometheus import NodeMetrics
from client.site.template import KEYS
from shared.system.supervise import Processes, Start

if TYPE_CHECKING:
    from tests.client.partner import Partner

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "client" / "deploy"
UNITS = sorted(DEPLOY.glob("*.service")) + sorted(DEPLOY.glob("*.timer"))
every_unit = pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
SANDBOX = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "ReadWritePaths": "/var/lib/sotto -/var/lib/sotto-anchor",
    "UMask": "0077",
}


def parsed(unit: Path) -> dict[str, list[str]]:
    """Directive -> its values, whatever the section."""
    found = defaultdict(list)
    for line in unit.read_text(encoding="utf-8").splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found[name].append(value)
    return found


def understood(words: list[str]) -> None:
    """Parses a command line of `sotto-node`; raises where it is none."""
    command: click.Command = app
    while isinstance(command, click.Group):
        name, *words = words
        assert name in command.commands, f"no command {name}"
        command = command.commands[name]
        command = command.make_context(name, [], resilient_parsing=True).command  # imported
    command.make_context("sotto-node", words)


def complaints(unit: Path, folder: Path) -> str:
    """What systemd has to say; the program itself need not be installed."""
    text = re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text(encoding="utf-8"))
    for other in UNITS:
        (folder / other.name).write_text(
            other.read_text().replace("/opt/sotto/.venv/bin/", "/bin/")
        )
    (folder / unit.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", str(folder / unit.name)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr


# --- systemd -----------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
def test_systemd_has_nothing_to_say(tmp_path: Path) -> None:
    for unit in UNITS:
        assert complaints(unit, tmp_path) == "", unit.name
    odd = tmp_path / "sotto-node.service"
    text = (DEPLOY / odd.name).read_text()
    odd.write_text(text.replace("ProtectHome=yes", "ProtectHomes=yes"))
    assert "ProtectHomes" in complaints(odd, tmp_path)  # it would have


@pytest.mark.parametrize("name", ["sotto-node.service", "sotto-node-verify.service"])
def test_services_are_shut_in(name: str) -> None:
    found = parsed(DEPLOY / name)
    assert {key: found[key] for key in SANDBOX} == {key: [at] for key, at in SANDBOX.items()}
    assert found["CapabilityBoundingSet"] != []


@pytest.mark.parametrize("name", ["sotto-node.service", "sotto-node-verify.service"])
def test_services_may_write_where_the_guide_puts_ledger_and_anchor(name: str) -> None:
    guide = (ROOT / "docs" / "node-reference.md").read_text(encoding="utf-8")
    [made] = re.findall(r"(?m)^install -d -o sotto-app -m 700 (.+)$", guide)
    [home] = re.findall(r"(?m)^useradd .*--home-dir (\S+) sotto$", guide)
    [allowed] = parsed(DEPLOY / name)["ReadWritePaths"]
    writable = [Path(path.removeprefix("-")) for path in allowed.split()]
    for folder in made.split():
        assert any((Path(home) / folder).is_relative_to(path) for path in writable), folder


def test_the_node_is_started_again_for_ever() -> None:
    found = parsed(DEPLOY / "sotto-node.service")
    assert (found["Restart"], found["RestartSec"]) == (["always"], ["10"])
    assert int(found["TimeoutStopSec"][0]) > 15  # what `up` takes at most


@every_unit
def test_commands_are_those_of_sotto_node(unit: Path) -> None:
    for line in parsed(unit)["ExecStart"]:
        program, *words = shlex.split(line)
        assert program.endswith("/sotto-node")
        understood(words)


def test_a_command_that_is_none_would_be_seen() -> None:
    with pytest.raises(AssertionError, match="no command"):
        understood(["begin"])
    with pytest.raises(click.UsageError):
        understood(["up", "--sites", "x"])


def test_the_timer_has_its_service() -> None:
    timer = DEPLOY / "sotto-node-verify.timer"
    assert timer.with_suffix(".service") in UNITS
    assert parsed(timer)["OnCalendar"] == ["daily"]


# --- containers --------------------------------------------------------------------------------


def instructions(text: str) -> list[tuple[str, str]]:
    """Of a Dockerfile: word and rest, lines joined."""
    joined = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", text))
    return [
        (line.split()[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line.strip()
    ]


def faults(text: str) -> Iterator[str]:
    """What a careful reader would send a Dockerfile back for."""
    found = instructions(text)
    words = [word for word, _ in found]
    [base] = [rest for word, rest in found if word == "FROM"]
    users = [rest for word, rest in found if word == "USER"]
    if not re.fullmatch(r"\S+:\d[\w.-]*", base) or base.endswith("latest"):
        yield f"the base {base} is not pinned"
    if not users or users[-1] in ("root", "0"):
        yield "it runs as root"
    if "ADD" in words:
        yield "ADD fetches and unpacks"
    if "HEALTHCHECK" not in words:
        yield "nobody looks after it"
    for word, rest in found:
        if word in ("ENTRYPOINT", "CMD") and not isinstance(_json(rest), list):
            yield f"{word} goes through a shell, which keeps signals to itself"
        if word in ("ENV", "ARG") and re.search(r"(?i)password|secret|token|key=", rest):
            yield f"a secret would stay in the image: {rest}"
        if word == "COPY":
            *sources, _ = rest.split()
            yield from (f"{path} is not there" for path in sources if not (ROOT / path).exists())
        if word == "RUN" and "pip install" in rest and "--constraint" not in rest:
            yield "what is installed is not pinned"


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


def test_the_dockerfile_has_no_fault() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    assert list(faults(text)) == []
    entry, command = (dict(instructions(text))[word] for word in ("ENTRYPOINT", "CMD"))
    program, *words = json.loads(entry) + json.loads(command)
    assert program == "sotto-node"
    understood(words)


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        (":3.11-slim-bookworm", ":latest", "not pinned"),
        ("USER sotto", "USER root", "as root"),
        ("COPY shared", "ADD shared", "ADD"),
        ("COPY shared", "COPY sharde", "sharde is not there"),
        ('CMD ["up"]', "CMD up", "through a shell"),
        ("ENV ", "ENV DB_PASSWORD=x ", "secret would stay"),
        ("--constraint constraints.txt", "", "not pinned"),
    ],
)
def test_a_fault_would_be_seen(before: str, after: str, named: str) -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    assert before in text
    assert any(named in fault for fault in faults(text.replace(before, after)))


def test_the_image_probes_where_the_template_listens() -> None:
    [example] = [key.example for key in KEYS if key.name == "node.metrics"]
    assert f"http://{example}/healthz" in (DEPLOY / "Dockerfile").read_text(encoding="utf-8")


def test_the_image_has_every_package() -> None:
    copied = [
        rest.split()[0]
        for word, rest in instructions((DEPLOY / "Dockerfile").read_text())
        if word == "COPY"
    ]
    assert {"shared", "client", "server", "simulations"} <= set(copied)


def test_every_volume_is_the_nodes_own() -> None:
    """Docker gives a new volume its folder's owner in the image, and root where there is none."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    declared = json.loads(dict(instructions(text))["VOLUME"])
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    mounted = [entry.rsplit(":", 1)[1] for entry in compose["services"]["node"]["volumes"][:2]]
    assert declared == mounted
    for path in mounted:
        assert re.search(rf"(--owner sotto .*|--home-dir ){path}[ \n]", text), path


def test_the_compose_file_shuts_the_node_in() -> None:
    found = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    node = found["services"]["node"]
    context = (DEPLOY / node["build"]["context"]).resolve()
    assert context == ROOT
    assert (context / node["build"]["dockerfile"]).is_file()
    assert node["cap_drop"] == ["ALL"]
    assert node["security_opt"] == ["no-new-privileges:true"]
    assert node["read_only"] is True
    assert node["restart"] == "always"
    assert "ports" not in node
    assert "privileged" not in node
    named = {volume.partition(":")[0] for volume in node["volumes"]} - {"${SOTTO_DATA"}
    assert named == set(found["volumes"]) == {"site", "anchor"}
    assert next(volume for volume in node["volumes"] if "/data" in volume).endswith(":ro")


# --- the dashboard -----------------------------------------------------------------------------


def metrics(partner: Partner) -> list[Metric]:
    from tests.client.node.test_prometheus import spend  # noqa: PLC0415

    partner.init()
    partner.install_app()
    spend(partner.loaded)
    processes = Processes()
    processes.record(Start("SuperNode"))
    registry = CollectorRegistry()
    registry.register(NodeMetrics(partner.loaded, processes))
    return list(registry.collect())


def test_the_dashboard_asks_for_metrics_that_exist(partner: Partner) -> None:
    families = metrics(partner)
    there = {family.name for family in families} | {
        sample.name for family in families for sample in family.samples
    }
    there |= {f"{family.name}_total" for family in families if family.type == "counter"}
    dashboard = json.loads((DEPLOY / "grafana.json").read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [v["query"] for v in dashboard["templating"]["list"] if v["type"] == "query"]
    asked = {name for query in queries for name in re.findall(r"sotto_\w+", query)}
    assert len(queries) >= 12
    assert asked - there == set()
    shown = {re.sub("_(total|bucket)$", "", name) for name in asked}
    assert {family.name for family in families} - shown == set()  # and shows every one


def test_the_dashboards_labels_exist(partner: Partner) -> None:
    labels = {
        label for family in metrics(partner) for sample in family.samples for label in sample.labels
    }
    labels |= {"instance", "device", "state", "code", "outcome", "kind", "le"}
    dashboard = json.loads((DEPLOY / "grafana.json").read_text(encoding="utf-8"))
    targets = [target for panel in dashboard["panels"] for target in panel["targets"]]
    used = {name for target in targets for name in re.findall(r"{{(\w+)}}", target["legendFormat"])}
    assert used - labels == set()
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
