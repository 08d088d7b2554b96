"""A simulation of the noise of secure aggregation: what it adds, claims and says."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant

from client.compute import statistics as statistics_module
from client.site.site import Site
from shared.errors import ConfigError
from shared.privacy.noise_share import noised_share
from shared.privacy.release import Release
from shared.sections import Value
from simulations.commands import print_simulation
from simulations.experiment.config import SimulationConfig, read_settings
from simulations.experiment.federation import sites_in
from simulations.experiment.prepare import prepare
from simulations.experiment.simulate import simulate
from tests.simulations.conftest import TINY_SETTINGS
from tests.simulations.experiment.test_simulate import Silent

DELTA = 1e-2
SECURE = (
    *("privacy.trust=secure-aggregation", "privacy.masking=off", "lab.organisations=5"),
    *("server.weighting=population", "lab.alone=false"),
)


def settings(data: Path, *assignments: str) -> SimulationConfig:
    options: dict[str, Value] = {
        "privacy.epsilon": 4.0,
        "privacy.delta": DELTA,
        "lab.data": str(data),
    }
    return read_settings(None, options, [*TINY_SETTINGS, *SECURE, *assignments])


def independent_epsilon(releases: list[dict[str, Any]], *, alone: bool) -> float:
    forms = []
    for one in releases:
        noise = one["noise_multiplier"] / (math.sqrt(one["shares"]) if alone else 1)
        forms.append((noise, one["sample_rate"], one["steps"]))
    return epsilon_of_forms(tuple(forms))


@cache  # organisations of one size have the same releases
def epsilon_of_forms(forms: tuple[tuple[float, float, int], ...]) -> float:
    accountant = PLDAccountant(value_discretization_interval=1e-3)
    for noise, rate, steps in forms:
        event = PoissonSampledDpEvent(rate, GaussianDpEvent(noise))
        accountant.compose(SelfComposedDpEvent(event, steps))
    return float(accountant.get_epsilon(DELTA))


def test_a_run_claims_both_tiers_and_says_that_masks_were_off(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = simulate(
        prepare(settings(tiny_data, "privacy.dropouts=1"), tmp_path / "run"), Silent()
    )
    privacy = result["privacy"]
    assert (privacy["trust"], privacy["masking"]) == ("secure-aggregation", "off")
    assert (privacy["colluding"], privacy["dropouts"]) == (1, 1)
    for organisation in privacy["organisations"]:
        releases = organisation["releases"]
        assert {one["shares"] for one in releases} == {3}  # 5 - 1 - 1
        assert 3.9 < organisation["epsilon"] <= 4.0
        for key, alone in (("epsilon", False), ("epsilon_if_all_collude", True)):
            expected = independent_epsilon(releases, alone=alone)
            assert organisation[key] == pytest.approx(expected, rel=0.01)
        assert organisation["epsilon_if_all_collude"] > 4.5
    print_simulation.print_result(result, tmp_path)
    shown = " ".join(capsys.readouterr().out.split())
    assert "towards the coordinator and 1 organisations that collude with it" in shown
    assert "MASKING WAS OFF" in shown


def test_the_noise_that_is_added_is_the_share(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What leaves each site is off from its exact sum by the share that its ledger counts."""
    errors: list[np.ndarray[Any, Any]] = []
    add = noised_share

    def measured(total: Any, clip_norm: float, share: float, random: Any) -> Any:  # noqa: ANN401
        noisy = add(total, clip_norm, share, random)
        errors.append(((noisy - total) / share).numpy().ravel())
        return noisy

    monkeypatch.setattr(statistics_module, "noised_share", measured)
    simulation = prepare(
        settings(tiny_data, "training.rounds=0", "warm_start.share=0.7"), tmp_path / "r"
    )
    simulate(simulation, Silent())
    scaled = np.concatenate(errors)
    assert len(errors) == 2 * 5
    assert scaled.std() == pytest.approx(1.0, abs=6 / math.sqrt(2 * len(scaled)))
    (folder, *_) = sites_in(tmp_path / "r" / "sites")
    charged: list[Release] = Site.load(folder).open_ledger().releases()
    assert {release.shares for release in charged} == {4}


@pytest.mark.parametrize(
    ("assignment", "match"),
    [
        ("lab.organisations=3", "4 or more are needed"),
        ("privacy.colluding=3", "6 or more are needed"),
        ("privacy.dropouts=2", "colluding \\+ 2 dropouts"),
        ("server.aggregation=median", "nobody sees them"),
        ("training.local_steps=2", "one plain step"),
        ("training.optimiser=adam", "one plain step"),
        ("server.weighting=equal", "over all users alike"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_nothing_written(
    tiny_data: Path, tmp_path: Path, assignment: str, match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        prepare(settings(tiny_data, "training.rounds=2", assignment), tmp_path / "run")
    assert not (tmp_path / "run").exists()
