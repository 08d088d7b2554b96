"""Who is planted and who is held out, and that what is declared does not depend on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simulations.audit.canaries import KINDS, Experiment, canary_planter
from simulations.experiment.config import read_settings
from simulations.experiment.prepare import prepare
from simulations.experiment.simulation import Simulation


def planted(quick: list[str], folder: Path, **options: float) -> tuple[Simulation, Experiment]:
    experiments: list[Experiment] = []
    wanted = {"canaries": 100, "held_out": 0.2, "seed": 0} | options
    plant = canary_planter(experiments, **wanted)  # type: ignore[arg-type]
    simulation = prepare(read_settings(None, {}, quick), folder, plant)
    return simulation, experiments[0]


def test_canaries_are_dealt_out_and_half_of_them_are_in(quick: list[str], tmp_path: Path) -> None:
    simulation, experiment = planted(quick, tmp_path / "run")
    sizes = [len(own.inside) for own in experiment.canaries]
    assert sizes == [34, 33, 33]
    assert 35 <= sum(int(own.inside.sum()) for own in experiment.canaries) <= 65
    assert simulation.planted is not None
    for own, added in zip(experiment.canaries, simulation.planted.added, strict=True):
        assert added.users == tuple(np.array(own.histories.users)[own.inside])


def test_pairs_of_one_organisation_share_no_beginning_and_no_end(
    quick: list[str], tmp_path: Path
) -> None:
    _, experiment = planted(quick, tmp_path / "run")
    for own in experiment.canaries:
        pairs = [
            own.histories[row] for row in np.flatnonzero(own.kinds == KINDS.index("pair")).tolist()
        ]
        assert {len(pair) for pair in pairs} == {2}
        assert len({pair[0] for pair in pairs}) == len({pair[1] for pair in pairs}) == len(pairs)
        long = [
            own.histories[row] for row in np.flatnonzero(own.kinds == KINDS.index("long")).tolist()
        ]
        assert {len(set(each.tolist())) for each in long} == {20}


def test_real_users_stay_or_leave_by_their_coin(quick: list[str], tmp_path: Path) -> None:
    simulation, experiment = planted(quick, tmp_path / "run", held_out=0.25)
    assert simulation.planted is not None
    kept = np.concatenate(list(simulation.planted.kept))
    assert len(experiment.members) + len(experiment.held_out) == 60
    assert np.isin(experiment.members, kept).all()
    assert not np.isin(experiment.held_out, kept).any()
    assert len(kept) == 120 - len(experiment.held_out)


def test_other_coins_declare_the_same(quick: list[str], tmp_path: Path) -> None:
    one, first = planted(quick, tmp_path / "one", seed=0)
    two, second = planted(quick, tmp_path / "two", seed=1)
    assert one.populations == two.populations == [74, 73, 73]
    assert (first.canaries[0].inside != second.canaries[0].inside).any()


def test_without_held_out_users_none_are_compared(quick: list[str], tmp_path: Path) -> None:
    _, experiment = planted(quick, tmp_path / "run", held_out=0.0)
    assert len(experiment.members) == len(experiment.held_out) == 0


@pytest.mark.parametrize("seed", [3])
def test_the_same_seed_plants_the_same(quick: list[str], tmp_path: Path, seed: int) -> None:
    _, one = planted(quick, tmp_path / "one", seed=seed)
    _, two = planted(quick, tmp_path / "two", seed=seed)
    for a, b in zip(one.canaries, two.canaries, strict=True):
        assert (a.inside == b.inside).all()
        assert (a.histories.items == b.histories.items).all()
