"""What a report calls each model, and how it draws it: everywhere alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from simulations.report.figures.canvas import BLUE, GREEN, MUTED, PURPLE, VERMILION

__all__ = ["MODELS", "Look", "look"]


@dataclass(frozen=True, slots=True)
class Look:
    """One model's.

    Attributes:
        label: in legends and tables.
        colour: hex.
        marker: as matplotlib has it.
        line: as matplotlib has it.
        meaning: a sentence for the list of words.
    """

    label: str
    colour: str
    marker: str
    line: str
    meaning: str = ""


MODELS: Mapping[str, Look] = MappingProxyType(
    {
        "federated": Look(
            "federated",
            BLUE,
            "o",
            "-",
            "The recommender that all organisations train together.",
        ),
        "federated_new": Look(
            "federated, cold items as new",
            PURPLE,
            "P",
            "-",
            "The same, where items that nobody chose yet are treated as new ones.",
        ),
        "local": Look(
            "each alone",
            VERMILION,
            "D",
            "--",
            "The same recommender, trained by each organisation by itself under its own ε, and "
            "measured on its own users.",
        ),
        "popularity_private": Look(
            "most popular, same ε",
            VERMILION,
            "^",
            "-.",
            "The same list for everybody: the most chosen items, counted under the same ε.",
        ),
        "popularity": Look(
            "most popular, no privacy",
            MUTED,
            "s",
            "--",
            "The same list for everybody, from exact counts that no privacy protects.",
        ),
        "markov": Look(
            "Markov counts, no privacy",
            GREEN,
            "v",
            ":",
            "What followed the user's last item most often, from exact counts that no privacy "
            "protects.",
        ),
    }
)


def look(model: str) -> Look:
    """Of a model; one that is not known keeps its name."""
    return MODELS.get(model, Look(model, MUTED, "x", "-"))
