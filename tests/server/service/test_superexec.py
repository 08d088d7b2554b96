"""No token of a task is an argument of its process, and no task dies with its executor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from server.service.superexec import _Launcher
from tests.flower_internals import ExecutionSpec, TaskType, flower_module
from tests.shared.system.test_supervise import ROOT, gone, until

subprocess_executor = flower_module("supercore.superexec.executor.subprocess_executor")

TOKEN = "5ec4e7" * 8
STAND_IN = """#!{python}
import argparse, os, sys
sys.path[:] = {path}
from flwr.common.args import add_args_flwr_app_common, try_obtain_flwr_app_token
parser = argparse.ArgumentParser()
parser.add_argument("--runtime-api-address")
add_args_flwr_app_common(parser)
token = try_obtain_flwr_app_token(parser.parse_args())
open({out!r}, "w").write(token + " " + open("/proc/self/cmdline").read().replace(chr(0), " "))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_flowers_executor_hands_the_token_over_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flower's own launch, and Flower's own reading of the arguments."""
    program, out = tmp_path / "flwr-serverapp", tmp_path / "out"
    program.write_text(STAND_IN.format(python=sys.executable, path=sys.path, out=str(out)))
    program.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    started: list[subprocess.Popen[bytes]] = []

    class Kept(_Launcher):
        @staticmethod
        def Popen(arguments: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401
            started.append(_Launcher.Popen(arguments, **options))
            return started[-1]

    monkeypatch.setattr(subprocess_executor, "subprocess", Kept)
    spec = ExecutionSpec(
        task_type=TaskType.SERVER_APP,
        runtime_api_address="127.0.0.1:1",
        token=TOKEN,
        insecure=True,
        root_certificates_path=None,
        parent_pid=None,
        runtime_dependency_install=False,
        suppress_output=False,
        task_id=1,
    )
    subprocess_executor.SubprocessExecutor().launch(spec)
    assert started[0].wait(30) == 0
    token, _, arguments = out.read_text().partition(" ")
    assert token == TOKEN
    assert TOKEN not in arguments
    assert "--token-file" in arguments
    assert "--runtime-api-address 127.0.0.1:1 " in arguments


def test_other_programs_start_as_they_are() -> None:
    done = _Launcher.Popen([sys.executable, "-c", "print(1)"], stdout=subprocess.PIPE)
    assert done.communicate()[0] == b"1\n"


TASK = """#!{python}
import os, sys, time
sys.path[:] = {path}
from flwr.supercore.app_utils import start_parent_process_monitor
start_parent_process_monitor(int(sys.argv[sys.argv.index("--parent-pid") + 1]))
open({out!r}, "w").write(str(os.getpid()) + " ")
while True: time.sleep(0.1)
"""
EXECUTOR = """#!{python}
import os, pathlib, sys, time
sys.path[:] = {path}
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor import subprocess_executor
from flwr.supercore.superexec.executor.types import ExecutionSpec
from server.service.superexec import _Launcher
subprocess_executor.subprocess = _Launcher
pathlib.Path({out!r} + ".executor").write_text(str(os.getpid()) + " ")
if not os.path.exists({out!r}):
    subprocess_executor.SubprocessExecutor().launch(ExecutionSpec(
        task_type=TaskType.SERVER_APP, runtime_api_address="127.0.0.1:1", token="t", insecure=True,
        root_certificates_path=None, parent_pid=os.getpid(), runtime_dependency_install=False,
        suppress_output=False, task_id=1))
while True: time.sleep(0.1)
"""
HOLDER = """
import os, sys
from shared.system.supervise import Patience, Program, keep_running
program = Program(name="executor", command=sys.argv[1:], variables=dict(os.environ),
    children_stay=True)
keep_running([program], patience=Patience(first=0.1), notify=print)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ties processes as Linux does")
def test_a_task_outlives_its_executor_and_not_what_keeps_the_executor(tmp_path: Path) -> None:
    """Flower's own launch and Flower's own watch over the parent."""
    task, executor, out = tmp_path / "flwr-serverapp", tmp_path / "executor", tmp_path / "out"
    beside = tmp_path / "out.executor"
    for file, text in ((task, TASK), (executor, EXECUTOR)):
        file.write_text(text.format(python=sys.executable, path=sys.path, out=str(out)))
        file.chmod(0o700)
    variables = os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def number(file: Path) -> int:
        return int(file.read_text())

    with subprocess.Popen([sys.executable, "-c", HOLDER, executor], env=variables) as holder:
        try:
            until(lambda: out.exists() and out.read_text().endswith(" "))
            first = number(beside)
            os.kill(first, signal.SIGKILL)
            until(lambda: beside.read_text().endswith(" ") and number(beside) != first)
            time.sleep(1.0)  # Flower looks five times a second
            assert not gone(number(out)), "the task died with its executor"
        finally:
            holder.kill()
    until(lambda: gone(number(beside)) and gone(number(out)))
