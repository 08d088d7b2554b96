"""Home models in files, for tests of what reads them."""

from __future__ import annotations

from pathlib import Path

import torch

from client.home.friends_part import FriendsPart
from client.home.home_model import HomeModel, SoftmaxPrior, TransitionCounts
from client.home.store import save_home


def save_counts(
    file: Path,
    transitions: TransitionCounts,
    strength: float,
    catalogue: str,
    friends: FriendsPart | None = None,
) -> None:
    """Write counts whose prior is the federated model of whoever reads the file."""
    items = transitions.counts.shape[1]
    prior = SoftmaxPrior(lambda rows, /: torch.zeros(len(rows), items))
    save_home(file, HomeModel(transitions, prior, strength, friends), catalogue)
