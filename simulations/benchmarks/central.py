"""What a kind of model reaches without privacy where all users are in one place.

    python -m simulations.benchmarks.central FOLDER [--kind lstm attention] [--epochs 4] [--users N]
        [--rates 1] [--decay] [--candidates 256] [--own-items 200] [--trained scores]

FOLDER holds public interactions (`simulations.datasets.load`); the last event of each user is the
test, the one before it validation, and neither is trained on. The first weights are those of the
warm start, from the exact statistics of the training events. AdamW then steps along the likelihood
of the next item among drawn candidates, in a window at a random place of each history; with
`--decay` its rates fall to 0 by a half cosine over all steps. Printed: NDCG@10, and recall (HR),
precision and F1 at 10, over the whole catalogue; of validation events after each epoch, of all
test events after the last.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from client.serving.published import scorer_of
from server.warm_start.denoise import Prior
from server.warm_start.warm_start import OwnItemsChoice, compute_first_weights
from shared.config import ModelConfig, ModelKind, PrivacyConfig, RunConfig, Trained, TrainingConfig
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.data.splits import HeldOut, leave_one_out
from shared.evaluation.ranking import rank_users
from shared.item_features.tfidf import text_features
from shared.models.attention import AttentionRecommender, trainable
from shared.models.gates import GATES
from shared.models.registry import build_recommender
from simulations.datasets.load import load

__all__ = ["Recipe", "first_model", "train_centrally"]

USERS = 64
RATES = {
    "feature_out.weight": 1e-5,
    "lstm_out.weight": 1e-4,
    "blocks.0.attention.query.weight": 1e-4,
    "blocks.0.attention.query.bias": 1e-4,
    "item_scores.offset": 1e-3,
    GATES: 1e-4,
}
RATE = 1e-3
"""Learning rates: one step of a map from a wide state to a wide vector moves every score."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained where all users are in one place.

    Attributes:
        epochs: passes over all users.
        rates: factor of `RATES` and `RATE`.
        decay: whether rates fall to 0 by a half cosine over all steps.
        candidates: drawn for each user in a step, uniformly.
        own_items: most popular items that get directions of their own in the first weights.
    """

    epochs: int = 4
    rates: float = 1.0
    decay: bool = False
    candidates: int = 256
    own_items: int = 200


def first_model(
    kind: ModelKind,
    train: Histories,
    catalogue: Catalogue,
    own_items: int = 200,
    trained: Trained | None = None,
) -> AttentionRecommender:
    """Return a model of a kind with the first weights that exact statistics give.

    Args:
        kind: of model.
        train: training events.
        catalogue: of their items, with features.
        own_items: as of a `Recipe`.
        trained: which weights are to be trained; None is "scores" for the kinds "attention" and
            "modalities", and "all" for others.
    """
    if trained is None:
        scores = (ModelKind.ATTENTION, ModelKind.MODALITIES)
        trained = Trained.SCORES if kind in scores else Trained.ALL
    run = RunConfig(
        privacy=PrivacyConfig(epsilon=None, delta=1e-5),
        model=ModelConfig(kind=kind, trained=trained),
        training=TrainingConfig(rounds=0),
    )
    choice = OwnItemsChoice(own_items, None, lambda _: None)
    first = compute_first_weights(None, run, catalogue, Prior(train), choice)
    model = build_recommender(replace(run.model, own_items=first.own_items), catalogue)
    with torch.no_grad():
        for name, weight in trainable(model).items():
            weight.copy_(torch.tensor(first.weights[name]))
    return model


def train_centrally(model: AttentionRecommender, train: Histories, recipe: Recipe) -> Iterator[int]:
    """Train a model, and yield the number of each epoch when it is done, in evaluation mode."""
    groups = [
        {"params": [weight], "lr": recipe.rates * RATES.get(name, RATE)}
        for name, weight in trainable(model).items()
    ]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.0)
    able = np.flatnonzero(train.lengths >= 2)
    steps = recipe.epochs * -(-len(able) // USERS)

    def factor(step: int) -> float:
        return (1 + math.cos(math.pi * step / steps)) / 2 if recipe.decay else 1.0

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    for epoch in range(1, recipe.epochs + 1):
        draw = np.random.default_rng(epoch)
        users = draw.permutation(able)
        model.train()
        for start in range(0, len(users), USERS):
            events = _windows(train, users[start : start + USERS], model.config.max_length, draw)
            size = len(events), recipe.candidates
            drawn = torch.from_numpy(draw.integers(1, model.config.items + 1, size))
            optimiser.zero_grad()
            model.losses(events, drawn).mean().backward()
            optimiser.step()
            schedule.step()
        model.train(mode=False)
        yield epoch


def _windows(
    train: Histories, users: npt.NDArray[np.int64], length: int, draw: np.random.Generator
) -> torch.Tensor:
    """Return a window at a random place of each history, right-padded: [B, T + 1]."""
    events = torch.zeros(len(users), length + 1, dtype=torch.int64)
    for row, user in zip(events, users, strict=True):
        history = train[user]
        first = int(draw.integers(0, max(0, len(history) - length - 1) + 1))
        part = history[first : first + length + 1]
        row[: len(part)] = torch.from_numpy(part)
    return events


def main() -> None:
    """Train each kind, and print what it reaches after each epoch."""
    options = _options()
    recipe = Recipe(**{field.name: getattr(options, field.name) for field in fields(Recipe)})
    torch.manual_seed(options.seed)
    dataset = load(options.folder)
    items = dataset.catalogue
    features = text_features(items, ModelConfig().feature_size)
    catalogue, held = replace(items, features=features), leave_one_out(dataset.histories)
    for kind in options.kind:
        model = first_model(kind, held.train, catalogue, recipe.own_items, options.trained)
        started = time.process_time()
        _print(f"{kind} epoch 0, validation", model, held.on_validation(), options.users)
        for epoch in train_centrally(model, held.train, recipe):
            name = f"{kind} epoch {epoch}, {time.process_time() - started:.0f} s, validation"
            _print(name, model, held.on_validation(), options.users)
        _print(f"{kind} at the end, test", model, held)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", nargs="+", type=ModelKind, default=list(ModelKind)[:2])
    parser.add_argument("--users", type=int, default=10**9, help="of validation, that are ranked")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trained", type=Trained, help="as model.trained")
    for field in fields(Recipe):
        name, default = "--" + field.name.replace("_", "-"), field.default
        if isinstance(default, bool):
            parser.add_argument(name, action="store_true")
        else:
            parser.add_argument(name, type=type(default), default=default)
    return parser.parse_args()


def _print(name: str, model: AttentionRecommender, held: HeldOut, users: int = 10**9) -> None:
    count = min(users, len(held.test_targets))
    rows = np.linspace(0, len(held.test_targets) - 1, count).astype(np.int64)
    found = rank_users(
        scorer_of(model),
        held.test_inputs.select(rows),
        held.test_targets[rows],
        items=model.config.items,
        window=model.config.max_length,
    ).metrics()
    sys.stdout.write(
        f"{name}: NDCG@10 {found.ndcg:.4f}, recall {found.recall:.4f}, "
        f"precision {found.precision:.4f}, F1 {found.f1:.4f}\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
