from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shared.errors import ConfigError
from simulations.benchmarks.cold_items import figures, pooled, ranks_among_cold
from simulations.experiment.config import read_settings
from simulations.experiment.prepare import prepare, reopen
from simulations.experiment.simulate import simulate
from simulations.experiment.simulation import RoundFigures
from tests.simulations.conftest import TINY_SETTINGS


class Silent:
    def stage(self, text: str) -> None: ...

    def round(self, done: int, of: int, figures: RoundFigures) -> None: ...


def finished(data: Path, folder: Path, cold: float) -> Path:
    stated = [f"lab.data={data}", "privacy.epsilon=8", "privacy.delta=1e-2", f"lab.cold={cold}"]
    stated += [*TINY_SETTINGS, "lab.alone=false"]
    simulate(prepare(read_settings(None, {}, stated), folder), Silent())
    return folder


def test_cold_items_are_ranked_among_themselves(tiny_data: Path, tmp_path: Path) -> None:
    run = finished(tiny_data, tmp_path / "run", 0.3)
    simulation = reopen(run, {}, [])
    asked = simulation.evaluation_split
    users, ranks = ranks_among_cold(run)
    targets = dict(zip(asked.test_inputs.users, asked.test_targets.tolist(), strict=True))
    assert users == [user for user, item in targets.items() if item in simulation.cold]
    for found in ranks.values():
        assert len(found) == len(users) > 0
        assert 1 <= found.min() <= found.max() <= len(simulation.cold)
    _, both = pooled([run, run])
    for way, values in both.items():
        np.testing.assert_array_equal(values, np.tile(figures(ranks[way]), (2, 1)))


def test_a_run_without_cold_items_is_refused(tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"set lab\.cold"):
        ranks_among_cold(finished(tiny_data, tmp_path / "run", 0.0))
