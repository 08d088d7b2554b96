from __future__ import annotations

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

import client.ledger
from client.ledger import Entry, Ledger
from shared.errors import BudgetExceeded, LedgerError, Refusal, Refused
from shared.privacy.accounting import epsilon
from shared.privacy.release import Release, ReleaseKind

DELTA = 1e-3
NOISE = 2.0


def release(steps: int = 1, noise_multiplier: float = NOISE) -> Release:
    return Release(
        kind=ReleaseKind.TRAIN, noise_multiplier=noise_multiplier, sample_rate=0.5, steps=steps
    )


def entry(number: int = 1, run: str = "r", **changes: Any) -> Entry:  # noqa: ANN401
    return Entry(run=run, round=number, release=release(**changes))


def charge(ledger: Ledger, what: Entry, max_epsilon: float = math.inf) -> None:
    ledger.charge(what, max_epsilon=max_epsilon, delta=DELTA)


def cost(steps: int) -> float:
    return epsilon([release(steps)], DELTA)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(file: Path) -> Ledger:
    return Ledger.create(file, "users")


# --- the file ----------------------------------------------------------------------------------


def test_a_new_ledger_is_empty_and_its_owners_alone(file: Path, ledger: Ledger) -> None:
    assert ledger.releases() == []
    assert ledger.spent(DELTA) == 0
    assert file.stat().st_mode & 0o777 == 0o600


def test_what_was_charged_is_there_when_opened_again(file: Path, ledger: Ledger) -> None:
    charge(ledger, entry(1))
    charge(ledger, entry(2))
    again = Ledger(file, "users")
    assert again.releases() == [release(steps=2)]
    assert again.spent(DELTA) == cost(2)


def test_a_missing_ledger_is_an_error_and_stays_missing(file: Path) -> None:
    with pytest.raises(LedgerError, match=r"missing, so what was spent is not known"):
        Ledger(file, "users")
    assert not file.exists()


def test_a_ledger_that_goes_missing_is_not_made_anew(file: Path, ledger: Ledger) -> None:
    file.unlink()
    with pytest.raises(LedgerError, match="nothing is trained"):
        charge(ledger, entry())
    assert not file.exists()


@pytest.mark.parametrize("content", [b"", b"anything", b"SQLite format 3\0" + b"x" * 5000])
def test_a_ledger_is_never_made_over_a_file(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(LedgerError, match="is there already and stays"):
        Ledger.create(file, "users")
    assert file.read_bytes() == content


def test_a_ledger_needs_its_folder(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"cannot be made \(No such file"):
        Ledger.create(tmp_path / "nowhere" / "ledger.sqlite", "users")


def read(ledger: Ledger) -> None:
    ledger.spent(DELTA)


def write(ledger: Ledger) -> None:
    charge(ledger, entry(9))


def look_up(ledger: Ledger) -> None:
    ledger.answer("r", 9)


def keep(ledger: Ledger) -> None:
    ledger.keep_answer("r", 9, b"answer")


EVERY_USE = pytest.mark.parametrize("use", [read, write, look_up, keep])


@EVERY_USE
@pytest.mark.parametrize(
    "content",
    [b"", b"not a database, but long enough to be taken for one" * 9, b"SQLite format 3\0"],
    ids=["truncated", "garbage", "header alone"],
)
def test_a_file_that_is_no_ledger_is_an_error(file: Path, content: bytes, use: Any) -> None:  # noqa: ANN401
    file.write_bytes(content)
    with pytest.raises(LedgerError, match="cannot be read or written"):
        use(Ledger(file, "users"))


@EVERY_USE
def test_a_damaged_page_is_an_error(file: Path, ledger: Ledger, use: Any) -> None:  # noqa: ANN401
    for number in range(1, 4):
        charge(ledger, entry(number))
    content = bytearray(file.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    file.write_bytes(content)
    with pytest.raises(LedgerError, match="cannot be read or written"):
        use(ledger)


@EVERY_USE
def test_a_place_that_cannot_be_written_is_an_error(
    file: Path,
    ledger: Ledger,
    use: Any,  # noqa: ANN401
) -> None:
    Path(f"{file}-wal").mkdir()  # where SQLite wants to write; permissions do not stop root
    with pytest.raises(LedgerError, match="Check the disk and the file's permissions"):
        use(ledger)


@pytest.mark.parametrize(
    "damage",
    ["steps = 0", "sample_rate = 2", "noise_multiplier = -1", "kind = 'gift'", "steps = 'many'"],
)
def test_an_entry_that_is_no_release_is_an_error(file: Path, ledger: Ledger, damage: str) -> None:
    charge(ledger, entry())
    with sqlite3.connect(file) as database:
        database.execute(f"UPDATE charges SET {damage}")
    database.close()
    with pytest.raises(LedgerError, match="an entry is not a release"):
        ledger.spent(DELTA)
    with pytest.raises(LedgerError, match="an entry is not a release"):
        charge(ledger, entry(2))


# --- what it adds up ---------------------------------------------------------------------------


def test_runs_of_one_user_base_add_up_and_another_starts_at_nothing(file: Path) -> None:
    ours, theirs = Ledger.create(file, "users"), Ledger(file, "other users")
    charge(ours, entry(1, run="first"))
    charge(ours, entry(1, run="second"))
    charge(theirs, entry(1, run="first", steps=3))
    assert ours.spent(DELTA) == cost(2)
    assert theirs.spent(DELTA) == cost(3)


def test_another_run_resets_nothing(ledger: Ledger) -> None:
    charge(ledger, entry(1, run="first"), max_epsilon=cost(1))
    with pytest.raises(BudgetExceeded):
        charge(ledger, entry(1, run="second"), max_epsilon=cost(1))


def test_a_clock_that_goes_back_forgets_nothing(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    charge(ledger, entry(1))

    class Before(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Before:  # noqa: ANN401
            return cls(1970, 1, 1, tzinfo=UTC)

    monkeypatch.setattr(client.ledger, "datetime", Before)
    charge(ledger, entry(2))
    assert ledger.spent(DELTA) == cost(2)


@settings(max_examples=10, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(1, 3), st.sampled_from([2.0, 4.0])),
        max_size=8,
    )
)
def test_no_sequence_of_charges_passes_the_limit(
    tmp_path_factory: pytest.TempPathFactory, charges: list[tuple[str, int, float]]
) -> None:
    ledger = Ledger.create(tmp_path_factory.mktemp("some") / "ledger.sqlite", "users")
    paid: dict[tuple[str, int], float] = {}
    for run, number, noise in charges:
        before = ledger.releases()
        try:
            charge(ledger, entry(number, run=run, noise_multiplier=noise), max_epsilon=cost(2))
        except BudgetExceeded:
            assert ledger.releases() == before
            assert (run, number) not in paid
        except Refused:
            assert ledger.releases() == before
            assert paid[run, number] != noise
        else:
            assert paid.setdefault((run, number), noise) == noise
        assert ledger.spent(DELTA) <= cost(2)
    assert sum(r.steps for r in ledger.releases()) == len(paid)


# --- the limit ---------------------------------------------------------------------------------


def test_a_charge_beyond_the_limit_is_refused_and_leaves_no_trace(
    file: Path, ledger: Ledger
) -> None:
    for number in (1, 2):
        charge(ledger, entry(number), max_epsilon=cost(2))
    before = ledger.releases()
    with pytest.raises(BudgetExceeded, match=r"round 3 of run r would lead to ε = ") as caught:
        charge(ledger, entry(3), max_epsilon=math.nextafter(cost(3), 0))
    assert f"{cost(3):.4g}" in caught.value.detail
    assert caught.value.code is Refusal.BUDGET
    assert Ledger(file, "users").releases() == before
    charge(ledger, entry(3), max_epsilon=cost(3))


@pytest.mark.parametrize("max_epsilon", [0.0, 1e9, math.nan, -math.inf])
def test_a_release_without_noise_is_refused(ledger: Ledger, max_epsilon: float) -> None:
    with pytest.raises(BudgetExceeded, match="ε = inf"):
        charge(ledger, entry(noise_multiplier=0.0), max_epsilon=max_epsilon)
    assert ledger.releases() == []


def test_a_release_without_noise_is_let_pass_by_an_infinite_limit_alone(ledger: Ledger) -> None:
    charge(ledger, entry(noise_multiplier=0.0), max_epsilon=math.inf)
    assert ledger.spent(DELTA) == math.inf
    with pytest.raises(BudgetExceeded):  # and the users' budget is gone
        charge(ledger, entry(2), max_epsilon=1e9)


def test_nan_from_the_accountant_is_refused(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client.ledger, "epsilon", lambda *_: math.nan)
    with pytest.raises(BudgetExceeded):
        charge(ledger, entry(), max_epsilon=math.inf)


# --- the same round again ----------------------------------------------------------------------


def test_the_same_round_is_charged_once(ledger: Ledger) -> None:
    for _ in range(3):
        charge(ledger, entry(), max_epsilon=cost(1))
    assert ledger.releases() == [release()]


@pytest.mark.parametrize("other", [{"steps": 2}, {"noise_multiplier": 8.0}])
def test_the_same_round_with_other_parameters_is_refused(
    ledger: Ledger, other: dict[str, Any]
) -> None:
    charge(ledger, entry())
    with pytest.raises(Refused, match="charged with other parameters") as caught:
        charge(ledger, entry(**other))
    assert caught.value.code is Refusal.POLICY
    assert ledger.releases() == [release()]


# --- answers -----------------------------------------------------------------------------------


def test_the_first_answer_is_the_one_that_is_sent(file: Path, ledger: Ledger) -> None:
    assert ledger.answer("r", 1) is None
    assert ledger.keep_answer("r", 1, b"first\0\xff") == b"first\0\xff"
    assert ledger.keep_answer("r", 1, b"second") == b"first\0\xff"
    assert Ledger(file, "users").answer("r", 1) == b"first\0\xff"


def test_the_last_two_answers_of_each_run_are_kept(ledger: Ledger) -> None:
    for number in (1, 2, 3):
        ledger.keep_answer("r", number, b"%d" % number)
    ledger.keep_answer("other", 1, b"other")
    with pytest.raises(Refused, match="round 1 of run r; the last is 3") as caught:
        ledger.answer("r", 1)
    assert caught.value.code is Refusal.CLOSED
    assert [ledger.answer("r", number) for number in (2, 3, 4)] == [b"2", b"3", None]
    assert ledger.answer("other", 1) == b"other"


def test_a_round_that_was_skipped_is_closed(ledger: Ledger) -> None:
    ledger.keep_answer("r", 3, b"3")
    for number in (1, 2):
        with pytest.raises(Refused) as caught:
            ledger.answer("r", number)
        assert caught.value.code is Refusal.CLOSED


def test_a_slow_repeat_does_not_replace_an_answer_that_was_let_go(ledger: Ledger) -> None:
    """Two computations of round 1 at once: only one of them may ever leave."""
    for number in (1, 2, 3):
        ledger.keep_answer("r", number, b"%d" % number)
    with pytest.raises(Refused) as caught:
        ledger.keep_answer("r", 1, b"another noise")
    assert caught.value.code is Refusal.CLOSED
    assert [ledger.answer("r", number) for number in (2, 3)] == [b"2", b"3"]


# --- crashes and crowds ------------------------------------------------------------------------

# One process that forks: importing the accountant takes seconds.
CROWD = """
import json, os, signal, sys
from pathlib import Path
import client.ledger
from client.ledger import Entry, Ledger
from shared.errors import BudgetExceeded
from shared.privacy.release import Release, ReleaseKind

folder, limit = Path(sys.argv[1]), float(sys.argv[2])
release = Release(kind=ReleaseKind.TRAIN, noise_multiplier=2.0, sample_rate=0.5, steps=1)

def charge(name, run, number):
    ledger = Ledger(folder / name, "users")
    entry = Entry(run=run, round=number, release=release)
    ledger.charge(entry, max_epsilon=limit, delta=1e-3)

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def killed_after():
    charge("after.sqlite", "r", 1)
    die()

def killed_within():
    client.ledger.epsilon = die  # asked for after the lock is taken, before the entry is written
    charge("within.sqlite", "r", 1)

def spend(run):
    for number in range(1, 5):
        try:
            charge("shared.sqlite", run, number)
        except BudgetExceeded:
            return

def fork(work, *arguments):
    child = os.fork()
    if child:
        return child
    work(*arguments)
    os._exit(0)

children = [fork(killed_after), fork(killed_within), *(fork(spend, run) for run in "abc")]
print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]))
"""


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ledgers that one killed process each has touched, and one that three spent at once."""
    folder = tmp_path_factory.mktemp("crowd")
    for name in ("after", "within", "shared"):
        Ledger.create(folder / f"{name}.sqlite", "users")
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
    assert Ledger(crowd / "after.sqlite", "users").releases() == [release()]


def test_a_kill_within_a_charge_leaves_nothing_and_no_lock(crowd: Path) -> None:
    ledger = Ledger(crowd / "within.sqlite", "users")
    assert ledger.releases() == []
    charge(ledger, entry())


def test_processes_that_charge_at_once_never_overspend_together(crowd: Path) -> None:
    ledger = Ledger(crowd / "shared.sqlite", "users")
    assert ledger.releases() == [release(steps=5)]
    assert ledger.spent(DELTA) == cost(5)


def test_a_charge_is_on_disk_before_it_returns(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []
    connect = sqlite3.connect

    def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:  # noqa: ANN401
        database: sqlite3.Connection = connect(*arguments, **options)
        database.set_trace_callback(statements.append)
        return database

    monkeypatch.setattr(sqlite3, "connect", traced)
    charge(ledger, entry())
    insert = next(i for i, text in enumerate(statements) if text.startswith("INSERT"))
    assert statements.index("PRAGMA synchronous = FULL") < statements.index("BEGIN IMMEDIATE")
    assert statements.index("BEGIN IMMEDIATE") < insert < statements.index("COMMIT")
