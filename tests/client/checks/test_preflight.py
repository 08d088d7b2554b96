"""sotto-node check: all is well, and every fault by its own name and no other."""

from __future__ import annotations

import fcntl
import math
import os
import re
import shutil
import socket
import sqlite3
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

import client.checks.files
import client.ledger.store
from client.checks import machine
from client.checks.base import Expected, Facts
from client.checks.handshake import shake_hands
from client.checks.preflight import CHECKS
from client.ledger.ledger import Entry
from client.ledger.limits import Limits
from client.node.processes import environment
from client.site.aggregation_key import load_identity
from client.site.local_port import find_free_port
from client.site.lock import lock_node
from shared.config import ModelConfig
from shared.errors import SiteError
from shared.privacy.accounting.accountant import epsilon
from shared.privacy.release import Release, ReleaseKind
from shared.secure_aggregation.signing import Identity, public_to_text
from tests.client.authority import NOT_ACCEPTED, Authority, serving
from tests.client.bundles import bundle
from tests.client.partner import USERS, statuses

if TYPE_CHECKING:
    from tests.client.partner import Partner

NAMES = ["site.toml", *(check.name for check in CHECKS)]
OF_DATA = {"schema", "items", "limits", "users", "order", "population", "delta", "groups", "memory"}
OF_DATA |= {"over-use", "queries", "friends", "bounded friends"}
OF_LEDGER = {"budget", "clock", "app"}
OF_TLS = {"clock difference", "accepted"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("authority"))
    made.server()
    return made


@pytest.fixture(scope="module")
def coordinator(authority: Authority) -> Iterator[str]:
    with serving(authority.server()) as address:
        yield address


@pytest.fixture
def joined(partner: Partner, authority: Authority, coordinator: str) -> Partner:
    """A site without a fault, whose user is not root."""
    root = authority.certificate
    partner.init({"--superlink": coordinator, "--root-certificates": root, "--device": "cpu"})
    partner.install_app()
    partner.patch.setattr(os, "geteuid", lambda: 1000)
    partner.edit("# local_port = 9094", f"local_port = {find_free_port(21000)}")
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        partner.patch.delenv(name, raising=False)
    return partner


def charge(partner: Partner, steps: int = 10, **form: float) -> Release:
    """One round in the ledger."""
    noise, rate = form.get("noise_multiplier", 1.0), form.get("sample_rate", 0.1)
    release = Release(kind=ReleaseKind.TRAIN, steps=steps, noise_multiplier=noise, sample_rate=rate)
    entry = Entry(run="r", round=1, release=release)
    partner.loaded.open_ledger().charge(entry, Limits(max_epsilon=math.inf, delta=1e-4))
    return release


# --- all is well -------------------------------------------------------------------------------


def test_a_site_without_a_fault_passes_every_check(joined: Partner) -> None:
    code, findings = joined.check()
    assert list(findings) == NAMES
    assert set(statuses(findings).values()) == {"ok"}
    assert code == 0
    assert not any(finding["remedy"] for finding in findings.values())


def test_a_new_site_wants_a_coordinator_and_an_app(partner: Partner) -> None:
    partner.init({"--local-port": find_free_port(21000)})
    partner.patch.setattr(os, "geteuid", lambda: 1000)
    code, findings = partner.check()
    doubtful = {name for name, finding in findings.items() if finding["status"] == "warning"}
    assert doubtful == {"app", "coordinator"}
    assert code == 1


def test_it_says_what_it_found(joined: Partner) -> None:
    _, findings = joined.check()
    found = {name: finding["found"] for name, finding in findings.items()}
    assert found["schema"].startswith(f"{USERS} users with ")
    assert "20 items" in found["catalogue"]
    assert "user_id, item_id, timestamp" in found["data"]
    assert "ε = 0 of 8 is spent" in found["budget"]
    assert "2 entries" in found["ledger"]
    assert found["clock difference"].startswith(("0 s", "1 s"))


def test_it_is_printed_line_by_line(joined: Partner) -> None:
    joined.edit(f"population = {USERS}", "population = 100")
    code, out, _ = joined.types("check", "--site", joined.site)
    lines = out.splitlines()
    assert code == 1
    assert [line[9:26].strip() for line in lines if line[:9].strip() in {"ok", "doubtful"}] == NAMES
    at = next(place for place, line in enumerate(lines) if "population" in line[9:26])
    assert lines[at].startswith("doubtful population       100 users declared, 200 found")
    assert lines[at + 1].strip().startswith("Declare more")
    assert lines[-1] == f"{len(NAMES) - 1} fine, 1 doubtful, 0 wrong"


def test_nothing_is_changed_by_looking(joined: Partner) -> None:
    before = {file: file.read_bytes() for file in joined.folder.rglob("*") if file.is_file()}
    joined.check()
    after = {file: file.read_bytes() for file in joined.folder.rglob("*") if file.is_file()}
    assert after == before


def test_no_secret_is_shown(joined: Partner) -> None:
    secret = "".join(joined.loaded.key_file.read_text().splitlines()[1:-1])
    _, out, err = joined.types("check", "--site", joined.site)
    assert not any(secret[at : at + 20] in out + err for at in range(0, len(secret) - 20, 10))


# --- the budget --------------------------------------------------------------------------------


def test_the_budget_is_reported_in_rounds_of_the_last_form(joined: Partner) -> None:
    last = charge(joined)
    _, findings = joined.check()
    found = findings["budget"]["found"]
    assert f"ε = {epsilon([last], 1e-4):.3g} of 8 is spent" in found
    rounds = int(found.partition("the rest is enough for ")[2].split()[0].replace(",", ""))

    def cost(more: int) -> float:
        extra = Release(
            kind=last.kind, noise_multiplier=1.0, sample_rate=0.1, steps=10 * (1 + more)
        )
        return epsilon([extra], 1e-4)

    assert cost(rounds) <= 8 < cost(rounds + 1)


def test_the_budget_is_reported_in_rounds_of_a_stated_form(joined: Partner) -> None:
    options = ("--noise-multiplier", 2, "--sample-rate", 0.05, "--local-steps", 4)
    _, findings = joined.check(*options)
    assert (
        "rounds of 4 noised sums each, at noise multiplier 2 and sample rate 0.05"
        in findings["budget"]["found"]
    )
    _, more = joined.check("--noise-multiplier", 4, *options[2:])
    assert findings["budget"]["found"] != more["budget"]["found"]


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--noise-multiplier", 0),
        ("--noise-multiplier", "nan"),
        ("--sample-rate", 1.1),
        ("--sample-rate", -1),
        ("--local-steps", 0),
        ("--candidates", -1),
        ("--hidden-size", -1),
    ],
)
def test_a_form_that_no_round_has_is_refused(joined: Partner, flag: str, value: object) -> None:
    code, out, err = joined.types("check", "--site", joined.site, flag, value)
    assert code == 2
    assert "choose a" in err
    assert out == ""


# --- faults ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """One fault, and all that it changes.

    Attributes:
        name: what finds it.
        plant: puts it there.
        remedy: a piece of what is advised.
        found: a piece of what is found.
        status: how the check ends.
        skipped: checks that need this one.
    """

    name: str
    plant: Callable[[Partner], object]
    remedy: str
    found: str = ""
    status: str = "error"
    skipped: frozenset[str] | set[str] = frozenset()


def patched(target: Any, name: str, value: object) -> Callable[[Partner], None]:  # noqa: ANN401
    return lambda partner: partner.patch.setattr(target, name, value)


def app_file(partner: Partner) -> Path:
    [file] = (partner.site / "flower" / "apps").glob("*/client/app.py")
    return file


def written(file: Path, content: str | bytes) -> None:
    """Even where it is read-only, as for root."""
    mode = file.stat().st_mode
    file.chmod(0o600)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    file.chmod(mode)


def edited(before: str, after: str) -> Callable[[Partner], object]:
    return lambda partner: partner.edit(before, after)


def spend_all(partner: Partner) -> None:
    charge(partner, steps=1000, noise_multiplier=0.5)


def tamper(partner: Partner) -> None:
    """One step for ten, by somebody who knows SQL."""
    charge(partner)
    with closing(sqlite3.connect(partner.loaded.ledger_file)) as database:
        database.execute("DROP TRIGGER entries_stay")
        database.execute("UPDATE entries SET body = replace(body, '\"steps\":10', '\"steps\":1')")
        database.commit()


def older_ledger(partner: Partner) -> None:
    copy = partner.loaded.ledger_file.read_bytes()
    charge(partner)
    charge_again = Release(kind=ReleaseKind.TRAIN, noise_multiplier=1.0, sample_rate=0.1, steps=1)
    ledger = partner.loaded.open_ledger()
    ledger.charge(Entry(run="r", round=2, release=charge_again), Limits(max_epsilon=9, delta=1e-4))
    for file in client.ledger.store.database_files(ledger.path)[1:]:
        file.unlink(missing_ok=True)
    ledger.path.write_bytes(copy)


class Tomorrow(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> Tomorrow:  # noqa: ANN401
        return super().now(tz) + timedelta(days=1)


def from_the_future(partner: Partner) -> None:
    with partner.patch.context() as patch:
        patch.setattr(client.ledger.store, "datetime", Tomorrow)
        charge(partner)


def column(partner: Partner) -> None:
    partner.events.write_text(partner.events.read_text().replace("timestamp", "bought_at", 1))


def giant_user(partner: Partner) -> None:
    item = partner.events.read_text().splitlines()[1].split(",")[1]
    add_events(partner, *(f"-1,{item},{3600 * n}" for n in range(1000)))


def add_events(partner: Partner, *rows: str) -> None:
    text = partner.events.read_text().rstrip("\n")
    partner.events.write_text("\n".join([text, *rows, ""]))


def unknown_items(partner: Partner) -> None:
    text = partner.events.read_text()
    partner.events.write_text(
        text.replace(",i1,", ",x1,").replace(",i2,", ",x2,").replace(",i3,", ",x3,")
    )


def on_nfs(partner: Partner) -> None:
    mounts = partner.folder / "mountinfo"
    line = f"1 0 0:1 / {partner.folder} rw - nfs4 server:/export rw"
    mounts.write_text(f"1 0 0:1 / / rw - ext4 /dev/a rw\n{line}\n")
    partner.patch.setattr(machine, "MOUNTS", mounts)


def little_memory(partner: Partner) -> None:
    file = partner.folder / "meminfo"
    file.write_text("MemTotal: 16000000 kB\nMemAvailable: 300000 kB\n")
    partner.patch.setattr(machine, "MEMORY", file)


def anchor_beside(partner: Partner) -> None:
    partner.loaded.anchor_file.rename(partner.site / "anchor")
    partner.edit('# anchor = "/mnt/b/anchor"', 'anchor = "anchor"')


Usage = namedtuple("Usage", "total used free")

OTHERS = [Identity(name="", key=ec.generate_private_key(ec.SECP384R1())).public for _ in range(3)]


def with_peers(partner: Partner, count: int = 3, *keys: bytes) -> Path:
    """Write so many peers, and these keys' owners, into the roster; return its own key's file."""
    table = {f"peer {n}": public_to_text(key) for n, key in enumerate([*OTHERS[:count], *keys])}
    lines = [f"'{name}' = '{key}'" for name, key in table.items()]
    file = partner.site / "site.toml"
    file.write_text("\n".join([file.read_text(), "[roster.peers]", *lines, ""]))
    return partner.site / "aggregation_key"


def with_users(*rows: str, header: str = "user_id,gender") -> Callable[[Partner], object]:
    """A table of users, F and M in turn, with these rows at its end."""

    def plant(partner: Partner) -> None:
        lines = [header, *(f"user{n},{'FM'[n % 2]}" for n in range(USERS)), *rows, ""]
        (partner.folder / "users.csv").write_text("\n".join(lines))
        partner.edit("[data]", f'[data]\nusers = "{partner.folder / "users.csv"}"')
        partner.edit("[policy]", '[policy]\ngroup_columns = ["gender"]')

    return plant


def without_users(partner: Partner) -> None:
    with_users()(partner)
    (partner.folder / "users.csv").unlink()


def write_queries(partner: Partner, rows: str) -> None:
    """Gives the site a table of queries."""
    partner.edit('# queries = "queries.csv"', 'queries = "queries.csv"')
    file = partner.site / "queries.csv"
    file.write_text(f"user_id,item_id,query,position\n{rows}\n")


FAULTS = {
    "no table of users": Fault(
        "groups",
        without_users,
        "Correct data.users",
        "users.csv': not in",
    ),
    "no column of groups": Fault(
        "groups",
        with_users(header="user_id,sex"),
        'gender = "sex"',
        "users.csv, field 'gender': the column is missing; the columns found are user_id, sex",
    ),
    "columns without a table": Fault(
        "groups",
        edited("[policy]", '[policy]\ngroup_columns = ["gender"]'),
        "data.users",
        'all users are in the group "other"',
        status="warning",
    ),
    "a user in two rows": Fault(
        "groups",
        with_users("user3,M", "user3 ,F"),
        "one row a user",
        "users.csv, row 202, field 'gender', value 'F': user 'user3' has 'M' in an earlier row; "
        "such rows: 1",
        status="warning",
    ),
    "a value in two forms": Fault(
        "groups",
        with_users("another,f"),
        "one way",
        "users.csv, row 201, field 'gender', value 'f': elsewhere it is 'F'",
        status="warning",
    ),
    "too few peers": Fault(
        "roster",
        lambda p: with_peers(p, 2),
        "sotto-node peers list",
        "no answer can be masked: [roster] has 3 organisations",
        status="warning",
    ),
    "counts without names": Fault(
        "roster",
        lambda p: p.edit("# organisations = 8\n", "organisations = 8\n"),
        "take out roster.organisations",
        "counts 8 organisations and names none",
        status="warning",
    ),
    "an aggregation key that others may read": Fault(
        "roster", lambda p: with_peers(p).chmod(0o644), "chmod 600", "permissions are 644"
    ),
    "no aggregation key": Fault(
        "roster", lambda p: with_peers(p).unlink(), "peers", "sotto-node peers key"
    ),
    "another key's public half": Fault(
        "roster",
        lambda p: written(with_peers(p).with_suffix(".pub"), b"ecdsa-sha2-nistp384 AAAA"),
        "sotto-node peers key",
        "not the public half",
        status="warning",
    ),
    "the own key as a peer's": Fault(
        "roster",
        lambda p: with_peers(p, 3, load_identity(p.loaded).public),
        "peers",
        "roster.peers.peer 3 is this site's own",
    ),
    "no TOML": Fault(
        "site.toml",
        edited("[data]", "[data"),
        "Correct that line",
        "not valid TOML",
        skipped=set(NAMES[1:]),
    ),
    "no site": Fault(
        "site.toml",
        lambda p: (p.site / "site.toml").unlink(),
        "sotto-node init",
        "not readable",
        skipped=set(NAMES[1:]),
    ),
    "unknown key": Fault(
        "site.toml",
        edited("delta =", "dleta ="),
        "Correct that line",
        "policy.dleta",
        skipped=set(NAMES[1:]),
    ),
    "δ of 1 / population": Fault(
        "site.toml",
        edited("delta = 0.0001", "delta = 0.005"),
        "Correct that line",
        "below 1 / population",
        skipped=set(NAMES[1:]),
    ),
    "seeded noise": Fault(
        "seed",
        lambda p: p.edit("[coordinator]", "[lab]\nseed = 1\n[coordinator]"),
        "Remove the [lab] table",
        "protects nobody",
    ),
    "open folder": Fault(
        "folder", lambda p: p.site.chmod(0o755), "chmod 700", "755", status="warning"
    ),
    "open key": Fault(
        "key",
        lambda p: p.loaded.key_file.chmod(0o640),
        "chmod 600",
        "640: others may read",
        skipped={"accepted"},
    ),
    "no key": Fault(
        "key",
        lambda p: p.loaded.key_file.unlink(),
        "Put the node's key back",
        "not readable",
        skipped={"accepted"},
    ),
    "other public key": Fault(
        "key",
        lambda p: (p.site / "node_key.pub").write_text("ecdsa-sha2-nistp384 AAAA\n"),
        "ssh-keygen -y",
        "not the public half",
        status="warning",
    ),
    "other Flower": Fault(
        "flower",
        patched(client.checks.files, "version", lambda _: "1.42.0"),
        "Install Flower again",
        "1.42.0",
    ),
    "no app": Fault(
        "app",
        lambda p: shutil.move(p.site / "flower", p.site / "away"),
        "sotto-node trust FILE.fab",
        "would refuse every request",
        status="warning",
    ),
    "writable app": Fault(
        "app",
        lambda p: app_file(p).chmod(0o644),
        "sotto-node trust FILE.fab",
        "not read-only",
        status="warning",
    ),
    "changed app": Fault(
        "app",
        lambda p: written(app_file(p), "app = exec\n"),
        "sotto-node trust FILE.fab",
        "not as in the bundle",
    ),
    "other bundle": Fault(
        "app",
        lambda p: written(p.site / "flower" / "trusted.fab", bundle({"client/app.py": "app = 1"})),
        "sotto-node trust FILE.fab",
        "the ledger says",
    ),
    "root": Fault(
        "executor",
        patched(os, "geteuid", lambda: 0),
        "executor_user",
        "as root",
        status="warning",
    ),
    "executor of another user, without root": Fault(
        "executor",
        lambda p: p.edit('# executor_user = "sotto-app"', 'executor_user = "nobody"'),
        "as root",
        "not as nobody",
        status="warning",
    ),
    "unknown executor": Fault(
        "executor",
        lambda p: p.edit('# executor_user = "sotto-app"', 'executor_user = "no-one"'),
        "node.executor_user",
        "no such user",
    ),
    "no catalogue": Fault(
        "catalogue",
        lambda p: shutil.move(p.folder / "catalogue", p.folder / "away"),
        "Check the path",
        "items.parquet",
        skipped=OF_DATA,
    ),
    "no data": Fault(
        "data", lambda p: p.events.unlink(), "docs/data.md", "does not exist", skipped=OF_DATA
    ),
    "data that is no table": Fault(
        "data", lambda p: p.events.write_bytes(b"\xff\xfe\x00"), "", "events.csv", skipped=OF_DATA
    ),
    "missing column": Fault("schema", column, "", "timestamp", skipped=OF_DATA - {"schema"}),
    "bad row": Fault(
        "schema",
        lambda p: p.events.write_text(p.events.read_text() + "u,,1\n"),
        "Give every row a user and an item",
        "the id is empty",
        skipped=OF_DATA - {"schema"},
    ),
    "unknown items": Fault(
        "items", unknown_items, "newest catalogue", "outside the catalogue", status="warning"
    ),
    "a user who repeats an item every second": Fault(
        "limits",
        lambda p: add_events(p, *(f"spam,i{n % 2 + 1},{1_600_000_000 + n}" for n in range(40))),
        "whose accounts they are",
        "38 repeats; 1 users lost events so",
        status="warning",
    ),
    "a user who stands for many": Fault(
        "users",
        giant_user,
        "data.missing",
        "the user '-1' has",
        status="warning",
    ),
    "times that tie": Fault(
        "order",
        lambda p: p.events.write_text(re.sub(r",\d+$", ",5", p.events.read_text(), flags=re.M)),
        "column `position`",
        "order is file order",
        status="warning",
    ),
    "more users than declared": Fault(
        "population",
        edited(f"population = {USERS}", "population = 180"),
        "Declare more",
        "180 users declared, 200 found",
        status="warning",
    ),
    "fewer users than declared": Fault(
        "population",
        edited(f"population = {USERS}", "population = 401"),
        "Declare fewer",
        "401 users declared, 200 found",
        status="warning",
    ),
    "δ near 1 / users": Fault(
        "delta",
        edited("delta = 0.0001", "delta = 0.001"),
        "policy.delta of 0.0005",
        "1 / users = 0.005",
        status="warning",
    ),
    "queries that nothing may learn from": Fault(
        "queries",
        lambda p: write_queries(p, "user0,i1,red,5\nnobody,i1,blue,5"),
        "list 'query' in policy.kinds",
        "1 queries of 1 users who have a history",
        status="warning",
    ),
    "a query that is empty": Fault(
        "queries",
        lambda p: write_queries(p, "user0,i1,red,5\nuser0,i1,,5"),
        "Leave the row out",
        "row 2",
        status="error",
    ),
    "a friend who is no user": Fault(
        "friends",
        lambda p: (
            p.edit('# friends = "friends.csv"', 'friends = "friends.csv"'),
            (p.site / "friends.csv").write_text("user,friend\nuser0,user1\nuser0,nobody\n"),
        ),
        "the node does without it",
        "row 2, field 'friend', value 'nobody'",
        status="warning",
    ),
    "a friend of more than the bound": Fault(
        "bounded friends",
        lambda p: (
            p.edit('# bounded_friends = "friends-4.csv"', 'bounded_friends = "friends.csv"'),
            p.edit("# friends_most = 4", "friends_most = 1"),
            (p.site / "friends.csv").write_text("user,friend\nuser0,user1\nuser0,user2\n"),
        ),
        "sotto-node bound-friends",
        "somebody is the friend of more than data.friends_most = 1 others",
        status="error",
    ),
    "over-use without labels": Fault(
        "over-use",
        edited(
            '# kinds = ["attention", "lstm", "modalities", "text"]',
            'kinds = ["attention", "over-use"]',
        ),
        "label users by a rule",
        "200 users have events with times; data.users has no column over_use",
        status="warning",
    ),
    "labels that are none": Fault(
        "over-use",
        lambda p: (
            p.edit(
                '# kinds = ["attention", "lstm", "modalities", "text"]',
                'kinds = ["attention", "over-use"]',
            ),
            p.edit('# users = "users.parquet"', 'users = "users.csv"'),
            (p.site / "users.csv").write_text(
                "user_id,over_use\nuser0,perhaps\n"
                + "".join(f"user{n},{n % 2}\n" for n in range(1, USERS))
            ),
        ),
        "nothing where it is not known",
        "over_use is 1 for 100 and 0 for 99 of them; 1 have another value",
        status="warning",
    ),
    "no anchor": Fault(
        "anchor",
        lambda p: p.loaded.anchor_file.unlink(),
        "sotto-node budget",
        "anchor is missing",
        skipped={"ledger", *OF_LEDGER},
    ),
    "anchor beside the ledger": Fault(
        "anchor", anchor_beside, "Move it to another disk", "one folder", status="warning"
    ),
    "no ledger": Fault(
        "ledger",
        lambda p: p.loaded.ledger_file.unlink(),
        "sotto-node budget",
        "ledger is missing",
        skipped=OF_LEDGER,
    ),
    "open ledger": Fault(
        "ledger",
        lambda p: p.loaded.ledger_file.chmod(0o644),
        "docs/ledger.md",
        "chmod 600",
        skipped=OF_LEDGER,
    ),
    "tampered ledger": Fault(
        "ledger", tamper, "sotto-node budget", "changed after it was written", skipped=OF_LEDGER
    ),
    "older ledger": Fault(
        "ledger", older_ledger, "sotto-node budget", "older copy", skipped=OF_LEDGER
    ),
    "other users' ledger": Fault(
        "ledger",
        lambda p: (
            p.loaded.anchor_file.rename(p.folder / "anchor"),
            p.edit('# anchor = "/mnt/b/anchor"', 'anchor = "../anchor"'),
            p.edit('user_base = "alpha-customers"', 'user_base = "others"'),
        ),
        "sotto-node budget",
        "not of 'others'",
        skipped=OF_LEDGER,
    ),
    "spent": Fault("budget", spend_all, "Nothing is left", "of 8 is spent", status="warning"),
    "no room for a round": Fault(
        "budget",
        lambda p: charge(p, steps=1000, noise_multiplier=2.0),
        "Nothing is left",
        "enough for 0 rounds",
        status="warning",
    ),
    "no limit": Fault(
        "budget",
        edited("max_epsilon = 8.0", "max_epsilon = inf"),
        "State a number",
        "without noise is allowed",
        status="warning",
    ),
    "no such device": Fault(
        "device",
        edited('device = "cpu"', 'device = "cuda:99"'),
        "",
        "cuda:99",
        skipped={"memory"},
    ),
    "little memory": Fault("memory", little_memory, "larger machine", "0.3 GB are free"),
    "full disk": Fault(
        "disk",
        patched(shutil, "disk_usage", lambda _: Usage(1e12, 1e12, 5e7)),
        "Free at least 1 GB",
        "0.1 GB free",
    ),
    "nearly full disk": Fault(
        "disk",
        patched(shutil, "disk_usage", lambda _: Usage(1e12, 1e12, 5e8)),
        "Free at least 1 GB",
        "0.5 GB free",
        status="warning",
    ),
    "network disk": Fault("filesystem", on_nfs, "Put the ledger on a local disk", "nfs4"),
    "locks that do not hold": Fault(
        "filesystem",
        patched(fcntl, "flock", lambda *_: None),
        "local disk",
        "a lock does not hold",
    ),
    "clock set back": Fault("clock", from_the_future, "NTP", "the ledger's last entry is of"),
    "no root certificate": Fault(
        "certificate",
        lambda p: p.edit("ca.crt", "gone.crt"),
        "coordinator.root_certificates",
        "No such file",
        skipped={"tls", *OF_TLS},
    ),
    "no certificate in it": Fault(
        "certificate",
        lambda p: (
            (p.site / "ca.txt").write_text("no certificate"),
            p.edit(str(p.loaded.root_certificates_file), "ca.txt"),
        ),
        "from the coordinator again",
        "no PEM certificate",
        skipped={"tls", *OF_TLS},
    ),
    "nobody there": Fault(
        "coordinator",
        lambda p: p.edit(p.loaded.coordinator.superlink, "127.0.0.1:1"),
        "firewall",
        "no connection",
        skipped={"tls", *OF_TLS},
    ),
    "no coordinator": Fault(
        "coordinator",
        lambda p: p.edit(p.loaded.coordinator.superlink, ""),
        "Set coordinator.superlink",
        "none is named",
        status="warning",
        skipped={"tls", *OF_TLS},
    ),
}


def test_json_gives_what_was_read_dropped_and_merged(joined: Partner) -> None:
    user, item, time = joined.events.read_text().splitlines()[1].split(",")
    add_events(joined, f"{user} ,{item},{time}", f"{user},nothing,{time}")
    _, findings = joined.check()
    details = findings["schema"]["details"]
    assert details["dropped"]["duplicate"] == 1
    assert details["dropped"]["unknown_item"] == 1
    assert details["merged"] == {"user": 1, "item": 0}
    assert details["examples"]["unknown_item"] == ["'nothing'"]
    assert f"'{user} ' is read as '{user}'" in findings["schema"]["found"]


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_shows_by_its_name_and_changes_nothing_else(joined: Partner, fault: Fault) -> None:
    fault.plant(joined)
    code, findings = joined.check()
    changes = {name: status for name, status in statuses(findings).items() if status != "ok"}
    assert changes == {fault.name: fault.status} | dict.fromkeys(fault.skipped, "skipped")
    finding = findings[fault.name]
    assert fault.found in finding["found"]
    assert fault.remedy in finding["remedy"]
    assert finding["remedy"].strip()
    assert code == {"warning": 1, "error": 2}[fault.status]


def test_users_without_a_group_are_named_with_their_row(joined: Partner) -> None:
    with_users("another,X", "one more,")(joined)
    _, findings = joined.check()
    assert findings["groups"]["status"] == "ok"
    assert "202 users in the table, 0 users with events have no row" in findings["groups"]["found"]
    assert "gender: F 100, M 100, X 1, none 1" in findings["groups"]["found"]
    _, findings = joined.check("--groups", "gender=F|M x age=18; events=20")
    finding = findings["groups"]
    assert "row 201, field 'gender', value 'X': no group has it; 1 users" in finding["found"]
    assert "groups by age are expected" in finding["found"]
    assert finding["status"] == "warning"
    table = joined.folder / "users.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:150]))
    _, findings = joined.check()
    assert "users.csv, field 'user_id': no row for 'user" in findings["groups"]["found"]
    assert findings["groups"]["status"] == "warning"
    code, _, err = joined.types("check", "--site", joined.site, "--groups", "gender")
    assert code == 2
    assert "--groups: 'gender' names no groups" in err


def test_the_roster_says_which_epsilon_follow(joined: Partner) -> None:
    with_peers(joined)
    _, findings = joined.check()
    assert "ε (limit 8) counts the noise of 3" in findings["roster"]["found"]
    assert findings["roster"]["details"]["honest_shares"] == 3
    _, findings = joined.check("--noise-multiplier", 0.8, "--sample-rate", 0.1)
    own = Release(kind=ReleaseKind.TRAIN, steps=1, noise_multiplier=0.8, sample_rate=0.1)
    together = replace(own, noise_multiplier=0.8 * math.sqrt(3))
    shown = [float(text) for text in re.findall(r"ε = ([0-9.]+)", findings["roster"]["found"])]
    assert shown == [pytest.approx(epsilon([one], 1e-4), rel=0.01) for one in (together, own)]


def test_every_check_that_may_fail_has_failed() -> None:
    """But for those whose faults stand below."""
    below = {"credentials", "tls", "clock difference", "accepted", "port"}
    assert {fault.name for fault in FAULTS.values()} == set(NAMES) - below


def test_open_credentials_are_found_though_the_data_is_out_of_reach(joined: Partner) -> None:
    file = joined.site / "db.toml"
    file.write_text('user = "u"\npassword = "c4nary"\n')
    file.chmod(0o644)
    joined.edit(str(joined.events), "postgresql://127.0.0.1:1/shop")
    joined.edit('# table = "purchases"', 'table = "t"')
    joined.edit('# credentials = "db.toml"', 'credentials = "db.toml"')
    code, findings = joined.check()
    assert code == 2
    assert findings["credentials"]["status"] == "error"
    assert "chmod 600" in findings["credentials"]["remedy"]
    assert findings["data"]["status"] == "error"
    assert findings["ledger"]["status"] == findings["tls"]["status"] == "ok"
    assert "c4nary" not in str(findings)


def test_delta_is_held_against_the_users_there_are(joined: Partner) -> None:
    """δ below 1 / population, but not below 1 / users."""
    joined.edit(f"population = {USERS}", "population = 100")
    joined.edit("delta = 0.0001", "delta = 0.006")
    code, findings = joined.check()
    assert code == 2
    assert findings["delta"]["status"] == "error"
    assert "one user may be revealed whole" in findings["delta"]["found"]


# --- the coordinator's side --------------------------------------------------------------------


@dataclass(frozen=True)
class Other:
    """A coordinator that is not as it should be: see `serving` and `Authority`."""

    found: str
    status: str = "error"
    name: str = "tls"
    days: float = 365.0
    address: str = "127.0.0.1"
    ahead: float = 0.0
    ours: bool = True
    tls: bool = True


@pytest.mark.parametrize(
    "other",
    [
        Other("was not signed by", ours=False),
        Other("is for another name", address="192.0.2.1"),
        Other("has expired", days=-1),
        Other("expires on", days=10, status="warning"),
        Other("not in TLS", tls=False),
        Other("behind the coordinator's clock", ahead=600, status="error", name="clock difference"),
        Other(
            "ahead of the coordinator's clock", ahead=-60, status="warning", name="clock difference"
        ),
    ],
    ids=lambda other: other.found,
)
def test_what_is_wrong_with_a_coordinator(
    joined: Partner, authority: Authority, tmp_path: Path, other: Other
) -> None:
    signer = authority if other.ours else Authority(tmp_path / "stranger")
    files = signer.server(other.days, other.address) if other.tls else None
    with serving(files, other.ahead) as address:
        joined.edit(joined.loaded.coordinator.superlink, address)
        code, findings = joined.check()
    changes = {name: status for name, status in statuses(findings).items() if status != "ok"}
    skipped = OF_TLS if (other.name, other.status) == ("tls", "error") else set()
    assert changes == {other.name: other.status} | dict.fromkeys(skipped, "skipped")
    assert other.found in findings[other.name]["found"]
    assert findings[other.name]["remedy"]
    assert code == {"warning": 1, "error": 2}[other.status]


@pytest.mark.parametrize(
    ("registration", "status", "found", "remedy"),
    [
        (NOT_ACCEPTED, "warning", "has not accepted this node's key", "node_key.pub to the coord"),
        ((404, ""), "error", "is not the coordinator's port for partners", "invitation"),
        ((405, "<html>"), "error", "is not the coordinator's port for partners", "invitation"),
        ((401, '{"detail": "Invalid SuperNode authentication"}'), "error", "signature", "NTP"),
        ((503, ""), "warning", "answered with the status 503", "whether it is up"),
        ((200, ""), "warning", "answered as Flower 1.41 does not", "whether it is up"),
    ],
)
def test_a_key_that_is_not_accepted_and_a_wrong_port(
    joined: Partner,
    authority: Authority,
    registration: tuple[int, str],
    status: str,
    found: str,
    remedy: str,
) -> None:
    with serving(authority.server(), registration=registration) as address:
        joined.edit(joined.loaded.coordinator.superlink, address)
        code, findings = joined.check()
    changes = {name: status for name, status in statuses(findings).items() if status != "ok"}
    assert changes == {"accepted": status}
    assert found in findings["accepted"]["found"]
    assert remedy in findings["accepted"]["remedy"]
    assert code == {"warning": 1, "error": 2}[status]


def test_a_port_in_use_is_found_unless_the_sites_own_node_has_it(joined: Partner) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        own = joined.loaded.coordinator.local_port
        joined.edit(f"local_port = {own}", f"local_port = {port}")
        code, findings = joined.check()
        assert code == 2
        assert findings["port"]["status"] == "error"
        assert findings["port"]["found"] == f"127.0.0.1:{port} is in use by another program"
        assert "Set local_port = " in findings["port"]["remedy"]
        with lock_node(joined.site):
            _, findings = joined.check()
        assert findings["port"]["status"] == "ok"
    assert joined.check()[0] == 0


# --- proxies -----------------------------------------------------------------------------------


@contextmanager
def proxy(answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """An HTTP proxy that answers every request in the same way, and what it was asked."""
    asked: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            with near:
                near.settimeout(5)
                asked.append(near.recv(4096))
                near.sendall(answer)

    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}", asked
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def test_check_goes_through_the_proxy_that_flower_would_take(joined: Partner) -> None:
    joined.edit(joined.loaded.coordinator.superlink, "coordinator.invalid:443")
    with proxy(b"HTTP/1.1 403 Forbidden\r\n\r\n") as (address, asked):
        joined.patch.setenv("HTTPS_PROXY", f"http://{address}")
        code, findings = joined.check()
        assert code == 2
        assert findings["coordinator"]["status"] == "ok"
        assert findings["coordinator"]["found"].endswith(f"through the HTTP proxy {address}")
        assert findings["tls"]["status"] == "error"
        assert "the HTTP proxy did not let the connection through" in findings["tls"]["found"]
        assert "NO_PROXY=coordinator.invalid" in findings["tls"]["remedy"]
        assert any(line.startswith(b"CONNECT coordinator.invalid:443 ") for line in asked)
    _, findings = joined.check()
    assert f"the HTTP proxy {address} cannot be reached" in findings["coordinator"]["found"]
    joined.patch.setenv("NO_PROXY", "coordinator.invalid")
    _, findings = joined.check()
    assert findings["coordinator"]["found"].endswith("the name coordinator.invalid is not known")


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "ALL_PROXY", "https_proxy"])
def test_loopback_needs_no_proxy(joined: Partner, name: str) -> None:
    """Neither check nor the node's processes ask one, whatever NO_PROXY excludes."""
    joined.patch.setenv(name, "http://127.0.0.1:1")
    joined.patch.setenv("NO_PROXY", "example.org")
    code, findings = joined.check()
    assert code == 0, findings
    assert os.environ["NO_PROXY"] == "example.org"
    variables = environment(joined.loaded)
    assert variables["NO_PROXY"] == variables["no_proxy"] == "example.org,localhost,127.0.0.1,::1"


def test_a_proxy_that_flower_cannot_use_is_reported(joined: Partner) -> None:
    joined.edit(joined.loaded.coordinator.superlink, "coordinator.invalid:443")
    joined.patch.setenv("ALL_PROXY", "gopher://127.0.0.1:1")
    _, findings = joined.check()
    assert findings["coordinator"]["status"] == "error"
    assert "a proxy that Flower's client cannot use" in findings["coordinator"]["found"]


@pytest.mark.parametrize(("days", "status"), [(-1, "error"), (10, "warning")])
def test_an_authority_that_expires(
    joined: Partner, tmp_path: Path, days: float, status: str
) -> None:
    authority = Authority(tmp_path / "brief", days=days)
    with serving(authority.server()) as address:
        joined.edit(joined.loaded.coordinator.superlink, address)
        joined.edit(str(joined.loaded.root_certificates_file), str(authority.certificate))
        code, findings = joined.check()
    assert findings["certificate"]["status"] == status
    assert (
        f"{datetime.now(UTC) + timedelta(days=days):%Y-%m-%d}" in findings["certificate"]["found"]
    )
    assert findings["tls"]["status"] == ("skipped" if status == "error" else "ok")
    assert code == (2 if status == "error" else 1)


def test_without_root_certificates_the_system_decides(joined: Partner) -> None:
    joined.edit(str(joined.loaded.root_certificates_file), "")
    _, findings = joined.check()
    assert findings["certificate"]["status"] == "ok"
    assert "any authority that the system trusts" in findings["tls"]["found"]


def test_a_clock_is_read_to_the_second(authority: Authority) -> None:
    for ahead in (0.0, 120.0, -7200.0):
        with serving(authority.server(), ahead) as address:
            port = int(address.rpartition(":")[2])
            told = shake_hands(("127.0.0.1", port), authority.certificate).clock_ahead
        assert told is not None
        assert abs(told - ahead) < 1.5


# --- memory ------------------------------------------------------------------------------------


def test_memory_grows_with_what_is_trained(joined: Partner) -> None:
    def needed(**expected: Any) -> float:  # noqa: ANN401
        return machine.needed_memory(Facts(joined.loaded, Expected(**expected)), "cpu")[0]

    small = needed()
    assert 0.5e9 < small < 2e9
    assert needed(model=ModelConfig(hidden_size=4096, heads=2, max_length=2000)) > small + 5e9


def test_the_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemAvailable: 1000 kB\n")
    monkeypatch.setattr(machine, "MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "GROUP", tmp_path)
    assert machine.free_memory() == 1_024_000
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.free_memory() == 1_024_000
    (tmp_path / "memory.max").write_text("500000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    assert machine.free_memory() == 100_000
    monkeypatch.setattr(machine, "MEMORY", tmp_path / "none")
    assert machine.free_memory() is None


def test_an_unknown_host_name_is_reported(joined: Partner) -> None:
    joined.edit(joined.loaded.coordinator.superlink, "coordinator.invalid:443")
    _, findings = joined.check()
    assert findings["coordinator"]["found"].endswith("the name coordinator.invalid is not known")


def test_hello_names_what_failed(authority: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger")
    with serving(authority.server()) as address, pytest.raises(SiteError, match="not signed by"):
        shake_hands(("127.0.0.1", int(address.rpartition(":")[2])), stranger.certificate)


def test_the_guide_names_every_check() -> None:
    guide = (Path(__file__).parents[3] / "docs" / "node-reference.md").read_text(encoding="utf-8")
    table = guide.partition("## What `check` looks at\n")[2].partition("\n## ")[0]
    assert [name for name in NAMES if f"`{name}`" not in table] == []
