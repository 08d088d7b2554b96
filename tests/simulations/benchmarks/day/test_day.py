"""A small day: the service is killed twice, and nothing that it acknowledged is lost."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from client.cli import main
from shared.sections import Value
from simulations.benchmarks.day.clicks import ClickModel
from simulations.benchmarks.day.day import Plan, live_through
from simulations.benchmarks.day.partners import prepare
from simulations.experiment.config import read_settings
from tests.simulations.conftest import TINY_SETTINGS

USERS, ITEMS, EVENTS = 90, 40, 16


@pytest.fixture
def walks(tmp_path: Path) -> Path:
    """Users who walk through the catalogue in small steps."""
    random, folder = np.random.default_rng(0), tmp_path / "walks"
    folder.mkdir()
    rows = ["user_id,item_id,timestamp"]
    for user in range(USERS):
        steps = random.integers(1, 3, size=EVENTS).cumsum() + random.integers(ITEMS)
        rows += [f"u{user},i{step % ITEMS},{time}" for time, step in enumerate(steps)]
    (folder / "interactions.csv").write_text("\n".join(rows) + "\n")
    items = [f"i{item},kind{item % 7} thing{item // 4}" for item in range(ITEMS)]
    (folder / "items.csv").write_text("\n".join(["item_id,title", *items]) + "\n")
    return folder


def test_a_day_loses_no_feedback_and_is_charged_as_two_runs(
    tmp_path: Path,
    walks: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def node(*words: object) -> str:
        """In this process: a start of each takes seconds."""
        monkeypatch.setattr(sys, "argv", ["sotto-node", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert ended.value.code == 0, printed.err
        return printed.out

    settings: dict[str, Value | None] = {
        "privacy.epsilon": 4.0,
        "privacy.delta": 1e-5,
        "lab.data": str(walks),
    }
    config = read_settings(None, settings, TINY_SETTINGS)
    federation = prepare(tmp_path / "day", config, users=30, first=4, fewest=12)
    # The second run has the noise of the first one: what differs is the feedback alone.
    plan = Plan(visits=4, kills=2, k=5, refresh_seed=config.seed)
    result = live_through(federation, plan, node=node)
    # What was lost, doubled or charged otherwise would have been an AssertionError.
    assert result["service"]["kills"] == 2
    assert result["service"]["sent_again"] >= 1
    feedback = result["feedback"]
    shown = sum(phase["shown"] for phase in result["phases"])
    chosen = sum(phase["chosen"] for phase in result["phases"])
    assert feedback["stored"] == feedback["acknowledged"] == shown + chosen
    assert (feedback["lists_shown"], shown) == (30 * 4, 30 * 4 * 5)
    assert [phase["learned"] for phase in result["phases"]] == sorted(
        phase["learned"] for phase in result["phases"]
    )
    # The first phase is the first model's, and later models have other lists.
    assert result["phases"][0]["rise"]["mean"] == 0
    assert any(phase["rise"]["mean"] for phase in result["phases"][1:])
    refresh = result["refresh"]
    assert refresh["chosen_items_read"] > 0
    assert refresh["same_weights_without_feedback_as_first_run"]
    assert refresh["ledger_after"]["charges"] == 2 * refresh["ledger_before"]["charges"] > 0
    before, after = (refresh[name]["epsilon"] for name in ("ledger_before", "ledger_after"))
    assert before < after <= 2 * before
    assert before == pytest.approx(4.0, rel=0.01)


def test_clicks_are_position_bias_times_relevance() -> None:
    clicks, random = ClickModel(eta=1.0, relevant=0.8, other=0.1), np.random.default_rng(0)
    items = ["a", "b", "c"]
    drawn = np.array([clicks.click(items, {"a", "c"}, random) for _ in range(20_000)])
    assert drawn.mean(0) == pytest.approx([0.8, 0.05, 0.8 / 3], abs=0.01)
