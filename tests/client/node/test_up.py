"""sotto-node up: one node a site, of two processes, kept running and ended without a trace."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import client.checks.machine
import client.node.processes
import client.site.local_port
from client.bundle.trust import verify_trusted
from client.logs import FLOWER_VARIABLE
from client.node.processes import environment, executor, supernode
from client.node.up import run_node
from client.site.keys import public_file
from client.site.lock import lock_node
from client.site.node import NodeConfig
from client.site.site import Site
from shared.errors import ConfigError, ProcessError, SiteError
from shared.outcomes import Refusal
from shared.system.supervise import Account, Patience
from simulations.faults.processes import free_port
from tests.client.authority import Authority, serving
from tests.client.node.echo_app import CLIENT, write_app
from tests.flower_internals import flower_module
from tests.shared.system.test_supervise import gone, until

if TYPE_CHECKING:
    from tests.client.partner import Partner

ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent
QUICK = Patience(first=0.02, longest=0.05, settled=5.0, brief=5.0, starts=3, end=5.0)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """`up` takes the whole process's logging."""
    root, ours = logging.getLogger(), logging.getLogger("sotto.node")
    handlers, level = [*root.handlers], ours.level
    yield
    root.handlers[:] = handlers
    ours.setLevel(level)
    logging.captureWarnings(capture=False)


@pytest.fixture(autouse=True)
def free_local_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests run nodes meanwhile; a stand-in listens nowhere."""
    monkeypatch.setattr(client.site.local_port, "port_is_free", lambda _: True)
    monkeypatch.setattr(client.checks.machine, "port_is_free", lambda _: True)


@pytest.fixture
def site(partner: Partner) -> Site:
    """A site that knows a coordinator, whether there or not."""
    partner.init({"--superlink": "127.0.0.1:1", "--root-certificates": partner.folder / "ca.crt"})
    return partner.loaded


@dataclass(frozen=True)
class StandIn:
    """A program in place of flower-supernode that notes each start, then does what it is told.

    Attributes:
        folder: where it notes.
    """

    folder: Path

    def does(self, patch: pytest.MonkeyPatch, script: str) -> None:
        file = self.folder / "stand-in"
        noted = f'echo start >> {self.folder}/starts; printf "%s\\n" "$@" > {self.folder}/arguments'
        file.write_text(f"#!/bin/sh\n{noted}\nenv > {self.folder}/environment\n{script}\n")
        file.chmod(0o700)
        patch.setattr(client.node.processes, "_SUPERNODE", (str(file),))

    @property
    def starts(self) -> int:
        return len((self.folder / "starts").read_text().split())

    def lines(self, name: str) -> list[str]:
        return (self.folder / name).read_text().splitlines()


@pytest.fixture
def stand_in(tmp_path: Path) -> StandIn:
    (tmp_path / "stand-in-notes").mkdir()
    return StandIn(tmp_path / "stand-in-notes")


def run(site: Site, patience: Patience = QUICK) -> None:
    with lock_node(Path(site.folder)) as lock:
        run_node(site, lock, patience)


# --- what is started ---------------------------------------------------------------------------

# Ends the node as an operator would: the stand-in's parent is this process.
SIGNAL_PARENT = "kill -TERM $PPID; exec sleep 60"


def test_the_supernode_gets_address_certificate_key_and_site(
    site: Site, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in.does(monkeypatch, SIGNAL_PARENT)
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    run(site)
    assert stand_in.lines("arguments") == [
        "--superlink",
        "127.0.0.1:1",
        "--root-certificates",
        str(tmp_path / "ca.crt"),
        "--auth-supernode-private-key",
        str(tmp_path / "site" / "node_key"),
        "--host",
        "127.0.0.1",
        "--port",
        "9094",
        "--isolation",
        "process",
        "--superexec-auth-secret-file",
        "/dev/stdin",
        "--node-config",
        f"site='{tmp_path / 'site'}'",
    ]
    found = stand_in.lines("environment")
    assert "FLWR_TELEMETRY_ENABLED=0" in found
    assert "FLWR_DISABLE_UPDATE_CHECK=1" in found
    assert "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1" in found
    assert f"FLWR_HOME={tmp_path / 'site' / 'flower'}" in found


def test_flower_reads_the_sites_folder_whatever_it_is_called(
    partner: Partner, tmp_path: Path
) -> None:
    parse_config_args = flower_module("common.config").parse_config_args  # flower-supernode's own
    for name in ("plain", "two words", "it's", 'the "site"', "back\\slash", "a=b", "Größe"):
        folder = tmp_path / name
        values = {"--superlink": "127.0.0.1:1", "--user-base": name}
        assert partner.types("init", folder, *partner.options(values))[0] == 0
        [config] = [c for c in supernode(Site.load(folder), b"").command if c.startswith("site=")]
        assert parse_config_args([config]) == {"site": str(folder)}


def test_a_folder_that_cannot_be_passed_on_is_refused(partner: Partner, tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s "mine"'
    partner.types("init", folder, *partner.options({"--superlink": "127.0.0.1:1"}))
    with pytest.raises(SiteError, match="without quotation marks"):
        supernode(Site.load(folder), b"")


def test_the_systems_authorities_need_no_file(partner: Partner) -> None:
    partner.init({"--superlink": "127.0.0.1:1"})
    assert "--root-certificates" not in supernode(partner.loaded, b"").command


def test_without_a_coordinator_there_is_nothing_to_start(partner: Partner) -> None:
    partner.init()
    with pytest.raises(ConfigError, match=r"coordinator\.superlink"):
        supernode(partner.loaded, b"")


def test_programs_of_this_environment_are_found_first(site: Site) -> None:
    assert environment(site)["PATH"].startswith(str(BIN))


# --- kept running ------------------------------------------------------------------------------


def test_a_supernode_that_is_no_use_is_an_error_in_the_end(
    site: Site,
    stand_in: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stand_in.does(monkeypatch, "exit 7")
    caplog.set_level(logging.INFO, "sotto.node")
    with pytest.raises(
        ProcessError, match=r"SuperNode ended with 7, and 3 .*accepted this node's key"
    ):
        run(site)
    assert stand_in.starts == 3
    noted = [record.getMessage() for record in caplog.records]
    assert sum("restarting" in line and 'code="7"' in line for line in noted) == 2
    assert sum('program="SuperNode"' in line for line in noted) == 2


def test_a_node_runs_without_end_by_default() -> None:
    assert Patience().starts is None


def test_flower_understands_the_arguments(site: Site) -> None:
    """Flower ends with 2 where it does not; here it misses the certificate, and says so."""
    program = supernode(site, b"")
    variables = dict(program.variables) | {FLOWER_VARIABLE: "on"}
    done = subprocess.run(
        program.command, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "`--root-certificates` does not point to a file" in done.stderr
    assert "\033" not in done.stderr  # no colours in a file


def test_the_executor_understands_the_arguments(site: Site) -> None:
    """With nobody who gives it work."""
    program = executor(site, b"secret")
    variables = dict(program.variables) | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        program.command, env=variables, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate("secret", timeout=4)
        process.terminate()
        assert process.wait(5) == -signal.SIGTERM


def test_both_processes_get_one_secret_and_show_it_nowhere(site: Site) -> None:
    for program in (supernode(site, b"s3cret"), executor(site, b"s3cret")):
        assert program.secret == b"s3cret"
        shown = [*program.command, *program.variables, *program.variables.values()]
        assert not any("s3cret" in text for text in shown)


def test_without_root_both_processes_are_ours(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    named = replace(site, node=NodeConfig(executor_user="nobody"))
    assert {program(named, b"").account for program in (supernode, executor)} == {None}


def test_root_gives_each_process_its_own_user(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    named = replace(site, node=NodeConfig(executor_user="nobody"))
    owner = Account.of(site.key_file.stat().st_uid)
    assert supernode(named, b"").account == owner
    assert executor(named, b"").account == Account.of("nobody")
    assert {program(site, b"").account for program in (supernode, executor)} == {None}


# --- one node a site ---------------------------------------------------------------------------


def test_a_site_has_one_node(tmp_path: Path) -> None:
    other = pytest.raises(SiteError, match=rf"process {os.getpid()}\)")
    with lock_node(tmp_path), other, lock_node(tmp_path):
        pass
    with lock_node(tmp_path):
        pass


HOLD = """
import sys, time
from pathlib import Path
from client.site.lock import lock_node
with lock_node(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_node_that_is_killed_leaves_no_lock(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert holder.stdout is not None
    with holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(SiteError, match="running already"), lock_node(tmp_path):
            pass
        holder.kill()
    with lock_node(tmp_path):
        pass


# --- the command -------------------------------------------------------------------------------


def test_up_checks_first(partner: Partner, site: Site, stand_in: StandIn) -> None:
    stand_in.does(partner.patch, "exit 0")
    code, out, err = partner.types("up", "--site", site.folder)
    assert code == 2
    assert "the node does not start: certificate, coordinator. " in err
    assert f"sotto-node check --site {site.folder}" in err
    assert "doubtful: app\n" in err
    assert out == ""
    assert not (stand_in.folder / "starts").exists()


@pytest.mark.parametrize("name", ["ledger", "delta", "seed", "key", "anchor", "nonsense"])
def test_what_concerns_privacy_is_not_skipped(partner: Partner, site: Site, name: str) -> None:
    code, _, err = partner.types("up", "--site", site.folder, "--skip-check", name)
    assert code == 2
    assert f"--skip-check {name}: only memory and coordinator may be skipped" in err


def test_up_starts_without_the_coordinator_if_that_check_is_skipped(
    partner: Partner, site: Site, stand_in: StandIn
) -> None:
    authority = Authority(partner.folder)
    assert authority.certificate == site.root_certificates_file
    stand_in.does(partner.patch, SIGNAL_PARENT)
    code, *_ = partner.types("up", "--site", site.folder, "--skip-check", "coordinator")
    assert code == 0
    assert stand_in.starts == 1


def test_up_with_a_coordinator_that_answers(partner: Partner, stand_in: StandIn) -> None:
    authority = Authority(partner.folder / "authority")
    stand_in.does(partner.patch, SIGNAL_PARENT)
    with serving(authority.server()) as address:
        partner.init({"--superlink": address, "--root-certificates": authority.certificate})
        code, out, err = partner.types("up", "--site", partner.site)
    assert code == 0
    assert out == ""
    assert "wrong" not in err
    assert "the node is up" in err
    assert "the node is down" in err
    assert stand_in.starts == 1


def test_a_broken_ledger_stops_it_whatever_is_skipped(
    partner: Partner, site: Site, stand_in: StandIn
) -> None:
    Authority(partner.folder).server()
    site.anchor_file.unlink()
    stand_in.does(partner.patch, SIGNAL_PARENT)
    code, _, err = partner.types("up", "--site", site.folder, "--skip-check", "coordinator")
    assert code == 2
    assert "the node does not start: anchor." in err
    assert not (stand_in.folder / "starts").exists()


def test_the_output_of_up_does_not_depend_on_users(
    partner: Partner, site: Site, stand_in: StandIn
) -> None:
    """Neither how many there are, nor what stands in a row."""
    partner.edit("population = 200", "population = 173")
    rows = partner.events.read_text().splitlines()
    partner.events.write_text("\n".join([*rows, "c4nary,i1,yesterday"]))
    stand_in.does(partner.patch, SIGNAL_PARENT)
    code, out, err = partner.types("up", "--site", site.folder)
    assert code == 2
    assert "wrong: schema" in err
    assert not [
        text
        for text in ("c4nary", "yesterday", "200", "173")
        if text in out + err.replace(site.folder, "")
    ]
    partner.events.write_text("\n".join(rows))
    code, out, err = partner.types("up", "--site", site.folder)
    assert "doubtful: population" in err
    assert not [text for text in ("200", "173") if text in out + err.replace(site.folder, "")]


def test_up_says_that_its_port_is_in_use_and_starts_nothing(
    partner: Partner, stand_in: StandIn
) -> None:
    partner.patch.undo()
    authority = Authority(partner.folder / "authority")
    stand_in.does(partner.patch, SIGNAL_PARENT)
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        serving(authority.server()) as address,
    ):
        port = taken.getsockname()[1]
        options = {"--superlink": address, "--root-certificates": authority.certificate}
        partner.init(options | {"--local-port": port})
        code, out, err = partner.types("up", "--site", partner.site)
    assert code == 2
    assert f"error: 127.0.0.1:{port} is in use by another program. Set local_port = " in err
    assert "Traceback" not in err + out
    assert not (stand_in.folder / "starts").exists()


def test_up_refuses_seeded_noise(partner: Partner, site: Site) -> None:
    partner.edit("[coordinator]", "[lab]\nseed = 1\n\n[coordinator]")
    code, _, err = partner.types("up", "--site", site.folder)
    assert code == 2
    assert "protects nobody" in err


def test_up_refuses_without_a_coordinator(partner: Partner) -> None:
    partner.init()
    code, _, err = partner.types("up", "--site", partner.site)
    assert code == 2
    assert "coordinator.superlink" in err


# --- with Flower itself ------------------------------------------------------------------------


@contextmanager
def started(
    *arguments: object, log: Path, env: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            list(map(str, arguments)),
            stdout=out,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=ROOT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(15)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def of_group(site: Path) -> list[int]:
    """Processes that were started with this site's folder, or by such a one."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(site).encode() in (entry / "cmdline").read_bytes() and not gone(int(entry.name)):
                found.append(int(entry.name))
    return found


@dataclass(frozen=True)
class Federation:
    """A SuperLink, and what talks to it.

    Attributes:
        folder: of its files.
        port: where it listens.
        env: of every process.
    """

    folder: Path
    port: int
    env: dict[str, str]

    def flwr(self, *arguments: object) -> str:
        """What Flower's own command says."""
        done = subprocess.run(
            [str(BIN / "flwr"), *map(str, arguments)],
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            timeout=120,
        )
        return done.stdout + done.stderr

    def asked(self, app: Path, *asks: str) -> list[dict[str, Any]]:
        """Runs an app whose server asks a node; gives the replies."""
        out = self.folder / "replies.json"
        out.unlink(missing_ok=True)
        config = f"asks={','.join(asks)!r} out={str(out)!r}"
        said = self.flwr("run", app, "here", "--stream", "--run-config", config)
        assert out.exists(), said
        return list(json.loads(out.read_text()))


@pytest.fixture
def federation(partner: Partner, tmp_path: Path) -> Iterator[Federation]:
    """A coordinator as an operator would run it, and a site that knows it."""
    authority, port = Authority(tmp_path / "authority"), free_port()
    certificate, key = authority.server()
    partner.init({"--superlink": f"127.0.0.1:{port}", "--root-certificates": authority.certificate})
    partner.edit("# local_port = 9094", f"local_port = {free_port()}")
    home, secret = tmp_path / "flower", tmp_path / "secret"
    home.mkdir()
    secret.write_bytes(os.urandom(32))
    secret.chmod(0o600)
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{port}"\n'
        f'root-certificates = "{authority.certificate}"\n'
    )
    env = environment(partner.loaded) | {"FLWR_HOME": str(home), "PYTHONPATH": str(ROOT)}
    shared = ["--superexec-auth-secret-file", secret]
    link = [BIN / "flower-superlink", "--host", "127.0.0.1", "--port", port]
    link += ["--ssl-ca-certfile", authority.certificate, "--ssl-certfile", certificate]
    link += ["--ssl-keyfile", key, "--enable-supernode-auth", "--database", tmp_path / "state.db"]
    work = [BIN / "flower-superexec", "--runtime-api-address", f"127.0.0.1:{port}"]
    work += ["--root-certificates", authority.certificate]
    log = tmp_path / "link.log"
    with (
        started(*link, "--isolation", "process", *shared, log=log, env=env),
        started(*work, *shared, log=tmp_path / "work.log", env=env),
    ):
        until(lambda: answers(port))
        yield Federation(tmp_path, port, env)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_a_node_joins_a_superlink_and_runs_the_vetted_bundle_alone(
    partner: Partner, federation: Federation
) -> None:
    """The real thing: SuperLink, registration, trust, `sotto-node up`, runs, and the end."""
    app = write_app(federation.folder / "app")
    said = federation.flwr("build", "--app", app)
    [bundle] = federation.folder.glob("*.fab")
    assert partner.types("trust", bundle, "--site", partner.site, "--yes")[0] == 0, said
    key = public_file(partner.loaded.key_file)
    _, findings = partner.check()
    assert findings["accepted"]["found"] == "the coordinator has not accepted this node's key"
    assert str(key) in findings["accepted"]["remedy"]
    up = [sys.executable, "-c", "from client.cli import main; main()", "up", "--site", partner.site]
    log = federation.folder / "up.log"

    with started(*up, log=log, env=federation.env) as node:
        until(lambda: "not-accepted:" in log.read_text() or node.poll() is not None)
        assert f"Send {key} to the coordinator and ask for accept" in log.read_text()
        assert f'file="{key}"' in log.read_text()
        said = federation.flwr("supernode", "register", key, "here")
        assert "registered successfully" in said
        until(lambda: partner.check()[1]["accepted"]["status"] == "ok")
        until(lambda: "connected: the coordinator" in log.read_text() or node.poll() is not None)
        assert node.poll() is None, log.read_text()
        nodes = json.loads(federation.flwr("supernode", "list", "here", "--format", "json"))
        assert [n["status"] for n in nodes["nodes"]] == ["online"]
        with pytest.raises(SiteError, match="running already"), lock_node(partner.site):
            pass

        # A bundle that differs in a byte is refused; afterwards the vetted one answers. A process
        # that dies is reported at once, and the next one answers.
        other = write_app(federation.folder / "other", CLIENT.replace("die(m", "dye(m"))
        [refused] = federation.asked(other, "echo")
        assert refused["said"] == f"bundle: {Refusal.BUNDLE.sentence}"
        first, death, second = federation.asked(app, "echo", "die", "echo")
        folder = verify_trusted(partner.loaded).folder
        assert first["said"]["file"] == second["said"]["file"] == str(folder / "client" / "app.py")
        assert first["said"]["pid"] != second["said"]["pid"]
        assert death["said"] == f"failed: {Refusal.FAILED.sentence}"
        assert death["seconds"] < 20  # Flower alone would wait for a minute
        assert "died" in log.read_text()
        # The task's token is not in what the machine's users see.
        assert "token" not in first["said"]["shown"]

        partner.patch.setattr(client.checks.machine, "port_is_free", lambda _: False)
        assert partner.check()[1]["port"]["found"].endswith("in use by this site's own node")
        lines = log.read_text().splitlines()
        assert not [line for line in lines if "\033" in line]
        own = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z (INFO|WARNING|ERROR) |doubtful: |  ")
        assert not [line for line in lines if not own.match(line)]
        assert sum("answered: " in line or "declined: " in line for line in lines) <= 3
        began = time.monotonic()
        node.terminate()
        assert node.wait(30) == 0, log.read_text()
        assert time.monotonic() - began < 20
    until(lambda: not of_group(partner.site), seconds=5)
    assert "wrong" not in log.read_text()
    with lock_node(partner.site):
        pass
