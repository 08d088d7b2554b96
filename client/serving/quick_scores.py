"""The highest scores of one history over a large catalogue, from a table of bytes.

One history is scored at the speed of memory: float32 item vectors of V = 100,000 items are 26 to
182 MB. Here each vector is kept as whole numbers of 8 bits and one scale as well. They give
approximate scores of all items, and the highest `CANDIDATES` of these are computed again in
float32. With w an item's vector, ŵ its kept form, q the query and q̂ its bfloat16 form, an
approximate score differs from the exact one by at most

    |w·q - ŵ·q̂| <= ||w - ŵ|| ||q|| + ||ŵ|| ||q - q̂||                     (Cauchy-Schwarz)

plus 2^-7 of its own size for the rounding to bfloat16. So no item that was not computed again can
exceed the lowest approximate score of those that were by more than this: the items above are the
highest of all, in their exact order. `certified` counts them. Whoever needs more takes the model.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from shared.config import ItemRepresentation
from shared.models.attention import AttentionRecommender, ItemScores

__all__ = ["CANDIDATES", "FEWEST_NUMBERS", "QuickScores"]

CANDIDATES = 1024
"""Items whose scores are exact."""
FEWEST_NUMBERS = 2**24
"""Numbers in the item table, V F: a smaller one is read as fast as it is, 64 MB."""
_ROUNDING = 2.0**-7
_LARGEST = 127
_ROWS = 65_536


class QuickScores:
    """Scores of one history; several threads may use one.

    Args:
        model: on the CPU.
    """

    def __init__(self, model: AttentionRecommender) -> None:
        self._model, self._local = model, threading.local()
        config = model.config
        kind = ItemRepresentation(config.item_representation)
        tables = []
        if kind.learns_ids:
            tables.append(model.item.weight if config.tied else model.item_out.weight)
        # An own direction is one number of one item: it is added, and not a column here.
        self._own = torch.tensor(config.own_items if kind.uses_features else (), dtype=torch.int64)
        self._own_from = 0
        if kind.uses_features:
            self._own_from = config.feature_size
            tables.append(model.features.table[:, : config.feature_size])
            self._own_scales = model.features.table[self._own - 1, self._own_from :].diagonal()
        self._tables = [table.detach() for table in tables]
        offset = model.item_scores.offset
        self._offset = (
            torch.zeros(config.items)
            if offset is None
            else ItemScores.OFFSET_SCALE * offset.detach()[:, 0]
        )
        self._bytes, self._scales, self._error, self._norm = _quantised(self._tables)

    @staticmethod
    def fits(model: AttentionRecommender) -> bool:
        """Return whether this is faster than the model, and possible."""
        config, kind = model.config, ItemRepresentation(model.config.item_representation)
        width = config.feature_size * kind.uses_features + config.hidden_size * kind.learns_ids
        there = hasattr(torch, "_weight_int8pack_mm") and model.device.type == "cpu"
        return there and config.items * width >= FEWEST_NUMBERS

    @property
    def certified(self) -> int:
        """How many of this thread's last scores are exact and the highest of all, in their order.

        More than there are items where it was not asked for scores.
        """
        return int(getattr(self._local, "certified", 2**62))

    def forget(self) -> None:
        """Forget this thread's last scores."""
        self._local.certified = 2**62

    @torch.inference_mode()
    def __call__(self, rows: Tensor, /) -> Tensor:
        """Score a history, int64 [1, T], as float32 [1, V]; see `certified`."""
        query, own = self._query(rows)  # [F], [own]
        rounded = query.bfloat16()
        scores: Tensor = torch._weight_int8pack_mm(rounded[None], self._bytes, self._scales)
        rough = scores[0].float()  # [V]
        slack = float(
            self._error * query.norm()
            + self._norm * (query - rounded.float()).norm()
            + _ROUNDING * rough.abs().max()
        )
        rough += self._offset
        if len(self._own):
            rough[self._own - 1] += own
        lowest, columns = rough.topk(min(CANDIDATES, len(rough)))
        exact = torch.cat([table[columns] for table in self._tables], 1) @ query
        exact += self._offset[columns]
        if len(self._own):
            extra = torch.zeros_like(rough).index_add_(0, self._own - 1, own)
            exact += extra[columns]
        rough[columns] = exact
        self._local.certified = int((exact > lowest[-1] + slack).sum())
        return rough[None]

    def _query(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vector that items are multiplied with, and what own directions add."""
        model = self._model
        state = model.last_states(rows)[0]  # [D]
        kind = ItemRepresentation(model.config.item_representation)
        parts, own = [state] if kind.learns_ids else [], state.new_zeros(0)
        if kind.uses_features:
            described = model.feature_out(state)
            parts.append(described[: self._own_from])
            own = described[self._own_from :] * self._own_scales
        return torch.cat(parts), own


def _quantised(tables: list[Tensor]) -> tuple[Tensor, Tensor, float, float]:
    """Return item vectors in 8 bits [V, F], scales [V], the largest error and the largest norm."""
    items, size = len(tables[0]), sum(table.shape[1] for table in tables)
    numbers = torch.empty(items, size, dtype=torch.int8)
    scales = torch.empty(items, dtype=torch.bfloat16)
    error = norm = 0.0
    for start in range(0, items, _ROWS):
        part = slice(start, start + _ROWS)
        rows = torch.cat([table[part] for table in tables], 1)
        scale = (rows.abs().amax(1) / _LARGEST).clamp(min=2.0**-60).bfloat16()
        whole = (rows / scale.float()[:, None]).round().clamp(-_LARGEST, _LARGEST)
        kept = whole * scale.float()[:, None]
        numbers[part], scales[part] = whole.to(torch.int8), scale
        error = max(error, float((rows - kept).norm(dim=1).max()))
        norm = max(norm, float(kept.norm(dim=1).max()))
    return numbers, scales, error, norm
