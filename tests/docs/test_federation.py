"""*run* and *join*, as they are written: real processes of a coordinator and three partners.

They run in a network of their own where the machine allows it (`unshare`), so that the ports that
the pages name are free; elsewhere on loopback, if they are. The partners' sources differ: Parquet,
CSV and SQLite. Afterwards the same deployment trains without privacy, and is compared with the
in-process engine.
"""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shlex
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from client.site.setup import make_site
from server.runs.run import read_config
from server.state.checkpoint import Checkpoint
from shared.config import RunConfig
from shared.data.catalogue import Catalogue
from shared.models.attention import AttentionRecommender
from shared.sections import Value
from simulations.experiment.config import Engine
from simulations.experiment.federation import run_federation
from simulations.faults.processes import free_port
from tests.docs.pages import DOCS, Block, Shell, blocks, clone, environment

ITEMS, USERS = 60, 2000
PORTS = (9091, 9092, 9093, 9094, 9095, 9096)
"""The coordinator's three, as the pages have them, and one of each node."""
HOST = "sotto.example"
"""The page asks for the reader's own name in place of it."""
PARTNERS = {"Alpha Books": "alpha-books", "Beta": "beta", "Gamma": "gamma"}
COLUMNS = ("user_id", "item_id", "timestamp")
SOURCES = {
    "Alpha Books": ["events.parquet"],
    "Beta": ["events.csv"],
    "Gamma": ["sqlite:///{folder}/events.db", "--table", "bought"],
}
"""Instead of the page's `--source events.parquet`."""
ROUNDS = 2
OPEN = f"""
[privacy]
epsilon = "none"
delta = 1e-5
[model]
max_length = 6
[training]
rounds = {ROUNDS}
sample_rate = 1.0
[server]
organisations = 3
quorum = 1.0
deadline_seconds = 60.0
[paths]
catalogue = "catalogue"
"""
"""Without privacy and with everybody in each step, nothing is left to chance."""
CODES = {"sotto-node check": (0, 1)}
"""Doubtful is allowed: it depends on who runs the test, and on the machine."""
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")


@cache
def network() -> tuple[str, ...] | None:
    """Return the words that start a holder of a network of its own; None where there is none."""
    if not all(shutil.which(program) for program in ("unshare", "nsenter", "ip")):
        return None
    probe = subprocess.run(["unshare", "-rn", "ip", "link", "set", "lo", "up"], check=False)
    return ("unshare", "-rn") if probe.returncode == 0 else None


def write_items(folder: Path) -> None:
    folder.mkdir(parents=True)
    with (folder / "items.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("item_id", "title", "genres"))
        rows.writerows((f"sku{n}", f"Blend {n // 6}", f"kind {n % 6}") for n in range(ITEMS))


def write_events(folder: Path, name: str, seed: int) -> None:
    """Into Parquet, CSV or SQLite."""
    draw = random.Random(seed)
    events = [
        (f"user-{seed}{user:04}", f"sku{item}", 1000 + at)
        for user in range(USERS)
        for at, item in enumerate(draw.sample(range(ITEMS), 5))
    ]
    if name == "Beta":
        with (folder / "events.csv").open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *events])
    elif name == "Gamma":
        with sqlite3.connect(folder / "events.db") as database:
            database.execute("CREATE TABLE bought (user_id TEXT, item_id TEXT, timestamp INTEGER)")
            database.executemany("INSERT INTO bought VALUES (?, ?, ?)", events)
        database.close()
    else:
        columns = dict(zip(COLUMNS, zip(*events, strict=True), strict=True))
        table = pa.table({name: list(values) for name, values in columns.items()})
        pq.write_table(table, folder / "events.parquet")


@dataclass
class Person:
    """A reader of a page, at a terminal."""

    shell: Shell
    rest: list[Block]
    name: str = ""

    def follow(self, until: str = "") -> str:
        """Do what the page says, up to the block that holds a command; return what it prints."""
        printed = ""
        while self.rest and not (until and until in self.rest[0].text):
            printed += self.do(self.rest.pop(0))
        return printed

    def type(self, command: str, more: str = "") -> None:
        """Do the block of a command alone, with `more` behind it."""
        [block] = [block for block in self.rest if command in block.text]
        self.shell.run_here(f"{self.personal(block.text)} {more}")

    def do(self, block: Block) -> str:
        """Do what one block says."""
        text = self.personal(block.text)
        if block.title:
            (self.shell.folder / block.title).write_text(text)
        elif block.language == "sh" and block.background:
            self.shell.start(text, block.says)
        elif block.language == "sh":
            codes = next((codes for word, codes in CODES.items() if word in text), (0,))
            return self.shell.run(text, answer="y\n" * 3, codes=codes)
        return ""

    @property
    def source(self) -> list[str]:
        """What follows `--source`."""
        return [word.format(folder=self.shell.folder) for word in SOURCES[self.name]]

    def personal(self, text: str) -> str:
        """Put in what the reader has to replace."""
        text = text.replace(HOST, "localhost")
        if self.name:
            short = PARTNERS[self.name]
            text = text.replace("Alpha Books", self.name).replace("alpha-books", short)
            text = text.replace("alpha-customers", f"{short}-customers")
            text = text.replace("events.parquet", shlex.join(self.source))
        return text


@dataclass
class Federation:
    """The coordinator, and the partners by name."""

    folder: Path
    coordinator: Person
    partners: dict[str, Person]

    @property
    def people(self) -> list[Person]:
        return [*self.partners.values(), self.coordinator]

    @property
    def server(self) -> Path:
        """The coordinator's own folder."""
        return self.coordinator.shell.folder / "coordinator"

    def site(self, name: str) -> Path:
        return self.partners[name].shell.folder / "site"

    @property
    def processes(self) -> dict[int, str]:
        """Everything that was started for this federation: arguments, by process."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                variables = (entry / "environ").read_bytes()
                if str(self.folder).encode() in variables + (entry / "cmdline").read_bytes():
                    found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
        return found

    def close(self) -> list[int]:
        """End every node, and then the coordinator; return their exit codes."""
        return [code for person in self.people for code in person.shell.close()]

    def hand_out(self) -> None:
        """Carry the folder that the coordinator sends."""
        for partner in self.partners.values():
            source = self.coordinator.shell.folder / "handout"
            shutil.copytree(source, partner.shell.folder / "handout")

    def send_keys(self) -> None:
        """Carry back what each partner sends."""
        for name in self.partners:
            key = self.site(name) / "node_key.pub"
            shutil.copy(key, self.coordinator.shell.folder / f"{PARTNERS[name]}.pub")

    def exchange_keys(self) -> None:
        """Carry to each partner the aggregation keys of the others."""
        for name, partner in self.partners.items():
            for other in set(PARTNERS) - {name}:
                key = self.site(other) / "aggregation_key.pub"
                shutil.copy(key, partner.shell.folder / f"{PARTNERS[other]}.pub")


@dataclass
class Watch:
    """Looks at a federation's processes in a thread, while something else goes on.

    Attributes:
        arguments: every command line that was seen.
    """

    federation: Federation
    arguments: set[str] = field(default_factory=set)
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.2):
            self.arguments |= set(self.federation.processes.values())


@dataclass(frozen=True)
class Story:
    """What was printed while the pages were followed.

    Attributes:
        metrics: port of the coordinator's metrics.
        peers: by the first partner's `peers add`.
        run: by the coordinator from `run` to the end of its page.
        budget: by the first partner's last block.
        arguments: of all processes during the run.
    """

    federation: Federation
    metrics: int
    peers: str
    run: str
    budget: str
    arguments: set[str]


@pytest.fixture(scope="module")
def wrapper() -> Iterator[tuple[str, ...]]:
    """Words that put a command into the network that all tests share."""
    words = network()
    if words is None:
        taken = [port for port in PORTS if not free(port)]
        if taken:
            pytest.skip(f"no network of its own here, and ports {taken} are in use")
        yield ()
        return
    script = "ip link set lo up; echo; exec sleep infinity"
    with subprocess.Popen([*words, "sh", "-c", script], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        yield ("nsenter", "--preserve-credentials", "-U", "-n", "-t", str(holder.pid), "--")
        holder.kill()


def free(port: int) -> bool:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return one.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture(scope="module")
def federation(
    tmp_path_factory: pytest.TempPathFactory, wrapper: tuple[str, ...]
) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("federation")
    # The commands come from this environment; `pip` looks whether what it is to install is there.
    bin_ = folder / "bin"
    bin_.mkdir()
    pip = bin_ / "pip"
    pip.write_text(
        f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("fake_pip.py")} "$@"\n'
    )
    pip.chmod(0o755)

    source = clone(folder / "sotto")  # an edit meanwhile would make another bundle

    def person(own: str, page: str, name: str = "") -> Person:
        home = folder / f"{own}'s"
        home.mkdir()
        (home / "sotto").symlink_to(source)
        variables = environment(home / "home", PYTHONPATH=str(source))
        variables["PATH"] = os.pathsep.join([str(bin_), variables["PATH"]])
        return Person(Shell(home, variables, wrapper), blocks(DOCS / page), name)

    coordinator = person("coordinator", "run.md")
    write_items(coordinator.shell.folder / "items")
    partners = {}
    for seed, name in enumerate(PARTNERS, start=1):
        partners[name] = person(name, "join.md", name)
        write_events(partners[name].shell.folder, name, seed)
    made = Federation(folder, coordinator, partners)
    try:
        yield made
        assert made.close() == [0] * (len(partners) + 1)
        end = time.monotonic() + 10
        while left := made.processes:
            assert time.monotonic() < end, left
            time.sleep(0.1)
    finally:
        made.close()


@pytest.fixture(scope="module")
def story(federation: Federation) -> Story:
    """The first partner follows all of its page; the others set up, trust and start."""
    coordinator, partners = federation.coordinator, federation.partners
    first, *others = partners.values()
    coordinator.follow(until="sotto-server up")
    metrics = free_port()
    replace(federation.server / "server.toml", 'metrics = ""', f'metrics = "127.0.0.1:{metrics}"')
    coordinator.follow(until="sotto-server bundle")
    bundled = coordinator.do(coordinator.rest.pop(0))
    [digest] = re.findall(r"SHA-256 ([0-9a-f]{64})", bundled)
    accept = coordinator.rest[0]
    federation.hand_out()
    first.follow(until="sotto-node trust")
    for one in others:
        one.type("sotto-node init")
    for port, name in enumerate(partners, start=PORTS[3]):  # as the page says of a second node
        file = federation.site(name) / "site.toml"
        replace(file, "# local_port = 9094", f"local_port = {port}")
    federation.send_keys()
    federation.exchange_keys()
    for one in others:  # "Repeat `invite` and `accept` for each partner."
        same = Person(coordinator.shell, [], one.name)
        same.shell.run_here(same.personal('sotto-server invite "Alpha Books" --server coordinator'))
        same.shell.run(same.personal(accept.text.replace("sotto-server list", "")))
    coordinator.follow(until="[privacy]")
    for one in others:
        one.type("sotto-node trust", f"--fingerprint {digest}")
        [up] = [block for block in one.rest if block.background]
        one.shell.start(up.text)
    first.follow(until='peers add "Gamma"')
    peers = first.do(first.rest.pop(0))
    first.follow(until="sotto-node budget")
    for one in others:
        one.shell.wait_for(up.says)
    with Watch(federation) as watch:
        run = coordinator.follow()
    [budget] = first.rest
    return Story(federation, metrics, peers, run, first.do(budget), watch.arguments)


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_run_and_join_as_they_are_written(story: Story) -> None:
    assert "3 organisations with this site" in story.peers
    assert "Alpha Books, users 'alpha-books-customers': spent ε = 7.99" in story.budget
    assert "\n14 entries: " in story.budget  # two statistics, and the four rounds of the plan


def test_prometheus_and_probes_get_an_answer(story: Story) -> None:
    """Where server.toml says so."""
    federation, said = story.federation, []
    for path in ("healthz", "readyz", "metrics"):
        ask = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())"
        address = f"http://127.0.0.1:{story.metrics}/{path}"
        said.append(federation.coordinator.shell.run(f"python -c '{ask}' {address}\n"))
    assert json.loads(said[1]) == {"status": "ok", "problems": []}
    assert 'sotto_run_state{run="federation",state="finished"} 1.0' in said[2]
    assert 'sotto_replies_total{organisation="Beta",outcome="valid",run="federation"}' in said[2]
    up = dict(re.findall(r'sotto_process_up\{process="(\w+)"\} (\S+)', said[2]))
    assert up == dict.fromkeys(("superlink", "executor", "proxy", "supervisor"), "1.0")


def test_the_published_card_claims_what_the_ledgers_say(story: Story) -> None:
    published = story.federation.coordinator.shell.folder / "model"
    card = (published / "README.md").read_text()
    [worst] = re.findall(r"\| worst ε \| ([\d.]+) \|", card)
    for name, partner in story.federation.partners.items():
        spent = json.loads(partner.shell.run_here("sotto-node budget --site site --json"))["spent"]
        assert spent == pytest.approx(float(worst), abs=0.001)
        assert re.search(rf"\| {name} \| 2,?000 \|", card), card
    assert 0 < float(worst) <= 8
    model = AttentionRecommender.from_pretrained(published / "model")
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert len(Catalogue.load(published / "catalogue")) == ITEMS


def test_no_secret_key_or_datum_stands_in_arguments_logs_or_the_bundle(story: Story) -> None:
    made = story.federation
    keys = [made.server / name for name in ("ca.key", "server.key", "internal.key")]
    keys += [made.site(name) / "node_key" for name in PARTNERS]
    secrets = [key.read_text().splitlines()[1] for key in keys]
    secrets += [(made.server / "executor.secret").read_text()]
    data = ["user-1", "user-2", "user-3", "timestamp"]
    logs = [file for person in made.people for file in person.shell.folder.glob("terminal-*.log")]
    assert len(logs) == len(PARTNERS) + 1
    said = story.run + "".join(file.read_text() for file in logs)
    seen = "\n".join(story.arguments)
    assert "flwr-serverapp" in seen
    assert "--token " not in seen
    for secret in secrets:
        assert len(secret) > 30
        assert secret not in said + seen
    assert not [datum for datum in data if datum in said + seen]
    listed = set(re.findall(r"^  (\S+)$", story.run, re.MULTILINE))
    assert "server/app.py" in listed
    assert {Path(name).suffix for name in listed} == {".py", ".toml"}
    assert {Path(name).parts[0] for name in listed} == {
        *("client", "server", "shared", "pyproject.toml")
    }


def test_rounds_are_reported_and_give_the_weights_of_the_in_process_engine(
    story: Story, tmp_path: Path
) -> None:
    made, shell = story.federation, story.federation.coordinator.shell
    (shell.folder / "open.toml").write_text(OPEN)
    for name in PARTNERS:  # the partner's own decision, in its own file
        replace(made.site(name) / "site.toml", "max_epsilon = 8.0", "max_epsilon = inf")
    printed = shell.run("sotto-server run open.toml\n")
    rounds = re.findall(rf"round (\d) of {ROUNDS}: 3 valid replies of 3", printed)
    assert rounds[-1] == str(ROUNDS)
    assert rounds == sorted(rounds)
    status = made.coordinator.shell.run_here("sotto-server status --server coordinator --json")
    [row] = [row for row in json.loads(status) if row["name"] == "open"]
    assert (row["state"], row["round"], row["starts"]) == ("finished", ROUNDS, 1)
    listed = json.loads(shell.run("sotto-server list --json\n"))
    assert [(p["name"], p["connection"]) for p in listed] == [(n, "online") for n in PARTNERS]
    deployed = Checkpoint.load(made.server / "runs" / "open" / "out")

    sites = []
    for name, partner in made.partners.items():
        source, *table = partner.source
        values: dict[str, Value] = {"organisation": name, "user_base": name, "population": USERS}
        values |= {"data.table": table[1]} if table else {}
        values |= {"data.source": source if table else str(partner.shell.folder / source)}
        values |= {"catalogue": str(shell.folder / "catalogue"), "anchor": str(tmp_path / name)}
        values |= {"policy.max_epsilon": float("inf"), "policy.delta": 1e-5}
        site = make_site(tmp_path / f"site {name}", values).site
        file = Path(site.folder) / "site.toml"
        file.write_text(file.read_text() + "\n[lab]\nseed = 0\n")
        sites.append(Path(site.folder))
    flat = read_config(shell.folder / "open.toml") | {"paths.out": str(tmp_path / "out")}
    seen: list[Checkpoint] = []
    run_federation(RunConfig.from_flat(flat), sites, engine=Engine.INPROCESS, observer=seen.append)
    first, last = seen[0].weights, seen[-1].weights
    assert last.keys() == deployed.weights.keys()
    # On some processors a sum's last bits depend on the process that takes it.
    near = 5e-5
    assert any(np.abs(first[name] - last[name]).max() > near for name in last)
    for name, value in last.items():
        np.testing.assert_allclose(value, deployed.weights[name], rtol=0.0, atol=near, err_msg=name)
