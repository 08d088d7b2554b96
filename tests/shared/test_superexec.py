"""No token of a task is an argument of its process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor import subprocess_executor
from flwr.supercore.superexec.executor.types import ExecutionSpec

from shared.superexec import _Launcher

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
