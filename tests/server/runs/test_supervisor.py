"""What becomes of a run that breaks off, for every row of the supervisor's table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from server.runs.bundle import BuiltBundle, build_bundle, source_folder
from server.runs.flower import Flower, FlowerRun, FlowerState
from server.runs.run import Run, all_runs, create_run, find_run, read_config
from server.runs.supervisor import ATTEMPTS, RunSupervisor, start
from server.service.setup import NewServer, make_server
from server.settings import Settings
from server.state.audit_log import AuditEvent, AuditLog
from server.state.run_lock import coordinator_lock
from server.state.status import RunState, RunStatus, now
from shared.data.catalogue import Catalogue
from shared.errors import ConfigError, ServerError

CONFIG = """
[privacy]
epsilon = 8.0
delta = 1e-4
[training]
rounds = 5
[paths]
catalogue = "catalogue"
"""


class StandIn(Flower):
    """In place of Flower: says of the last start what it is told to."""

    def __init__(self, bundle: str) -> None:
        self.bundle, self.started = bundle, 0
        self.status: FlowerState | None = FlowerState.FAILED
        self.stopped: list[str] = []

    def start(self, app: Path, config: Path) -> tuple[str, str]:
        self.started += 1
        return str(self.started), self.bundle[:8]

    def run(self, number: str) -> FlowerRun:
        if self.status is None:
            raise ServerError("away")
        return FlowerRun(number=number, state=self.status, details="", bytes_in=0, bytes_out=0)

    def stop(self, number: str) -> None:
        self.stopped.append(number)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> BuiltBundle:
    return build_bundle(Path(__file__).parents[3])


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    Catalogue(
        item_ids=("a",), titles=("",), genres=((),), years=(None,), features=torch.zeros(1, 1)
    ).save(tmp_path / "catalogue")
    (tmp_path / "run.toml").write_text(CONFIG)
    return make_server(tmp_path / "c", NewServer(address="127.0.0.1:9092"))


@pytest.fixture
def flower(bundle: BuiltBundle) -> StandIn:
    return StandIn(bundle.fingerprint)


@pytest.fixture
def run(settings: Settings, tmp_path: Path, bundle: BuiltBundle, flower: StandIn) -> Run:
    made = create_run(settings, "first", read_config(tmp_path / "run.toml"), bundle)
    return start(settings, flower, made, AuditEvent.RUN_STARTED)


@pytest.fixture
def clock() -> list[float]:
    return [0.0]


@pytest.fixture
def look(settings: Settings, flower: StandIn, clock: list[float]) -> Callable[[], Run]:
    supervisor = RunSupervisor(settings, flower, clock=lambda: clock[0])

    def looked() -> Run:
        supervisor.check_runs()
        return find_run(settings, "first")

    return looked


def tells(run: Run, state: RunState, *, rounds: int = 0, reason: str = "") -> None:
    """Writes the status that the run's own coordinator would."""
    run.out.mkdir(parents=True, exist_ok=True)
    status = RunStatus(run="x", state=state, round=rounds, rounds=5, started=now(), reason=reason)
    replace(status, updated=now()).save(run.out)


# --- the supervisor ----------------------------------------------------------------------------


@pytest.mark.parametrize("state", [RunState.WAITING, RunState.RUNNING, RunState.RETRYING])
def test_a_run_at_work_is_left_alone(
    run: Run, look: Callable[[], Run], flower: StandIn, state: RunState
) -> None:
    with coordinator_lock(run.out):
        tells(run, state)
        assert look() == run
    assert flower.started == 1


@pytest.mark.parametrize("state", [RunState.FINISHED, RunState.PAUSED, RunState.FAILED])
def test_what_the_run_says_of_its_end_counts(
    run: Run, look: Callable[[], Run], flower: StandIn, state: RunState
) -> None:
    tells(run, state, reason="so it is")
    found = look()
    assert (found.state, found.reason) == (state, "so it is")
    assert flower.started == 1


def test_the_end_of_an_earlier_start_says_nothing_of_this_one(
    settings: Settings, run: Run, look: Callable[[], Run], flower: StandIn
) -> None:
    tells(run, RunState.PAUSED, reason="too few")
    assert look().state is RunState.PAUSED
    again = start(settings, flower, find_run(settings, "first"), AuditEvent.RUN_RESUMED)
    flower.status = FlowerState.RUNNING
    assert look() == again
    assert look().state is RunState.RUNNING


@pytest.mark.parametrize(
    "status", [FlowerState.PENDING, FlowerState.STARTING, FlowerState.RUNNING, None]
)
def test_a_start_that_has_not_begun_to_tell_is_waited_for(
    run: Run, look: Callable[[], Run], flower: StandIn, status: FlowerState
) -> None:
    flower.status = status
    assert look() == run
    assert flower.started == 1


def test_a_run_that_broke_off_is_resumed_at_once(
    settings: Settings, run: Run, look: Callable[[], Run], flower: StandIn
) -> None:
    tells(run, RunState.RUNNING, rounds=3)  # and its coordinator is gone
    assert look().starts == ("1", "2")
    events = [entry["event"] for entry in AuditLog(Path(settings.folder, "audit.jsonl")).entries()]
    assert events[-2:] == ["run-started", "run-resumed"]


@pytest.mark.parametrize("status", [FlowerState.PENDING, FlowerState.STARTING, FlowerState.RUNNING])
def test_a_run_whose_process_is_dead_is_resumed_before_flower_notices(
    run: Run, look: Callable[[], Run], flower: StandIn, status: FlowerState
) -> None:
    """Flower waits a minute for a sign of life."""
    tells(run, RunState.RUNNING, rounds=3)  # and its coordinator is gone
    flower.status = status
    assert look().starts == ("1", "2")
    assert flower.stopped == ["1"], "it could come back to life otherwise"
    assert look().starts == ("1", "2"), "what the first start told says nothing of the second"


def test_a_dead_start_is_not_stopped_where_no_other_can_follow(
    run: Run, look: Callable[[], Run], flower: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped, it would count as somebody's wish."""

    def away(app: Path, config: Path) -> tuple[str, str]:
        raise ServerError("away")

    tells(run, RunState.RUNNING, rounds=3)
    flower.status = FlowerState.RUNNING
    with monkeypatch.context() as patched:
        patched.setattr(flower, "start", away)
        assert look() == run
        assert flower.stopped == []
    assert look().starts == ("1", "2")


def test_one_that_somebody_stopped_is_not_taken_for_dead(
    run: Run, look: Callable[[], Run], flower: StandIn
) -> None:
    tells(run, RunState.RUNNING, rounds=3)
    flower.status = FlowerState.STOPPED
    assert look().state is RunState.STOPPED
    assert (flower.started, flower.stopped) == (1, [])


def test_a_fault_is_tried_again_and_a_mistake_is_not(
    run: Run, look: Callable[[], Run], flower: StandIn
) -> None:
    tells(run, RunState.FAILED, reason="a fault: KeyError")
    assert look().starts == ("1", "2")


def test_a_run_that_gets_nowhere_is_given_up(
    run: Run, look: Callable[[], Run], flower: StandIn, clock: list[float]
) -> None:
    for _ in range(200):
        if look().state is not RunState.RUNNING:
            break
        clock[0] += 1.0
    found = look()
    assert found.state is RunState.FAILED
    assert flower.started == ATTEMPTS + 1
    assert clock[0] >= 50  # it has waited in between


def test_rounds_that_were_finished_count_as_getting_somewhere(
    run: Run, look: Callable[[], Run], flower: StandIn, clock: list[float]
) -> None:
    for number in range(12):
        tells(run, RunState.RUNNING, rounds=number)
        assert look().state is RunState.RUNNING
        clock[0] += 0.1
    assert flower.started == 13


def test_what_somebody_stopped_stays_stopped(
    run: Run, look: Callable[[], Run], flower: StandIn
) -> None:
    flower.status = FlowerState.STOPPED
    assert look().state is RunState.STOPPED
    flower.status = FlowerState.FAILED
    assert look().state is RunState.STOPPED
    assert flower.started == 1


# --- starting ----------------------------------------------------------------------------------


def test_another_bundle_than_was_shown_is_not_run(
    settings: Settings, run: Run, flower: StandIn
) -> None:
    flower.bundle = "0" * 64
    with pytest.raises(ServerError, match="was changed after the run began"):
        start(settings, flower, run, AuditEvent.RUN_RESUMED)
    assert flower.stopped == ["2"]
    assert find_run(settings, "first") == run


def test_a_run_resumes_only_what_there_is(settings: Settings, run: Run) -> None:
    """Before the first checkpoint there is nothing to go on from."""
    assert run.config.paths.resume is False
    assert run.config.paths.out == str(run.folder / "out")


# --- a run's folder ----------------------------------------------------------------------------


def test_names_are_taken_once(
    settings: Settings, run: Run, bundle: BuiltBundle, tmp_path: Path
) -> None:
    flat = read_config(tmp_path / "run.toml")
    with pytest.raises(ServerError, match="there is a run 'first' already"):
        create_run(settings, "first", flat, bundle)
    with pytest.raises(ServerError, match="letters, digits"):
        create_run(settings, "../x", flat, bundle)
    with pytest.raises(ServerError, match=r"there is no run 'second'\. The runs are: first"):
        find_run(settings, "second")
    assert [found.name for found in all_runs(settings)] == ["first"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("epsilon = 8.0", ""), "'privacy.epsilon' is not set"),
        (("rounds = 5", "round = 5"), "did you mean 'training.rounds'"),
        (("[training]", "[lab]\nseed = 1\n[training]"), "belongs to a simulation"),
        (('"catalogue"', '"elsewhere"'), "is no catalogue's folder"),
        (("[privacy]", "[privacy"), "not valid TOML"),
    ],
)
def test_mistakes_are_found_before_anything_is_made(
    settings: Settings, bundle: BuiltBundle, tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    (tmp_path / "run.toml").write_text(CONFIG.replace(*change))
    with pytest.raises(ConfigError, match=said):
        create_run(settings, "first", read_config(tmp_path / "run.toml"), bundle)
    assert all_runs(settings) == []


# --- the bundle --------------------------------------------------------------------------------


def test_the_same_source_gives_the_same_bundle(bundle: BuiltBundle, tmp_path: Path) -> None:
    assert build_bundle(bundle.unpack(tmp_path / "app")).fingerprint == bundle.fingerprint
    changed = tmp_path / "app" / "client" / "guard.py"
    changed.write_text(changed.read_text() + "#")
    assert build_bundle(tmp_path / "app").fingerprint != bundle.fingerprint


def test_a_bundle_holds_source_alone(bundle: BuiltBundle) -> None:
    assert {Path(name).suffix for name in bundle.files} == {".py", ".toml"}
    tops = {Path(name).parts[0] for name in bundle.files}
    assert tops == {"client", "server", "shared", "pyproject.toml"}


def test_without_source_there_is_no_bundle(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"holds no pyproject\.toml"):
        source_folder(replace(settings, app=str(tmp_path)))
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    with pytest.raises(ServerError, match="no bundle can be built"):
        build_bundle(tmp_path)


def test_a_resumed_run_may_have_a_smaller_quorum(
    run: Run, settings: Settings, flower: StandIn
) -> None:
    before = run.config
    start(settings, flower, run, AuditEvent.RUN_RESUMED, quorum=0.25)
    resumed = find_run(settings, "first").config
    assert (before.server.quorum, resumed.server.quorum) == (0.5, 0.25)
    assert resumed.fingerprint == before.fingerprint
    entries = [e for e in AuditLog(settings.path("audit.jsonl")).entries() if "quorum" in e]
    assert [(e["event"], e["run"], e["quorum"]) for e in entries] == [
        ("run-changed", "first", 0.25)
    ]
    with pytest.raises(ConfigError, match=r"server\.quorum = 2\.0: choose"):
        start(settings, flower, run, AuditEvent.RUN_RESUMED, quorum=2.0)


def test_a_run_gets_the_path_of_the_record_of_partners(run: Run, settings: Settings) -> None:
    assert run.config.paths.partners == str(settings.path("partners.json"))


def test_an_app_of_an_earlier_release_is_given_the_parameters_that_it_declares(
    run: Run, settings: Settings, flower: StandIn
) -> None:
    file = run.app / "pyproject.toml"
    lines = [
        line for line in file.read_text().splitlines() if not line.startswith("max_population")
    ]
    file.write_text("\n".join(lines))
    start(settings, flower, run, AuditEvent.RUN_RESUMED)
    text = run.config_file.read_text()
    assert "max_population" not in text
    assert "quorum" in text
