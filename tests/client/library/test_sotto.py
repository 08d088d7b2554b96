"""The package `sotto`: what a partner's own code imports."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sotto
from client.home.home_model import Memory, TransitionCounts
from shared.data.catalogue import read_items
from shared.data.columns import ItemColumns
from shared.data.histories import Histories
from shared.models.attention import build
from tests.client.home.stored import save_counts
from tests.conftest import MODEL

ROOT = Path(__file__).parents[3]
MOVIES = ROOT / "simulations" / "data" / "ml-latest-small" / "movies.csv"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One that holds a published model of films, and an adapted one."""
    catalogue = read_items(MOVIES, ItemColumns(item="movieId"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        build(MODEL, catalogue).save_pretrained(tmp_path / "published" / "model")
    catalogue.save(tmp_path / "published" / "catalogue")
    watched = [["260", "1196", "1210"], ["50", "260", "1196"], ["260", "1196", "1210"]]
    own = Histories.from_lists([catalogue.find(films).tolist() for films in watched])
    (tmp_path / "site").mkdir()
    transitions = TransitionCounts.of(own, len(catalogue), Memory(3, 0.5))
    save_counts(tmp_path / "site" / "home.safetensors", transitions, 4.0, catalogue.fingerprint)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_all_that_it_names_is_there() -> None:
    assert {name for name in sotto.__all__ if getattr(sotto, name, None) is None} == set()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sotto.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_the_import_waits_for_nothing() -> None:
    code = "import sotto, sys; assert not {'torch', 'flwr', 'pyarrow'} & set(sys.modules)"
    where = [str(ROOT), str(ROOT / "client" / "library")]
    lines = f"import sys; sys.path[:0] = {where}; {code}"
    subprocess.run([sys.executable, "-c", lines], check=True, timeout=60)


def test_a_model_is_loaded_and_recommends(folder: Path) -> None:
    model = sotto.load("published", home=folder / "site" / "home.safetensors", verb="watched")
    first = model.recommend(["260", "1196"], k=1, explain=True)[0]
    assert first.title == "Star Wars: Episode VI - Return of the Jedi (1983)"
    assert first.explanation is not None
    assert "watched Star Wars: Episode V" in first.explanation.sentence
    lists = list(model.recommend_each([["260", "1196"], []], k=1))
    assert lists[0][0].item == first.item
    assert len(lists) == 2
    with pytest.raises(sotto.UnknownItemError):
        list(model.recommend_each([["260"], ["no such film"]]))
    with pytest.raises(sotto.DataError):
        sotto.load(folder)


def test_the_examples_of_the_readme_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(examples) == 3
    names: dict[str, object] = {}
    for example in examples:
        exec(compile(example, "README.md", "exec"), names)
    assert capsys.readouterr().out.count("because you watched ") > 0
    lists, alike = names["lists"], names["alike"]
    assert isinstance(lists, list)
    assert [len(one) for one in lists] == [20, 20, 20]
    assert isinstance(alike, list)
    assert len(alike) == 5
