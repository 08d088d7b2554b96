"""Public item features from what is known of items: TransE over a table of relations.

TransE (Bordes et al. 2013, "Translating embeddings for modeling multi-relational data") gives each
entity a vector of length 1 and each relation a translation, such that h + r lies near t for the
triples that are known, and nearer than for one whose head or tail was replaced:

    loss = Σ max(0, 1 + |h + r - t| - |h' + r - t'|).

Items with alike neighbours have alike vectors. It depends on public data only and costs no privacy.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from shared.data.relations import Relations

__all__ = ["EPOCHS", "WIDTH", "relation_vectors"]

WIDTH = 64
"""Width of the embedding, at most."""
EPOCHS = 100
"""Passes over all triples, each with another replacement."""
MARGIN, RATE, SEED = 1.0, 0.1, 0


def relation_vectors(
    relations: Relations,
    items: int,
    size: int = WIDTH,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float64]:
    """Return one vector per item, from its place among all entities.

    Args:
        relations: what is known.
        items: V, how many entities are items.
        size: features that are wanted; the embedding is as wide, and at most `WIDTH`.
        progress: called with the numbers of passes done and in total.

    Returns:
        float64 [V, min(size, WIDTH)], rows of length 1; zeros for an item that no triple names.
    """
    width = min(size, WIDTH)
    draw = torch.Generator().manual_seed(SEED)
    triples = torch.from_numpy(relations.triples)
    entities = _drawn(draw, relations.entities, width).requires_grad_()
    moves = F.normalize(_drawn(draw, len(relations.names), width)).requires_grad_()
    optimiser = torch.optim.Adagrad([entities, moves], lr=RATE)
    for epoch in range(1, EPOCHS + 1):
        optimiser.zero_grad()
        wrong = _replaced(triples, relations.entities, draw)
        right, other = (_distances(entities, moves, given) for given in (triples, wrong))
        F.relu(MARGIN + right - other).sum().backward()
        optimiser.step()
        with torch.no_grad():
            entities.copy_(F.normalize(entities))
        if progress is not None:
            progress(epoch, EPOCHS)
    vectors = entities.detach()[:items].double().numpy()
    named = np.zeros(relations.entities, bool)
    named[relations.triples[:, [0, 2]]] = True
    return np.asarray(vectors * named[:items, None])


def _drawn(draw: torch.Generator, rows: int, width: int) -> Tensor:
    return F.normalize(torch.rand(rows, width, generator=draw) - 0.5)


def _replaced(triples: Tensor, entities: int, draw: torch.Generator) -> Tensor:
    """Return triples with another entity in the place of head or tail, by a fair coin each."""
    other = torch.randint(entities, (len(triples),), generator=draw)
    heads = torch.rand(len(triples), generator=draw) < 0.5
    wrong = triples.clone()
    wrong[heads, 0], wrong[~heads, 2] = other[heads], other[~heads]
    return wrong


def _distances(entities: Tensor, moves: Tensor, triples: Tensor) -> Tensor:
    head, relation, tail = triples.unbind(1)
    distances: Tensor = (entities[head] + moves[relation] - entities[tail]).norm(dim=1)
    return distances
