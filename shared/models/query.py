"""The kind "query": what a user looks for in words, ranked by the words and by the user.

Two towers in the form of Huang et al. 2013 (doi:10.1145/2505515.2505665), a softmax over the whole
catalogue, and the user as a third term. For a query of user u, with b the hashed bag of its words
and parts of words, and h_j the vector of item j, its public features and own direction or its
learned vector:

    z_q = A b,    z_j = B h_j,
    score of j = z_qᵀ z_j + g match(query, j) + w s_j(u).

`match` is BM25 over the catalogue's texts (`shared.models.query_text`), an approximate log-odds of
relevance; s_j(u), the score of a core of the kind "attention" after the user's events before the
query, is a log-probability of the item. Their sum with g = w = 1 is the logarithm of the product of
both, a product of experts (Hinton 2002, doi:10.1162/089976602760128018), and that is where the
model begins: B begins at 0. Trained on queries are A, B, g and w; not the core, which is trained on
next items, as the kind "attention" is. Without a query it is that core, exactly.

Letters: B users, S queries, T positions, V items, W buckets, E tower width, F an item's vector.

Per-user gradients: a user's loss is that of its history, and the mean over S of its queries. g and
w meet no user's data: a linear layer that is given a 1 for each user puts out a copy for each,
whose gradient is that user's.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shared.config import ModelConfig
from shared.data.catalogue import Catalogue
from shared.models.attention import AttentionRecommender, public_features
from shared.models.attention_config import LAYERS_ALIVE, AttentionConfig, extended
from shared.models.frozen import draw_frozen
from shared.models.item_scores import ItemScores
from shared.models.losses import loss_per_user
from shared.models.offsets import OFFSET_SCALE
from shared.models.query_text import BUCKETS

__all__ = [
    "QUERIES",
    "SHARES_SCALE",
    "QueryConfig",
    "QueryRecommender",
    "bare",
    "build",
    "from_pretrained",
    "shape_of_model",
]

QUERIES = 8
"""S, queries of a user that a training step reads."""
SHARES_SCALE = OFFSET_SCALE
"""Constant factor of g and w, for the reason that offsets have one: see `ItemScores`."""
_ALIVE = 6
"""How many numbers a query's score of an item is kept in, until a pass is done."""
_STATES_KEPT = 4
"""The same of a hidden state of the core."""


@dataclass(frozen=True, kw_only=True)
class QueryConfig(AttentionConfig):
    """Shape of a `QueryRecommender`; saved beside its weights.

    Attributes:
        query_size: width E of the towers.
    """

    query_size: int = 32

    def pass_numbers(self, candidates: int, length: int | None = None) -> int:
        """Return about how many numbers one user's training pass keeps; as of the base.

        Queries are ranked among the whole catalogue, whatever the candidates.
        """
        places = self.max_length if length is None else length
        # The core's pass of a query is over before that of the next one begins.
        core = places * (LAYERS_ALIVE * self.hidden_size + 4 * self.layers * self.heads * places)
        towers = _ALIVE * (self.items + self.query_size + self.vector_size) + 2 * BUCKETS
        kept = _STATES_KEPT * places * self.hidden_size
        return super().pass_numbers(candidates, length) + core + QUERIES * (towers + kept)

    def mask_numbers(self) -> int:
        """Return how many numbers of one user's are masked: of its history, and of each query."""
        return (1 + QUERIES) * super().mask_numbers()

    def weight_numbers(self) -> int:
        """Return about how many numbers the weights and the items' tables have."""
        return super().weight_numbers() + self.query_size * (BUCKETS + self.vector_size) + 2


class QueryRecommender(AttentionRecommender):
    """Scores of items for a user's query, and next-item scores where there is none.

    Args:
        config: the model's shape.
        features: as of an `AttentionRecommender`.
    """

    config: QueryConfig
    model_type = "sotto-query"
    shape = QueryConfig
    beside_is_optional = True

    def __init__(self, config: QueryConfig, features: Tensor | None = None) -> None:
        super().__init__(config, features)
        self.query_in = nn.Linear(BUCKETS, config.query_size, bias=False)  # A
        self.query_out = nn.Linear(config.query_size, config.vector_size, bias=False)  # B
        self.query_shares = nn.Linear(1, 2, bias=False)  # g and w, see the module's top
        self.query_products = ItemScores(config.items, offset=False)
        nn.init.normal_(self.query_in.weight, std=config.query_size**-0.5)
        nn.init.zeros_(self.query_out.weight)
        nn.init.constant_(self.query_shares.weight, 1 / SHARES_SCALE)

    def losses(self, events: Tensor, candidates: Tensor, *beside: Tensor) -> Tensor:
        """Return each user's loss: of its history, and the mean over its queries.

        Args:
            events: as of an `AttentionRecommender`; so are the candidates.
            candidates: for what follows each event; queries are ranked among the whole catalogue.
            *beside: of each query the events before it, int64 [B, S, T]; its bag, [B, S, W]; its
                matches, [B, S, V]; and the item that was chosen, 0 where there is no query, int64
                [B, S]. Without them the loss is that of the history.

        Returns:
            [B].
        """
        of_history = super().losses(events, candidates)
        if not beside:
            return of_history
        pasts, bags, matches, chosen = beside
        scores = self.among_selected(self.query_scores(pasts, bags, matches))
        return of_history + loss_per_user(scores, chosen)

    def query_scores(self, pasts: Tensor, bags: Tensor, matches: Tensor) -> Tensor:
        """Score every item for every query of every user.

        Args:
            pasts: the events before each query, right-padded with 0, int64 [B, S, T].
            bags: hashed words of each query, [B, S, W].
            matches: what BM25 says of each item, [B, S, V].

        Returns:
            Logits [B, S, V].
        """
        # One query after the other: the core's layers see users on their first axis. Its scores
        # take no gradient, and are computed as those of its training, by the same kernels.
        core = [
            self.score(self.last_states(pasts[:, place])[:, None].detach()).detach()
            for place in range(pasts.shape[1])
        ]
        evidence, weight = self.evidence(bags, matches)
        return evidence + weight * torch.cat(core, dim=1)

    def evidence(self, bags: Tensor, matches: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the words alone say of each item, [B, S, V], and the user's weight w.

        Args:
            bags: hashed words of each query, [B, S, W].
            matches: what BM25 says of each item, [B, S, V].

        Returns:
            The words' part of the logits; and w, a copy for each user, [B, 1, 1].
        """
        bags, matches = bags.to(self.dtype), matches.to(self.dtype)
        shares = SHARES_SCALE * self.query_shares(bags.new_ones(len(bags), 1, 1))
        gain, weight = shares.split(1, dim=2)
        described = self.query_out(self.query_in(bags))  # (B, S, F)
        return self.query_products(described, self.item_vectors()) + gain * matches, weight

    def invented_beside(self, rows: int, length: int, seed: int) -> tuple[Tensor, ...]:
        """Return queries of so many invented users, the same in every call."""
        draw = torch.Generator().manual_seed(seed)
        items = self.config.items

        def integers(*shape: int) -> Tensor:
            return torch.randint(1, items + 1, (rows, *shape), generator=draw)

        bags = torch.rand(rows, QUERIES, BUCKETS, generator=draw) * (2 / BUCKETS) ** 0.5
        matches = 5 * torch.rand(rows, QUERIES, items, generator=draw)
        drawn = (integers(QUERIES, length), bags, matches, integers(QUERIES))
        return tuple(part.to(self.device) for part in drawn)


def shape_of_model(model: ModelConfig, items: int) -> QueryConfig:
    """Return the shape that the settings give over a catalogue of so many items."""
    return extended(QueryConfig, model, items, query_size=model.query_size)


def build(model: ModelConfig, catalogue: Catalogue) -> QueryRecommender:
    """Build a recommender over a catalogue; as `shared.models.attention.build`.

    Raises:
        ConfigError: the catalogue does not have the features that the model reads.
    """
    features = public_features(model, catalogue) if model.items.uses_features else None
    recommender = QueryRecommender(shape_of_model(model, len(catalogue)), features)
    draw_frozen(recommender)
    return recommender


def bare(model: ModelConfig, items: int) -> QueryRecommender:
    """Return a recommender of this shape, untrained and without public features."""
    return QueryRecommender(shape_of_model(model, items))


def from_pretrained(folder: str | os.PathLike[str]) -> QueryRecommender:
    """Load a saved recommender; see `AttentionRecommender.from_pretrained`."""
    return QueryRecommender.from_pretrained(folder)
