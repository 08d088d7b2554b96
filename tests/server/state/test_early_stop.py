from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from server.state.checkpoint import Checkpoint
from server.state.early_stop import after_metrics


def trained(values: list[float | None], patience: int) -> Checkpoint:
    """Return the checkpoint after rounds with these metrics, each with a noise of .1."""
    checkpoint = Checkpoint(run="r", round=0, config="", catalogue="", weights={})
    for number, value in enumerate(values, start=1):
        weights = {"w": np.full(1, number, np.float32)}
        metrics = {} if value is None else {"hr@5": 0.9, "ndcg@5": value, "noise": 0.1}
        checkpoint = replace(checkpoint, round=number, weights=weights)
        checkpoint = after_metrics(checkpoint, metrics, patience)
        if checkpoint.stopped:
            break
    return checkpoint


@pytest.mark.parametrize(
    ("values", "patience", "best", "stopped"),
    [
        ([0.3], 1, 1, None),
        ([0.3, 0.35], 1, 1, 2),  # above, and by less than the noise
        ([0.3, 0.41], 1, 2, None),
        ([0.3, 0.2, 0.45, 0.5, 0.5], 2, 3, 5),
        ([0.3, None, None, 0.3, None, 0.3], 2, 1, 6),
        ([None, None, None], 1, 0, None),
        ([0.5, 0.1, 0.1, 0.1], 0, 0, None),
        ([-0.2, -0.05], 1, 2, None),
    ],
)
def test_training_stops_when_metrics_do_not_rise_above_the_noise(
    values: list[float | None], patience: int, best: int, stopped: int | None
) -> None:
    last = trained(values, patience)
    assert last.stopped is (stopped is not None)
    assert last.round == (stopped or len(values))
    assert last.best_round == best
    published = best if stopped else last.round
    assert last.weights["w"].tolist() == [published]
