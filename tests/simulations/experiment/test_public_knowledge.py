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
from simulations.experiment.public_knowledge import translate_histories
from simulations.experiment.simulate import prepare, simulate
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


def test_both_commands_make_the_same_and_a_simulation_takes_it(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    public_data: Path,
    tiny_data: Path,
    tmp_path: Path,
) -> None:
    made, same, text = tmp_path / "made", tmp_path / "same", tmp_path / "text"
    encoded = ["items", "encode", "--words", "--data", tiny_data, "--size", 4, "--out", text]
    assert types(monkeypatch, lab_main, *encoded) == 0
    capsys.readouterr()
    given = ["--data", tiny_data, "--public", public_data, "--out", made, "--size", 4]
    given += ["--catalogue", text]
    assert types(monkeypatch, lab_main, "pretrain", *given, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["features"], record["public_users"]) == (4, 30)
    asked = ["--catalogue", text, "--interactions", public_data / "interactions.csv"]
    assert types(monkeypatch, server_main, "pretrain", *asked, "--out", same, "--size", 4) == 0
    assert Catalogue.load(same).fingerprint == record["fingerprint"]

    capsys.readouterr()
    assert types(monkeypatch, lab_main, "pretrain", *given) == 2
    assert "is not an empty folder" in capsys.readouterr().err
    config = settings(tiny_data, f"lab.catalogue={made}", "lab.alone=false")
    simulation = prepare(config, tmp_path / "run")
    assert simulation.public is not None
    assert simulation.dataset.catalogue.fingerprint == record["fingerprint"]
