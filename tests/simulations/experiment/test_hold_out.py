"""A cut in time for all: nothing after it reaches training, and what it leaves out is said."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from server.state.checkpoint import Checkpoint
from server.warm_start.public import PUBLIC
from shared.errors import ConfigError, DataError, SottoError
from simulations.audit.plan import Adversary, check_auditable
from simulations.commands.print_simulation import print_data
from simulations.experiment.prepare import prepare, reopen
from simulations.experiment.simulate import simulate
from tests.simulations.conftest import ITEMS
from tests.simulations.experiment.test_simulate import Killed, Silent, run, settings

DAY = 86_400
STARTS = (*range(0, 40, 2), 72, 76, 98, 99)
"""The day on which each user starts; each has an event a day for ten days, or for sixty."""


def write_data(
    source: Path, folder: Path, starts: Sequence[int] = STARTS, time: str = "timestamp"
) -> Path:
    """Users who come and go: every third stays for sixty days, the others for ten."""
    folder.mkdir()
    shutil.copy(source / "items.csv", folder)
    rows = [f"user_id,item_id,{time}"]
    for user, start in enumerate(starts):
        days = range(start, start + (60 if user % 3 == 0 else 10), 3 if user % 3 == 0 else 1)
        rows += [f"u{user},i{item_of(user, day)},{day * DAY}" for day in days]
    (folder / "interactions.csv").write_text("\n".join(rows) + "\n")
    return folder


def item_of(user: int, day: int) -> int:
    """The last four items of the catalogue are chosen late alone."""
    late = day >= 80
    return ITEMS - 4 + (user + day) % 4 if late else (user + day) % (ITEMS - 4)


def events_of(data: Path) -> list[tuple[str, str, int]]:
    lines = (data / "interactions.csv").read_text().splitlines()[1:]
    return [(user, item, int(time)) for user, item, time in (line.split(",") for line in lines)]


@pytest.fixture
def data(tiny_data: Path, tmp_path: Path) -> Path:
    return write_data(tiny_data, tmp_path / "data")


@pytest.mark.parametrize("split", ["temporal", "temporal-validation"])
def test_what_is_after_the_cut_is_asked_for_and_reaches_no_site(
    data: Path, tmp_path: Path, split: str
) -> None:
    config = settings(data, f"lab.split={split}", "lab.alone=true")
    simulation = prepare(config, tmp_path / "run")
    assert simulation.cuts is not None
    first, second = simulation.cuts.validation_from // 10**6, simulation.cuts.test_from // 10**6
    events = events_of(data)
    assert sum(time >= second for *_, time in events) / len(events) == pytest.approx(0.1, abs=0.02)
    assert sum(time >= first for *_, time in events) / len(events) == pytest.approx(0.2, abs=0.02)

    result = simulate(simulation, Silent())
    before = sorted((user, item) for user, item, time in events if time < first)
    for folder in (tmp_path / "run" / "sites", tmp_path / "run" / "alone"):
        tables = [pq.read_table(file) for file in sorted(folder.rglob("interactions.parquet"))]
        seen = [(r["user_id"], r["item_id"]) for table in tables for r in table.to_pylist()]
        assert sorted(seen) == before
    populations = [one["population"] for one in result["data"]["organisations"]]
    assert sum(populations) == len({user for user, _ in before}) < len(STARTS)

    low, high = (second, np.inf) if split == "temporal" else (first, second)
    window = {user for user, _, time in events if low <= time < high}
    earlier = {user for user, _, time in events if time < low}
    trained_items, trained_users = {i for _, i in before}, {u for u, _ in before}
    targets: dict[str, str] = {}
    for user, item, time in sorted(events, key=lambda event: event[2]):
        if low <= time < high and user in earlier:
            targets.setdefault(user, item)
    evaluation = result["evaluation"]
    assert evaluation["protocol"] == "one cut in time, full ranking, seen items removed"
    assert (evaluation["split"], evaluation["users"]) == (split, len(targets))
    time = evaluation["time"]
    assert time["later_training_share"] == 0
    assert time["unseen_targets"] == sum(item not in trained_items for item in targets.values())
    assert time["cut"] == {
        "validation_from": f"{np.datetime64(first, 's')}Z",
        "test_from": f"{np.datetime64(second, 's')}Z",
        "new_users": len(window - earlier),
        "untrained_users": len((window & earlier) - trained_users),
        "new_items": len({i for _, i, moment in events if low <= moment < high} - trained_items),
    }
    if split == "temporal":
        assert time["cut"]["new_users"] > 0
        assert time["unseen_targets"] > 0


def test_leave_one_out_says_how_much_of_the_training_is_later(data: Path, tmp_path: Path) -> None:
    evaluation = run(settings(data), tmp_path / "run")["evaluation"]
    events = events_of(data)
    by_user: dict[str, list[int]] = {}
    for user, _, time in events:
        by_user.setdefault(user, []).append(time)
    train = np.array([time for times in by_user.values() for time in sorted(times)[:-2]])
    shares = [(train > max(times)).mean() for times in by_user.values()]
    assert evaluation["time"] == {
        "later_training_share": pytest.approx(np.mean(shares)),
        "unseen_targets": evaluation["time"]["unseen_targets"],
    }
    assert np.mean(shares) > 0.1


def test_data_without_times_say_so(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_data(tiny_data, tmp_path / "data", time="position")
    simulation = prepare(settings(data), tmp_path / "run")
    assert simulation.timing.later_training_share is None
    print_data(simulation)
    assert "the data have no times" in capsys.readouterr().err.replace("\n", " ")


def test_the_terminal_says_what_the_cut_leaves_out(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    simulation = prepare(settings(data, "lab.split=temporal"), tmp_path / "run")
    print_data(simulation)
    printed = capsys.readouterr().err
    found = simulation.timing
    assert found.cut is not None
    assert f"test from then on\nsplit: {found.cut.new_users} users are new after the cut" in printed
    assert "0.0% of the training events are later than a user's test event" in printed
    assert f"{found.unseen_targets} of {len(simulation.evaluation_split.test_targets)}" in printed
    assert "without a test event" not in printed


def test_a_killed_run_with_a_cut_goes_on_as_if_nothing_had_happened(
    data: Path, tmp_path: Path
) -> None:
    config = settings(data, "lab.split=temporal", f"lab.public={data}")
    expected = run(config, tmp_path / "whole")
    with pytest.raises(Killed):
        simulate(prepare(config, tmp_path / "killed"), Silent(kill_after=2))
    result = simulate(reopen(tmp_path / "killed", {}, []), Silent())
    assert result["evaluation"] == expected["evaluation"]
    ours, theirs = (Checkpoint.load(tmp_path / name).weights for name in ("killed", "whole"))
    assert all(np.array_equal(ours[name], value) for name, value in theirs.items())


def test_public_interactions_end_at_the_cut(data: Path, tmp_path: Path) -> None:
    simulation = prepare(
        settings(data, "lab.split=temporal", f"lab.public={data}"), tmp_path / "run"
    )
    assert simulation.cuts is not None
    public = simulation.public
    assert public is not None
    earlier = [e for e in events_of(data) if e[2] * 10**6 < simulation.cuts.validation_from]
    assert public.events == len(earlier) < simulation.dataset.histories.events
    stored = pq.read_table(tmp_path / "run" / "catalogue" / PUBLIC)
    assert stored.num_rows == len(earlier)


def test_cold_items_and_a_cut_go_together(data: Path, tmp_path: Path) -> None:
    result = run(settings(data, "lab.split=temporal", "lab.cold=0.3"), tmp_path / "run")
    evaluation = result["evaluation"]
    assert evaluation["cold"]["users"] <= evaluation["time"]["unseen_targets"]


@pytest.mark.parametrize(
    ("assignments", "error", "message"),
    [
        (["lab.test_share=0.2"], ConfigError, r"lab\.test_share = 0\.2, but lab\.split = 'test'"),
        (
            ["lab.split=temporal", "lab.test_share=0.5", "lab.validation_share=0.5"],
            ConfigError,
            "nothing is left to train on",
        ),
        (["lab.split=temporal", "lab.test_share=1"], ConfigError, "choose a number in"),
        (
            ["lab.split=temporal", "lab.test_share=0.001", "lab.validation_share=0.001"],
            DataError,
            "With a cut in time, a user with events before and after it has one",
        ),
    ],
)
def test_a_cut_that_does_not_fit_is_refused_with_nothing_written(
    data: Path, tmp_path: Path, assignments: list[str], error: type[SottoError], message: str
) -> None:
    with pytest.raises(error, match=message):
        prepare(settings(data, *assignments), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_cut_takes_times_in_the_data_and_in_public_interactions(
    tiny_data: Path, data: Path, tmp_path: Path
) -> None:
    positions = write_data(tiny_data, tmp_path / "positions", time="position")
    with pytest.raises(DataError, match="have no times: a position orders the events of one user"):
        prepare(settings(positions, "lab.split=temporal"), tmp_path / "run")
    for public, message in (
        (positions, "has no times, so nothing says which of its events are before"),
        (write_data(tiny_data, tmp_path / "late", starts=(90, 91, 92)), "no user has two events"),
    ):
        with pytest.raises(ConfigError, match=message):
            prepare(settings(data, "lab.split=temporal", f"lab.public={public}"), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"lab\.split = 'temporal', which an audit cannot follow"):
        check_auditable(settings(data, "lab.split=temporal"), Adversary.HONEST)
    assert not (tmp_path / "run").exists()


def test_a_catalogue_made_of_public_interactions_is_refused(data: Path, tmp_path: Path) -> None:
    first = prepare(settings(data, f"lab.public={data}"), tmp_path / "first")
    catalogue = first.folder / "catalogue"
    prepare(settings(data, f"lab.catalogue={catalogue}"), tmp_path / "second")
    with pytest.raises(ConfigError, match="was made of public interactions, whose times"):
        prepare(
            settings(data, "lab.split=temporal", f"lab.catalogue={catalogue}"), tmp_path / "run"
        )


def test_an_organisation_whose_users_all_come_later_is_refused(
    tiny_data: Path, tmp_path: Path
) -> None:
    data = write_data(tiny_data, tmp_path / "data")
    rows = [f"u{user},{'late' if start >= 80 else 'early'}" for user, start in enumerate(STARTS)]
    (data / "users.csv").write_text("\n".join(["user_id,region", *rows]) + "\n")
    with pytest.raises(ConfigError, match="late has 0 users before the cut in time"):
        prepare(settings(data, "lab.split=temporal", "lab.partition=region"), tmp_path / "run")
