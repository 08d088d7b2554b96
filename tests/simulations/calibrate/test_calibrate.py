"""Calibration: its noise is the run's own, its lengths are what noise and sums come to."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant

from server.noise_plan import planned_releases
from shared.data.catalogue import Catalogue
from shared.errors import AccountingError, ConfigError
from shared.models.attention import build, trainable
from shared.sections import Value
from simulations.calibrate.numbers import (
    STEP,
    NoisedSum,
    calibrate,
    fits,
    items_of,
    trained_numbers,
)
from simulations.calibrate.print_calibration import print_tables
from simulations.cli import main
from simulations.experiment.config import SimulationConfig, read_settings
from tests.simulations.conftest import ITEMS


def settings(*assignments: str, **options: Value) -> SimulationConfig:
    given: dict[str, Value | None] = {"privacy.epsilon": 4.0, "privacy.delta": 1e-5}
    return read_settings(None, given | options, assignments)


def noised(noise: float = 2.0, numbers: int = 400, **changes: int) -> NoisedSum:
    return NoisedSum(
        name=STEP,
        times=1,
        noise_multiplier=noise,
        clip_norm=0.5,
        sample_rate=0.25,
        numbers=numbers,
        populations=(100, 300) if not changes else (changes["users"],) * changes["sites"],
    )


# --- lengths -----------------------------------------------------------------------------------


def test_lengths_are_those_of_noise_and_sums_that_are_drawn() -> None:
    """By simulation: users who all pull one way, and Gaussian noise."""
    one, random = noised(), np.random.default_rng(0)
    direction = np.zeros(one.numbers)
    direction[0] = one.clip_norm
    sums, lengths = [], []
    for _ in range(400):
        sites = [(random.random(users) < one.sample_rate).sum() for users in one.populations]
        sums.append([np.linalg.norm(count * direction) for count in sites])
        noise = random.normal(0, one.per_number, (len(sites), one.numbers))
        lengths.append([*np.linalg.norm(noise, axis=1), np.linalg.norm(noise.sum(0))])
    smallest, largest = np.mean(sums, axis=0)
    first, second, total = np.sqrt(np.mean(np.square(lengths), axis=0))
    assert one.signal == pytest.approx((smallest, largest), rel=0.03)
    assert one.noise_norm == pytest.approx(first, rel=0.02)
    assert one.single == pytest.approx((first / smallest, second / largest), rel=0.03)
    assert one.together == pytest.approx(total / (smallest + largest), rel=0.03)
    assert one.central == pytest.approx(first / (smallest + largest), rel=0.03)


def test_organisations_gain_by_the_root_of_their_number_and_one_place_by_the_number() -> None:
    one, nine = noised(users=50, sites=1), noised(users=50, sites=9)
    assert one.together == one.central == one.single[0]
    assert nine.together == pytest.approx(one.together / 3)
    assert nine.central == pytest.approx(one.central / 9)


# --- the plan of a run -------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [0, 4])
def test_the_noise_is_what_the_run_asks_for(rounds: int) -> None:
    config = settings(f"training.rounds={rounds}", "training.sample_rate=0.5")
    found = calibrate(config, (700,) * 4, items=120)
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, 1e-3)
    for one in found.sums:
        event = PoissonSampledDpEvent(one.sample_rate, GaussianDpEvent(one.noise_multiplier))
        accountant.compose(event, one.times)
    assert accountant.get_epsilon(1e-5) == pytest.approx(4.0, rel=0.01)
    planned = planned_releases(config.planned)
    statistics = sum(1 / one.noise_multiplier**2 for one in found.sums[:2])
    assert statistics == pytest.approx(1 / planned[0].noise_multiplier ** 2)
    assert [(one.noise_multiplier, one.times) for one in found.sums[2:]] == [
        (r.noise_multiplier, r.steps) for r in planned[1:]
    ]
    assert (found.sums[-1].name == STEP) == bool(rounds)


@pytest.mark.parametrize(
    "shape",
    [
        (),
        ("model.trained=all",),
        ("model.items=both", "model.trained=all"),
        (
            *("model.items=ids", "model.trained=all", "model.hidden_size=8", "model.heads=2"),
            *("model.layers=2", "warm_start.share=0.0", "model.item_bias=false"),
        ),
    ],
)
def test_the_numbers_are_those_of_the_model(shape: tuple[str, ...]) -> None:
    items = 30
    config = settings("training.rounds=1", "model.feature_size=6", "warm_start.own_items=9", *shape)
    catalogue = Catalogue(
        item_ids=tuple(map(str, range(items))),
        titles=("",) * items,
        genres=((),) * items,
        years=(None,) * items,
        features=torch.ones(items, 6),
    )
    run = config.planned
    own = tuple(range(1, 10)) if run.warm_start.share else ()
    model = build(replace(run.model, own_items=own), catalogue)
    assert trained_numbers(run, items, len(own)) == sum(
        p.numel() for p in trainable(model).values()
    )


def test_the_statistics_have_the_numbers_that_sites_send() -> None:
    config = settings("training.rounds=0", "model.feature_size=16", "warm_start.own_items=9")
    popularity, moment = calibrate(config, (500,), items=4000).sums
    assert (popularity.numbers, moment.numbers) == (4000, 25**2)
    with_little_noise = calibrate(config, (500,), items=40).sums[1]
    assert with_little_noise.numbers == (16 + 4 * 9) ** 2
    few = calibrate(config, (500,), items=5).sums[1]
    assert few.numbers == 21**2


def test_a_catalogue_is_counted_without_any_interactions(tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_bytes((tiny_data / "items.csv").read_bytes())
    assert items_of(settings(**{"lab.data": str(tmp_path)})) == ITEMS


def test_rounds_that_fit_fit_and_one_more_does_not() -> None:
    config = settings("training.local_steps=2", "training.sample_rate=0.1")
    share = settings("training.rounds=0", "privacy.epsilon=2.8")  # the default share of ε: .7
    statistics = calibrate(share, (700,), 40).sums[:2]

    def cost(rounds: int) -> float:
        accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, 1e-3)
        for one in statistics:
            accountant.compose(GaussianDpEvent(one.noise_multiplier))
        step = PoissonSampledDpEvent(0.1, GaussianDpEvent(2.0))
        accountant.compose(step, 2 * rounds)
        return float(accountant.get_epsilon(1e-5))

    [fit] = fits(config, [2.0])
    assert 4.0 * 0.98 <= cost(fit.rounds) <= 4.0 * 1.005
    assert cost(fit.rounds + 1 + fit.rounds // 50) > 4.0 * 0.995


def test_the_planned_rounds_fit_at_their_own_noise() -> None:
    config = settings("training.rounds=7")
    [fit] = fits(config, [calibrate(config, (700,), 40).sums[-1].noise_multiplier])
    assert fit.rounds == 7
    assert not fit.more


@pytest.mark.parametrize(
    ("config", "populations", "items", "message"),
    [
        (settings(**{"privacy.epsilon": "none"}), (9,), 9, "without privacy there is no noise"),
        (settings(**{"privacy.delta": 0.2}), (9,), 9, "is not below 1 / 9"),
        (settings(), (), 9, "--population"),
        (settings(), (9, 0), 9, "--population"),
        (settings(), (9,), 0, "--items 0"),
    ],
)
def test_what_does_not_fit_is_refused(
    config: SimulationConfig, populations: tuple[int, ...], items: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        calibrate(config, populations, items)


def test_rounds_need_noise_and_privacy() -> None:
    with pytest.raises(ConfigError, match="give numbers above 0"):
        fits(settings(), [0.0])
    with pytest.raises(ConfigError, match="without privacy there is no noise"):
        fits(settings(**{"privacy.epsilon": "none"}), [1.0])
    with pytest.raises(AccountingError, match=r"warm_start.share = 1e-06: no noise multiplier"):
        fits(settings("warm_start.share=1e-6"), [1.0])


# --- the command -------------------------------------------------------------------------------


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["sotto-lab", "calibrate", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


SMALL = ("--items", 40, "--delta", 1e-5, "--set", "model.feature_size=8")


def test_a_recipe_is_printed_as_tables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--population", 755, "--organisations", 8, "--epsilons", "1,8", "--rounds", 4)
    assert command(monkeypatch, *options, *SMALL) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for text in (
        "8 organisations of 755 users",
        "popularity",
        "moment",
        "step",
        "after statistics",
    ):
        assert text in printed


def test_as_data_and_drawn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ("--population", "700,300", "--epsilons", "2,4", "--participation", 30)
    assert command(monkeypatch, *options, *SMALL) == 2
    assert "all have the same sample rate" in capsys.readouterr().err

    steps = ("--rounds", 60, "--dimension", 1000, "--set", "warm_start.share=0")
    two = ("--population", 300, "--organisations", 2, "--epsilons", "4,2", *steps)
    picture = tmp_path / "p.svg"
    assert (
        command(monkeypatch, *two, *SMALL, "--participation", 30, "--json", "--plot", picture) == 0
    )
    data = json.loads(capsys.readouterr().out)
    assert [one["epsilon"] for one in data["budgets"]] == [2, 4]
    [step] = data["budgets"][0]["sums"]
    assert (step["sample_rate"], step["numbers"], step["times"]) == (0.1, 1000, 60)
    assert step["signal_at_most"] == {"smallest": 30.0, "largest": 30.0}
    assert step["noise_norm"] == pytest.approx(step["noise_multiplier"] * math.sqrt(1000))
    rounds = {(f["epsilon"], f["noise_multiplier"]): f["rounds"] for f in data["rounds_that_fit"]}
    assert rounds[2.0, step["noise_multiplier"]] == 60
    assert len(rounds) == 4
    assert "<svg" in picture.read_text()


def test_a_picture_without_rounds_and_with_many_noises(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    noises = ",".join(map(str, range(3, 11)))
    options = ("--population", 755, "--epsilons", "1,2", "--organisations", 1)
    picture = tmp_path / "p.png"
    more = ("--noise-multipliers", noises, "--plot", picture)
    assert command(monkeypatch, *options, *SMALL, *more) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "Missing option '--population'"),
        (["--population", "many"], "--population many: give whole numbers, as in 755"),
        (["--population", "0"], "give numbers of 1 or more"),
        (["--population", 9, "--epsilons", "a"], "--epsilons a: give numbers, as in 1,2,4,8"),
        (["--population", 9], "privacy.epsilon has no default"),
        (["--population", "9,8", "--organisations", 3], "--organisations 3 with 2 populations"),
        (["--population", 9, "--participation", 10], "choose from 1 to 9 users"),
        (
            ["--population", 9, "--participation", 3, "--sample-rate", 0.1],
            "set the same value: leave one out",
        ),
        (["--population", 9, "--epsilons", 1, "--plot", "p.gif"], "a name that ends in .png"),
        (["--population", 9, "--epsilons", 1, "--noise-multipliers", "-1"], "numbers above 0"),
        (["--population", 9, "--epsilons", 1, "--dimension", 0], "--dimension 0: choose"),
    ],
)
def test_a_mistake_is_explained(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[object],
    message: str,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert command(monkeypatch, *SMALL, *options) == 2
    printed = capsys.readouterr()
    assert message in " ".join(printed.err.split())
    assert "Traceback" not in printed.err
    assert printed.out == ""


def test_the_capacity_that_the_noise_allows_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """More users: less noise for each item, more items with a direction of their own."""
    few, many = (
        calibrate(settings("training.rounds=plan"), (users,) * 4, 1000) for users in (500, 50_000)
    )
    assert many.own_items > few.own_items > 0
    for one in (few, many):
        assert (one.features + one.own_items) ** 2 == one.sums[1].numbers
    print_tables(settings("training.rounds=plan"), [few, many], [])
    said = capsys.readouterr().out
    assert f"{many.features} features and in directions of their own of {many.own_items} " in said
    assert few.plan != many.plan
    assert all(one.plan in said for one in (few, many))
