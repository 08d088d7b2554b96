"""A sequence model over items' text alone, without privacy: a relative of the kind "text".

    python -m simulations.benchmarks.text_alone FOLDER CATALOGUE [--cold 0.05] [--seed 0]

After UniSRec (Hou et al. 2022, arXiv:2206.05941), in its inductive setting and without its
pre-training on other data: an item is what a mixture of `EXPERTS` parametric whitenings makes of
its frozen text features, a transformer reads the last `LENGTH` of them, and the next item is
ranked by the cosine with the state over `TEMPERATURE`. The loss is the softmax over the whole
catalogue. CATALOGUE is what `sotto-lab items encode` wrote of the items of FOLDER.

Each user's last event is the test and the one before it chooses the epoch. `--cold` takes items
out of training as `lab.cold` does, and with the same seed the same ones. Printed are the test
figures of the epoch that was best on validation events, among all items and of cold ones among the
cold items.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.data.splits import leave_one_out
from shared.evaluation.ranking import Scorer, rank_users
from shared.models.losses import next_item_pairs
from simulations.datasets.load import load
from simulations.experiment.cold import cold_items, without_items

__all__ = ["TextSequence"]

EXPERTS, LENGTH, TEMPERATURE, RATE, USERS = 4, 50, 0.07, 1e-3, 64


class TextSequence(nn.Module):
    """States of histories and vectors of items, both of length 1.

    Args:
        features: of the items, [V, F].
        width: of the transformer, D.
    """

    features: Tensor  # (V, F)

    def __init__(self, features: Tensor, width: int) -> None:
        super().__init__()
        self.register_buffer("features", features / features.std())
        size = features.shape[1]
        self.gate = nn.Linear(size, EXPERTS)
        self.shift = nn.Parameter(torch.zeros(EXPERTS, size))
        self.whiten = nn.Parameter(torch.randn(EXPERTS, size, width) / size**0.5)
        self.position = nn.Embedding(LENGTH, width)
        layer = nn.TransformerEncoderLayer(
            width, 2, 4 * width, dropout=0.2, activation="gelu", batch_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, 2)
        self.enter = nn.Sequential(nn.LayerNorm(width), nn.Dropout(0.2))

    def items(self) -> Tensor:
        """Return all items' vectors before they are scaled, [V, D]."""
        experts: Tensor = torch.einsum(
            "gvf,gfd->vgd", self.features - self.shift[:, None], self.whiten
        )
        shares: Tensor = self.gate(self.features).softmax(1)
        return (shares[..., None] * experts).sum(1)

    def scores(self, events: Tensor, asked: Tensor) -> Tensor:
        """Return logits after some events, [n, V]: ids, 0 on the right, and which, [B, T]."""
        items, length = self.items(), events.shape[1]
        x = self.enter(items[(events - 1).clamp(min=0)] + self.position.weight[:length])
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        states = F.normalize(self.blocks(x, mask=later)[asked], dim=1) / TEMPERATURE
        return torch.matmul(states, F.normalize(items, dim=1).T)


def train_epoch(
    model: TextSequence,
    optimiser: torch.optim.Optimizer,
    train: Histories,
    draw: np.random.Generator,
) -> None:
    """Take one step for each batch of users, over a window at a random place of each history."""
    model.train()
    users = draw.permutation(np.flatnonzero(train.lengths >= 2))
    for start in range(0, len(users), USERS):
        events = torch.zeros(min(USERS, len(users) - start), LENGTH + 1, dtype=torch.int64)
        for row, user in zip(events, users[start : start + USERS], strict=True):
            first = int(draw.integers(0, max(0, len(train[user]) - LENGTH - 1) + 1))
            part = train[user][first : first + LENGTH + 1]
            row[: len(part)] = torch.from_numpy(part)
        inputs, targets = next_item_pairs(events)
        real = targets > 0
        loss = F.cross_entropy(model.scores(inputs, real), targets[real] - 1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()


def scorer_among(model: TextSequence, cold: NDArray[np.int64] | None) -> Scorer:
    """Return what ranks all items; with `cold`, those items alone."""
    hidden = torch.full((len(model.features),), cold is not None)
    if cold is not None:
        hidden[torch.from_numpy(cold - 1)] = False

    @torch.inference_mode()
    def scores(histories: Tensor, /) -> Tensor:
        last = (histories > 0).sum(1, keepdim=True).clamp(min=1) - 1
        asked = torch.arange(histories.shape[1]) == last
        return model.scores(histories, asked).masked_fill(hidden, -torch.inf)

    return scores


def main() -> None:
    """Train, and print what each epoch and the best one reach."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("catalogue", type=Path)
    parser.add_argument("--cold", type=float, default=0.05)
    parser.add_argument("--size", type=int, default=256, help="features that are read")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    features = Catalogue.load(options.catalogue).features
    assert features is not None
    count, draw, started = len(features), np.random.default_rng(options.seed), time.process_time()
    cold, held = (
        cold_items(count, options.cold, options.seed),
        leave_one_out(load(options.folder).histories),
    )
    train = without_items(held, cold).train
    model = TextSequence(features[:, : options.size].float(), options.width)
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE)
    best, kept = 0.0, model
    for epoch in range(options.epochs):
        train_epoch(model, optimiser, train, draw)
        found = rank_users(
            scorer_among(model, None),
            held.validation_inputs,
            held.validation_targets,
            items=count,
            window=LENGTH,
        ).metrics()
        if found.ndcg > best:
            best, kept = found.ndcg, copy.deepcopy(model)
        sys.stdout.write(
            f"epoch {epoch + 1}: validation NDCG@10 {found.ndcg:.4f}, "
            f"{time.process_time() - started:.0f} s of processor time\n"
        )
        sys.stdout.flush()
    asked = np.isin(held.test_targets, cold)
    everybody = np.ones(len(asked), np.bool_)
    for name, among, users in (("all", None, everybody), ("cold among cold", cold, asked)):
        rows = np.flatnonzero(users)
        found = rank_users(
            scorer_among(kept, among),
            held.test_inputs.select(rows),
            held.test_targets[rows],
            items=count,
            window=LENGTH,
        ).metrics()
        sys.stdout.write(f"{name}: HR@10 {found.hr:.4f}, NDCG@10 {found.ndcg:.4f} of {len(rows)}\n")


if __name__ == "__main__":
    main()
