"""One false organisation in a whole simulation, through the benchmark that measures it."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.state.checkpoint import Checkpoint
from simulations.experiment.prepare import prepare
from simulations.experiment.simulate import simulate
from simulations.faults.poisoning import attacking, share_shown, unpopular
from tests.simulations.experiment.test_simulate import Silent, settings


@pytest.mark.parametrize(("rule", "led"), [("mean", True), ("median", False)])
def test_a_false_organisation_leads_the_mean_and_no_robust_rule(
    tiny_data: Path, tmp_path: Path, rule: str, led: bool
) -> None:
    robust = [f"server.aggregation={rule}", f"server.malicious={int(not led)}"]
    config = settings(tiny_data, *robust, "training.rounds=0", epsilon="none")
    simulation = prepare(config, tmp_path / "run")
    item = unpopular(simulation)
    simulate(simulation, Silent(), attacking(item, users=99))
    popular = Checkpoint.load(simulation.folder).weights["item_scores.offset"].ravel()
    place = int((popular > popular[item - 1]).sum())
    assert (place == 0) == led
    assert 0 < share_shown(simulation, item) < 1  # never to whom has seen it
