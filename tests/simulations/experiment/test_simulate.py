"""Whole simulations: what is written, what is claimed, what survives being killed."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant

from client.site.site import Site
from server.state.checkpoint import Checkpoint
from shared.data.catalogue import Catalogue
from shared.errors import CheckpointError, ConfigError, DataError
from shared.item_features.tfidf import text_features
from shared.models.attention import AttentionRecommender
from simulations.experiment.config import SimulationConfig, read_settings
from simulations.experiment.prepare import prepare, reopen
from simulations.experiment.simulate import simulate
from simulations.experiment.simulation import RoundFigures
from tests.simulations.conftest import EVENTS, ITEMS, TINY_SETTINGS, USERS


class Killed(Exception):
    """Stands for the end of the process."""


class Silent:
    """A reporter that remembers, and may kill the run after some rounds."""

    def __init__(self, kill_after: int | None = None) -> None:
        self.kill_after, self.epsilons = kill_after, list[float]()

    def stage(self, text: str) -> None: ...

    def round(self, done: int, of: int, figures: RoundFigures) -> None:
        assert figures.loss is not None
        assert np.isfinite(figures.loss)
        self.epsilons.append(figures.epsilon)
        if done == self.kill_after:
            raise Killed


WholeRun = Callable[[float | str], tuple[SimulationConfig, Path, dict[str, Any]]]


def settings(data: Path, *assignments: str, epsilon: float | str = 8.0) -> SimulationConfig:
    options = {"privacy.epsilon": epsilon, "privacy.delta": 1e-2, "lab.data": str(data)}
    return read_settings(
        None, options, ["lab.organisations=3", "lab.alone=false", *TINY_SETTINGS, *assignments]
    )


def run(config: SimulationConfig, folder: Path) -> dict[str, Any]:
    return simulate(prepare(config, folder), Silent())


@pytest.fixture(scope="module")
def private_run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "private"
    run(
        settings(
            tiny_data,
            "lab.alone=true",
            "home.private=true",
            "home.epsilon=4",
            "home.attention=true",
        ),
        folder,
    )
    return folder


def test_the_result_has_the_form_that_is_promised(private_run: Path) -> None:
    result = json.loads((private_run / "result.json").read_text())

    assert list(result) == [
        *("schema", "data", "privacy", "evaluation", "rounds", "cost", "seed", "versions"),
    ]
    assert result["schema"] == 2
    assert result["data"] | {"organisations": []} == {
        "name": "tiny",
        "users": USERS,
        "items": ITEMS,
        "interactions": USERS * EVENTS,
        "organisations": [],
        "rows": USERS * EVENTS,
        "dropped": dict.fromkeys(
            (
                *("duplicate", "short_history", "unknown_item"),
                *("repeat", "over_minute", "over_day", "limited_user"),
            ),
            0,
        ),
        "rewritten": {"item": 0, "user": 0},
        "merged": {"item": 0, "user": 0},
        "ties": 0,
        "examples": {},
        "warnings": [],
    }
    assert [o["population"] for o in result["data"]["organisations"]] == [8, 8, 8]
    privacy = result["privacy"]
    assert (privacy["private"], privacy["unit"], privacy["trust"]) == (True, "user", "local")
    assert (privacy["adjacency"], privacy["delta"]) == ("add-or-remove-one", 0.01)
    assert privacy["home_epsilon"] == 4.0
    evaluation = result["evaluation"]
    assert evaluation["protocol"] == "leave-one-out, full ranking, seen items removed"
    assert (evaluation["split"], evaluation["users"]) == ("test", USERS)
    assert set(evaluation["time"]) == {"later_training_share", "unseen_targets"}
    models = evaluation["models"]
    assert set(models) == {
        *("popularity", "popularity_private", "markov", "counts3", "counts3_local", "item_knn"),
        *("ease", "local", "federated", "home", "federated_home", "federated_home_private"),
    }
    for figures in models.values():
        assert list(figures) == [
            *("hr@10", "ndcg@10", "mrr@10", "coverage@10", "arp@10", "gini@10"),
        ]
        assert all(0 <= value <= 1 for value in figures.values())
    everybody, *each = evaluation["joining"]
    assert everybody["name"] is None
    assert everybody["users"] == sum(one["users"] for one in each) == USERS
    for model in ("home", "federated_home"):
        assert everybody[model] == pytest.approx(models[model]["ndcg@10"])
    exposure = evaluation["exposure"]
    assert set(exposure) == {"deciles", "chosen", "models"}
    for shares in (exposure["chosen"], *(exposure["models"][name] for name in models)):
        assert len(shares) == 10
        assert sum(shares) == pytest.approx(1, abs=1e-5)
    assert set(result["cost"]["seconds"]) == {"total", "train", "evaluate"}
    rounds = result["rounds"]
    assert [one["number"] for one in rounds] == list(range(1, len(rounds) + 1))
    assert [one["epsilon"] for one in rounds] == sorted(one["epsilon"] for one in rounds)
    assert rounds[-1]["epsilon"] == pytest.approx(
        max(o["epsilon"] for o in privacy["organisations"])
    )
    assert all(set(one["outcomes"].values()) == {"valid"} for one in rounds)
    weights = Checkpoint.load(private_run).weights
    assert {one["bytes_up"] for one in rounds} == {result["cost"]["bytes_up_per_round"]}
    size = 3 * sum(value.nbytes + 128 for value in weights.values())  # 128: NumPy's header
    assert result["cost"]["bytes_up_per_round"] == size
    assert result["cost"]["bytes_down_per_round"] == size
    assert result["cost"]["peak_rss_bytes"] > 10**7


def test_each_users_rank_is_written_beside_the_result(private_run: Path) -> None:
    result = json.loads((private_run / "result.json").read_text())
    rows = pq.read_table(private_run / "evaluation.parquet").to_pylist()

    assert list(rows[0]) == ["user", "organisation", "events", "model", "rank"]
    assert len(rows) == USERS * len(result["evaluation"]["models"])
    for name, figures in result["evaluation"]["models"].items():
        ranks = np.array([row["rank"] for row in rows if row["model"] == name])
        hits = ranks[ranks <= 10]
        assert len(ranks) == USERS
        assert figures["hr@10"] == pytest.approx(len(hits) / USERS)
        assert figures["ndcg@10"] == pytest.approx((1 / np.log2(1 + hits)).sum() / USERS)
    organisations = {row["user"]: row["organisation"] for row in rows}
    assert set(organisations) == {str(number) for number in range(USERS)}
    populations = {o["name"]: o["population"] for o in result["data"]["organisations"]}
    assert Counter(organisations.values()) == populations
    for name, site in ((name, private_run / "sites" / name) for name in populations):
        trained = Counter(pq.read_table(site / "interactions.parquet")["user_id"].to_pylist())
        written = sorted(
            {r["user"]: r["events"] for r in rows if r["organisation"] == name}.items()
        )
        assert sorted(events for _, events in written) == sorted(trained.values())


def test_public_groups_of_users_are_written_too(tiny_data: Path, tmp_path: Path) -> None:
    data = shutil.copytree(tiny_data, tmp_path / "grouped")
    rows = [f"u{user},{'mf'[user % 2]}" for user in range(USERS - 1)]
    (data / "users.csv").write_text("\n".join(["user_id,gender", *rows]) + "\n")
    simulation = prepare(settings(data, "training.rounds=2"), tmp_path / "run")
    simulate(simulation, Silent())

    rows = pq.read_table(tmp_path / "run" / "evaluation.parquet").to_pylist()
    wanted = {f"u{user}": "mf"[user % 2] for user in range(USERS - 1)} | {
        f"u{USERS - 1}": "unknown"
    }
    users = simulation.dataset.histories.users
    assert {users[int(row["user"])]: row["gender"] for row in rows} == wanted
    sites = (tmp_path / "run" / "sites").rglob("*")
    assert not any("gender" in str(path) or path.name == "users.csv" for path in sites)


def test_the_stated_epsilon_is_what_an_independent_accountant_says(private_run: Path) -> None:
    privacy = json.loads((private_run / "result.json").read_text())["privacy"]

    assert len(privacy["organisations"]) == 3
    for organisation in privacy["organisations"]:
        accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, 1e-3)
        for release in organisation["releases"]:
            event = PoissonSampledDpEvent(
                release["sample_rate"], GaussianDpEvent(release["noise_multiplier"])
            )
            accountant.compose(event, release["steps"])
        reference = accountant.get_epsilon(privacy["delta"])
        assert organisation["epsilon"] == pytest.approx(reference, rel=0.01)
        assert sum(release["steps"] for release in organisation["releases"]) == 4 + 2
        assert 7.9 < organisation["epsilon"] <= 8


def test_each_site_keeps_its_own_ledger(private_run: Path) -> None:
    privacy = json.loads((private_run / "result.json").read_text())["privacy"]
    for organisation in privacy["organisations"]:
        name = organisation["name"]
        ledger = Site.load(private_run / "sites" / name).open_ledger()
        assert ledger.spent(privacy["delta"]) == organisation["epsilon"]
        alone = Site.load(private_run / "alone" / name / "sites" / name).open_ledger()
        assert alone.spent(privacy["delta"]) == organisation["epsilon"]


def test_noised_metrics_are_asked_for_and_paid_from_the_same_budget(
    tiny_data: Path, tmp_path: Path
) -> None:
    config = settings(tiny_data, "server.evaluate_every=2", "lab.alone=false")
    result = run(config, tmp_path / "run")
    for organisation in result["privacy"]["organisations"]:
        steps = Counter[str]()
        for release in organisation["releases"]:
            steps[release["kind"]] += release["steps"]
        assert steps == {"statistics": 2, "train": 4, "evaluate": 2}
        assert 7.9 < organisation["epsilon"] <= 8
        site = Site.load(tmp_path / "run" / "sites" / organisation["name"])
        sent = [entry.kind for entry in site.open_ledger().outbox()]
        assert sent.count("evaluate") == 2


def test_rounds_end_when_noised_metrics_no_longer_improve(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounds that are not run are charged to nobody; the weights are those of the best."""
    metrics = iter([0.1, 0.3, 0.35, 0.2, 0.9])  # with a noise of .1: the third is no improvement
    released = lambda *_: {"hr@10": 0.5, "ndcg@10": next(metrics), "noise": 0.1}  # noqa: E731
    monkeypatch.setattr("server.rounds.strategy.mean_metrics", released)
    config = settings(
        tiny_data,
        *("training.rounds=8", "server.evaluate_every=1", "training.patience=2"),
        "lab.alone=false",
    )
    result = run(config, tmp_path / "run")
    assert [one["number"] for one in result["rounds"]] == [1, 2, 3, 4]
    for organisation in result["privacy"]["organisations"]:
        steps = Counter[str]()
        for release in organisation["releases"]:
            steps[release["kind"]] += release["steps"]
        assert steps == {"statistics": 2, "train": 4, "evaluate": 4}
        assert organisation["epsilon"] < 7.9
    last = Checkpoint.load(tmp_path / "run")
    assert (last.round, last.best_round, last.best_metric) == (4, 2, 0.3)
    assert last.stopped
    for name, values in last.weights.items():
        assert np.array_equal(values, last.best_weights[name])


def test_a_plan_chooses_the_rounds_and_says_so(tiny_data: Path, tmp_path: Path) -> None:
    """Nothing of it is in the settings that are given; a resumed run has the same plan."""
    given = ("training.rounds=plan", "training.sample_rate=1.0", "training.learning_rate=1.0")
    config = settings(tiny_data, *given)
    result = run(config, tmp_path / "run")
    plan = result["plan"]
    assert plan["rounds"] == len(result["rounds"]) >= 2
    assert max(part["epsilon"] for part in result["privacy"]["organisations"]) <= 8.0
    written = read_settings(tmp_path / "run" / "config.toml", {}, [])
    assert written.training.rounds == plan["rounds"]
    assert written.training.learning_rate == pytest.approx(plan["learning_rate"])
    (tmp_path / "run" / "result.json").unlink()
    again = simulate(reopen(tmp_path / "run", {}, []), Silent())
    assert again["plan"] == plan


def test_the_model_can_be_used(private_run: Path) -> None:
    model = AttentionRecommender.from_pretrained(private_run / "model")
    final = Checkpoint.load(private_run).weights
    for name, value in final.items():
        np.testing.assert_array_equal(model.get_parameter(name).detach().numpy(), value)
    catalogue = Catalogue.load(private_run / "catalogue")
    assert catalogue.features is not None
    assert model.features.table.equal(catalogue.features)


def test_no_held_out_event_reaches_a_site(tiny_data: Path, tmp_path: Path) -> None:
    simulation = prepare(settings(tiny_data), tmp_path / "run")
    for number in range(3):
        histories = simulation.site(number).histories
        assert set(histories.lengths) == {EVENTS - 2}
    held = zip(simulation.split.test_inputs, simulation.split.train, strict=True)
    assert all(list(inputs[:-1]) == list(train) for inputs, train in held)


@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_run_is_measured_on_the_events_that_its_split_names(
    tiny_data: Path, tmp_path: Path, split: str
) -> None:
    simulation = prepare(settings(tiny_data, f"lab.split={split}"), tmp_path / "run")
    histories = list(simulation.dataset.histories)
    place = -1 if split == "test" else -2
    assert list(simulation.evaluation_split.test_targets) == [
        history[place] for history in histories
    ]
    for inputs, history in zip(simulation.evaluation_split.test_inputs, histories, strict=True):
        assert list(inputs) == list(history[:place])
    assert [len(train) for train in simulation.split.train] == [EVENTS - 2] * USERS
    result = simulate(simulation, Silent())
    assert result["evaluation"]["split"] == split


def test_without_privacy_nothing_is_claimed(tiny_data: Path, tmp_path: Path) -> None:
    result = run(settings(tiny_data, epsilon="none"), tmp_path / "run")
    assert result["privacy"]["private"] is False
    assert {o["epsilon"] for o in result["privacy"]["organisations"]} == {None}
    assert "popularity_private" not in result["evaluation"]["models"]
    json.loads((tmp_path / "run" / "result.json").read_text(), parse_constant=pytest.fail)


@pytest.fixture(scope="module")
def whole_run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> WholeRun:
    """A run at this ε that nobody killed: its settings, its folder and its result."""

    @cache
    def whole(epsilon: float | str) -> tuple[SimulationConfig, Path, dict[str, Any]]:
        config = settings(tiny_data, "server.strategy=fedadam", epsilon=epsilon)
        folder = tmp_path_factory.mktemp("whole") / "run"
        return config, folder, run(config, folder)

    return whole


@pytest.mark.parametrize("epsilon", ["none", 8.0])
@pytest.mark.parametrize("kill_after", [0, 1, 3])
def test_a_killed_run_resumes_with_the_same_result(
    whole_run: WholeRun, tmp_path: Path, epsilon: float | str, kill_after: int
) -> None:
    config, whole, expected = whole_run(epsilon)
    killed = tmp_path / "killed"
    first = Silent(kill_after)
    with pytest.raises(Killed):
        simulate(prepare(config, killed), first)
    second = Silent()
    result = simulate(reopen(killed, {}, []), second)

    ours, theirs = Checkpoint.load(killed), Checkpoint.load(whole)
    assert ours.round == theirs.round == 4
    for name, value in theirs.weights.items():
        np.testing.assert_array_equal(ours.weights[name], value)
    assert second.epsilons[0] >= first.epsilons[-1]
    assert result["privacy"] == expected["privacy"]
    assert result["evaluation"] == expected["evaluation"]


def test_a_finished_run_is_only_measured_again(private_run: Path) -> None:
    before = json.loads((private_run / "result.json").read_text())
    reporter = Silent()
    after = simulate(reopen(private_run, {}, []), reporter)
    assert after["evaluation"] == before["evaluation"]
    assert after["privacy"] == before["privacy"]


def test_the_same_seed_gives_the_same_result_and_another_does_not(
    private_run: Path, tiny_data: Path, tmp_path: Path
) -> None:
    for name in "ab":
        run(settings(tiny_data, "seed=1"), tmp_path / name)
    folders = tmp_path / "a", tmp_path / "b", private_run  # of seed 0
    a, b, c = (Checkpoint.load(folder).weights for folder in folders)
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert not all(np.array_equal(a[name], c[name]) for name in a)


def test_organisations_do_not_share_their_noise(tiny_data: Path, tmp_path: Path) -> None:
    simulation = prepare(settings(tiny_data), tmp_path / "run")
    streams = {
        simulation.site(n, local_baseline=own).stream for n in range(3) for own in (False, True)
    }
    assert len(streams) == 6


def test_the_coordinator_cannot_overspend_a_site(tiny_data: Path, tmp_path: Path) -> None:
    simulation = prepare(settings(tiny_data), tmp_path / "run")
    simulate(simulation, Silent())
    # The same sites, asked by a new run: the budget is the users', not the run's.
    (tmp_path / "run" / "checkpoint.safetensors").unlink()
    with pytest.raises(Exception, match="would exceed this organisation's privacy budget"):
        simulate(simulation, Silent())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training.rounds": 9}, r"training.rounds = 9 \(was 4\)"),
        ({"privacy.epsilon": 3}, r"privacy.epsilon = 3.0 \(was 8.0\)"),
        ({"seed": 5}, r"seed = 5 \(was 0\)"),
    ],
)
def test_a_run_is_not_resumed_with_other_parameters(
    private_run: Path, change: dict[str, float], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        reopen(private_run, change, [])


def test_a_run_is_not_resumed_with_another_catalogue(tiny_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "tiny"
    data.mkdir()
    for file in tiny_data.iterdir():
        (data / file.name).write_bytes(file.read_bytes())
    prepare(settings(data), tmp_path / "run")
    items = data / "items.csv"
    items.write_text(items.read_text().replace("Horror story", "Horror tale"))
    with pytest.raises(CheckpointError, match=r"the catalogue in .* does not match the data"):
        reopen(tmp_path / "run", {}, [])


@pytest.mark.parametrize("public", [False, True])
def test_features_that_come_out_otherwise_today_do_not_stop_a_run(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, public: bool
) -> None:
    options = [f"lab.public={tiny_data}"] if public else []
    config = settings(tiny_data, *options)
    expected = run(config, tmp_path / "whole")
    with pytest.raises(Killed):
        simulate(prepare(config, tmp_path / "run"), Silent(kill_after=1))

    # As linear algebra does on another machine, or on a busy one.
    def rounded_otherwise(catalogue: Catalogue, size: int) -> torch.Tensor:
        return torch.nextafter(text_features(catalogue, size), torch.tensor(torch.inf))

    monkeypatch.setattr("simulations.experiment.public_knowledge.text_features", rounded_otherwise)
    result = simulate(reopen(tmp_path / "run", {}, []), Silent())
    assert result["evaluation"] == expected["evaluation"]


@pytest.mark.parametrize("change", ["another item", "another user", "a user less"])
def test_a_run_is_not_resumed_with_other_interactions(
    tiny_data: Path, tmp_path: Path, change: str
) -> None:
    data = shutil.copytree(tiny_data, tmp_path / "tiny")
    prepare(settings(data), tmp_path / "run")
    file = data / "interactions.csv"
    header, first, *rows = file.read_text().splitlines()
    user, item, time = first.split(",")
    if change == "another item":
        first = ",".join([user, next(i for r in rows if (i := r.split(",")[1]) != item), time])
    elif change == "another user":
        first, *rows = (row.replace(f"{user},", "stranger,", 1) for row in (first, *rows))
    else:
        rows = [row for row in rows if not row.startswith(f"{user},")]
        first = rows.pop(0)
    file.write_text("\n".join([header, first, *rows]) + "\n")
    with pytest.raises(CheckpointError, match=r"the data of org-. in .* does not match the data"):
        reopen(tmp_path / "run", {}, [])


def test_what_does_not_fit_is_refused_before_anything_is_written(
    tiny_data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    for config, error, message in [
        (settings(tiny_data, "privacy.delta=0.2"), ConfigError, "not below 1 / 8"),
        (settings(tiny_data, "lab.organisations=25"), ConfigError, "for 24 users"),
        (settings(tmp_path / "absent"), DataError, "the folder does not exist"),
    ]:
        with pytest.raises(error, match=message):
            prepare(config, folder)
        assert not folder.exists()


def test_a_folder_in_use_is_not_written_to(private_run: Path, tiny_data: Path) -> None:
    before = sorted(private_run.rglob("*"))
    with pytest.raises(ConfigError, match="not an empty folder: resume the run in it"):
        prepare(settings(tiny_data), private_run)
    assert sorted(private_run.rglob("*")) == before


def test_there_is_nothing_to_resume_in_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no run to resume"):
        reopen(tmp_path, {}, [])
