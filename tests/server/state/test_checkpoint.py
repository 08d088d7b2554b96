from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from server.state.checkpoint import Checkpoint
from shared.errors import CheckpointError

SAVED = Checkpoint(
    run="r",
    round=3,
    config="c" * 64,
    catalogue="d" * 64,
    popularity_share=0.25,
    own_items=(2, 7),
    answers={"alpha": "a" * 64},
    weights={"z": np.arange(6, dtype=np.float32).reshape(2, 3), "a/b": np.ones(1, np.float32)},
    best_metric=0.25,
    best_weights={"z": np.zeros((2, 3), np.float32)},
    optimiser={"m/z": np.full((2, 3), 1e-300), "m/a/b": np.array([np.nan], np.float32)},
)

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)


def arrays(*kinds: type[np.generic]) -> st.SearchStrategy[dict[str, Any]]:
    kind = st.sampled_from(kinds)
    return st.dictionaries(names, kind.flatmap(lambda k: hnp.arrays(k, shapes)), max_size=3)


def same(left: Checkpoint, right: Checkpoint) -> bool:
    """Names, types, shapes and bits."""

    def bits(part: dict[str, Any]) -> dict[str, Any]:
        return {name: (v.dtype, v.shape, v.tobytes()) for name, v in part.items()}

    return (
        replace(left, weights={}, best_weights={}, optimiser={})
        == replace(right, weights={}, best_weights={}, optimiser={})
        and bits(left.weights) == bits(right.weights)
        and bits(left.best_weights) == bits(right.best_weights)
        and bits(left.optimiser) == bits(right.optimiser)
    )


def file(folder: Path) -> Path:
    (found,) = folder.iterdir()
    return found


# --- round trip --------------------------------------------------------------------------------


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    assert not Checkpoint.exists(folder)
    SAVED.save(folder)
    assert Checkpoint.exists(folder)
    assert same(Checkpoint.load(folder), SAVED)


@settings(max_examples=30, deadline=None)
@given(arrays(np.float32), arrays(np.float32, np.float64, np.int64))
def test_types_shapes_and_bits_are_kept(
    tmp_path_factory: pytest.TempPathFactory, weights: dict[str, Any], state: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("run")
    saved = replace(SAVED, weights=weights, optimiser=state)
    saved.save(folder)
    assert same(Checkpoint.load(folder), saved)


def test_any_memory_layout_is_kept(tmp_path: Path) -> None:
    turned = replace(SAVED, weights={"z": SAVED.weights["z"].T})
    turned.save(tmp_path)
    np.testing.assert_array_equal(Checkpoint.load(tmp_path).weights["z"], turned.weights["z"])


def test_the_last_one_stands(tmp_path: Path) -> None:
    SAVED.save(tmp_path)
    later = replace(SAVED, round=4, optimiser={})
    later.save(tmp_path)
    assert same(Checkpoint.load(tmp_path), later)
    assert len(list(tmp_path.iterdir())) == 1


# --- crashes -----------------------------------------------------------------------------------


def test_a_crash_before_the_file_is_replaced_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SAVED.save(tmp_path)
    later = replace(SAVED, round=4)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            later.save(tmp_path)
    assert same(Checkpoint.load(tmp_path), SAVED)
    later.save(tmp_path)
    assert same(Checkpoint.load(tmp_path), later)


def test_a_crash_of_the_first_save_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.state.checkpoint.save", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        SAVED.save(tmp_path)
    assert not Checkpoint.exists(tmp_path)


def test_the_file_is_on_disk_before_it_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    move = Path.replace

    def moved(self: Path, target: Path) -> Path:
        done.append("replace")
        return move(self, target)

    monkeypatch.setattr("os.fsync", lambda _: done.append("sync"))
    monkeypatch.setattr(Path, "replace", moved)
    SAVED.save(tmp_path)
    assert done == ["sync", "replace", "sync"]


# --- what is refused ---------------------------------------------------------------------------


def test_no_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no checkpoint: start the run without"):
        Checkpoint.load(tmp_path)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_cut_file_is_refused(tmp_path: Path, keep: int) -> None:
    SAVED.save(tmp_path)
    content = file(tmp_path).read_bytes()
    file(tmp_path).write_bytes(content[:keep])
    with pytest.raises(CheckpointError, match=r"is damaged \(.+\): put a copy of it back"):
        Checkpoint.load(tmp_path)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {},
        {"progress": "{"},
        {"progress": "[]"},
        {"progress": "{}"},
        {"progress": json.dumps({"run": "r", "round": 1, "config": "", "catalogue": "", "x": 1})},
    ],
    ids=["none", "empty", "no JSON", "a list", "nothing", "one too many"],
)
def test_a_file_without_progress_is_refused(
    tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    SAVED.save(tmp_path)
    save_file({"weight/a": np.ones(1, np.float32)}, file(tmp_path), metadata=metadata)
    with pytest.raises(CheckpointError, match="is damaged"):
        Checkpoint.load(tmp_path)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    SAVED.save(tmp_path)
    with file(tmp_path).open("wb") as opened:
        np.save(opened, np.array([None]), allow_pickle=True)
    with pytest.raises(CheckpointError, match="is damaged"):
        Checkpoint.load(tmp_path)


@pytest.mark.parametrize(
    ("config", "catalogue", "what"),
    [("x" * 64, "d" * 64, "configuration"), ("c" * 64, "x" * 64, "catalogue")],
)
def test_another_run_is_not_resumed(config: str, catalogue: str, what: str) -> None:
    with pytest.raises(
        CheckpointError,
        match=rf"another {what} \([cd]{{12}}, now x{{12}}\): resume with the same {what}, or start",
    ):
        SAVED.check(config=config, catalogue=catalogue)


def test_the_same_run_is_resumed() -> None:
    SAVED.check(config="c" * 64, catalogue="d" * 64)
