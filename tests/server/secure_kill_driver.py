"""Runs a coordinator of sums, kills it at each step of an attempt, and resumes it.

    python secure_kill_driver.py TEMPLATE CONFIG

As `kill_driver`, whose machinery it uses: TEMPLATE holds sites that know each other, CONFIG the
run's parameters as JSON.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import client.ledger.limits
from client.site.site import Site
from server.rounds.secure_sum import SumAttempt
from server.state.attempts import Attempts
from server.state.status import RunStatus
from shared.messages import STEPS
from simulations.experiment.federation import sites_in
from tests.kills import Arm, after_call, at_call
from tests.server.kill_driver import kill_at

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


def found(folder: Path) -> dict[str, Any]:
    """The number of the last attempt, and those whose masked inputs are in each site's outbox."""
    attempts = Attempts(folder / "run", RunStatus.load(folder / "run").run)
    ledgers = [Site.load(site).open_ledger() for site in sites_in(folder)]
    return {
        "attempts": attempts.last,
        "answered": [[answer.round for answer in ledger.outbox()] for ledger in ledgers],
        "may have charged": [charges.sums for charges in attempts.charges.values()],
    }


if __name__ == "__main__":
    # Another test's concern, and most of a request's time.
    vars(client.ledger.limits)["epsilon"] = lambda *_: 1.0
    kill_at(POINTS, found)
