"""A model's scores as products of one query a history with one vector an item.

The score of item j is w_j · q + b_j: w_j is the item's vector (learned, public features, or both,
side by side), q the query that the model makes of a history, and b_j the item's offset. An own
direction is one number of one item: it is added to that item's score, and is no column of the
table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from client.serving.candidates import Columns, Floats
from client.serving.last_state import LastState
from shared.config import ItemRepresentation
from shared.models.attention import AttentionRecommender
from shared.models.item_scores import ItemScores

__all__ = ["ItemVectors", "Query"]

_MANY = 4
"""Histories from which on torch computes their states faster together."""


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """What a history makes of the items' vectors.

    Attributes:
        vector: float32 [F].
        own: float32 [O], what is added to the scores of the O items with own directions.
    """

    vector: Floats
    own: Floats


class ItemVectors:
    """The vectors, in the model's own memory where it has one table, and the queries.

    Args:
        model: on the CPU.
    """

    def __init__(self, model: AttentionRecommender) -> None:
        self._model, config = model, model.config
        kind = ItemRepresentation(config.item_representation)
        self._learned, self._described = kind.learns_ids, kind.uses_features
        self._features = config.feature_size
        tables: list[Tensor] = []
        own: tuple[int, ...] = ()
        if kind.learns_ids:
            tables.append(model.item.weight if config.tied else model.item_out.weight)
        if kind.uses_features:
            own, features = config.own_items, model.item_table()
            tables.append(features[:, : self._features])
            rows = torch.tensor(own, dtype=torch.int64) - 1
            scales = features[rows, self._features :].diagonal().numpy()
            # A direction without an item in this catalogue adds nothing.
            self._own_used = np.flatnonzero(scales)
            self._own_scales = scales[self._own_used]
            own = tuple(own[place] for place in self._own_used.tolist())
            self._feature_out = model.feature_out.weight.detach()
        table = tables[0] if len(tables) == 1 else torch.cat(tables, 1)
        self.table: Tensor = table.detach()  # [V, F]
        offset = model.item_scores.offset
        self.offsets = torch.zeros(config.items)
        if offset is not None:
            self.offsets = ItemScores.OFFSET_SCALE * offset.detach()[:, 0]
        self.own_columns = torch.tensor(own, dtype=torch.int64) - 1
        self._own_place = np.full(config.items if own else 0, -1, np.int32)
        self._own_place[self.own_columns.numpy()] = np.arange(len(own))
        self._state = LastState(model) if LastState.fits(model) else None
        self._table_rows, self._offset_rows = self.table.numpy(), self.offsets.numpy()

    @property
    def window(self) -> int:
        """Events of a history that the model reads."""
        return int(self._model.config.max_length)

    @staticmethod
    def numbers(model: AttentionRecommender) -> int:
        """Return V F, the numbers in the table of a model."""
        config, kind = model.config, ItemRepresentation(model.config.item_representation)
        width = config.feature_size * kind.uses_features + config.hidden_size * kind.learns_ids
        return int(config.items * width)

    @torch.inference_mode()
    def queries(self, rows: Tensor) -> list[Query]:
        """Return the queries of histories, int64 [B, T]."""
        if self._state is not None and len(rows) < _MANY:
            histories = rows.numpy()
            return [self._query(self._state(row[row > 0])) for row in histories]
        return [self._query(state) for state in self._model.last_states(rows).numpy()]

    def _query(self, state: Floats) -> Query:
        """Return the query of a state [D]."""
        if not self._described:
            return Query(state, state[:0])
        described: Floats = torch.mv(self._feature_out, torch.from_numpy(state)).numpy()
        vector, own = described[: self._features], described[self._features :]
        own = own[self._own_used]
        if self._learned:
            vector = np.concatenate([state, vector])
        return Query(vector, own * self._own_scales)

    def scores(
        self, queries: Sequence[Query], memory: Callable[[int], Tensor] | None = None
    ) -> Iterator[Tensor]:
        """Yield the scores of all items, float32 [V], of each history.

        Args:
            queries: of B histories.
            memory: returns float32 [B, V] that is written for a given B; None takes fresh memory.
        """
        vectors = torch.from_numpy(np.stack([query.vector for query in queries]))
        out = None if memory is None else memory(len(queries))
        with torch.inference_mode():
            products = torch.mm(vectors, self.table.T, out=out)
        for query, row in zip(queries, products, strict=True):
            with torch.inference_mode():  # one row at a time stays near the processor
                row.add_(self.offsets)
                if len(self.own_columns):
                    row[self.own_columns] += torch.from_numpy(query.own)
            yield row

    def at(self, query: Query, columns: Columns) -> Floats:
        """Return the scores of some items, float32 [C]."""
        vectors, vector = (
            torch.from_numpy(self._table_rows[columns]),
            torch.from_numpy(query.vector),
        )
        scores: Floats = torch.mv(vectors, vector).numpy() + self._offset_rows[columns]
        if len(self._own_place):
            place = self._own_place[columns]
            own = place >= 0
            scores[own] += query.own[place[own]]
        return scores
