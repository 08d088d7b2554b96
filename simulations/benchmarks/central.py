"""What a kind of model reaches without privacy where all users are in one place.

    python -m simulations.benchmarks.central FOLDER [--kind lstm attention] [--epochs 4] [--users N]

FOLDER holds public interactions (`simulations.datasets.load`); the last event of each user is the
test, the one before it validation, and neither is trained on. The first weights are those of the
warm start, from the exact statistics of the training events. AdamW then steps along the likelihood
of the next item among drawn candidates, in a window at a random place of each history. Printed
after each epoch: NDCG@10, and recall (HR), precision and F1 at 10, over the whole catalogue.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from client.serving.published import scorer_of
from server.warm_start.denoise import Prior
from server.warm_start.warm_start import OwnItemsChoice, compute_first_weights
from shared.config import ModelConfig, ModelKind, PrivacyConfig, RunConfig, Trained, TrainingConfig
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.data.splits import leave_one_out
from shared.evaluation.ranking import rank_users
from shared.item_features.tfidf import text_features
from shared.models.attention import AttentionRecommender, trainable
from shared.models.gates import GATES
from shared.models.registry import build_recommender
from simulations.datasets.load import load

__all__ = ["first_model", "train_centrally"]

OWN_ITEMS, CANDIDATES, USERS = 200, 256, 64
RATES = {
    "feature_out.weight": 1e-5,
    "lstm_out.weight": 1e-4,
    "item_scores.offset": 1e-3,
    GATES: 1e-4,
}
RATE = 1e-3
"""Learning rates: one step of a map from a wide state to a wide vector moves every score."""


def first_model(kind: ModelKind, train: Histories, catalogue: Catalogue) -> AttentionRecommender:
    """Return a model of a kind with the first weights that exact statistics give."""
    scores = (ModelKind.ATTENTION, ModelKind.MODALITIES)
    trained = Trained.SCORES if kind in scores else Trained.ALL
    run = RunConfig(
        privacy=PrivacyConfig(epsilon=None, delta=1e-5),
        model=ModelConfig(kind=kind, trained=trained),
        training=TrainingConfig(rounds=0),
    )
    choice = OwnItemsChoice(OWN_ITEMS, None, lambda _: None)
    first = compute_first_weights(None, run, catalogue, Prior(train), choice)
    model = build_recommender(replace(run.model, own_items=first.own_items), catalogue)
    with torch.no_grad():
        for name, weight in trainable(model).items():
            weight.copy_(torch.tensor(first.weights[name]))
    return model


def train_centrally(model: AttentionRecommender, train: Histories, random: int) -> None:
    """Take one epoch of steps."""
    draw, length = np.random.default_rng(random), model.config.max_length
    groups = [
        {"params": [weight], "lr": RATES.get(name, RATE)}
        for name, weight in trainable(model).items()
    ]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.0)
    model.train()
    users = draw.permutation(np.flatnonzero(train.lengths >= 2))
    for start in range(0, len(users), USERS):
        rows = users[start : start + USERS]
        events = torch.zeros(len(rows), length + 1, dtype=torch.int64)
        for row, user in zip(events, rows, strict=True):
            history = train[user]
            first = int(draw.integers(0, max(0, len(history) - length - 1) + 1))
            part = history[first : first + length + 1]
            row[: len(part)] = torch.from_numpy(part)
        drawn = draw.integers(1, model.config.items + 1, (len(rows), CANDIDATES))
        optimiser.zero_grad()
        model.losses(events, torch.from_numpy(drawn)).mean().backward()
        optimiser.step()
    model.train(mode=False)


def main() -> None:
    """Train each kind, and print what it reaches after each epoch."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", nargs="+", type=ModelKind, default=list(ModelKind)[:2])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--users", type=int, default=10**9, help="test users that are ranked")
    options = parser.parse_args()
    torch.manual_seed(0)
    dataset = load(options.folder)
    items = dataset.catalogue
    features = text_features(items, ModelConfig().feature_size)
    catalogue, held = replace(items, features=features), leave_one_out(dataset.histories)
    count = min(options.users, len(held.test_targets))
    rows = np.linspace(0, len(held.test_targets) - 1, count).astype(np.int64)
    inputs, targets = held.test_inputs.select(rows), held.test_targets[rows]
    for kind in options.kind:
        model, started = first_model(kind, held.train, catalogue), time.process_time()
        for epoch in range(options.epochs + 1):
            if epoch:
                train_centrally(model, held.train, epoch)
            found = rank_users(
                scorer_of(model), inputs, targets, items=len(items), window=model.config.max_length
            ).metrics()
            sys.stdout.write(
                f"{kind} epoch {epoch}: NDCG@10 {found.ndcg:.4f}, recall {found.recall:.4f}, "
                f"precision {found.precision:.4f}, F1 {found.f1:.4f}, "
                f"{time.process_time() - started:.0f} s of processor time\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
