"""Blocks of a catalogue's features: one of each modality, side by side.

A block is what one way of describing items made: text, image, audio, video or relations. Its
columns come strongest first. An item that lacks the modality has zeros in all of its columns.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "MOST_BLOCKS",
    "TEXT",
    "FeatureBlock",
    "blocks_from_text",
    "blocks_to_text",
    "shared_out",
]

MOST_BLOCKS = 8
"""Blocks that a catalogue has at most: a model has one gate for each."""
TEXT = "text"
"""The block of features from titles, genres and years."""
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureBlock:
    """Columns of the features that one modality has.

    Attributes:
        name: of the modality; lower-case letters, digits and hyphens.
        size: columns, >= 1.
        source: how they were computed, a JSON object; "" where it is not known.

    Raises:
        ValueError: a field is out of range.
    """

    name: str
    size: int
    source: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no name of a block of features")
        if self.size < 1:
            raise ValueError(f"a block of {self.size} features")


def blocks_to_text(blocks: Sequence[FeatureBlock]) -> str:
    """Return blocks as JSON, for a file's metadata."""
    return json.dumps([dataclasses.asdict(block) for block in blocks])


def blocks_from_text(text: str) -> tuple[FeatureBlock, ...]:
    """Parse the result of `blocks_to_text`.

    Raises:
        ValueError: the text is something else.
    """
    expected = {"name": str, "size": int, "source": str}
    fields = json.loads(text)
    if not isinstance(fields, list) or not all(
        isinstance(one, dict) and {key: type(value) for key, value in one.items()} == expected
        for one in fields
    ):
        raise ValueError("blocks of features are a list of names, sizes and sources")
    return tuple(FeatureBlock(**one) for one in fields)


def shared_out(sizes: Sequence[int], size: int) -> list[int]:
    """Return how many of so many columns each block gets: as many as any other that needs more.

    Args:
        sizes: columns that each block has.
        size: columns in all; at least one for each block, at most the sum of `sizes`.

    >>> shared_out([256, 20, 64], 120)
    [50, 20, 50]
    """
    given = [0] * len(sizes)
    left = size
    while left:
        wanting = [place for place, had in enumerate(sizes) if given[place] < had]
        each = max(left // len(wanting), 1)
        for place in wanting:
            more = min(each, sizes[place] - given[place], left)
            given[place] += more
            left -= more
    return given
