"""Label, colour and marker of each model, the same in every figure and table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from simulations.report.figures.canvas import BLUE, GREEN, MUTED, PURPLE, VERMILION

__all__ = ["MODELS", "Look", "look"]


@dataclass(frozen=True, slots=True)
class Look:
    """How one model is shown.

    Attributes:
        label: in legends and tables.
        colour: hex.
        marker: as matplotlib has it.
        line: as matplotlib has it.
        meaning: a sentence that explains the model.
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
            "The same model, where items without any training event are treated as new.",
        ),
        "popularity_private": Look(
            "most popular, same ε",
            VERMILION,
            "^",
            "-.",
            "The same list for everybody: the most popular items, counted under the same ε.",
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
            "The items that most often follow the user's last item, from exact counts that no "
            "privacy protects.",
        ),
        "counts3": Look(
            "last three events, no privacy",
            GREEN,
            "^",
            "-",
            "The items that most often follow the user's last three events, from exact counts that "
            "no privacy protects.",
        ),
        "counts3_local": Look(
            "last three events, own counts",
            VERMILION,
            "v",
            ":",
            "The same, where each organisation counts its own events exactly and never sends them; "
            "evaluated on its own users.",
        ),
        "home": Look(
            "own data at home",
            VERMILION,
            "o",
            ":",
            "The best that each organisation gets from its own data alone: exact counts of what "
            "follows what, never sent; evaluated on its own users.",
        ),
        "federated_home": Look(
            "federated, adapted at home",
            BLUE,
            "D",
            "-",
            "The federated model, blended with each organisation's own exact counts, which are "
            "never sent; evaluated on its own users.",
        ),
        "federated_home_private": Look(
            "federated, adapted at home, private",
            GREEN,
            "D",
            "-.",
            "The federated model, blended with each organisation's own counts, with noise that "
            "hides its users from one another; evaluated on its own users.",
        ),
        "item_knn": Look(
            "ItemKNN, no privacy",
            MUTED,
            "d",
            "-.",
            "Items whose users are those of the user's items, by cosine (Sarwar et al. 2001), from "
            "exact counts that no privacy protects.",
        ),
        "ease": Look(
            "EASE, no privacy",
            MUTED,
            "p",
            "-",
            "A linear model of item pairs in closed form (Steck 2019), without privacy.",
        ),
    }
)


def look(model: str) -> Look:
    """Return how a model is shown; an unknown one is shown by its name."""
    return MODELS.get(model, Look(model, MUTED, "x", "-"))
