"""The whole thing on loopback: real processes, TLS and keys, three partners with three sources.

`sotto-server` and `sotto-node` as people type them; nothing is replaced or imported from inside.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import client.cli
import server.cli
from client.site.setup import make_site
from server.runs.bundle import build_bundle
from server.runs.run import read_config
from server.state.checkpoint import Checkpoint
from shared.config import RunConfig
from shared.data.catalogue import Catalogue
from shared.models.attention import AttentionRecommender
from shared.sections import Value
from simulations.experiment.config import Engine
from simulations.experiment.federation import run_federation
from simulations.faults.processes import free_port

ROOT = Path(__file__).parents[1]
ITEMS, USERS, ROUNDS = 30, 40, 3
COLUMNS = ("user_id", "item_id", "timestamp")
NAMES = ("Alpha Books", "Beta", "Gamma")
RUN = """
[privacy]
epsilon = {epsilon}
delta = 1e-4
[model]
feature_size = 8
heads = 1
max_length = 6
[training]
rounds = {rounds}
sample_rate = {rate}
[server]
organisations = 3
quorum = 1.0
deadline_seconds = 60.0
[paths]
catalogue = "catalogue"
"""
pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="looks into /proc, ends children with parents"
)


def until(holds: Callable[[], object], seconds: float = 60.0, why: Callable[[], str] = str) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"it never came: {why()}"
        time.sleep(0.1)


@dataclass(frozen=True)
class Typed:
    """What a command said."""

    stdout: str
    stderr: str


@dataclass
class Deployment:
    """A coordinator and its partners in one folder."""

    folder: Path
    ports: list[int] = field(default_factory=lambda: [free_port() for _ in range(7)])
    up: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def server(self) -> Path:
        return self.folder / "coordinator"

    def site(self, name: str) -> Path:
        return self.folder / f"site {name}"

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def command(self, program: str, *arguments: object) -> list[str]:
        package = {"sotto-server": "server", "sotto-node": "client"}[program]
        start = f"from {package}.cli import main; main()"
        return [sys.executable, "-P", "-c", start, *map(str, arguments)]

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("FLWR_", "SOTTO_"))}
        kept |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        return kept | {"XDG_STATE_HOME": self.state}

    @property
    def state(self) -> str:
        """Where the user bases of this deployment are remembered, and no others."""
        return str(self.folder / "state")

    def types(self, program: str, *arguments: object, code: int = 0) -> Typed:
        """What `main` of the program does, in this process: a start of each takes seconds."""
        out, err = io.StringIO(), io.StringIO()
        main = {"sotto-server": server.cli.main, "sotto-node": client.cli.main}[program]
        with (
            pytest.MonkeyPatch.context() as patched,
            chdir(self.folder),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            patched.setattr(sys, "argv", [program, *map(str, arguments)])
            patched.setenv("XDG_STATE_HOME", self.state)
            with pytest.raises(SystemExit) as ended:
                main()
        assert ended.value.code == code, f"{arguments}: {out.getvalue()}\n{err.getvalue()}"
        return Typed(out.getvalue(), err.getvalue())

    def starts(self, name: str, program: str, *arguments: object) -> None:
        with self.log(name).open("ab") as log:
            self.up[name] = subprocess.Popen(
                self.command(program, *arguments),
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def says(self, name: str, text: str) -> None:
        def there() -> bool:
            assert self.up[name].poll() is None, self.log(name).read_text()
            return text in self.log(name).read_text()

        until(there, why=lambda: self.log(name).read_text())

    def ends(self) -> dict[str, int]:
        for process in reversed(self.up.values()):
            process.send_signal(signal.SIGTERM)
        codes = {}
        for name, process in self.up.items():
            with suppress(subprocess.TimeoutExpired):
                codes[name] = process.wait(40)
            process.kill()
        return codes

    @property
    def processes(self) -> dict[int, str]:
        """Everything that was started for this deployment: arguments, by process."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                variables = (entry / "environ").read_bytes()
                if str(self.folder).encode() in variables + (entry / "cmdline").read_bytes():
                    found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
        return found


def events(first_user: int) -> list[tuple[str, str, int]]:
    random = np.random.default_rng(first_user)
    return [
        (f"user-{first_user + user}", f"i{item}", 1000 + at)
        for user in range(USERS)
        for at, item in enumerate(random.choice(ITEMS, size=7, replace=False))
    ]


def write_sources(folder: Path) -> dict[str, list[str]]:
    """Parquet, CSV and SQLite; the options of `sotto-node init` for each."""
    alpha, beta, gamma = (events(first) for first in (1000, 2000, 3000))
    columns = [[row[at] for row in alpha] for at in range(3)]
    pq.write_table(pa.table(dict(zip(COLUMNS, columns, strict=True))), folder / "alpha.parquet")
    with (folder / "beta.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *beta])
    with sqlite3.connect(folder / "gamma.db") as database:
        database.execute("CREATE TABLE bought (user_id TEXT, item_id TEXT, timestamp INTEGER)")
        database.executemany("INSERT INTO bought VALUES (?, ?, ?)", gamma)
    database.close()
    sources = ["alpha.parquet"], ["beta.csv"], [f"sqlite:///{folder}/gamma.db", "--table", "bought"]
    return dict(zip(NAMES, sources, strict=True))


def write_catalogue(folder: Path) -> None:
    features = torch.randn(ITEMS, 8, generator=torch.Generator().manual_seed(1))
    Catalogue(
        item_ids=tuple(f"i{n}" for n in range(ITEMS)),
        titles=("",) * ITEMS,
        genres=((),) * ITEMS,
        years=(None,) * ITEMS,
        features=features,
    ).save(folder / "catalogue")


def join(made: Deployment, name: str, source: Sequence[str], port: int) -> None:
    """A partner's part, as docs/join.md has it, and its acceptance."""
    told = json.loads(
        made.types("sotto-server", "invite", name, "--server", made.server, "--json").stdout
    )
    words = ["init", made.site(name), "--organisation", name, "--user-base", name]
    words += ["--superlink", told["address"], "--root-certificates", told["authority"]]
    words += ["--population", USERS, "--source", *source, "--catalogue", "catalogue"]
    words += ["--max-epsilon", 8, "--delta", 1e-4, "--anchor", made.folder / "anchors" / name]
    new = made.types("sotto-node", *words).stdout
    file = made.site(name) / "site.toml"
    file.write_text(file.read_text().replace("# local_port = 9094", f"local_port = {port}"))
    key = next(line for line in new.splitlines() if "ecdsa" in line).removeprefix("public key")
    made.types("sotto-server", "accept", key.strip(), "--name", name, "--server", made.server)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    made = Deployment(tmp_path_factory.mktemp("deployment"))
    public, administrators, superlink, metrics, *locals_ = made.ports
    write_catalogue(made.folder)
    sources = write_sources(made.folder)
    listen = ["--address", f"localhost:{public}", "--listen", f"127.0.0.1:{public}"]
    listen += ["--administrators", f"127.0.0.1:{administrators}"]
    listen += ["--superlink", f"127.0.0.1:{superlink}", "--metrics", f"127.0.0.1:{metrics}"]
    # A source of its own: an edit meanwhile would make another bundle, which partners refuse.
    app = build_bundle(ROOT).unpack(made.folder / "source")
    made.types("sotto-server", "init", made.server, *listen, "--app", app)
    made.starts("coordinator", "sotto-server", "up", "--server", made.server)
    try:
        made.says("coordinator", "The coordinator is up")
        for name, port in zip(NAMES, locals_, strict=True):
            join(made, name, sources[name], port)
        bundled = made.types("sotto-server", "bundle", "--server", made.server)
        bundle = bundled.stdout.strip()
        [digest] = re.findall(r"SHA-256 ([0-9a-f]{64})", bundled.stderr)
        for name in NAMES:
            trust = ["trust", bundle, "--site", made.site(name), "--fingerprint", digest]
            made.types("sotto-node", *trust)
            made.starts(name, "sotto-node", "up", "--site", made.site(name))
        for name in NAMES:
            made.says(name, "connected: the coordinator")
        yield made
        ended = made.ends()
        assert ended == dict.fromkeys(made.up, 0)
        until(lambda: not made.processes, 10, lambda: str(made.processes))
    finally:
        made.ends()


@dataclass(frozen=True)
class Watched:
    """A run with privacy, and what could be seen of processes meanwhile."""

    output: str
    arguments: set[str]


@pytest.fixture(scope="module")
def watched(deployment: Deployment) -> Watched:
    made = deployment
    (made.folder / "private.toml").write_text(RUN.format(epsilon=8.0, rounds=ROUNDS, rate=0.5))
    arguments: set[str] = set()
    with (made.folder / "run.log").open("wb") as log:
        run = subprocess.Popen(
            made.command("sotto-server", "run", "private.toml", "--server", made.server),
            cwd=made.folder,
            env=made.environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            while run.poll() is None:
                arguments |= set(made.processes.values())
                time.sleep(0.2)
        finally:
            run.kill()
    output = (made.folder / "run.log").read_text()
    assert run.returncode == 0, output + made.log("coordinator").read_text()
    return Watched(output, arguments)


def test_rounds_with_privacy_are_reported_one_by_one(
    deployment: Deployment, watched: Watched
) -> None:
    rounds = re.findall(rf"round (\d) of {ROUNDS}: 3 valid replies of 3", watched.output)
    assert rounds[-1] == str(ROUNDS)
    assert rounds == sorted(rounds)
    status = deployment.types("sotto-server", "status", "--server", deployment.server, "--json")
    [row] = json.loads(status.stdout)
    assert (row["state"], row["round"], row["starts"]) == ("finished", ROUNDS, 1)
    listed = deployment.types("sotto-server", "list", "--server", deployment.server, "--json")
    assert [(p["name"], p["connection"]) for p in json.loads(listed.stdout)] == [
        (name, "online") for name in NAMES
    ]


def test_prometheus_and_probes_get_an_answer(deployment: Deployment, watched: Watched) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{deployment.ports[3]}", trust_env=False) as asked:
        assert asked.get("/healthz").status_code == 200
        assert asked.get("/readyz").json() == {"status": "ok", "problems": []}
        text = asked.get("/metrics").text
    assert 'sotto_run_state{run="private",state="finished"} 1.0' in text
    assert 'sotto_replies_total{organisation="Beta",outcome="valid",run="private"}' in text
    up = dict(re.findall(r'sotto_process_up\{process="(\w+)"\} (\S+)', text))
    assert up == dict.fromkeys(("superlink", "executor", "proxy", "supervisor"), "1.0")


def test_the_published_card_claims_what_the_ledgers_say(
    deployment: Deployment, watched: Watched
) -> None:
    out = deployment.folder / "published"
    told = ["publish", "private", "--server", deployment.server, "--out", out]
    deployment.types("sotto-server", *told)
    text = (out / "README.md").read_text()
    [worst] = re.findall(r"\| worst ε \| ([\d.]+) \|", text)
    for name in NAMES:
        spent = deployment.types("sotto-node", "budget", "--site", deployment.site(name), "--json")
        assert json.loads(spent.stdout)["spent"] == pytest.approx(float(worst), abs=0.001)
        assert f"| {name} | {USERS} | {ROUNDS} |" in text
    assert 0 < float(worst) <= 8
    model = AttentionRecommender.from_pretrained(out / "model")
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert len(Catalogue.load(out / "catalogue")) == ITEMS


def test_no_secret_key_or_datum_stands_in_arguments_logs_or_the_bundle(
    deployment: Deployment, watched: Watched
) -> None:
    made = deployment
    keys = [made.server / name for name in ("ca.key", "server.key", "internal.key")]
    keys += [made.site(name) / "node_key" for name in NAMES]
    secrets = [key.read_text().splitlines()[1] for key in keys]
    secrets += [(made.server / "executor.secret").read_text()]
    data = ["user-1", "user-2", "user-3", "timestamp"]
    said = watched.output + "".join(file.read_text() for file in made.folder.glob("*.log"))
    seen = "\n".join(watched.arguments)
    assert "flwr-serverapp" in seen
    assert "--token " not in seen
    for secret in secrets:
        assert len(secret) > 30
        assert secret not in said + seen
    assert not [datum for datum in data if datum in said + seen]
    listed = set(re.findall(r"^  (\S+)$", watched.output, re.MULTILINE))
    assert "server/app.py" in listed
    assert {Path(name).suffix for name in listed} == {".py", ".toml"}
    assert {Path(name).parts[0] for name in listed} == {
        *("client", "server", "shared", "pyproject.toml")
    }


def test_the_weights_are_those_of_the_in_process_engine(
    deployment: Deployment, watched: Watched, tmp_path: Path
) -> None:
    """Without privacy and with everybody in each step, nothing is left to chance."""
    made = deployment
    text = RUN.format(epsilon='"none"', rounds=2, rate=1.0)
    (made.folder / "open.toml").write_text(text)
    for name in NAMES:  # the partner's own decision, in its own file
        file = made.site(name) / "site.toml"
        file.write_text(file.read_text().replace("max_epsilon = 8.0", "max_epsilon = inf"))
    made.types("sotto-server", "run", "open.toml", "--server", made.server)
    deployed = Checkpoint.load(made.server / "runs" / "open" / "out")

    sites = []
    for name, source in write_sources(tmp_path).items():
        values: dict[str, Value] = {"organisation": name, "user_base": name}
        values |= {"population": USERS}
        values |= {"data.source": str(source[0] if "://" in source[0] else tmp_path / source[0])}
        values |= {"data.table": source[2]} if len(source) > 1 else {}
        values |= {"catalogue": str(made.folder / "catalogue"), "anchor": str(tmp_path / name)}
        values |= {"policy.max_epsilon": float("inf"), "policy.delta": 1e-4}
        site = make_site(tmp_path / f"site {name}", values).site
        file = Path(site.folder) / "site.toml"
        file.write_text(file.read_text() + "\n[lab]\nseed = 0\n")
        sites.append(Path(site.folder))
    flat = read_config(made.folder / "open.toml") | {"paths.out": str(tmp_path / "out")}
    seen: list[Checkpoint] = []
    run_federation(RunConfig.from_flat(flat), sites, engine=Engine.INPROCESS, observer=seen.append)
    first, last = seen[0].weights, seen[-1].weights
    assert last.keys() == deployed.weights.keys()
    assert any(not np.array_equal(first[name], last[name]) for name in last)
    for name, value in last.items():
        np.testing.assert_array_equal(value, deployed.weights[name], err_msg=name)
