"""The numbers of attempts: they grow, whatever happens."""

from __future__ import annotations

from pathlib import Path

import pytest

import server.state.attempts
from server.state.attempts import Attempts
from shared.errors import CheckpointError


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


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"run": "spring", "last": "many"}'])
def test_a_damaged_file_gives_no_number(tmp_path: Path, content: str) -> None:
    (tmp_path / "attempts.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"is damaged .* the last attempt of the audit log"):
        Attempts(tmp_path, "spring").begin()
