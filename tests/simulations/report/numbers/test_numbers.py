"""The numbers of every figure, computed again from the files, one row at a time."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from hypothesis import given
from hypothesis import strategies as st

from shared.privacy.release import Release, ReleaseKind
from simulations.report.figures.frontier import frontier
from simulations.report.numbers.privacy import allowed_tpr, spending
from simulations.report.numbers.users import by_activity, by_group, comparison, gains
from simulations.report.reading.runs import Evaluation, Run, read_run
from simulations.report.reading.sweeps import read_sweep
from tests.simulations.report.folders import DELTA, RunSpec, write_run, write_sweep


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    write_run(folder, RunSpec(seed=3, users=211))
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return read_run(folder)


@pytest.fixture(scope="module")
def found(run: Run) -> Evaluation:
    assert run.evaluation is not None
    return run.evaluation


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / "evaluation.parquet").to_pylist()
    return rows


def of(rows: list[dict[str, Any]], model: str) -> dict[str, int]:
    return {row["user"]: row["rank"] for row in rows if row["model"] == model}


def test_gains_are_those_of_each_organisations_users(
    found: Evaluation, rows: list[dict[str, Any]]
) -> None:
    every, *each = gains(found)
    owner = {row["user"]: row["organisation"] for row in rows}
    assert [one.name for one in each] == ["north", "south", "west"]
    for one in (every, *each):
        for model, share in (("home", one.separate), ("federated_home", one.together)):
            ranks = [r for u, r in of(rows, model).items() if one.name in ("", owner[u])]
            assert (share.count, share.users) == (sum(r <= 10 for r in ranks), len(ranks))
        ranks = [r for u, r in of(rows, "federated_home").items() if one.name in ("", owner[u])]
        wanted = sum(1 / math.log2(1 + r) for r in ranks if r <= 10) / len(ranks)
        assert one.together_ndcg == pytest.approx(wanted)


def test_without_home_models_there_are_no_gains(found: Evaluation) -> None:
    ranks = {name: value for name, value in found.ranks.items() if name != "home"}
    bare = Evaluation(
        organisations=found.organisations, events=found.events, groups={}, ranks=ranks
    )
    assert gains(bare) == []


def test_quarters_hold_every_user_once(found: Evaluation, rows: list[dict[str, Any]]) -> None:
    parts = by_activity(found, ["federated", "markov"])
    events = {row["user"]: row["events"] for row in rows}
    assert len(parts) == 4
    assert sum(part.users for part in parts) == 211
    assert max(part.users for part in parts) - min(part.users for part in parts) < 15
    for part in parts:
        low, high = (int(end) for end in part.label.replace(",", "").split(" to "))
        for model in ("federated", "markov"):
            ranks = [r for u, r in of(rows, model).items() if low <= events[u] <= high]
            share = part.share[model]
            assert (share.count, share.users) == (sum(r <= 10 for r in ranks), len(ranks))


@given(st.lists(st.integers(1, 6), min_size=1, max_size=40))
def test_users_with_equal_events_stay_together(events: list[int]) -> None:
    ones = np.ones(len(events), np.int64)
    found = Evaluation(
        organisations=np.array(["a"] * len(events)),
        events=np.array(events, np.int64),
        groups={},
        ranks={"federated": ones},
    )
    parts = by_activity(found, ["federated"])
    if len(set(events)) == 1:
        assert parts == []
        return
    assert sum(part.users for part in parts) == len(events)
    assert all(part.users for part in parts)


def test_groups_are_shown_in_their_natural_order(
    found: Evaluation, rows: list[dict[str, Any]]
) -> None:
    assert [part.label for part in by_group(found, "gender", ["federated"])] == ["F", "M"]
    parts = by_group(found, "age", ["federated", "popularity"])
    assert [part.label for part in parts] == ["under 18", "18-24", "56 or more"]
    group = {row["user"]: row["age"] for row in rows}
    for part in parts:
        ranks = [r for u, r in of(rows, "popularity").items() if group[u] == part.label]
        share = part.share["popularity"]
        assert (share.count, share.users) == (sum(r <= 10 for r in ranks), len(ranks))


def test_models_are_compared_best_first(run: Run) -> None:
    found = comparison(run)
    values = [one.figures["ndcg@10"] for one in found]
    assert values == sorted(values, reverse=True)
    for one in found:
        assert one.share.count / 211 == pytest.approx(run.models[one.model]["hr@10"])


def test_spending_is_what_another_accountant_says_after_each_release(tmp_path: Path) -> None:
    write_run(tmp_path / "run", RunSpec(epsilon=3.0, steps=70))
    [line] = spending(read_run(tmp_path / "run"))
    assert line.names == ("north", "south", "west")
    assert (line.releases[0], line.epsilon[0], line.releases[-1]) == (0, 0, 70)
    assert list(line.epsilon) == sorted(line.epsilon)
    [release] = read_run(tmp_path / "run").organisations[0].releases
    for place in (1, len(line.releases) // 2, -1):
        accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, 1e-3)
        event = PoissonSampledDpEvent(1.0, GaussianDpEvent(release.noise_multiplier))
        accountant.compose(event, line.releases[place])
        assert line.epsilon[place] == pytest.approx(accountant.get_epsilon(DELTA), rel=0.01)


def test_organisations_that_released_otherwise_have_lines_of_their_own(run: Run) -> None:
    other = Release(kind=ReleaseKind.STATISTICS, noise_multiplier=2.0, sample_rate=1.0, steps=1)
    first, *rest = run.organisations
    changed = type(first)(
        name="north", population=1, epsilon=9.0, releases=(*first.releases, other)
    )
    values = {name: getattr(run, name) for name in Run.__slots__}
    several = Run(**(values | {"organisations": (changed, *rest)}))
    lines = spending(several)
    assert [line.names for line in lines] == [("north",), ("south", "west")]
    assert [line.releases[-1] for line in lines] == [3, 2]


@given(st.floats(0, 1), st.floats(0, 12), st.floats(0, 0.1))
def test_no_attack_on_randomised_response_is_above_what_is_allowed(
    cut: float, epsilon: float, delta: float
) -> None:
    """The mechanism that meets (ε, δ) with equality, and every mixture of its outputs."""
    keep = (1 - delta) * math.exp(epsilon) / (1 + math.exp(epsilon))
    flip = (1 - delta) / (1 + math.exp(epsilon))
    # Outputs in the order of suspicion: sure member, likely, unlikely, sure other.
    member, other = [delta, keep, flip, 0.0], [0.0, flip, keep, delta]
    whole, part = int(cut * 4 // 1) if cut < 1 else 3, cut * 4 % 1 if cut < 1 else 1.0
    tpr = sum(member[:whole]) + part * member[whole]
    fpr = sum(other[:whole]) + part * other[whole]
    assert tpr <= allowed_tpr(fpr, epsilon, delta) + 1e-9
    if cut >= 0.25:  # beyond the sure members, mixtures reach the bound
        assert tpr == pytest.approx(allowed_tpr(fpr, epsilon, delta), abs=1e-9)


# --- sweeps --------------------------------------------------------------------------------------


def test_the_frontier_is_the_mean_and_spread_of_the_seeds(tmp_path: Path) -> None:
    specs = [RunSpec(epsilon=e, seed=s, users=90) for e in (8, 1, None) for s in (0, 1, 2)]
    write_sweep(tmp_path / "sweep", specs, ["epsilon=2,seed=0"])
    sweep = read_sweep(tmp_path / "sweep")
    found = frontier(sweep)
    rows = pq.read_table(tmp_path / "sweep" / "sweep.parquet").to_pylist()

    [line] = found.lines
    assert line.variant == ""
    assert [point.epsilon for point in line.points] == [1, 8, math.inf]
    assert [one.model for one in found.baselines] == [
        *("federated_home", "home", "counts3", "popularity_private")
    ]
    for one in (line, *found.baselines):
        for point in one.points:
            values = [
                row["ndcg@10"]
                for row in rows
                if row["model"] == one.model and row["privacy.epsilon"] == point.epsilon
            ]
            assert len(point.values) == 3
            assert point.mean == pytest.approx(statistics.fmean(values))
            assert point.spread == pytest.approx(statistics.stdev(values))
    assert [point.epsilon for point in found.baselines[-1].points] == [1, 8]
    assert sweep.unfinished == (("epsilon=2,seed=0", "failed"),)


def test_other_settings_make_lines_of_their_own_the_best_first(tmp_path: Path) -> None:
    specs = [
        RunSpec(
            epsilon=e,
            users=300,
            rates={"federated": rate},
            settings={"model.recency": recency, "training.rounds": 0},
        )
        for e in (1, 8)
        for recency, rate in ((0.5, 0.1), (0.9, 0.6))
    ]
    write_sweep(tmp_path / "sweep", specs)
    found = frontier(read_sweep(tmp_path / "sweep"))
    assert [line.variant for line in found.lines] == ["recency = 0.9", "recency = 0.5"]
    assert all(len(line.points) == 2 for line in found.lines)
    assert [point.spread for point in found.lines[0].points] == [0, 0]
    assert found.baselines == ()
