from __future__ import annotations

import numpy as np
import torch

from shared.data.histories import Histories
from shared.evaluation.ranking import rank_users
from simulations.benchmarks.text_alone import TextSequence, scorer_among, train_epoch


def test_states_know_what_was_before_and_learn_what_follows() -> None:
    torch.manual_seed(0)
    items, draw = 12, np.random.default_rng(0)
    model = TextSequence(torch.randn(items, 6), 8).eval()
    events = torch.randint(1, items + 1, (3, 5))
    changed = torch.cat([events[:, :4], events[:, 4:] % items + 1], dim=1)
    early = torch.arange(5).expand(3, 5) < 4
    first = model.scores(events, early)
    torch.testing.assert_close(model.scores(changed, early), first)
    walks = [[(start + step) % items + 1 for step in range(8)] for start in range(items)] * 4
    histories = Histories.from_lists(walks)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        train_epoch(model, optimiser, histories, draw)
    inputs, targets = histories.without_last(1), np.array([walk[-1] for walk in walks])
    ranks = rank_users(scorer_among(model, None), inputs, targets, items=items, window=7).ranks
    assert float((ranks == 1).double().mean()) > 0.9
    cold = np.array([2, 5, 9])
    of_cold = scorer_among(model, cold)(torch.tensor([[3, 4, 0]]))
    assert of_cold.isfinite().nonzero()[:, 1].tolist() == (cold - 1).tolist()
