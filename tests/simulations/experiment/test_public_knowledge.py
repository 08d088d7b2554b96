"""Public interactions, from a folder to the federation that begins with them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from server.cli import main as server_main
from server.warm_start.public import read_public
from shared.data.catalogue import Catalogue
from shared.errors import ConfigError
from simulations.cli import main as lab_main
from simulations.datasets.load import load
from simulations.experiment.prepare import prepare
from simulations.experiment.public_knowledge import translate_histories
from simulations.experiment.simulate import simulate
from tests.simulations.experiment.test_simulate import Silent, settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def public_data(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    """Other users of the same items, and of one that is not there, in another order."""
    folder = tmp_path_factory.mktemp("public")
    items = (tiny_data / "items.csv").read_text().splitlines()
    (folder / "items.csv").write_text("\n".join([items[0], "x9,Elsewhere,Drama", *items[:0:-1]]))
    draw = np.random.default_rng(4)
    rows = ["user_id,item_id,timestamp"]
    for user in range(30):
        chosen = [f"i{(user + step) % 12}" for step in range(6)] + ["x9"]
        rows += [f"p{user},{item},{draw.integers(100) + 100 * n}" for n, item in enumerate(chosen)]
    (folder / "interactions.csv").write_text("\n".join(rows))
    return folder


def types(
    monkeypatch: pytest.MonkeyPatch, main: Callable[[], None], *command: object
) -> int | str | None:
    monkeypatch.setattr("sys.argv", ["sotto", *map(str, command)])
    with pytest.raises(SystemExit) as left:
        main()
    return left.value.code


def test_public_users_keep_the_items_that_both_know(public_data: Path, tiny_data: Path) -> None:
    ours, theirs = load(tiny_data).catalogue, load(public_data)
    found = translate_histories(theirs, ours)
    assert len(found) == 30
    for mine, original in zip(found, theirs.histories, strict=True):
        names = [theirs.catalogue.item_ids[item - 1] for item in original]
        assert [ours.item_ids[item - 1] for item in mine] == [n for n in names if n != "x9"]


def test_no_item_in_both_is_refused(public_data: Path, tiny_data: Path) -> None:
    theirs = load(public_data)
    ours = Catalogue(("a", "b"), ("A", "B"), ((), ()), (None, None))
    with pytest.raises(ConfigError, match="the ids must be the same in both"):
        translate_histories(theirs, ours)
    assert len(translate_histories(theirs, load(tiny_data).catalogue))


def test_a_simulation_begins_with_what_is_public(
    public_data: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """Nothing asked of anybody, and yet every item is not alike: the prior says so."""
    config = settings(
        tiny_data,
        f"lab.public={public_data}",
        "lab.alone=false",
        "warm_start.share=0",
        "training.rounds=1",
    )
    simulation = prepare(config, tmp_path / "run")
    result = simulate(simulation, Silent())
    kinds = {r["kind"] for o in result["privacy"]["organisations"] for r in o["releases"]}
    assert kinds == {"train"}
    stored = Catalogue.load(tmp_path / "run" / "catalogue")
    public = read_public(tmp_path / "run" / "catalogue", stored)
    assert public is not None
    assert stored.feature_size == config.model.feature_size


def test_the_command_makes_what_a_simulation_makes_itself_and_takes(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    public_data: Path,
    tiny_data: Path,
    tmp_path: Path,
) -> None:
    pretrained, text = tmp_path / "pretrained", tmp_path / "text"
    encode = ["items", "encode", "--words", "--data", tiny_data, "--size", 4, "--out", text]
    assert types(monkeypatch, lab_main, *encode) == 0
    capsys.readouterr()
    options = ["--catalogue", text, "--interactions", public_data / "interactions.csv"]
    options += ["--out", pretrained, "--size", 4]
    assert types(monkeypatch, server_main, "pretrain", *options, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["features"], record["public_users"]) == (4, 30)
    assert types(monkeypatch, server_main, "pretrain", *options) == 2
    assert "is not an empty folder" in capsys.readouterr().err

    small = "model.feature_size=4"
    own = settings(tiny_data, f"lab.catalogue={text}", f"lab.public={public_data}", small)
    taken = settings(tiny_data, f"lab.catalogue={pretrained}")
    for number, config in enumerate((own, taken)):
        simulation = prepare(config, tmp_path / f"run-{number}")
        assert simulation.public is not None
        assert simulation.dataset.catalogue.fingerprint == record["fingerprint"]


def test_the_former_command_of_the_lab_names_its_successor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked = ["pretrain", "--data", tmp_path, "--public", tmp_path, "--out", tmp_path / "new"]
    assert types(monkeypatch, lab_main, *asked) == 2
    error = capsys.readouterr().err
    assert "sotto-lab simulate --public" in error
    assert "sotto-server pretrain --catalogue TEXT" in error
