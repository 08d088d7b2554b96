"""What a run lacks is said before anything is written or charged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from shared.data.splits import leave_one_out
from shared.errors import ConfigError, DataError, SottoError
from simulations.experiment.prepare import prepare, reopen
from tests.simulations.conftest import ITEMS
from tests.simulations.experiment.test_simulate import run, settings


def write_data(source: Path, folder: Path, *events: int) -> Path:
    """Users with these numbers of events over the catalogue of `source`."""
    folder.mkdir()
    shutil.copy(source / "items.csv", folder)
    rows = ["user_id,item_id,timestamp"]
    for user, count in enumerate(events):
        rows += [f"u{user},i{(user + time) % ITEMS},{time}" for time in range(count)]
    (folder / "interactions.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.mark.parametrize(
    ("events", "assignments", "error", "message"),
    [
        ([2] * 12, [], DataError, "nothing to test: no user has a test event"),
        ([3] * 12, [], DataError, "nothing is left to train on at org-1: no user has 2 training"),
        ([4] * 12, ["server.evaluate_every=1"], DataError, "no user has 3 training events"),
        ([5] * 12, ["lab.organisations=12"], ConfigError, "org-01 has 1 user, of 12 in all"),
        ([5] * 12, ["lab.cold=0.99"], DataError, r"set lab\.cold lower"),
        ([5] * 12, ["lab.device=cuda:x"], ConfigError, r"lab\.device = 'cuda:x'"),
        ([5] * 12, ["server.malicious=1"], ConfigError, r"server\.malicious = 1"),
        (
            [5] * 12,
            ["server.aggregation=median", "server.malicious=1", "lab.alone=true"],
            ConfigError,
            r"set lab\.alone = false",
        ),
    ],
)
def test_what_a_run_lacks_is_refused_with_nothing_written(
    tiny_data: Path,
    tmp_path: Path,
    events: list[int],
    assignments: list[str],
    error: type[SottoError],
    message: str,
) -> None:
    data = write_data(tiny_data, tmp_path / "data", *events)
    with pytest.raises(error, match=message):
        prepare(settings(data, *assignments), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_same_command_works_once_the_data_are_mended(tiny_data: Path, tmp_path: Path) -> None:
    data = write_data(tiny_data, tmp_path / "data", *[3] * 12)
    with pytest.raises(DataError):
        prepare(settings(data), tmp_path / "run")
    shutil.rmtree(data)
    write_data(tiny_data, data, *[3] * 6, *[5] * 6)
    assert run(settings(data), tmp_path / "run")["evaluation"]["users"] == 12


def test_a_run_with_users_of_two_or_three_events_resumes(tiny_data: Path, tmp_path: Path) -> None:
    data = write_data(tiny_data, tmp_path / "data", 2, 3, *[5] * 12)
    prepared = prepare(settings(data), tmp_path / "run")
    assert sorted(leave_one_out(prepared.dataset.histories).train.lengths) == [1, 2] + [3] * 12
    reopened = reopen(tmp_path / "run", {}, [])
    assert reopened.split.train.users == prepared.split.train.users
