"""*run* and *join*, as they are written: real processes of a coordinator and three partners.

They run in a network of their own where the machine allows it (`unshare`), so that the ports that
the pages name are free; elsewhere on loopback, if they are.
"""

from __future__ import annotations

import csv
import io
import os
import random
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import client.cli
from tests.docs.pages import DOCS, Block, Shell, blocks, clone, environment

ITEMS, USERS = 60, 2000
PORTS = (9091, 9092, 9093, 9094, 9095, 9096)
"""The coordinator's three, as the pages have them, and one of each node."""
HOST = "sotto.example"
"""The page asks for the reader's own name in place of it."""
PARTNERS = {"Alpha Books": "alpha-books", "Beta": "beta", "Gamma": "gamma"}
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


def write_events(file: Path, seed: int) -> None:
    draw = random.Random(seed)
    events = [
        (f"user{user}", f"sku{item}", 1000 + at)
        for user in range(USERS)
        for at, item in enumerate(draw.sample(range(ITEMS), 5))
    ]
    columns = dict(zip(("user_id", "item_id", "timestamp"), zip(*events, strict=True), strict=True))
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), file)


@dataclass
class Person:
    """A reader of a page, at a terminal."""

    shell: Shell
    rest: list[Block]
    name: str = ""

    def follow(self, until: str = "") -> None:
        """Do what the page says, up to the block that holds a command."""
        while self.rest and not (until and until in self.rest[0].text):
            self.do(self.rest.pop(0))

    def type(self, command: str) -> None:
        """Do the block of a command alone, in this process: a start of each takes seconds."""
        [block] = [block for block in self.rest if command in block.text]
        folder, out = self.shell.folder, io.StringIO()
        words = shlex.split(self.personal(block.text).replace("\\\n", " "))
        files = {word: [str(file) for file in folder.glob(word)] for word in words if "*" in word}
        arguments = [name for word in words for name in files.get(word, [word])]
        with (
            pytest.MonkeyPatch.context() as patched,
            chdir(folder),
            redirect_stdout(out),
            redirect_stderr(out),
        ):
            patched.setattr(sys, "argv", arguments)
            patched.setattr(sys, "stdin", io.StringIO("y\n"))
            patched.setenv("HOME", self.shell.variables["HOME"])
            patched.delenv("XDG_STATE_HOME", raising=False)
            with pytest.raises(SystemExit) as ended:
                client.cli.main()
        assert ended.value.code == 0, out.getvalue()

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

    def personal(self, text: str) -> str:
        """Put in what the reader has to replace."""
        text = text.replace(HOST, "localhost")
        if self.name:
            short = PARTNERS[self.name]
            text = text.replace("Alpha Books", self.name).replace("alpha-books", short)
            text = text.replace("alpha-customers", f"{short}-customers")
        return text


@dataclass
class Federation:
    """The coordinator, and the partners by name."""

    coordinator: Person
    partners: dict[str, Person]

    def close(self) -> list[int]:
        """End every node, and then the coordinator; return their exit codes."""
        shells = [partner.shell for partner in self.partners.values()]
        return [code for shell in (*shells, self.coordinator.shell) for code in shell.close()]

    def hand_out(self) -> None:
        """Carry the folder that the coordinator sends."""
        for partner in self.partners.values():
            source = self.coordinator.shell.folder / "handout"
            shutil.copytree(source, partner.shell.folder / "handout")

    def send_keys(self) -> None:
        """Carry back what each partner sends."""
        for name, partner in self.partners.items():
            key = partner.shell.folder / "site" / "node_key.pub"
            shutil.copy(key, self.coordinator.shell.folder / f"{PARTNERS[name]}.pub")

    def exchange_keys(self) -> None:
        """Carry to each partner the aggregation keys of the others."""
        for name, partner in self.partners.items():
            for other in set(PARTNERS) - {name}:
                key = self.partners[other].shell.folder / "site" / "aggregation_key.pub"
                shutil.copy(key, partner.shell.folder / f"{PARTNERS[other]}.pub")


@pytest.fixture
def wrapper() -> Iterator[tuple[str, ...]]:
    """Words that put a command into the network that all of a test shares."""
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


@pytest.fixture
def federation(tmp_path: Path, wrapper: tuple[str, ...]) -> Iterator[Federation]:
    # The commands come from this environment; `pip` looks whether what it is to install is there.
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    pip = bin_ / "pip"
    pip.write_text(
        f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("fake_pip.py")} "$@"\n'
    )
    pip.chmod(0o755)

    source = clone(tmp_path / "sotto")  # an edit meanwhile would make another bundle

    def person(folder: Path, page: str, name: str = "") -> Person:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "sotto").symlink_to(source)
        variables = environment(folder / "home", PYTHONPATH=str(source))
        variables["PATH"] = os.pathsep.join([str(bin_), variables["PATH"]])
        return Person(Shell(folder, variables, wrapper), blocks(DOCS / page), name)

    coordinator = person(tmp_path / "coordinator's", "run.md")
    write_items(coordinator.shell.folder / "items")
    partners = {}
    for seed, (name, short) in enumerate(PARTNERS.items()):
        partners[name] = person(tmp_path / short, "join.md", name)
        write_events(tmp_path / short / "events.parquet", seed)
    made = Federation(coordinator, partners)
    try:
        yield made
    finally:
        made.close()


def test_run_and_join_as_they_are_written(federation: Federation) -> None:
    """The first partner follows all of its page; the others set up, trust and start."""
    coordinator, partners = federation.coordinator, federation.partners
    first, *others = partners.values()
    coordinator.follow(until="sotto-server accept")
    accept = coordinator.rest[0]
    federation.hand_out()
    first.follow(until="sotto-node trust")
    for one in others:
        one.type("sotto-node init")
    for port, partner in enumerate(partners.values(), start=PORTS[3]):
        share_machine(partner.shell.folder / "site" / "site.toml", port)
    federation.send_keys()
    federation.exchange_keys()
    for one in others:  # "Repeat `invite` and `accept` for each partner."
        same = Person(coordinator.shell, [], one.name)
        coordinator.shell.run(same.personal('sotto-server invite "Alpha Books"\n'))
        same.do(accept)
    coordinator.follow(until="[privacy]")
    for one in others:
        one.type("sotto-node trust")
        [up] = [block for block in one.rest if block.background]
        one.shell.start(up.text)
    first.follow(until='peers add "Gamma"')
    exchanged = first.do(first.rest.pop(0))
    assert "3 organisations with this site" in exchanged
    first.follow(until="sotto-node budget")
    for one in others:
        one.shell.wait_for(up.says)
    coordinator.follow()
    [budget] = first.rest
    printed = first.do(budget)
    assert "Alpha Books, users 'alpha-books-customers': spent ε = 7.99" in printed
    assert "\n6 entries: " in printed
    assert federation.close() == [0] * (len(partners) + 1)
    folder = coordinator.shell.folder
    card = (folder / "model" / "README.md").read_text()
    assert re.search(r"\| Gamma \| 2,?000 \|", card), card
    assert (folder / "model" / "model" / "model.safetensors").is_file()


def share_machine(file: Path, port: int) -> None:
    """Give a node a port of its own, as the page says of a second node on one machine."""
    text = file.read_text()
    assert "# local_port = 9094" in text
    file.write_text(text.replace("# local_port = 9094", f"local_port = {port}"))
