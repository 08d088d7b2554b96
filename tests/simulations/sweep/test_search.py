"""Searches: where they look, that they go on after a kill, and what they say they would cost."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow.parquet as pq
import pytest

from server.noise_plan import planned_releases
from shared.errors import ConfigError
from shared.privacy.accounting.accountant import epsilon, renyi_epsilon
from shared.privacy.accounting.selection import TrialLaw, selection_epsilon
from shared.sections import Value, flatten
from simulations.cli import main
from simulations.commands.settings import settings
from simulations.experiment.config import SimulationConfig, Split, read_settings
from simulations.sweep.axes import parse_axes
from simulations.sweep.folder import SweepFolder
from simulations.sweep.plan import Plan, PlannedRun, SweepOptions
from simulations.sweep.search import Sampler, SearchPlan, plan_search, search_options
from simulations.sweep.search_cost import DECISIVE, search_cost
from simulations.sweep.space import Space
from simulations.sweep.table import Outcome
from simulations.sweep.trials import Trials
from simulations.sweep.work import outcome_of
from tests.simulations.conftest import TINY_SETTINGS

ROOT = Path(__file__).parents[3]
EMPTY: Mapping[str, Value] = MappingProxyType({})
BASE: dict[str, Any] = {"seed": 0, "model.recency": 0.75, "lab.split": "validation", "x.on": True}


def planned(
    *spaces: str, trials: int = 4, law: str | None = None, other: Mapping[str, Value] = EMPTY
) -> Plan:
    given: dict[str, Value | None] = {
        "privacy.epsilon": 8.0,
        "privacy.delta": 1e-3,
        "lab.split": "validation",
    }
    given |= other
    asked = SweepOptions(options=given, assignments=TINY_SETTINGS)
    return Plan.of(asked, search_options(trials, TrialLaw(law) if law else None, None, spaces))


def run_of(plan: Plan) -> SimulationConfig:
    return plan.run({}, "any").config


# --- where it looks ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "space"),
    [
        ("seed=0..8", Space("seed", 0, 8)),
        ("seed=1..8:log", Space("seed", 1, 8, True)),
        ("model.recency=.5..1", Space("model.recency", 0.5, 1.0)),
        ("model.recency=1e-3..1:log", Space("model.recency", 1e-3, 1.0, True)),
        ("model.recency = 0.5|0.75", Space("model.recency", choices=(0.5, 0.75))),
        ("a.b=x|y|3", Space("a.b", choices=("x", "y", 3))),
    ],
)
def test_a_space_is_a_range_or_choices(text: str, space: Space) -> None:
    assert Space.parse(text, BASE) == space


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed", "does not fit: write section.key=low..high"),
        ("seed=", "does not fit"),
        ("seed=3", "give two or more different values"),
        ("seed=3|3", "give two or more different values"),
        ("seed=8..3", "the first number must be below the second"),
        ("seed=0..8:log", "and above 0 for :log"),
        ("seed=0.5..8", "'0.5' does not fit a range of this setting; give whole numbers"),
        ("model.recency=low..1", "'low' does not fit a range .* give numbers"),
        ("model.recency=0..inf", "'inf' does not fit a range"),
        ("lab.split=a..b", "give numbers, or choices"),
        ("x.on=0..1", "or choices as"),
    ],
)
def test_a_space_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Space.parse(text, BASE)


def test_a_search_is_checked_before_anything_runs() -> None:
    space = "model.recency=0.5..1"
    for plan, message in [
        (planned(space, trials=0), "--search 0: give a number of 1 or more"),
        (planned("model.recency=0.5..2"), "model.recency = 2.0"),
        (planned("model.recencey=0.5|1"), "did you mean 'model.recency'"),
        (planned(space, other={"lab.split": "test"}), "must not use test items. Set it to 'val"),
        (planned(space, other={"lab.split": "temporal"}), "Set it to 'temporal-validation'"),
    ]:
        with pytest.raises(ConfigError, match=message):
            plan_search(plan)
    with pytest.raises(ConfigError, match="name the settings and their values"):
        planned()
    with pytest.raises(ConfigError, match="is repeated"):
        planned(space, space)
    asked = SweepOptions(
        options={"privacy.delta": 1e-3, "lab.split": "validation"},
        axes=parse_axes("1,2", None, []),
    )
    with pytest.raises(ConfigError, match="one recipe, one ε and one seed"):
        plan_search(Plan.of(asked, search_options(3, None, None, [space])))
    mixed = search_options(3, TrialLaw.POISSON, Sampler.TPE, [space])
    one = SweepOptions(options={**asked.options, "privacy.epsilon": 1.0})
    with pytest.raises(ConfigError, match="independently of earlier scores"):
        plan_search(Plan.of(one, mixed))


@pytest.mark.parametrize("split", ["", "test", "temporal", "temporal-validation"])
def test_a_search_uses_the_validation_events_of_the_recipes_split(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, split: str
) -> None:
    plans: list[Plan] = []
    monkeypatch.setattr("simulations.sweep.command.plan_search", plans.append)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'[lab]\nsplit = "{split}"\n' if split else "[lab]\nalone = false\n")
    options = ["--config", recipe, "--delta", 1e-5, "--search", 2, "--space", "seed=1..3"]
    options += ["--set", "privacy.epsilon=8"]
    with contextlib.suppress(Exception):  # what was planned is all that is asked
        lab(monkeypatch, "sweep", *options, "--out", tmp_path / "out", "--dry-run")
    [base] = plans[0].recipes.values()
    expected = "temporal-validation" if "temporal" in split else "validation"
    assert base["lab.split"] == expected
    assert Split(expected).on_test == (Split.TEMPORAL if "temporal" in split else Split.TEST)


def test_a_number_of_trials_that_is_drawn_takes_independent_settings() -> None:
    fixed, drawn = (plan_search(planned("seed=0..9", law=law)) for law in (None, "geometric"))
    assert (fixed.sampler, drawn.sampler) == (Sampler.TPE, Sampler.RANDOM)
    assert fixed.count(0) == 4
    counts = [drawn.count(seed) for seed in range(300)]
    assert min(counts) >= 1
    assert 3 < sum(counts) / 300 < 5
    assert drawn.count(7) == drawn.count(7)


# --- trials ------------------------------------------------------------------------------------


def finish(folder: SweepFolder, name: str, score: float) -> None:
    figures = {"ndcg@10": score, "hr@10": score}
    path = folder.run(name)
    path.mkdir(parents=True, exist_ok=True)
    result = {"evaluation": {"models": {"federated": figures}}}
    (path / "result.json").write_text(json.dumps(result))


def begin(folder: SweepFolder, plan: Plan) -> Trials:
    folder.write_plan(plan)
    return Trials(plan_search(plan), plan, folder)


def test_trials_go_on_where_they_were(tmp_path: Path) -> None:
    plan, folder = planned("model.recency=0.5..1", "seed=1..9"), SweepFolder(tmp_path / "s")
    trials = begin(folder, plan)
    first, second = trials.next(), trials.next()
    assert first is not None
    assert second is not None
    assert (first.name, second.name, trials.total) == ("trial-0000", "trial-0001", 4)
    assert set(first.values) == {"model.recency", "seed"}
    assert flatten(first.config)["model.recency"] == first.values["model.recency"]
    finish(folder, first.name, 0.3)
    trials.record(_finished(folder, first))

    # The process is killed here: the second was begun, the third was never asked for.
    again = begin(folder, plan)
    assert [outcome.status for outcome in again.outcomes] == ["finished", "waiting"]
    resumed = again.next()
    assert resumed == second
    finish(folder, second.name, 0.5)
    again.record(_finished(folder, second))
    names = []
    while (run := again.next()) is not None:
        names.append(run.name)
        finish(folder, run.name, 0.1)
        again.record(_finished(folder, run))
    assert names == ["trial-0002", "trial-0003"]
    assert again.best is not None
    assert again.best.run.name == "trial-0001"
    assert len({tuple(outcome.run.values.items()) for outcome in again.outcomes}) == 4
    assert begin(folder, plan).next() is None


def _finished(folder: SweepFolder, run: PlannedRun) -> Outcome:
    return outcome_of(folder, run, 0)


def test_settings_that_do_not_fit_together_are_a_failed_trial(tmp_path: Path) -> None:
    spaces = ("training.rounds=0|1", "warm_start.share=0.0|0.5")
    folder, plan = SweepFolder(tmp_path / "s"), planned(*spaces, trials=12, law="logarithmic")
    trials = begin(folder, plan)
    trials.total = 12
    while (run := trials.next()) is not None:
        finish(folder, run.name, 0.2)
        trials.record(_finished(folder, run))
    failed = [outcome for outcome in trials.outcomes if outcome.status == "failed"]
    assert failed
    assert all("nothing would be learned" in outcome.reason for outcome in failed)
    assert all(
        dict(o.run.values) == {"training.rounds": 0, "warm_start.share": 0.0} for o in failed
    )
    assert len(trials.outcomes) == 12
    assert [o.status for o in begin(folder, plan).outcomes].count("failed") <= len(failed)


def test_a_failed_trial_is_not_tried_again(tmp_path: Path) -> None:
    folder, plan = SweepFolder(tmp_path / "s"), planned("model.recency=0.5..1", trials=1)
    trials = begin(folder, plan)
    run = trials.next()
    assert run is not None
    trials.record(_finished(folder, run))
    again = begin(folder, plan)
    assert again.next() is None
    assert again.best is None
    assert [outcome.status for outcome in again.outcomes] == ["failed"]


# --- the cost ----------------------------------------------------------------------------------


def test_a_fixed_number_of_trials_costs_them_all() -> None:
    plan = planned("model.recency=0.5..1", trials=6)
    found = search_cost(plan_search(plan), plan, 6)
    releases = planned_releases(run_of(plan).planned)
    assert found.epsilon == pytest.approx(epsilon(releases * 6, 1e-3))
    assert found.one_run == pytest.approx(8, rel=2e-3)
    assert found.law is None
    said = " ".join(found.sentences)
    assert f"ε = {found.epsilon:.2f} at δ = 0.001" in said
    assert "all 6 runs composed; for a fixed number there is no better bound" in said
    assert "items of the same users: this search itself protects nobody" in said


@pytest.mark.parametrize("law", list(TrialLaw))
def test_a_drawn_number_of_trials_costs_what_the_paper_proves(law: TrialLaw) -> None:
    plan = planned("model.recency=0.5..1", trials=6, law=law)
    found = search_cost(plan_search(plan), plan, 17)  # however many came out
    releases = planned_releases(run_of(plan).planned)
    assert found.epsilon == selection_epsilon([releases], 1e-3, law=law, mean=6)
    assert found.epsilon > found.one_run
    said = " ".join(found.sentences)
    assert "arXiv:2110.03620" in said
    assert ("theorem 6" in said) == (law is TrialLaw.POISSON)


def test_the_dearest_settings_of_a_search_count() -> None:
    plan = planned("privacy.epsilon=1.0|4.0", "training.rounds=1..3", trials=5)
    found = search_cost(plan_search(plan), plan, 5)
    assert found.one_run == pytest.approx(4, rel=2e-3)
    each = [
        planned_releases(
            plan.run({"privacy.epsilon": 4.0, "training.rounds": n}, "a").config.planned
        )
        for n in (1, 2, 3)
    ]
    assert found.epsilon is not None
    for releases in each:
        assert found.epsilon >= renyi_epsilon(releases * 5, 1e-3)
    mixed = [release for releases in (*each, each[0], each[1]) for release in releases]
    assert found.epsilon >= epsilon(mixed, 1e-3)


def test_no_bound_is_claimed_where_releases_cannot_be_gone_through() -> None:
    for space in ("training.sample_rate=0.1..1", "training.rounds=1..1000"):
        plan = planned(space, trials=3)
        found = search_cost(plan_search(plan), plan, 3)
        assert found.epsilon is None
        assert found.sentences[0].startswith("There is no bound of ε: the search varies")


@pytest.mark.parametrize("spaces", [("model.recency=0.5..1",), ("privacy.epsilon=none|8.0",)])
def test_without_privacy_nothing_is_claimed(spaces: tuple[str, ...]) -> None:
    plan = planned(*spaces, other={"privacy.epsilon": "none"})
    found = search_cost(plan_search(plan), plan, 3)
    assert found.epsilon == math.inf
    assert found.sentences == [
        "At least one run is trained WITHOUT privacy, so no ε bounds the search."
    ]


OTHERS: Mapping[str, Any] = {
    "model.items": ("features", "both"),
    "model.trained": ("scores", "all"),
    "server.strategy": ("fedavg", "fedadam"),
    "server.weighting": ("equal", "population"),
    "lab.partition": ("user", "taste"),
}


def test_no_other_setting_decides_what_is_released() -> None:
    """Else a search over it would be priced wrongly."""
    base = {"privacy.epsilon": 2.0, "privacy.delta": 1e-3, "training.rounds": 3}
    before = planned_releases(read_settings(None, base, ["model.trained=all"]).planned)
    looked_at = 0
    for setting in settings():
        key, value = setting.key, setting.default
        if key in DECISIVE or key in base:
            continue
        changes: tuple[Any, ...] = OTHERS.get(key, ())
        if type(value) is bool:
            changes = (not value,)
        elif type(value) is int:
            changes = (value + 1, 2 * value)
        elif type(value) is float:
            changes = (value / 2,)
        for change in changes:
            try:
                config = read_settings(None, base | {"model.trained": "all", key: change}, [])
                after = planned_releases(config.planned)
            except ConfigError:  # a run that is refused releases nothing
                continue
            looked_at += 1
            assert after == before, key
    assert looked_at > 25


# --- the command -------------------------------------------------------------------------------


def lab(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["sotto-lab", *map(str, arguments)])
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


def test_a_search_ends_with_the_best_and_its_price(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_data: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "search"
    options: list[object] = ["sweep", "--data", tiny_data, "--out", out, "--delta", 1e-2]
    for assignment in ("lab.organisations=2", "lab.alone=false", *TINY_SETTINGS):
        options += ["--set", assignment]
    options += ["--set", "privacy.epsilon=8", "--search", 2, "--space", "model.recency=.5..1"]

    assert lab(monkeypatch, *options, "--dry-run") == 0
    assert "2 trials, 0 finished" in capsys.readouterr().err
    assert lab(monkeypatch, *options) == 0
    printed = capsys.readouterr()
    assert "2 of 2 done" in printed.err
    assert "on validation items" in printed.out
    assert "this search itself protects nobody" in printed.out
    rows = pq.read_table(out / "sweep.parquet").to_pylist()
    assert {row["run"] for row in rows} == {"trial-0000", "trial-0001"}
    assert {row["split"] for row in rows} == {"validation"}
    best = max((row for row in rows if row["model"] == "federated"), key=lambda r: r["ndcg@10"])
    kept = read_settings(out / "best.toml", {}, [])
    assert kept.model.recency == best["model.recency"]
    assert str(kept.lab.split) == "test"

    assert lab(monkeypatch, "sweep", "--out", out, "--resume", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["best"] == best["run"]
    assert data["price"]["one_run"] == pytest.approx(8, rel=2e-3)
    assert data["price"]["epsilon"] > 8
    assert lab(monkeypatch, *options, "--sampler", "random") == 2
    assert "search.sampler = random (was not given)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--space", "seed=1|2"], "need --search"),
        (["--trials", "poisson"], "need --search"),
        (["--search", 3], "name the settings and their values"),
        (
            ["--search", 3, "--space", "seed=1..3", "--set", "lab.split=test"],
            "must not use test items",
        ),
    ],
)
def test_a_mistake_is_explained(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    options: list[object],
    message: str,
) -> None:
    private = ["--delta", 1e-3, "--set", "privacy.epsilon=1", "--out", tmp_path / "s"]
    assert lab(monkeypatch, "sweep", *private, *options) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert not (tmp_path / "s").exists()


def test_a_plan_of_a_search_is_written_down_whole(tmp_path: Path) -> None:
    plan = planned("model.recency=0.5..1", "seed=1|2", law="poisson")
    file = tmp_path / "sweep.toml"
    file.write_text(plan.to_toml(), encoding="utf-8")
    found: SearchPlan = plan_search(Plan.from_toml(file))
    assert found == plan_search(plan)
