"""The numbers of attempts grow, whatever happens, and what they may have cost is not forgotten."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import server.state.attempts
from server.state.attempts import Attempts
from shared.errors import CheckpointError
from shared.privacy.release import Release, ReleaseKind

TRAIN = Release(kind=ReleaseKind.TRAIN, noise_multiplier=0.7, sample_rate=0.1, steps=1).with_shares(
    5
)
STATISTICS = Release(
    kind=ReleaseKind.STATISTICS, noise_multiplier=2.0, sample_rate=1.0, steps=1
).with_shares(5)


def test_a_number_is_never_given_twice_within_a_run(tmp_path: Path) -> None:
    first = Attempts(tmp_path / "out", "spring")
    assert [first.begin(), first.begin()] == [1, 2]
    again = Attempts(tmp_path / "out", "spring")  # after a restart
    assert [again.begin(), first.begin(), again.begin()] == [3, 4, 5]
    assert Attempts(tmp_path / "out", "autumn").begin() == 1


def test_a_number_is_on_disk_before_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    attempts = Attempts(tmp_path, "spring")
    attempts.begin()
    with monkeypatch.context() as patched:
        patched.setattr(server.state.attempts, "write_atomically", full)
        with pytest.raises(CheckpointError, match=r"attempts\.json cannot be written \(No space"):
            attempts.begin()
    assert attempts.begin() == 2


@pytest.mark.parametrize(
    "content",
    [
        *("", "{}", "[]", '{"run": "spring", "last": "many"}'),
        '{"run": "spring", "last": 1, "charges": []}',
        '{"run": "spring", "last": 1, "charges": {"alpha": {"releases": [{"kind": "dance"}]}}}',
    ],
)
def test_a_damaged_file_gives_no_number(tmp_path: Path, content: str) -> None:
    (tmp_path / "attempts.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"is damaged .* the last attempt of the audit log"):
        Attempts(tmp_path, "spring").begin()


def test_what_was_asked_for_counts_until_it_is_known_not_to_be_charged(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path, "spring")
    attempts.begin()
    attempts.ask(STATISTICS, ["alpha", "beta"])
    attempts.settle(STATISTICS, {"alpha": True})
    for _ in range(3):
        Attempts(tmp_path, "spring").ask(TRAIN, ["alpha", "beta"])
    attempts.settle(TRAIN, {"alpha": True, "beta": False})
    again = Attempts(tmp_path, "spring")  # after a restart
    assert again.last == 1
    charges = again.charges
    assert charges["alpha"].releases == (STATISTICS, replace(TRAIN, steps=3))
    assert (charges["alpha"].sums, charges["alpha"].unsure) == (4, 2)
    assert charges["beta"].releases == (STATISTICS, replace(TRAIN, steps=2))
    assert (charges["beta"].sums, charges["beta"].unsure) == (3, 3)
    again.settle(STATISTICS, {"beta": False})
    assert again.charges["beta"].releases == (replace(TRAIN, steps=2),)
    assert Attempts(tmp_path, "autumn").charges == {}


def test_whom_a_step_is_sent_to_is_on_disk_before_it_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    attempts = Attempts(tmp_path, "spring")
    monkeypatch.setattr(server.state.attempts, "write_atomically", full)
    with pytest.raises(CheckpointError, match=r"attempts\.json cannot be written \(No space"):
        attempts.ask(TRAIN, ["alpha"])
