"""What the words of a query say of every item, by a model of the kind "query"."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from shared.data.catalogue import Catalogue
from shared.errors import RequestError
from shared.models.attention import AttentionRecommender
from shared.models.query import QueryRecommender
from shared.models.query_text import bag_of, index_of, words_of

__all__ = ["LONGEST_QUERY", "QueryWords"]

LONGEST_QUERY = 1000
"""Characters of a query."""


class QueryWords:
    """Reads queries; see `shared.models.query`.

    Args:
        model: in evaluation mode.
        catalogue: the items that it ranks.
    """

    def __init__(self, model: QueryRecommender, catalogue: Catalogue) -> None:
        self._model, self._index = model, index_of(catalogue)

    @classmethod
    def of(cls, model: AttentionRecommender, catalogue: Catalogue) -> QueryWords | None:
        """Return what reads queries for a model; None for one of a kind that reads none."""
        return cls(model, catalogue) if isinstance(model, QueryRecommender) else None

    @torch.no_grad()
    def __call__(self, text: str, attributes: Sequence[str] = ()) -> tuple[Tensor, float]:
        """Return what the words add to every item's score, [V], and the weight of the user's part.

        Args:
            text: the query.
            attributes: what the user has declared (`shared.data.queries`).

        Raises:
            RequestError: the query has no word, or is too long.
        """
        if len(text) > LONGEST_QUERY:
            raise RequestError(
                f"the query has {len(text):,} characters: send at most {LONGEST_QUERY:,}."
            )
        if not words_of(text):
            raise RequestError(f"the query {text!r} has no letter and no digit: name some words.")
        parts = (bag_of(text, attributes), self._index.scores(text))
        bag, match = (torch.from_numpy(part)[None, None].to(self._model.device) for part in parts)
        total, weight = self._model.evidence(bag, match)
        return total[0, 0].cpu(), float(weight)
