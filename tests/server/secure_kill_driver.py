"""Runs a coordinator of sums, kills it at each step of an attempt, and resumes it.

    python secure_kill_driver.py TEMPLATE CONFIG

As `kill_driver`, whose machinery it uses: TEMPLATE holds sites that know each other, CONFIG the
run's parameters as JSON.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import client.ledger.ledger
from client.site.site import Site
from server.rounds.secure_sum import SumAttempt
from server.state.attempts import Attempts
from shared.config import RunConfig
from shared.messages import STEPS
from simulations.experiment.federation import sites_in
from tests.server.kill_driver import Arm, after_call, at_call, coordinated, result

SITES = 4
POINTS: dict[str, Arm] = {
    "before the number is written": at_call(Attempts, "begin", 1),
    "with the number written": after_call(Attempts, "begin", 1),
    **{
        f"when two answers to step {step} are taken": after_call(
            SumAttempt, "take", SITES * (step - 1) + 2
        )
        for step in STEPS
    },
    "with the sum": after_call(SumAttempt, "total", 1),
}


def attempts(folder: Path) -> int:
    """The number of the last attempt; 0 before the first."""
    file = folder / "run" / "attempts.json"
    return int(json.loads(file.read_text())["last"]) if file.exists() else 0


def answered(folder: Path) -> list[list[int]]:
    """Numbers of the attempts whose masked inputs are in each site's outbox."""
    ledgers = [Site.load(site).open_ledger() for site in sites_in(folder)]
    return [[answer.round for answer in ledger.outbox()] for ledger in ledgers]


def main() -> None:
    """Kills at every point, and resumes."""
    # Another test's concern, and most of a request's time.
    vars(client.ledger.ledger)["epsilon"] = lambda *_: 1.0
    template = Path(sys.argv[1])
    config = RunConfig.from_flat(json.loads(sys.argv[2]))
    for number, (point, arm) in enumerate({"": None, **POINTS}.items()):
        folder = template.with_name(f"{template.name}-{number}")
        shutil.copytree(template, folder)
        outcome: dict[str, Any] = {"point": point, "status": coordinated(folder, config, arm)}
        outcome["killed at"] = attempts(folder)
        if arm is not None:
            outcome["resumed"] = coordinated(folder, config)
        outcome |= {"attempts": attempts(folder), "answered": answered(folder)}
        sys.stdout.write(json.dumps(outcome | result(folder)) + "\n")


if __name__ == "__main__":
    main()
