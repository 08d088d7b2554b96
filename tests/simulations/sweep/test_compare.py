"""Kinds of model side by side: one run each, a table, and advice that a test of users bears out."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from shared.errors import ConfigError
from simulations.cli import main
from simulations.sweep.axes import parse_axes
from simulations.sweep.compare import _by_kind, _variants
from simulations.sweep.comparison import advice, compare
from simulations.sweep.folder import SweepFolder
from simulations.sweep.plan import Plan, SweepOptions
from simulations.sweep.work import Grid
from tests.conftest import some_catalogue
from tests.simulations.report.folders import HIT_RATES, RunSpec, write_run

SETTINGS = ("privacy.delta=1e-5", "lab.data=films")


def kinds(
    folder: Path,
    rates: Mapping[str, float],
    seconds: Mapping[str, float],
    federated: float | None = None,
) -> SweepFolder:
    """A comparison whose runs are finished: hit rates at home and seconds by kind.

    Args:
        folder: of the comparison.
        rates: at home.
        seconds: of training.
        federated: hit rate of the last kind's published model; None is as of the others.
    """
    variants = _variants(",".join(rates))
    axes = parse_axes("8", None, [])
    options = SweepOptions(options={}, assignments=SETTINGS, variants=variants, axes=axes)
    plan, made = Plan.of(options), SweepFolder(folder)
    made.write_plan(plan)
    for run in plan.runs():
        kind = str(run.config.model.kind)
        hits = {**HIT_RATES, "federated_home": rates[kind]}
        if federated is not None and kind == list(rates)[-1]:
            hits["federated"] = federated
        result = write_run(made.run(run.name), RunSpec(epsilon=8.0, rates=hits, seed=len(kind)))
        result["cost"]["seconds"]["train"] = seconds[kind]
        (made.run(run.name) / "result.json").write_text(json.dumps(result))
    return made


def test_each_kind_is_a_variant_with_the_weights_that_it_trains() -> None:
    options = SweepOptions(
        options={},
        assignments=SETTINGS,
        variants=_variants("attention,lstm"),
        axes=parse_axes("4,none", "0,1", []),
    )
    runs = Plan.of(options).runs()
    assert [run.name for run in runs[:4]] == [
        f"recipe={kind},epsilon={epsilon},seed=0"
        for kind in ("attention", "lstm")
        for epsilon in ("4", "none")
    ]
    assert {(str(r.config.model.kind), str(r.config.model.trained)) for r in runs} == {
        ("attention", "attention"),
        ("lstm", "all"),
    }
    again = Plan.of(options)
    assert again.differences(Plan.of(options)) == []


def test_a_better_kind_is_recommended_and_one_that_may_be_as_good_by_its_cost(
    tmp_path: Path,
) -> None:
    costs = {"attention": 40.0, "lstm": 300.0}
    better = kinds(tmp_path / "better", {"attention": 0.1, "lstm": 0.4}, costs)
    outcomes = Grid(Plan.from_toml(better.plan_file).runs(), better).outcomes
    attention, lstm = compare(outcomes)
    assert (attention.kind, lstm.kind, lstm.seconds) == ("attention", "lstm", 300)
    assert lstm.f1 == pytest.approx(2 * 0.1 * lstm.hr / (0.1 + 1))
    [sentence] = advice(outcomes, better)
    assert sentence.startswith("Take lstm at ε = 8: NDCG@10 at home lstm 0.")

    alike = kinds(tmp_path / "alike", {"attention": 0.2, "lstm": 0.2}, costs)
    outcomes = Grid(Plan.from_toml(alike.plan_file).runs(), alike).outcomes
    [sentence] = advice(outcomes, alike)
    assert sentence.startswith("Take attention at ε = 8")

    costs = {"attention": 300.0, "lstm": 40.0}
    broken = kinds(tmp_path / "broken", {"attention": 0.2, "lstm": 0.2}, costs, federated=0.0)
    [sentence] = advice(Grid(Plan.from_toml(broken.plan_file).runs(), broken).outcomes, broken)
    assert sentence.startswith("Take attention at ε = 8: NDCG@10 at home")
    assert "lstm 0.0000" in sentence.partition("; as published ")[2]


def test_the_command_continues_a_folder_and_prints_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    costs = {"attention": 40.0, "lstm": 300.0}
    kinds(tmp_path / "kinds", {"attention": 0.1, "lstm": 0.4}, costs)
    settings = [word for one in SETTINGS for word in ("--set", one)]
    words = ["compare", "--epsilons", "8", *settings, "--out", str(tmp_path / "kinds")]
    for more in ([], ["--json"]):
        monkeypatch.setattr(sys, "argv", ["sotto-lab", *words, *more])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code
        shown = capsys.readouterr().out
        assert "Take lstm at" in shown
    page = tmp_path / "page.html"
    monkeypatch.setattr(
        sys, "argv", ["sotto-lab", "report", str(tmp_path / "kinds"), "--out", str(page)]
    )
    with pytest.raises(SystemExit):
        main()
    assert "Which kind of model to take?" in page.read_text()
    assert "Take lstm at" in page.read_text()
    assert [row["kind"] for row in json.loads(shown)["kinds"]] == ["attention", "lstm"]


@pytest.mark.parametrize("wrong", ["attention", "attention,attention", "attention,over-use", "gru"])
def test_kinds_that_cannot_be_compared_are_refused(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", "--kinds", wrong, "--out", str(tmp_path / "kinds")]
    monkeypatch.setattr(sys, "argv", ["sotto-lab", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert f"--kinds {wrong}" in capsys.readouterr().err
    assert not (tmp_path / "kinds").exists()


def test_a_setting_may_be_for_one_kind_alone(tmp_path: Path) -> None:
    given = ["training.candidates=8", "lstm:training.candidates=9", "lab.data=C:x"]
    shared, own = _by_kind(given, ["attention", "lstm"])
    assert shared == ["training.candidates=8", "lab.data=C:x"]
    options = SweepOptions(
        options={},
        assignments=[*SETTINGS, shared[0]],
        variants=_variants("attention,lstm"),
        variant_assignments=own,
        axes=parse_axes("4", None, []),
    )
    drawn = {
        str(r.config.model.kind): r.config.training.candidates for r in Plan.of(options).runs()
    }
    assert drawn == {"attention": 8, "lstm": 9}
    with pytest.raises(ConfigError, match="'text' is not among --kinds attention,lstm"):
        _by_kind(["text:model.text_width=8"], ["attention", "lstm"])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["query"], "--set lab.queries=FILE"),
        (["social"], "--set lab.friends=FILE"),
        (["query", "--set", "query:lab.queries=nothing.csv"], "nothing.csv' is none"),
        (["text"], "--set lab.catalogue=FOLDER"),
        (["text", "--set", "lab.catalogue=plain"], "items encode --adaptable"),
        (["modalities", "--set", "lab.catalogue=plain"], "several blocks"),
    ],
)
def test_a_kind_without_its_file_is_refused_before_anything_runs(
    more: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    some_catalogue().save(tmp_path / "plain")
    settings = [word for one in SETTINGS for word in ("--set", one)]
    words = ["compare", "--kinds", f"attention,{more[0]}", *settings, *more[1:], "--out", "kinds"]
    monkeypatch.setattr(sys, "argv", ["sotto-lab", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not Path("kinds").exists()


@pytest.mark.parametrize(
    ("kind", "key", "head"),
    [("query", "queries", "user_id,item_id,query,timestamp"), ("social", "friends", "user,friend")],
)
def test_a_wrong_row_is_refused_before_anything_runs(
    kind: str,
    key: str,
    head: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("films").mkdir()
    Path("films/items.csv").write_text("item_id,title\n1,Up\n2,Heat\n")
    Path("films/interactions.csv").write_text(
        "user_id,item_id,timestamp\n7,1,5\n7,2,6\n8,2,6\n8,1,7\n"
    )
    Path("table.csv").write_text(f"{head}\n7,{',,' if kind == 'query' else ''}\n")
    settings = [word for one in SETTINGS for word in ("--set", one)]
    own = ["--kinds", f"attention,{kind}", "--set", f"{kind}:lab.{key}=table.csv"]
    monkeypatch.setattr(sys, "argv", ["sotto-lab", "compare", *settings, *own, "--out", "kinds"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "table.csv, row 1" in " ".join(capsys.readouterr().err.split())
    assert not Path("kinds").exists()


def test_another_kind_is_named_once_and_not_by_all_its_settings(tmp_path: Path) -> None:
    first, second = (
        Plan.of(
            SweepOptions(
                options={},
                assignments=SETTINGS,
                variants=_variants(names),
                axes=parse_axes("8", None, []),
            )
        )
        for names in ("attention,lstm", "attention,query")
    )
    assert first.differences(second) == [
        "recipe lstm = not given (was given)",
        "recipe query = given (was not given)",
    ]


def test_of_kinds_that_take_as_many_seconds_the_default_is_recommended(tmp_path: Path) -> None:
    rates = {"lstm": 0.4, "attention": 0.4}
    folder = kinds(tmp_path, rates, {"lstm": 4.1, "attention": 4.3})
    outcomes = Grid(Plan.from_toml(folder.plan_file).runs(), folder).outcomes
    [sentence] = advice(outcomes, folder)
    assert sentence.startswith("Take attention at ε = 8")
    assert "instead of" not in sentence
