"""The smoothed scorer: deterministic, local in what one event changes, and steadier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from client.serving.smoothed import Smoothed, load_recommender, thinned
from shared.errors import ConfigError
from shared.models.attention import build
from tests.conftest import MODEL, some_catalogue

ITEMS = 20


def follows_the_last(rows: Tensor, /) -> Tensor:
    """Logits that the last event decides alone: what an attacker of one event hopes for."""
    last = rows.gather(1, (rows > 0).sum(1, keepdim=True).sub(1).clamp(min=0))
    items = torch.arange(ITEMS)
    return -((items - last) % ITEMS).float().expand(len(rows), ITEMS)


def test_thinning_deletes_at_the_stated_rate_and_only_where_an_event_was() -> None:
    history = np.array([*range(1, 31), 0, 0], np.int64)
    rows = thinned(history, 400, 0.3)
    assert rows.shape == (400, 32)
    for row in rows:
        kept = row[row > 0]
        assert (row[len(kept) :] == 0).all()
        assert (np.diff(kept) > 0).all()  # in their order
    assert abs((rows > 0).mean() * 32 / 30 - 0.7) < 0.02
    other = history.copy()
    other[10] = 99
    changed = thinned(other, 400, 0.3)
    without = ~((rows == 11).any(1) | (changed == 99).any(1))
    assert 0 < without.sum() < 400
    assert (rows[without] == changed[without]).all()


def test_scores_are_the_log_of_mean_probabilities_and_the_same_always() -> None:
    histories = torch.tensor([[1, 2, 3], [4, 0, 0], [0, 0, 0]])
    smooth = Smoothed(follows_the_last, logits=True, samples=50)
    scores = smooth(histories)
    assert (scores == smooth(histories)).all()
    assert torch.logsumexp(scores, 1).tolist() == pytest.approx([0.0] * 3, abs=1e-5)
    rows = torch.from_numpy(thinned(histories[0].numpy(), 50, smooth.deleted))
    mean = follows_the_last(rows).double().softmax(1).mean(0)
    assert scores[0].double().exp().tolist() == pytest.approx(mean.tolist(), rel=1e-4)
    weights = Smoothed(lambda rows: follows_the_last(rows).exp(), logits=False, samples=50)
    assert weights(histories)[0].tolist() == pytest.approx(scores[0].tolist(), abs=1e-4)


def test_one_replaced_event_flips_less_of_a_smoothed_list() -> None:
    history, changed = torch.tensor([[1, 2, 3, 4, 5]]), torch.tensor([[1, 2, 3, 4, 15]])

    def kept(scorer: object) -> int:
        before, after = (
            scorer(rows).topk(5).indices[0].tolist()  # type: ignore[operator]
            for rows in (history, changed)
        )
        return len(set(before) & set(after))

    assert kept(follows_the_last) == 0
    assert kept(Smoothed(follows_the_last, logits=True, samples=200, deleted=0.5)) >= 2


def test_a_recommender_is_smoothed_only_where_asked(tmp_path: Path) -> None:
    some_catalogue().save(tmp_path / "catalogue")
    build(MODEL, some_catalogue()).save_pretrained(tmp_path / "model")
    plain = load_recommender(tmp_path, samples=0).recommend(["i1", "i2", "i3"], k=5)
    smooth = load_recommender(tmp_path, samples=20)
    listed = smooth.recommend(["i1", "i2", "i3"], k=5)
    assert listed == smooth.recommend(["i1", "i2", "i3"], k=5)
    assert [one.score for one in listed] != [one.score for one in plain]
    assert all(0 < one.score < 1 for one in listed)
    with pytest.raises(ConfigError, match="thinned histories"):
        load_recommender(tmp_path, samples=-1)
