"""How simulated users click: position bias times relevance.

The position-based model (Richardson, Dominowska & Ragno, "Predicting Clicks", WWW 2007), with p^-η
as in Joachims, Swaminathan & Schnabel, WSDM 2017: a user looks at position p, from 1, with
probability p^-η, and clicks on what is looked at with a probability that depends on its relevance
alone. An item is relevant if it is among the events of the user that the service was never given.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ClickModel"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClickModel:
    """The probabilities.

    Attributes:
        eta: η >= 0, how fast fewer users look at lower positions.
        relevant: chance of a click on a relevant item that is looked at.
        other: the same for any other item.
    """

    eta: float = 1.0
    relevant: float = 0.6
    other: float = 0.01

    def looks(self, positions: int) -> NDArray[np.float64]:
        """Return the probabilities of a look at each position, [positions].

        >>> ClickModel().looks(4).round(2).tolist()
        [1.0, 0.5, 0.33, 0.25]
        """
        return np.arange(1.0, positions + 1) ** -self.eta

    def probabilities(self, items: Sequence[str], relevant: Collection[str]) -> NDArray[np.float64]:
        """Return the probability of a click on each item of a list, best first.

        >>> ClickModel().probabilities(["a", "b"], {"b"}).tolist()
        [0.01, 0.3]
        """
        chances = [self.relevant if item in relevant else self.other for item in items]
        return self.looks(len(items)) * np.array(chances, np.float64)

    def click(
        self, items: Sequence[str], relevant: Collection[str], random: np.random.Generator
    ) -> list[bool]:
        """Draw whether each item of a list is clicked."""
        drawn: list[bool] = (
            random.random(len(items)) < self.probabilities(items, relevant)
        ).tolist()
        return drawn
