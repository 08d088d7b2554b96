"""Why items have their scores: past events left out in turn, and the parts of the score.

What is said is defined in `client.serving.explanation`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.serving.block_scores import BlockScores
from client.serving.explanation import Explanation, PastEvent
from client.serving.probabilities import Probabilities, batches
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories

__all__ = ["Explainer", "ItemAttention"]

ItemAttention = Callable[[Tensor, Tensor], Tensor]
"""Of histories and K items, [B, T], [K]: attention to each event that is read, [B, K, S]."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Explainer:
    """Says why items have their scores after a history.

    Attributes:
        catalogue: the items.
        probabilities: their scores.
        window: last events of a history that decide the scores.
        reads: last events that the published model reads.
        attention: of the published model; None where it cannot be said.
        block_scores: what each modality brings; None for a model without gates.
        verb: what users do with items, in the past tense.
        query: what the user looks for, in words; "" for nothing.
    """

    catalogue: Catalogue
    probabilities: Probabilities
    window: int
    reads: int
    attention: ItemAttention | None
    block_scores: BlockScores | None
    verb: str
    query: str

    def explain(
        self,
        history: Sequence[int],
        items: NDArray[np.int64],
        places: Sequence[int] | None,
        user: str,
    ) -> list[Explanation]:
        """Return what `Recommender.explain` does, of the same arguments."""
        columns = torch.from_numpy(items - 1)  # [K]
        read = max(0, len(history) - self.window)  # the first event that is read
        positions = range(len(history)) if places is None else places
        of_friends, rest = self._of_friends(user, columns)
        with torch.inference_mode():
            parts = [rest * part for part in self._parts(history, columns)]
            total = sum(parts)
            without = rest * self._without_each(history, read, columns)  # [events, K]
            differences = (total - without).tolist()
            attention = self._attended(history, columns + 1)
            of_blocks = self.block_scores
            raised = [{}] * len(columns) if of_blocks is None else of_blocks(history, columns + 1)
        reasons = []
        for column, (home, popularity, federated) in enumerate(zip(*parts, strict=True)):
            events = tuple(
                PastEvent(
                    place=positions[read + number],
                    item=self.catalogue.item_ids[item - 1],
                    title=self.catalogue.titles[item - 1],
                    difference=differences[number][column],
                    attention=attention[column][read + number],
                )
                for number, item in enumerate(history[read:])
            )
            shares = float(home), float(popularity), float(federated)
            reason = Explanation(
                *(events, *shares, self.verb, of_friends[column], self.query, raised[column])
            )
            reasons.append(reason)
        return reasons

    def _of_friends(self, user: str, columns: Tensor) -> tuple[list[float], float]:
        """Return the part of a user's friends in K items, and the weight of all else."""
        home = self.probabilities.home
        friends = None if home is None else home.friends
        found = None if friends is None else friends.shares(user)
        if friends is None or found is None:
            return [0.0] * len(columns), 1.0
        share = dict(zip(found[0].tolist(), found[1].tolist(), strict=True))
        parts = [(1 - friends.alpha) * share.get(column, 0.0) for column in columns.tolist()]
        return parts, friends.alpha

    def _attended(self, history: Sequence[int], items: Tensor) -> list[list[float | None]]:
        """Return the attention to each event for each item; None for events that are not read."""
        unread = max(0, len(history) - self.reads)
        if self.attention is None or not history:
            return [[None] * len(history) for _ in items]
        weights = self.attention(torch.tensor([history[unread:]]), items)[0].tolist()
        return [[None] * unread + of_item for of_item in weights]

    def _without_each(self, history: Sequence[int], read: int, columns: Tensor) -> Tensor:
        """Return the scores after the history without each of its events from `read` on.

        An event that comes into the window when a later one leaves is read, as it would be if the
        removed one had never been.
        """
        kept = np.array(history[max(0, read - 1) :], np.int64)
        first = read - max(0, read - 1)
        events = len(kept) - first
        parts = [torch.zeros(0, len(columns), dtype=torch.float64)]
        for places in batches(events, len(self.catalogue)):
            lists = [np.delete(kept, first + place).tolist() for place in places]
            rows = Histories.from_lists(lists)
            longest = max(1, min(self.window, len(kept) - 1))
            parts.append(self.probabilities.of(rows.padded(np.arange(len(rows)), longest), columns))
        return torch.cat(parts)

    def _parts(self, history: Sequence[int], columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return home, popularity and federated part of K items, float64 [K] each."""
        own = list(history)[-self.window :] or [0]
        rows, empty = torch.tensor([own]), torch.zeros(1, 1, dtype=torch.int64)
        score, home = self.probabilities.of(rows, columns)[0], self.probabilities.home
        if home is None:
            popularity = self.probabilities.of(empty, columns)[0]
            return torch.zeros_like(score), popularity, score - popularity
        blend = home(rows)
        counts = home.blend(rows, torch.zeros_like(blend))[0, columns.to(blend.device)]
        of_home = (counts.double() / self.probabilities.totals(blend)[0]).cpu()
        after = home.prior(rows)[0, columns].double().cpu()
        before = home.prior(empty)[0, columns].double().cpu()
        of_prior = score - of_home
        # The prior's weight times its probability without events; the prior may round to 0.
        popularity = of_prior * before / after.clamp(min=torch.finfo(torch.float64).tiny)
        return of_home, popularity, of_prior - popularity
