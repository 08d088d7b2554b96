"""Sweeps: what is planned, what survives a kill, what a failure leaves, what the table holds."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from shared.errors import CheckpointError, ConfigError
from simulations.cli import main
from simulations.sweep.axes import parse_axes
from simulations.sweep.folder import SweepFolder, resolve_plan
from simulations.sweep.plan import Keep, Plan, SweepOptions
from simulations.sweep.progress import sweep_progress
from simulations.sweep.table import Outcome, cells, rows, write_table
from simulations.sweep.work import Grid, work
from simulations.sweep.workers import Job, LocalWorkers, RayWorkers, devices
from tests.simulations.conftest import TINY_SETTINGS

ROOT = Path(__file__).parents[3]


def asked(epsilons: str | None = "8,none", seeds: str | None = "0,1", *grid: str) -> SweepOptions:
    return SweepOptions(
        options={"privacy.delta": 1e-2, "privacy.epsilon": None if epsilons else 8.0},
        assignments=TINY_SETTINGS,
        axes=parse_axes(epsilons, seeds, grid),
    )


def tiny(data: Path, out: Path, *more: object) -> list[str]:
    options: list[object] = ["sweep", "--data", data, "--out", out, "--delta", 1e-2]
    for assignment in ("lab.organisations=2", "lab.alone=false", *TINY_SETTINGS):
        options += ["--set", assignment]
    return [str(option) for option in (*options, *more)]


def lab(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["sotto-lab", *map(str, arguments)])
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


def result(ndcg: float, epsilon: float | None = 7.9) -> dict[str, Any]:
    figures = {"hr@10": 2 * ndcg, "ndcg@10": ndcg, "mrr@10": ndcg, "coverage@10": 0.5}
    return {
        "privacy": {
            "private": epsilon is not None,
            "organisations": [{"epsilon": epsilon}, {"epsilon": epsilon and epsilon / 2}],
        },
        "evaluation": {"split": "test", "models": {"markov": figures, "federated": figures}},
        "cost": {"seconds": {"total": 3.0, "train": 2.0, "evaluate": 1.0}},
    }


# --- what is planned ---------------------------------------------------------------------------


def test_every_combination_is_a_run_with_a_telling_name() -> None:
    plan = Plan.of(asked("8,none", "0,1", "lab.partition=user,taste"))
    runs = plan.runs()
    assert len(runs) == 8
    assert runs[0].name == "epsilon=8,partition=user,seed=0"
    assert [run.config.seed for run in runs] == [0] * 4 + [1] * 4  # a whole picture comes first
    assert {(run.config.privacy.epsilon, str(run.config.lab.partition)) for run in runs} == {
        (epsilon, scheme) for epsilon in (8.0, None) for scheme in ("user", "taste")
    }
    assert all(run.config.training.rounds == 4 for run in runs)


def test_recipes_are_an_axis_and_keep_their_own_settings(tmp_path: Path) -> None:
    for name, rate in (("slow", 0.1), ("fast", 0.9)):
        text = f"[privacy]\nepsilon = 8.0\ndelta = 1e-3\n[server]\nlearning_rate = {rate}\n"
        (tmp_path / f"{name}.toml").write_text(text)
    recipes = [tmp_path / "slow.toml", tmp_path / "fast.toml"]
    plan = Plan.of(SweepOptions(recipes=recipes, options={}, axes=parse_axes("1,2", None, [])))
    rates = {run.name: run.config.server.learning_rate for run in plan.runs()}
    assert rates == {
        "recipe=slow,epsilon=1": 0.1,
        "recipe=slow,epsilon=2": 0.1,
        "recipe=fast,epsilon=1": 0.9,
        "recipe=fast,epsilon=2": 0.9,
    }


def test_settings_of_one_last_name_are_distinguished() -> None:
    grid = ("server.learning_rate=1,2", "training.learning_rate=1.5,2.5")
    names = [run.name for run in Plan.of(asked("8", None, *grid)).runs()]
    assert names[0] == "epsilon=8,server.learning_rate=1,training.learning_rate=1.5"
    assert len(set(names)) == 4


def test_a_plan_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    plan = Plan.of(asked("0.5,none", "0,1", "lab.partition=user,taste", "model.tied=true,false"))
    file = tmp_path / "sweep.toml"
    file.write_text(plan.to_toml(), encoding="utf-8")
    again = Plan.from_toml(file)
    assert again == plan
    assert [run.config for run in again.runs()] == [run.config for run in plan.runs()]


def test_what_a_default_or_a_recipe_says_later_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    text = Plan.of(asked()).to_toml()
    file.write_text(text.replace('"model.max_length" = 5', '"model.max_length" = 7'))
    assert {run.config.model.max_length for run in Plan.from_toml(file).runs()} == {7}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epsilons": "1,1"}, "a value is repeated"),
        ({"epsilons": "1,,2"}, "a value is missing"),
        ({"seeds": "0,1,0"}, "a value is repeated"),
        ({"grid": ["rounds"]}, "write --grid section.key=v1,v2"),
        ({"grid": ["seed=3,4"], "seeds": "0,1"}, "seed varies twice"),
        ({"grid": ["model.max_lenght=3,4"]}, "did you mean 'model.max_length'"),
        ({"epsilons": "1,-2"}, "privacy.epsilon = -2.0: choose a positive number"),
        ({"grid": ["training.rounds=0,1", "warm_start.share=0,0.5"]}, "nothing would be learned"),
        ({"grid": ["lab.data=a/x,b/x"]}, "two runs would be called 'epsilon=8,data=x'"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Plan.of(asked(given.get("epsilons", "8"), given.get("seeds"), *given.get("grid", [])))


def test_delta_has_no_default_where_any_run_is_private() -> None:
    for epsilons in ("none,8", "8,none"):
        with pytest.raises(ConfigError, match=r"privacy.delta has no default"):
            Plan.of(SweepOptions(options={}, axes=parse_axes(epsilons, None, [])))
    assert len(Plan.of(SweepOptions(options={}, axes=parse_axes("none", "0,1", []))).runs()) == 2


def test_two_recipes_of_one_name_are_refused(tmp_path: Path) -> None:
    files = [tmp_path / folder / "a.toml" for folder in "xy"]
    for file in files:
        file.parent.mkdir()
        file.write_text('[privacy]\nepsilon = "none"\n')
    with pytest.raises(ConfigError, match="two recipes are called 'a'"):
        Plan.of(SweepOptions(recipes=files, options={}))


# --- the folder --------------------------------------------------------------------------------


def test_the_same_plan_or_none_resumes_and_another_is_refused(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path / "sweep")
    with pytest.raises(CheckpointError, match="holds no sweep: start it without --resume"):
        resolve_plan(folder, asked(), {}, resume=True)
    plan = resolve_plan(folder, asked(), {}, resume=False)
    folder.write_plan(plan)
    nothing = SweepOptions(options={"privacy.delta": None})
    for again in (asked(), nothing):
        assert resolve_plan(folder, again, {}, resume=True) == plan
    others = {
        r"privacy.epsilon = 4,none \(was 8,none\)": asked("4,none"),
        r"seed = 0 \(was 0,1\)": asked(seeds="0"),
        r"lab.partition = user,taste \(was user\)": asked(
            "8,none", "0,1", "lab.partition=user,taste"
        ),
        r"model.max_length = 9 \(was 5\)": SweepOptions(
            options={"privacy.delta": 1e-2},
            assignments=[*TINY_SETTINGS, "model.max_length=9"],
            axes=asked().axes,
        ),
        r"keep = all \(was results\)": SweepOptions(
            options={"privacy.delta": 1e-2},
            assignments=TINY_SETTINGS,
            axes=asked().axes,
            keep=Keep.ALL,
        ),
    }
    for message, other in others.items():
        with pytest.raises(CheckpointError, match=message):
            resolve_plan(folder, other, {}, resume=False)


def test_a_folder_of_something_else_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match="is neither empty nor a sweep"):
        resolve_plan(SweepFolder(tmp_path), asked(), {}, resume=False)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "sweep.toml").write_text("schema = 99\n")
    with pytest.raises(CheckpointError, match="is not a sweep of this version"):
        resolve_plan(SweepFolder(tmp_path / "other"), asked(), {}, resume=True)


def test_a_sweep_is_run_by_one_process_at_a_time(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path / "sweep")
    with (
        folder.locked(),
        pytest.raises(ConfigError, match="is being run by another process"),
        SweepFolder(tmp_path / "sweep").locked(),
    ):
        pass


def test_a_run_starts_resumes_or_is_kept_by_the_state_of_its_folder(tmp_path: Path) -> None:
    plan = Plan.of(asked("8", "0,1,2"))
    folder = SweepFolder(tmp_path / "sweep")
    folder.write_plan(plan)
    new, begun, finished = plan.runs()
    torn = folder.run(new.name) / "sites"
    torn.mkdir(parents=True)  # killed while its sites were written
    folder.run(begun.name).mkdir()
    (folder.run(begun.name) / "config.toml").write_text("x")
    folder.run(finished.name).mkdir()
    (folder.run(finished.name) / "result.json").write_text(json.dumps(result(0.1)))

    grid = Grid(plan.runs(), folder)
    assert [outcome.status for outcome in grid.outcomes] == ["begun", "begun", "finished"]
    assert [grid.next(), grid.next(), grid.next()] == [new, begun, None]
    assert "--config" in folder.job(new).command
    assert not torn.exists()
    settings = folder.path / "settings" / f"{new.name}.toml"
    assert settings.read_text() == new.config.to_toml()
    assert folder.job(begun).command[-3:-1] == ["--resume", "--baselines"]

    (folder.run(finished.name) / "result.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"is damaged .*remove the run's folder"):
        Grid(plan.runs(), folder)


@pytest.mark.parametrize(
    ("log", "code", "reason"),
    [
        ("loading\nerror: privacy.delta is too large\n", 2, "privacy.delta is too large"),
        ("Traceback ...\nValueError: no such thing\n", 1, "ValueError: no such thing"),
        ("round 3\n", -9, "its process was ended by signal 9 (out of memory?)"),
        ("", 1, "its process ended with exit code 1 and no output"),
        (None, -15, "its process was ended by signal 15"),
    ],
)
def test_a_failure_is_reported_in_a_line(
    tmp_path: Path, log: str | None, code: int, reason: str
) -> None:
    folder = SweepFolder(tmp_path)
    if log is not None:
        folder.log("a").parent.mkdir()
        folder.log("a").write_text(log)
    assert folder.reason("a", code) == reason


@pytest.mark.parametrize("keep", list(Keep))
def test_what_a_report_does_not_read_goes(tmp_path: Path, keep: Keep) -> None:
    folder = SweepFolder(tmp_path)
    bulky = ["model/m", "catalogue/c", "alone/a/s", "sites/org-1/interactions.parquet"]
    small = ["result.json", "config.toml", "evaluation.parquet", "sites/org-1/ledger.sqlite"]
    for name in (*bulky, *small):
        path = folder.run("a") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    for _ in range(2):  # again, after a kill
        folder.slim("a", keep)
    left = {str(path.relative_to(folder.run("a"))) for path in folder.run("a").rglob("*")}
    assert set(small) <= left
    assert (not left & set(bulky)) == (keep is Keep.RESULTS)


# --- the table ---------------------------------------------------------------------------------


def outcomes() -> list[Outcome]:
    plan = Plan.of(asked("8,none", "0,1", "training.sample_rate=0.5,1"))
    return [
        Outcome(run=run, status="failed", reason="why")
        if place == 7
        else Outcome(
            run=run,
            status="finished",
            result=result(0.1 + 0.01 * place, None if run.config.privacy.epsilon is None else 7.9),
        )
        for place, run in enumerate(plan.runs())
    ]


def test_the_table_is_tidy(tmp_path: Path) -> None:
    table = pq.read_table(write_table(outcomes(), tmp_path))
    assert table.num_rows == 7 * 2 + 1
    assert set(table.column_names) == {
        *("run", "status", "privacy.epsilon", "privacy.delta", "seed", "training.sample_rate"),
        *("split", "model", "hr@10", "ndcg@10", "mrr@10", "coverage@10"),
        *("epsilon_spent", "seconds_train", "seconds_total"),
    }
    found = table.to_pylist()
    assert {row["privacy.epsilon"] for row in found} == {8.0, math.inf}
    assert {row["epsilon_spent"] for row in found if row["model"]} == {7.9, math.inf}
    assert {row["model"] for row in found} == {"markov", "federated", None}
    [lost] = [row for row in found if row["status"] == "failed"]
    assert (lost["model"], lost["ndcg@10"]) == (None, None)
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.parquet"]


def test_a_setting_whose_values_are_of_several_kinds_becomes_text(tmp_path: Path) -> None:
    plan = Plan.of(asked("8", None, "seed=1,2", "lab.device=cpu,auto"))
    some = [Outcome(run=run, status="waiting") for run in plan.runs()]
    kinds = [{**row, "seed": "x" if number else 1} for number, row in enumerate(rows(some))]
    assert {type(row["seed"]) for row in kinds} == {int, str}
    assert pq.read_table(write_table(some, tmp_path))["seed"].to_pylist() == [1, 1, 2, 2]


def test_cells_are_means_over_seeds() -> None:
    found = cells(outcomes())
    assert [dict(cell.values) for cell in found] == [
        {"privacy.epsilon": epsilon, "training.sample_rate": rate}
        for epsilon in (8.0, "none")
        for rate in (0.5, 1.0)
    ]
    mean, spread = found[0].figure("ndcg@10") or (0.0, 0.0)
    assert mean == pytest.approx((0.10 + 0.14) / 2)
    assert spread == pytest.approx(0.04 / math.sqrt(2))
    alone = found[-1].figure("ndcg@10")  # its other seed failed
    assert alone is not None
    assert math.isnan(alone[1])
    assert (found[-1].finished, len(found[-1].outcomes)) == (1, 2)
    assert cells([Outcome(run=outcomes()[0].run, status="waiting")])[0].figure("hr@10") is None


# --- who runs it -------------------------------------------------------------------------------


def job(tmp_path: Path, name: str, code: str) -> Job:
    return Job(name=name, command=[sys.executable, "-c", code], log=tmp_path / f"{name}.log")


def wait_for(workers: LocalWorkers | RayWorkers, count: int) -> dict[str, int]:
    found: dict[str, int] = {}
    until = time.monotonic() + 240
    while len(found) < count and time.monotonic() < until:
        found |= dict(workers.ended())
        time.sleep(0.02)
    return found


def test_processes_run_side_by_side_each_with_its_threads_and_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert devices() == ["3", "5"]
    workers = LocalWorkers(jobs=3, threads=2)
    show = "import os; print(os.environ['OMP_NUM_THREADS'], os.environ['CUDA_VISIBLE_DEVICES'])"
    for name in "abc":
        assert workers.free
        workers.start(job(tmp_path, name, show))
    assert (workers.free, workers.busy) == (False, 3)
    assert wait_for(workers, 3) == {"a": 0, "b": 0, "c": 0}
    said = [(tmp_path / f"{name}.log").read_text().split() for name in "abc"]
    assert said == [["2", "3"], ["2", "5"], ["2", "3"]]
    workers.start(job(tmp_path, "d", "raise SystemExit(7)"))
    assert wait_for(workers, 1) == {"d": 7}


@pytest.mark.parametrize(("build", "found"), [("2.13.0+cpu", []), ("2.13.0+cu130", ["0", "1"])])
def test_a_build_without_gpus_is_not_asked_for_them(
    monkeypatch: pytest.MonkeyPatch, build: str, found: list[str]
) -> None:
    """It takes seconds to import."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("simulations.sweep.workers.version", lambda _: build)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert devices() == found


ON_RAY = """
import sys, time
from pathlib import Path
from simulations.sweep.workers import Job, RayWorkers
workers, found = RayWorkers("local", 1), {}
for name, code in (("a", "print('ran')"), ("b", "raise SystemExit(7)")):
    log = Path(sys.argv[1], name + ".log")
    workers.start(Job(name=name, command=[sys.executable, "-c", code], log=log))
while workers.busy:
    found |= dict(workers.ended())
    time.sleep(0.05)
workers.stop()
assert found == {"a": 0, "b": 7}, found
"""


def test_a_cluster_runs_jobs_and_returns_their_exit_codes(tmp_path: Path) -> None:
    # In a process of its own: Ray changes the one that it is started from.
    command = [sys.executable, "-c", ON_RAY, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.log").read_text() == "ran\n"


def test_an_unreachable_cluster_is_reported_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(ConfigError, match="there is no such cluster"):
            RayWorkers(address, 1)


def test_ending_leaves_no_process(tmp_path: Path) -> None:
    workers = LocalWorkers(jobs=1, threads=1)
    child = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import time;"
        "time.sleep(60)']); print(p.pid, flush=True); p.wait()"
    )
    workers.start(job(tmp_path, "a", child))
    grandchild = _first_number(tmp_path / "a.log")
    workers.stop()
    assert workers.busy == 0
    assert _gone(grandchild)


def _first_number(log: Path) -> int:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if log.exists() and (text := log.read_text()).endswith("\n"):
            return int(text)
        time.sleep(0.02)
    pytest.fail("the process did not start")


def _gone(process: int) -> bool:
    """Ended, or a zombie that whoever adopted it has not looked at yet."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("mistake", [("--jobs", 0), ("--threads", 0)])
def test_senseless_numbers_are_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_data: Path,
    tmp_path: Path,
    mistake: tuple[str, int],
) -> None:
    assert lab(monkeypatch, *tiny(tiny_data, tmp_path / "s", "--epsilons", 8, *mistake)) == 2
    assert "choose a whole number >= 1" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


# --- the command -------------------------------------------------------------------------------


def test_a_dry_run_lists_the_runs_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_data: Path,
    tmp_path: Path,
) -> None:
    options = tiny(tiny_data, tmp_path / "s", "--epsilons", "1,none", "--seeds", "0,1", "--dry-run")
    assert lab(monkeypatch, *options) == 0
    printed = capsys.readouterr()
    assert printed.out.split() == [
        *("epsilon=1,seed=0", "waiting", "epsilon=none,seed=0", "waiting"),
        *("epsilon=1,seed=1", "waiting", "epsilon=none,seed=1", "waiting"),
    ]
    assert "4 runs, 0 finished; nothing was started" in printed.err
    assert not (tmp_path / "s").exists()


def test_a_sweep_with_a_failing_run_reports_its_reason_and_keeps_the_rest(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_data: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "sweep"
    options = tiny(tiny_data, out, "--epsilons", "8", "--grid", "lab.organisations=2,25")
    options = [one for one in options if one != "lab.organisations=2"]
    options.pop(options.index("--set"))
    assert lab(monkeypatch, *options, "--jobs", 2) == 1
    printed = capsys.readouterr()
    assert "failed: epsilon=8,organisations=25: " in printed.err
    assert "for 24 users" in printed.err
    assert "epsilon=8,organisations=2: ndcg@10" in printed.err
    assert "sotto-lab report" in printed.out

    status = {row["run"]: row["status"] for row in pq.read_table(out / "sweep.parquet").to_pylist()}
    assert status == {
        "epsilon=8,organisations=2": "finished",
        "epsilon=8,organisations=25": "failed",
    }
    run = out / "runs" / "epsilon=8,organisations=2"
    assert (run / "result.json").is_file()
    assert (run / "evaluation.parquet").is_file()
    assert not (run / "model").exists()

    before = (run / "result.json").stat().st_mtime_ns
    assert lab(monkeypatch, "sweep", "--out", out, "--resume", "--json") == 1
    data = json.loads(capsys.readouterr().out)
    assert [one["status"] for one in data["runs"]] == ["finished", "failed"]
    assert "for 24 users" in data["runs"][1]["reason"]
    assert data["cells"][0]["federated"]["ndcg@10"]["sd"] is None
    assert (run / "result.json").stat().st_mtime_ns == before

    assert lab(monkeypatch, *options, "--grid", "model.tied=true,false") == 2
    assert (
        "was started with other arguments: model.tied = True,False (was True)."
        in capsys.readouterr().err
    )


needs_linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="that a kill reaches the runs is Linux's doing"
)


def end_midway(options: list[str], out: Path, kind: signal.Signals) -> tuple[int, str]:
    """Begins a sweep, ends it in the middle of its first run; its exit code and words."""
    # What a shell started in the background ignores Ctrl-C, and so would all that it starts.
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", "simulations", *options],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    signal.signal(signal.SIGINT, heard)
    begun, until = out / "runs" / RUN / "progress.json", time.monotonic() + 300
    try:
        while not begun.exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        [child] = _children(process.pid)
        process.send_signal(kind)
        said, _ = process.communicate(timeout=120)
    finally:
        process.kill()
        process.communicate()
    assert _gone(child)
    assert not (out / "runs" / RUN / "result.json").exists()
    return process.returncode, said


RUN = "epsilon=8,seed=3"


def long(data: Path, out: Path, rounds: int) -> list[str]:
    options = tiny(data, out, "--epsilons", "8", "--seeds", "3", "--jobs", 1)
    options[options.index("training.rounds=4")] = f"training.rounds={rounds}"
    return options


@needs_linux
def test_a_killed_sweep_resumes_with_the_same_result(
    monkeypatch: pytest.MonkeyPatch, tiny_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "sweep"
    options = long(tiny_data, out, 20)
    assert end_midway(options, out, signal.SIGKILL)[0] == -signal.SIGKILL

    assert lab(monkeypatch, *options) == 0
    assert "round 20 of 20" in (out / "logs" / f"{RUN}.log").read_text()
    ours = json.loads((out / "runs" / RUN / "result.json").read_text())
    settings = out / "settings" / f"{RUN}.toml"
    assert lab(monkeypatch, "simulate", "--out", tmp_path / "whole", "--config", settings) == 0
    whole = json.loads((tmp_path / "whole" / "result.json").read_text())
    assert ours["evaluation"] == whole["evaluation"]
    assert ours["privacy"] == whole["privacy"]


@needs_linux
def test_ctrl_c_ends_the_runs_and_says_how_to_go_on(tiny_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    code, said = end_midway(long(tiny_data, out, 5000), out, signal.SIGINT)  # never ends itself
    assert code == 130
    assert "continue with --resume" in said
    assert "Traceback" not in said
    [row] = pq.read_table(out / "sweep.parquet").to_pylist()
    assert (row["run"], row["model"]) == (RUN, None)


class Terminated(LocalWorkers):
    """Workers of a sweep that gets SIGTERM while a job runs."""

    def ended(self) -> list[tuple[str, int]]:
        os.kill(os.getpid(), signal.SIGTERM)
        return []


def test_sigterm_ends_a_sweep_as_ctrl_c_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, plan = SweepFolder(tmp_path / "sweep"), Plan.of(asked("8", "3"))
    folder.write_plan(plan)
    sleeping = "import time; print(1, flush=True); time.sleep(60)"
    monkeypatch.setattr(folder, "job", lambda run: job(tmp_path, run.name, sleeping))
    workers, before = Terminated(jobs=1, threads=1), signal.getsignal(signal.SIGTERM)
    with (
        pytest.raises(KeyboardInterrupt),
        sweep_progress(1, [], Console(file=io.StringIO())) as progress,
    ):
        work(Grid(plan.runs(), folder), workers, folder, Keep.ALL, progress)
    assert signal.getsignal(signal.SIGTERM) == before
    assert workers.busy == 0
    [row] = pq.read_table(folder.path / "sweep.parquet").to_pylist()
    assert (row["run"], row["model"]) == (RUN, None)


def _children(process: int) -> list[int]:
    listed = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(number) for number in listed]
