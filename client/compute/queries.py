"""Queries of users as a training step reads them: before each, what was known; and what was chosen.

Of a user with more queries than a step reads, each step draws some, by the user's own random
stream: whoever else takes part, they are what they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.compute.batches import Shape
from shared.data.histories import Histories
from shared.data.queries import Queries
from shared.models.query import QUERIES
from shared.models.query_text import BUCKETS, WordIndex, bag_of
from shared.privacy.noise import user_bytes

__all__ = ["AskedBeside", "past_events"]

_DRAW = 2**40
"""Added to the number of a step: the stream of a draw is not that of candidates and masks."""


@dataclass(frozen=True, slots=True, eq=False)
class AskedBeside:
    """What the kind "query" reads beside histories; see `client.compute.batches.Beside`.

    Attributes:
        histories: the site's.
        queries: of these users.
        index: of the catalogue's words.
    """

    histories: Histories
    queries: Queries
    index: WordIndex

    def of(
        self, users: NDArray[np.int64], shape: Shape, key: bytes, step: int
    ) -> tuple[Tensor, ...]:
        """Return pasts [R, S, T], bags [R, S, W], matches [R, S, V] and choices [R, S]."""
        size = (shape.rows, QUERIES)
        pasts, chosen = np.zeros((*size, shape.length), np.int64), np.zeros(size, np.int64)
        bags = np.zeros((*size, BUCKETS), np.float32)
        matches = np.zeros((*size, shape.items), np.float32)
        for row, user in enumerate(users.tolist()):
            for place, number in enumerate(self._drawn(user, key, step)):
                text = self.queries.texts[number]
                past = past_events(self.histories, self.queries, user, number, shape.length)
                pasts[row, place, : len(past)] = past
                bags[row, place] = bag_of(text, self.queries.attributes[number])
                matches[row, place] = self.index.scores(text)
                chosen[row, place] = self.queries.items[number]
        return tuple(torch.from_numpy(part) for part in (pasts, bags, matches, chosen))

    def present(self, users: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of these users have a query."""
        return np.asarray(np.diff(self.queries.offsets)[users] > 0)

    def _drawn(self, user: int, key: bytes, step: int) -> list[int]:
        rows = self.queries.rows(user)
        if len(rows) > QUERIES:
            name = self.histories.users[user]
            words = user_bytes(key, name, _DRAW + step, 8 * len(rows))
            order = np.argsort(np.frombuffer(words, "<u8"), kind="stable")
            rows = np.sort(rows[order[:QUERIES]])
        return [int(number) for number in rows]


def past_events(
    histories: Histories, queries: Queries, user: int, number: int, length: int
) -> NDArray[np.int64]:
    """Return the last events before a query, oldest first, at most `length`.

    Args:
        histories: with the user.
        queries: with the query.
        user: row of the histories.
        number: of the query.
        length: T.
    """
    place = int(queries.places[number])
    return histories[user][max(0, place - length) : place]
