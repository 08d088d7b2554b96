"""An adapted model comes back from its file as it was."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from client.home.home_model import FixedPrior, HomeModel, Memory, SoftmaxPrior, TransitionCounts
from client.home.store import load_home, save_home
from shared.errors import DataError
from tests.client.home.test_home_model import ITEMS, histories, logits

ROWS = torch.tensor([[1, 2, 3], [4, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize("strength", [64.0, math.inf])
@pytest.mark.parametrize("shares", [None, torch.arange(1, ITEMS + 1) / 28])
def test_a_stored_model_scores_as_before(
    tmp_path: Path, strength: float, shares: torch.Tensor | None
) -> None:
    transitions = TransitionCounts.of(histories(1), ITEMS, Memory(6, 0.7))
    file = tmp_path / "home.safetensors"
    prior = SoftmaxPrior(logits) if shares is None else FixedPrior(shares)
    home = HomeModel(transitions, prior, strength)
    save_home(file, home, "c")
    assert file.stat().st_mode & 0o777 == 0o600
    torch.testing.assert_close(load_home(file, logits, "c")(ROWS), home(ROWS))


def test_other_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "home.safetensors"
    with pytest.raises(DataError, match="sotto-node adapt"):
        load_home(file, logits, "c")
    transitions = TransitionCounts.of(histories(1), ITEMS, Memory(1, 1.0))
    save_home(file, HomeModel(transitions, SoftmaxPrior(logits), 8.0), "c")
    with pytest.raises(DataError, match="another catalogue"):
        load_home(file, logits, "other")
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(DataError, match="not readable"):
        load_home(file, logits, "c")
