"""A round under secure aggregation on loopback, in real processes, in each step of which one dies.

Five partners that exchanged keys; the sum needs three of them. In the first attempt alpha's node is
killed at step 1 and never comes back, gamma's app dies at step 2, and beta's node is killed at step
3, charged, and never comes back: too few are left, and delta and omega have paid. The second
attempt is of gamma, delta and omega, whose apps die at steps 4 and 5 and are asked again.
"""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant

from server.runs.run import find_run
from server.settings import Settings
from server.state.audit_log import FILE, AuditEvent, AuditLog
from server.state.status import RunState
from shared.models.attention import AttentionRecommender
from shared.outcomes import Outcome
from simulations.faults.changed_code import change_packages
from simulations.faults.deployment import DELTA, RUN, Deployment
from simulations.faults.injection import PATIENCE, run_status
from simulations.faults.kill_points import KillPoint, die_at_step, reached, write_points
from simulations.faults.processes import wait_for

POINTS = {
    "alpha": KillPoint(step=1, answered=False, whole=True),
    "gamma": KillPoint(step=2, answered=True, whole=False),
    "beta": KillPoint(step=3, answered=True, whole=True),
    "delta": KillPoint(step=4, answered=True, whole=False),
    "omega": KillPoint(step=5, answered=True, whole=False),
}
PAID = {"alpha": 0, "beta": 1, "gamma": 1, "delta": 2, "omega": 2}
"""Attempts that each organisation was charged for."""
DROPOUTS, SHARES = 2, 3
"""Organisations that a sum can do without; shares of noise in it, as nobody colludes."""
EPSILON, MAX_EPSILON, RATE = 2.0, 8.0, 0.5
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


@dataclass(frozen=True)
class Story:
    """A run that is finished.

    Attributes:
        deployment: with its processes.
        published: folder of the model.
    """

    deployment: Deployment
    published: Path


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("sums")
    deployment = Deployment(folder, sorted(POINTS))
    faults = change_packages(folder / "changed", die_at_step, short_leases=True)
    write_points(faults, POINTS)
    try:
        deployment.init_server()
        deployment.start_server()
        for name in deployment.partners:
            deployment.init_node(name, MAX_EPSILON)
        deployment.exchange_keys(colluding=0, fewest=len(POINTS) - DROPOUTS)
        deployment.wait_for_server()
        for name in deployment.partners:
            deployment.join(name)
        for name in deployment.partners:
            deployment.up_node(name, folder / "changed")
        deployment.run(
            1,
            privacy={
                "epsilon": EPSILON,
                "trust": "secure-aggregation",
                "colluding": 0,
                "dropouts": DROPOUTS,
            },
            server={"weighting": "population", "retries": 8, "retry_seconds": 0.1},
        )
        for name in ("alpha", "beta"):
            wait_until(deployment, f"{name} at its step", lambda: reached(faults, name))  # noqa: B023
            deployment.kill_node(name)
        settings = Settings.load(deployment.server)
        wait_until(
            deployment, "the end", lambda: find_run(settings, RUN).state is RunState.FINISHED
        )
        out = folder / "published"
        deployment.call("server", "publish", RUN, "--server", deployment.server, "--out", out)
        assert all(reached(faults, name) for name in POINTS)
        yield Story(deployment, out)
    finally:
        deployment.close()


def wait_until(deployment: Deployment, what: str, holds: Callable[[], bool]) -> None:
    """Wait; fail at once if the run ends otherwise than well, or a process that nobody killed."""

    def checked() -> bool:
        for name, process in deployment.processes.items():
            log = deployment.folder / f"{name}.log"
            assert process.is_alive() or process.exitcode == -signal.SIGKILL, log.read_text()
        status = run_status(deployment)
        assert status.state not in (RunState.PAUSED, RunState.FAILED), status.reason
        return holds()

    wait_for(what, checked, PATIENCE)


def test_each_step_was_left_by_one_and_the_second_attempt_has_a_sum(story: Story) -> None:
    missed, finished = (
        [entry for entry in AuditLog(story.deployment.out / FILE).entries() if entry["event"] == e]
        for e in (AuditEvent.ROUND_MISSED, AuditEvent.ROUND_FINISHED)
    )
    assert {entry["sum_attempt"] for entry in missed} <= {1, 2}
    first = [entry["left_at_step"] for entry in missed if entry["sum_attempt"] == 1][-1]
    assert first == {"alpha": 1, "beta": 3, "gamma": 2}
    [last] = finished
    assert last["sum_attempt"] == 2
    assert last["left_at_step"] == {"alpha": 1, "beta": 1}
    valid = {name for name, outcome in last["outcomes"].items() if outcome == Outcome.VALID}
    assert valid == {"gamma", "delta", "omega"}


def test_the_model_is_published(story: Story) -> None:
    model = AttentionRecommender.from_pretrained(story.published / "model")
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


@cache
def independent_epsilon(deviation: float, times: int) -> float:
    """ε of so many sums over samples, by another accountant."""
    if not times:
        return 0.0
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, 1e-3)
    accountant.compose(PoissonSampledDpEvent(RATE, GaussianDpEvent(deviation)), times)
    return float(accountant.get_epsilon(DELTA))


@pytest.mark.parametrize("name", sorted(POINTS))
def test_both_epsilons_of_each_are_an_independent_accountants(story: Story, name: str) -> None:
    ledger = story.deployment.ledger(name)
    ledger.verify()
    releases, sent = ledger.releases(), {answer.sha256 for answer in ledger.outbox()}
    assert sum(release.steps for release in releases) == len(sent) == PAID[name]
    assert {release.shares for release in releases} <= {SHARES}
    for spent, shares in (
        (ledger.spent(DELTA), SHARES),
        (ledger.spent_if_all_collude(DELTA), 1),
    ):
        deviation = own_deviation() * shares**0.5
        assert spent == pytest.approx(independent_epsilon(deviation, len(sent)), rel=0.01)
    if PAID[name] == 1:
        assert ledger.spent(DELTA) == pytest.approx(EPSILON, rel=0.01)


@cache
def own_deviation() -> float:
    """An organisation's own noise over the clip norm: three shares cost the run's ε."""
    low, high = 0.1, 10.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        below = independent_epsilon(middle * SHARES**0.5, 1) < EPSILON
        low, high = (low, middle) if below else (middle, high)
    return high


def test_the_coordinator_counts_what_each_was_charged(story: Story) -> None:
    """Of beta, whose answer never came, it cannot know."""
    organisations = run_status(story.deployment).organisations
    assert {name: part.sums_charged for name, part in organisations.items()} == PAID
    unsure = {name: part.sums_unsure for name, part in organisations.items() if part.sums_unsure}
    assert unsure == {"beta": 1}


def test_the_card_claims_what_those_that_paid_twice_spent(story: Story) -> None:
    text = (story.published / "README.md").read_text()
    [claimed] = re.findall(r"\| worst ε \| ([\d.]+) \|", text)
    assert float(claimed) == pytest.approx(story.deployment.spent("omega")[0], rel=0.01)
