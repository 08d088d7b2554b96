"""Ctrl-C under the Ray engine ends the process at once, whatever threads the engine has left."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[3]
SCRIPT = """
import threading, time
import flwr.simulation
from pathlib import Path
from types import SimpleNamespace
from simulations.experiment import federation
from simulations.experiment.config import Engine

def interrupted(**_):
    threading.Thread(target=time.sleep, args=(120,)).start()
    raise KeyboardInterrupt

flwr.simulation.run_simulation = interrupted
federation.make_app = lambda *_: None
config = SimpleNamespace(privacy=SimpleNamespace(masked=False))
federation.run_federation(
    config, [Path("sites/a")], engine=Engine.RAY, observer=lambda *_: None
)
"""


def test_an_interrupted_run_ends_at_once() -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr.endswith("interrupted\n")
    assert time.monotonic() - began < 90
