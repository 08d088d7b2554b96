"""Histories cropped, masked or reordered anew in each training pass, inside one user's loss.

The three operations of CL4SRec (Xie et al. 2022, arXiv:2010.14395). In each pass a user gets one of
them, each with the same chance. Of its n events, m = `share` n rounded are concerned:

| operation | what happens                                             |
|-----------|----------------------------------------------------------|
| crop      | n - m events one after the other are left, from any one  |
| mask      | m events are hidden: neither read nor to be predicted    |
| reorder   | m events one after the other change places               |

It costs no privacy: what a user adds is the gradient of one loss of its own events and of random
numbers of its own, and is clipped as a whole, whatever happened to the events before.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shared.models.dropout import Dropout

__all__ = ["Augmentation"]

_OWN = 2
"""Random numbers of a pass beside one for each event: which operation, and where."""


class Augmentation(Dropout):
    """Crops, masks or reorders histories in training; by given numbers where masks are given.

    Args:
        share: of a history's events, in [0, 1); 0 leaves all as they are.
    """

    @staticmethod
    def numbers(length: int) -> int:
        """Return how many random numbers a pass over so many events takes of each user."""
        return _OWN + length

    def forward(self, events: Tensor) -> Tensor:
        """Return histories of the same shape, right-padded with 0: int64 [B, T + 1]."""
        if not self.training or self.rate == 0:
            return events
        chance = self.uniform(len(events), self.numbers(events.shape[1]), events.device)
        operation, where, keys = (3 * chance[:, :1]).long(), chance[:, 1:_OWN], chance[:, _OWN:]
        real = (events != 0).sum(1, keepdim=True)  # (B, 1)
        moved = (self.rate * real).round().long()
        cropped = _cropped(events, real - moved, _first(where, moved))
        masked = events * (_ranks(keys + 2 * (events == 0)) >= moved)
        reordered = _reordered(events, moved, _first(where, real - moved), keys)
        return torch.where(operation == 0, cropped, torch.where(operation == 1, masked, reordered))


def _first(where: Tensor, last: Tensor) -> Tensor:
    """Return a place in 0..last, [B, 1], by numbers in [0, 1)."""
    return (where * (last + 1)).long()


def _places(events: Tensor) -> Tensor:
    return torch.arange(events.shape[1], device=events.device).expand_as(events)


def _cropped(events: Tensor, kept: Tensor, first: Tensor) -> Tensor:
    places = _places(events)
    moved = events.gather(1, (places + first).clamp(max=events.shape[1] - 1))
    return moved * (places < kept)


def _ranks(keys: Tensor) -> Tensor:
    """Return the place that each key has among its row's in ascending order."""
    return keys.argsort(dim=1, stable=True).argsort(dim=1, stable=True)


def _reordered(events: Tensor, moved: Tensor, first: Tensor, keys: Tensor) -> Tensor:
    places = _places(events)
    inside = (places >= first) & (places < first + moved)
    order = torch.where(inside, first + keys * moved, places.to(keys)).argsort(dim=1, stable=True)
    return events.gather(1, order)
