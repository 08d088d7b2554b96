"""The bound of weights whose gradients a user enters through others.

Where a user's loss reads the histories of its friends, one user is not one sample any more. Let
nobody be a friend of more than K others, and remove user v with all edges. v's own gradient goes
from the sum, and those of at most K others change. A clipped gradient that changes may move by
twice its bound, so the sum over linked weights moves by (2 K + 1) c_2, with c_2 the bound of one
user's gradient of these weights. All other weights depend on the user's own history only, and their
sum moves by c_1. Both parts are clipped apart, so that the second depends on nobody else, and with

    c_1 = √(1 - q²) C,    c_2 = q C / (2 K + 1),

the whole sum moves by √(c_1² + (2 K + 1)² c_2²) = C: noise and accounting are those of any release
of clip norm C. The friends' part costs the others 1 - √(1 - q²) of their signal.

A model says which weights are linked by `linked_weights`, their names, and K by `config.friends`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from shared.errors import ClippingError

__all__ = ["LINKED_SHARE", "Part", "parts_of"]

LINKED_SHARE = 0.3
"""q: the share of the clip norm that linked weights have."""


@dataclass(frozen=True, slots=True)
class Part:
    """Weights that are clipped together.

    Attributes:
        weights: which.
        share: bound of one user's gradient of them, over the clip norm, in (0, 1].
    """

    weights: frozenset[Tensor]
    share: float

    @property
    def numbers(self) -> int:
        """Numbers of all weights."""
        return sum(weight.numel() for weight in self.weights)


def parts_of(model: nn.Module) -> tuple[Part, Part | None]:
    """Return a model's weights that depend on the user only, and those that friends enter, if any.

    Raises:
        ClippingError: a linked weight is not the model's.

    >>> own, linked = parts_of(nn.Linear(2, 3))
    >>> own.numbers, own.share, linked
    (9, 1.0, None)
    """
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    names = getattr(model, "linked_weights", frozenset[str]())
    if not names:
        return Part(frozenset(named.values()), 1.0), None
    if not names <= named.keys():
        raise ClippingError(f"linked weights {sorted(names - named.keys())} are not trained.")
    of_friends = frozenset(named[name] for name in names)
    most: int = model.config.friends  # type: ignore[assignment,union-attr]  # beside the names
    return (
        Part(frozenset(named.values()) - of_friends, math.sqrt(1 - LINKED_SHARE**2)),
        Part(of_friends, LINKED_SHARE / (2 * most + 1)),
    )
