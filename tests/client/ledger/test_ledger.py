from __future__ import annotations

import hashlib
import json
import math
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import client.ledger.store
from client.ledger.anchor import Anchor
from client.ledger.app_version import app_fingerprint
from client.ledger.balance import EntryType
from client.ledger.ledger import Entry, Ledger
from shared.errors import BudgetExceeded, LedgerError, Refused
from shared.hash_chain import canonical_text, next_hash
from shared.outcomes import Refusal
from shared.privacy.accounting.accountant import epsilon
from shared.privacy.release import ReleaseKind
from tests.client.ledger.entries import (
    DELTA,
    Reopen,
    altered,
    answered,
    body,
    charge,
    cost,
    entry,
    release,
)

# --- the file ----------------------------------------------------------------------------------


def test_a_new_ledger_is_empty_and_private_to_its_owner(
    file: Path, anchor: Path, ledger: Ledger
) -> None:
    assert ledger.releases() == []
    assert ledger.spent(DELTA) == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert anchor.stat().st_mode & 0o777 == 0o600
    assert anchor.parent.stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in file.parent.iterdir()) == ["ledger.sqlite"]


def test_charges_are_there_when_opened_again(ledger: Ledger, reopened: Reopen) -> None:
    charge(ledger, entry(1))
    charge(ledger, entry(2))
    assert reopened().releases() == [release(steps=2)]
    assert reopened().spent(DELTA) == cost(2)


def test_two_open_ledgers_see_each_others_entries(ledger: Ledger, reopened: Reopen) -> None:
    other = reopened()
    charge(ledger, entry(1))
    charge(other, entry(2))
    charge(ledger, entry(3))
    assert ledger.releases() == other.releases() == [release(steps=3)]
    assert other.verify() == 4


def test_the_cost_of_an_entry_is_returned_without_a_charge(ledger: Ledger) -> None:
    charge(ledger, entry(1))
    assert ledger.epsilon_after(release(), DELTA) == cost(2)
    assert ledger.spent(DELTA) == cost(1)


def test_a_missing_ledger_is_an_error_and_stays_missing(file: Path, anchor: Path) -> None:
    with pytest.raises(LedgerError, match=r"missing, so what was spent is not known"):
        Ledger(file, "users", anchor)
    assert not file.exists()


def test_a_ledger_that_goes_missing_is_not_created_again(file: Path, ledger: Ledger) -> None:
    file.unlink()
    with pytest.raises(LedgerError, match="restore it from the anchor"):
        charge(ledger, entry())
    assert not file.exists()


@pytest.mark.parametrize("content", [b"", b"anything", b"SQLite format 3\0" + b"x" * 5000])
def test_a_ledger_is_never_made_over_a_file(file: Path, anchor: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(LedgerError, match="is there already and stays"):
        Ledger.create(file, "users", anchor)
    assert file.read_bytes() == content


def test_setting_up_the_site_again_does_not_replace_a_deleted_ledger(
    file: Path, anchor: Path, ledger: Ledger
) -> None:
    charge(ledger, entry())
    file.unlink()
    with pytest.raises(LedgerError, match="a second one would forget what the first has spent"):
        Ledger.create(file, "users", anchor)
    assert not file.exists()


def test_a_ledger_needs_its_folder(tmp_path: Path, anchor: Path) -> None:
    with pytest.raises(LedgerError, match=r"cannot be opened \(No such file"):
        Ledger.create(tmp_path / "nowhere" / "ledger.sqlite", "users", anchor)


def test_a_ledger_belongs_to_one_user_base(file: Path, anchor: Path, ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="the ledger of 'users', not of 'others'"):
        Ledger(file, "others", anchor)


def test_a_ledger_that_others_can_reach_is_an_error(
    file: Path, ledger: Ledger, reopened: Reopen
) -> None:
    for mode in (0o640, 0o604, 0o660, 0o666):
        file.chmod(mode)
        for use in (reopened, ledger.releases):
            with pytest.raises(LedgerError, match=rf"permissions are {mode:o}.*chmod 600"):
                use()
    file.chmod(0o600)
    assert reopened().releases() == []


def read(ledger: Ledger) -> None:
    ledger.spent(DELTA)


def write(ledger: Ledger) -> None:
    charge(ledger, entry(9))


def look_up(ledger: Ledger) -> None:
    ledger.answer(entry(9))


def keep(ledger: Ledger) -> None:
    ledger.keep_answer(entry(1), body())


def refuse(ledger: Ledger) -> None:
    ledger.refuse(Refusal.POLICY, {"kind": "train"})


def list_sent(ledger: Ledger) -> None:
    ledger.outbox()


EVERY_USE = pytest.mark.parametrize("use", [read, write, look_up, keep, refuse, list_sent])


@EVERY_USE
@pytest.mark.parametrize(
    "content",
    [b"", b"not a database, but long enough to be taken for one" * 9, b"SQLite format 3\0"],
    ids=["truncated", "garbage", "header alone"],
)
def test_a_file_that_is_no_ledger_is_an_error(
    file: Path,
    ledger: Ledger,
    content: bytes,
    use: Any,  # noqa: ANN401
    reopened: Reopen,
) -> None:
    charge(ledger, entry())
    file.write_bytes(content)
    for opened in (lambda: use(ledger), reopened):
        with pytest.raises(LedgerError, match=r"cannot be read or written.* restore it from the"):
            opened()


@EVERY_USE
def test_a_damaged_page_is_an_error(file: Path, ledger: Ledger, use: Any) -> None:  # noqa: ANN401
    for number in range(1, 4):
        charge(ledger, entry(number))
    content = bytearray(file.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    file.write_bytes(content)
    with pytest.raises(LedgerError, match="restore it from the anchor"):
        use(ledger)


def test_a_truncated_file_is_an_error(file: Path, ledger: Ledger, reopened: Reopen) -> None:
    for number in range(1, 60):
        ledger.refuse(Refusal.POLICY, {"kind": f"{number}"})
    whole = file.read_bytes()
    for share in (0.3, 0.5, 0.9):
        file.write_bytes(whole[: int(share * len(whole)) // 4096 * 4096])
        with pytest.raises(LedgerError, match=r"restore it from the anchor|larger of the two"):
            reopened()


@EVERY_USE
def test_a_place_that_cannot_be_written_is_an_error(
    file: Path,
    ledger: Ledger,
    use: Any,  # noqa: ANN401
) -> None:
    Path(f"{file}-wal").mkdir()  # where SQLite wants to write; permissions do not stop root
    with pytest.raises(LedgerError, match="Check the disk and the file's permissions"):
        use(ledger)


# --- the chain ---------------------------------------------------------------------------------


def test_every_entry_holds_its_type_time_and_app(ledger: Ledger) -> None:
    what = Entry(run="r", round=3, release=release(2), clip_norm=0.5, request="f00")
    charge(ledger, what)
    ledger.refuse(Refusal.BUDGET, what.fields)
    opened, charged, refused = ledger.history()
    assert opened.type is EntryType.OPENED
    assert (opened.fields["user_base"], opened.fields["unit"]) == ("users", "user")
    asked = {
        "run": "r",
        "round": 3,
        "kind": "train",
        "noise_multiplier": 2.0,
        "sample_rate": 0.5,
        "steps": 2,
        "clip_norm": 0.5,
        "request": "f00",
    }
    assert asked.items() <= charged.fields.items()
    assert refused.fields == asked | {
        "code": "budget",
        "at": refused.fields["at"],
        "app": app_fingerprint(),
    }
    ages = [datetime.now(UTC) - datetime.fromisoformat(r.fields["at"]) for r in ledger.history()]
    assert all(0 <= age.total_seconds() < 60 for age in ages)
    assert ledger.history(last=1) == [refused]


def test_the_hashes_are_those_that_the_documentation_states(file: Path, ledger: Ledger) -> None:
    """Computed here from the stated rule, with hashlib and json alone."""
    answered(ledger, 1)
    head = bytes(32)
    with sqlite3.connect(file) as database:
        rows = database.execute("SELECT seq, body, hash FROM entries ORDER BY seq").fetchall()
    database.close()
    assert [row[0] for row in rows] == [1, 2, 3]
    for _, text, digest in rows:
        head = hashlib.sha256(head + text.encode("ascii")).digest()
        assert digest == head
        assert json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")) == text
    assert ledger.history()[-1].hash == head.hex()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET body = replace(body, '\"steps\":1', '\"steps\":0') WHERE seq = 2",
        "UPDATE entries SET body = replace(body, '2.0', '9.0') WHERE seq = 3",
        "UPDATE entries SET body = replace(body, 'Z', 'Z ') || ' ' WHERE seq = 2",
        "UPDATE entries SET hash = zeroblob(32) WHERE seq = 3",
        "UPDATE entries SET seq = 9 WHERE seq = 4",
        "DELETE FROM entries WHERE seq = 2",
        "DELETE FROM entries WHERE seq = 1",
        "DELETE FROM entries WHERE seq = 4",
        "DELETE FROM entries",
        "DROP TABLE entries",
    ],
)
def test_an_edited_ledger_is_an_error(
    file: Path, ledger: Ledger, reopened: Reopen, statement: str
) -> None:
    for number in range(1, 4):
        charge(ledger, entry(number))
    altered(file, statement)
    with pytest.raises(LedgerError, match=r"restore it from the anchor|larger of the two"):
        reopened()
    if "seq = 2" not in statement and "seq = 3" not in statement and "seq = 1" not in statement:
        with pytest.raises(LedgerError):
            ledger.releases()
    with pytest.raises(LedgerError):
        ledger.verify()


def test_an_edit_with_recomputed_hashes_is_an_error(
    file: Path, ledger: Ledger, reopened: Reopen
) -> None:
    """The chain is whole again; the anchor knows better."""
    charge(ledger, entry(1))
    charge(ledger, entry(2))
    with sqlite3.connect(file) as database:
        rows = database.execute("SELECT body, hash FROM entries ORDER BY seq").fetchall()
    database.close()
    head, statements = rows[0][1], []
    for number, (text, _) in enumerate(rows[1:], start=2):
        cheap = text.replace('"noise_multiplier":2.0', '"noise_multiplier":99.0')
        head = next_hash(head, cheap)
        statements.append(
            f"UPDATE entries SET body = '{cheap}', hash = x'{head.hex()}' WHERE seq = {number}"
        )
    altered(file, *statements)
    with pytest.raises(LedgerError, match="one of the two is an older copy, or was changed"):
        reopened()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET body = '{}' WHERE seq = 1",
        "UPDATE entries SET seq = 7 WHERE seq = 2",
        "DELETE FROM entries WHERE seq = 2",
        "INSERT INTO entries (seq, body, hash) VALUES (2, '{}', x'00')",
        "INSERT OR REPLACE INTO entries (seq, body, hash) VALUES (2, '{}', x'00')",
        "INSERT INTO entries (seq, body, hash) VALUES (9, '{}', x'00')",
        "REPLACE INTO bodies VALUES (3, x'00')",
        "UPDATE bodies SET body = x'00'",
        "UPDATE layouts SET arrays = '[]'",
        "DELETE FROM layouts",
    ],
)
def test_the_database_only_accepts_new_entries(file: Path, ledger: Ledger, statement: str) -> None:
    answered(ledger, 1)
    with (
        sqlite3.connect(file) as database,
        pytest.raises(sqlite3.IntegrityError, match=r"never|appended"),
    ):
        database.execute(statement)
    database.close()
    assert ledger.verify() == 3


@pytest.mark.parametrize("field", ["steps", "sample_rate", "noise_multiplier", "kind"])
def test_an_entry_that_is_no_release_is_an_error(
    file: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, field: str, reopened: Reopen
) -> None:
    """Even if the chain says so."""
    what = entry()
    bad = what.fields | {field: -1}
    text = canonical_text({"entry": "charge", "at": "", "app": ""} | bad)
    head = bytes.fromhex(ledger.history()[-1].hash)
    with sqlite3.connect(file) as database:
        database.execute(
            "INSERT INTO entries (seq, body, hash) VALUES (2, ?, ?)", (text, next_hash(head, text))
        )
    database.close()
    with pytest.raises(LedgerError, match="not as it was written"):
        reopened()


# --- what it adds up ---------------------------------------------------------------------------


def test_runs_of_one_user_base_add_up(ledger: Ledger) -> None:
    charge(ledger, entry(1, run="first"))
    charge(ledger, entry(1, run="second"))
    charge(ledger, entry(1, run="second", kind=ReleaseKind.EVALUATE))
    assert ledger.spent(DELTA) == cost(3)
    assert ledger.releases() == [release(2), release(1, kind=ReleaseKind.EVALUATE)]


def test_another_run_does_not_reset_the_budget(ledger: Ledger) -> None:
    charge(ledger, entry(1, run="first"), max_epsilon=cost(1))
    with pytest.raises(BudgetExceeded):
        charge(ledger, entry(1, run="second"), max_epsilon=cost(1))


def test_a_clock_that_is_set_back_loses_no_charge(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, reopened: Reopen
) -> None:
    charge(ledger, entry(1))

    class Before(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Before:  # noqa: ANN401
            return cls(1970, 1, 1, tzinfo=UTC)

    monkeypatch.setattr(client.ledger.store, "datetime", Before)
    charge(ledger, entry(2))
    assert reopened().spent(DELTA) == cost(2)
    assert [r.fields.get("round") for r in ledger.history()] == [None, 1, 2]
    assert ledger.history()[-1].fields["at"].startswith("1970-01-01")
    with pytest.raises(Refused):
        charge(ledger, entry(2, noise_multiplier=4.0))


requests = st.tuples(st.sampled_from("ab"), st.integers(1, 3), st.sampled_from([2.0, 4.0]))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(requests, st.sampled_from(["charge", "again", "reopen"])), max_size=10))
def test_any_interleaving_costs_what_its_distinct_entries_cost(
    tmp_path_factory: pytest.TempPathFactory,
    acts: list[tuple[tuple[str, int, float], str]],
) -> None:
    folder = tmp_path_factory.mktemp("some")
    place = folder / "ledger.sqlite", "users", folder / "anchor"
    ledger, limit = Ledger.create(*place), cost(4)
    paid: dict[tuple[str, int], float] = {}
    sent: dict[tuple[str, int], bytes] = {}
    for (run, number, noise), act in acts:
        if act == "reopen":
            ledger = Ledger(*place)
        what = entry(number, run=run, noise_multiplier=noise)
        before = ledger.releases()
        try:
            kept = ledger.answer(what)
            if kept is None:
                charge(ledger, what, max_epsilon=limit)
                paid.setdefault((run, number), noise)
            if act != "charge":  # else as if it was killed after the charge
                kept = ledger.keep_answer(what, body(len(sent) + 1.0))
            if kept is not None:
                assert sent.setdefault((run, number), kept) == kept
        except Refused as refused:
            assert ledger.releases() == before
            if (run, number) in paid and refused.code is Refusal.POLICY:
                assert paid[run, number] != noise
        distinct = [release(noise_multiplier=noise) for noise in paid.values()]
        assert ledger.spent(DELTA) == epsilon(distinct, DELTA) <= limit
    assert len(ledger.outbox()) == len(sent)
    assert Ledger(*place).verify() == 1 + len(paid) + len(sent)


# --- the limit ---------------------------------------------------------------------------------


def test_a_charge_beyond_the_limit_is_refused_and_changes_nothing(
    ledger: Ledger, reopened: Reopen
) -> None:
    for number in (1, 2):
        charge(ledger, entry(number), max_epsilon=cost(2))
    before = ledger.releases()
    with pytest.raises(BudgetExceeded, match=r"round 3 of run r would lead to ε = ") as caught:
        charge(ledger, entry(3), max_epsilon=math.nextafter(cost(3), 0))
    assert f"{cost(3):.4g}" in caught.value.detail
    assert caught.value.code is Refusal.BUDGET
    assert reopened().releases() == before
    charge(ledger, entry(3), max_epsilon=cost(3))


@pytest.mark.parametrize("steps", [40, 100, 1000])
def test_the_limit_is_exact_though_most_charges_are_admitted_by_a_bound(
    ledger: Ledger, steps: int
) -> None:
    charge(ledger, entry(1, steps=steps - 1), max_epsilon=cost(steps))
    charge(ledger, entry(2), max_epsilon=cost(steps))
    with pytest.raises(BudgetExceeded):
        charge(ledger, entry(3), max_epsilon=math.nextafter(cost(steps + 1), 0))
    assert ledger.spent(DELTA) == cost(steps)
    charge(ledger, entry(3), max_epsilon=cost(steps + 1))


@pytest.mark.parametrize("max_epsilon", [0.0, 1e9, math.nan, -math.inf])
def test_a_release_without_noise_is_refused(ledger: Ledger, max_epsilon: float) -> None:
    with pytest.raises(BudgetExceeded, match="ε = inf"):
        charge(ledger, entry(noise_multiplier=0.0), max_epsilon=max_epsilon)
    assert ledger.releases() == []


def test_only_an_infinite_limit_admits_a_release_without_noise(ledger: Ledger) -> None:
    charge(ledger, entry(noise_multiplier=0.0), max_epsilon=math.inf)
    assert ledger.spent(DELTA) == math.inf
    with pytest.raises(BudgetExceeded):  # and the users' budget is gone
        charge(ledger, entry(2), max_epsilon=1e9)


def test_nan_from_the_accountant_is_refused(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client.ledger.limits, "epsilon", lambda *_: math.nan)
    with pytest.raises(BudgetExceeded):
        charge(ledger, entry(), max_epsilon=math.inf)


# --- the same round again ----------------------------------------------------------------------


def test_the_same_round_is_charged_once(ledger: Ledger) -> None:
    for _ in range(3):
        charge(ledger, entry(), max_epsilon=cost(1))
    assert ledger.releases() == [release()]


@pytest.mark.parametrize("other", [{"steps": 2}, {"noise_multiplier": 8.0}, {"request": "x"}])
def test_the_same_round_with_other_parameters_is_refused(
    ledger: Ledger, other: dict[str, Any]
) -> None:
    charge(ledger, entry())
    with pytest.raises(Refused, match="charged with other parameters") as caught:
        charge(ledger, entry(**other))
    assert caught.value.code is Refusal.POLICY
    with pytest.raises(Refused, match="charged with other parameters"):
        ledger.answer(entry(**other))
    with pytest.raises(Refused, match="charged with other parameters"):
        ledger.keep_answer(entry(**other), body())
    assert ledger.releases() == [release()]


def test_a_refusal_costs_nothing_and_is_recorded(ledger: Ledger, reopened: Reopen) -> None:
    ledger.refuse(Refusal.MALFORMED, {"kind": "query.steal"})
    ledger.refuse(Refusal.BUDGET, entry(7).fields)
    assert ledger.releases() == []
    assert reopened().verify() == 3
    recorded = [(r.type, r.fields["code"], r.fields["kind"]) for r in ledger.history(last=2)]
    assert recorded == [
        (EntryType.REFUSAL, "malformed", "query.steal"),
        (EntryType.REFUSAL, "budget", "train"),
    ]
    charge(ledger, entry(7))


# --- crashes and crowds ------------------------------------------------------------------------

# One process that forks: importing the accountant takes seconds.
CROWD = """
import json, os, signal, sys
from pathlib import Path
import client.ledger.limits
from client.ledger.ledger import Entry, Ledger
from client.ledger.limits import Limits
from shared.hash_chain import canonical_text, next_hash
from shared.errors import BudgetExceeded
from shared.privacy.release import Release, ReleaseKind

folder, limit = Path(sys.argv[1]), float(sys.argv[2])
release = Release(kind=ReleaseKind.TRAIN, noise_multiplier=2.0, sample_rate=0.5, steps=1)

def charge(name, run, number):
    ledger = Ledger(folder / name, "users", folder / f"{name}.anchor")
    entry = Entry(run=run, round=number, release=release)
    ledger.charge(entry, Limits(max_epsilon=limit, delta=1e-3))

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def killed_after():
    charge("after", "r", 1)
    die()

def killed_within():
    # Asked for after the lock is taken, before the entry is written.
    client.ledger.limits.epsilon = die
    charge("within", "r", 1)

def spend(run):
    for number in range(1, 5):
        try:
            charge("shared", run, number)
        except BudgetExceeded:
            return

def fork(work, *arguments):
    child = os.fork()
    if child:
        return child
    try:
        work(*arguments)
    except BaseException:
        os._exit(1)
    os._exit(0)

children = [fork(killed_after), fork(killed_within), *(fork(spend, run) for run in "abc")]
print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]))
"""


def in_crowd(folder: Path, name: str) -> Ledger:
    return Ledger(folder / name, "users", folder / f"{name}.anchor")


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ledgers that one killed process each has touched, and one that three spent at once."""
    folder = tmp_path_factory.mktemp("crowd")
    for name in ("after", "within", "shared"):
        Ledger.create(folder / name, "users", folder / f"{name}.anchor")
    done = subprocess.run(
        [sys.executable, "-c", CROWD, str(folder), repr(cost(5))],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert json.loads(done.stdout) == [-9, -9, 0, 0, 0], done.stderr
    return folder


def test_a_charge_survives_a_kill_right_after_it(crowd: Path) -> None:
    assert in_crowd(crowd, "after").releases() == [release()]


def test_a_kill_within_a_charge_leaves_nothing_and_no_lock(crowd: Path) -> None:
    ledger = in_crowd(crowd, "within")
    assert ledger.releases() == []
    charge(ledger, entry())


def test_processes_that_charge_at_once_never_overspend_together(crowd: Path) -> None:
    ledger = in_crowd(crowd, "shared")
    assert ledger.releases() == [release(steps=5)]
    assert ledger.spent(DELTA) == cost(5)
    assert ledger.verify() == 6


def test_a_ledger_that_another_process_holds_is_waited_for_and_then_an_error(
    file: Path, anchor: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client.ledger.store, "PATIENCE", 0.05)
    with (
        client.ledger.store.ledger_lock(file, anchor),
        pytest.raises(LedgerError, match="has held the ledger or its anchor for"),
    ):
        ledger.releases()
    assert ledger.releases() == []


def test_a_charge_is_on_disk_before_it_returns(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []
    connect, save_anchor = sqlite3.connect, Anchor.save

    def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:  # noqa: ANN401
        database: sqlite3.Connection = connect(*arguments, **options)
        database.set_trace_callback(statements.append)
        return database

    def saved(anchor: Anchor, place: Path) -> None:
        statements.append("ANCHOR")
        save_anchor(anchor, place)

    monkeypatch.setattr(sqlite3, "connect", traced)
    monkeypatch.setattr(Anchor, "save", saved)
    charge(ledger, entry())
    insert = next(i for i, text in enumerate(statements) if text.startswith("INSERT"))
    assert statements.index("PRAGMA synchronous = FULL") < statements.index("BEGIN IMMEDIATE")
    assert statements.index("BEGIN IMMEDIATE") < insert < statements.index("COMMIT")
    assert statements.index("COMMIT") < statements.index("ANCHOR")
