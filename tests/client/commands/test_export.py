"""The scorer as ONNX ranks as the model does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from client.serving.published import load_published
from shared.models.attention import build
from tests.conftest import DESCRIBED, ITEMS, MODEL, some_catalogue, some_histories

Command = Callable[..., int]


@pytest.mark.parametrize("shape", [MODEL, DESCRIBED], ids=["ids", "features"])
def test_the_exported_scorer_gives_the_same_top_ten(
    tmp_path: Path, sotto_node: Command, shape: object
) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="pip install 'sotto[onnx]'")
    pytest.importorskip("onnxscript", reason="pip install 'sotto[onnx]'")
    catalogue = some_catalogue()
    model = build(shape, catalogue)  # type: ignore[arg-type]  # one of the two
    with torch.no_grad():
        for weights in model.parameters():  # a fresh one scores all items alike
            weights.normal_(generator=torch.Generator().manual_seed(weights.numel()))
    model.save_pretrained(tmp_path / "model")
    catalogue.save(tmp_path / "catalogue")
    file = tmp_path / "scorer.onnx"
    assert sotto_node("export", tmp_path, "--onnx", file) == 0
    session = runtime.InferenceSession(str(file))
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["sotto.catalogue"] == catalogue.fingerprint
    _, loaded = load_published(tmp_path)
    for users in (1, 2, 30):
        rows = some_histories(users, seed=users).padded(range(users), 5)
        rows[0] = 0  # somebody without a history
        [scores] = session.run(None, {"histories": rows.numpy()})
        assert scores.shape == (users, ITEMS)
        expected = loaded.next_item_scores(rows).topk(10)
        best = torch.from_numpy(scores).topk(10)
        assert torch.equal(best.indices, expected.indices)
        torch.testing.assert_close(best.values, expected.values, rtol=1e-4, atol=1e-4)


def test_the_items_of_a_domain_are_exported_by_themselves(
    tmp_path: Path, sotto_node: Command
) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="pip install 'sotto[onnx]'")
    pytest.importorskip("onnxscript", reason="pip install 'sotto[onnx]'")
    catalogue = replace(some_catalogue(), domains=("films", "books") * (ITEMS // 2))
    build(DESCRIBED, catalogue).save_pretrained(tmp_path / "model")
    catalogue.save(tmp_path / "catalogue")
    file = tmp_path / "scorer.onnx"
    assert sotto_node("export", tmp_path, "--onnx", file, "--domain", "books") == 0
    rows = torch.tensor([[1, 2, 0, 0, 0]])
    [scores] = runtime.InferenceSession(str(file)).run(None, {"histories": rows.numpy()})
    _, books = load_published(tmp_path, domains=["books"])
    assert scores.shape == (1, ITEMS // 2)
    expected = books.next_item_scores(rows)
    torch.testing.assert_close(torch.from_numpy(scores), expected, rtol=1e-4, atol=1e-4)
    assert sotto_node("export", tmp_path, "--onnx", file, "--domain", "songs") == 2


def test_without_the_packages_it_is_said_what_to_install(
    tmp_path: Path,
    sotto_node: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert sotto_node("export", tmp_path, "--onnx", tmp_path / "a.onnx") == 2
    assert "sotto[onnx]" in capsys.readouterr().err
