"""The scale of items' offsets, apart from the model: who reads them from a file needs no torch."""

from __future__ import annotations

__all__ = ["OFFSET_SCALE"]

OFFSET_SCALE = 32.0
"""Constant factor of every item's offset, see `shared.models.item_scores.ItemScores`."""
