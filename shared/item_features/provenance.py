"""How a catalogue's item features were made: the record that travels beside them.

It says what to run to get the same again, and whether they have to be made anew. It is not part of
the catalogue's fingerprint, which covers the features themselves.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

__all__ = ["FeatureSource"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSource:
    """What made the features, besides the items.

    Attributes:
        encoder: what the text encoder was called; "" for none.
        digest: SHA-256 in hex over the encoder's files; "" for none.
        pooling: how tokens became one vector, "mean" or "cls"; "" for none.
        words: whether tf-idf of words, genres and decades went in.
        size: directions F, >= 1.
        template: version of the text that was made of each item, >= 1.
        transformers: version of the library.

    Raises:
        ValueError: a field is out of range, or only some of the encoder's are given.
    """

    encoder: str
    digest: str
    pooling: str
    words: bool
    size: int
    template: int
    transformers: str

    def __post_init__(self) -> None:
        for name in ("size", "template"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: it must be at least 1")
        given = {bool(self.encoder), bool(self.digest), bool(self.pooling)}
        if len(given) > 1 or (given == {False} and not self.words):
            raise ValueError("features come from an encoder with digest and pooling, or from words")

    def to_text(self) -> str:
        """As JSON, for a file's metadata."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_text(cls, text: str) -> FeatureSource:
        """The inverse of `to_text`.

        Raises:
            ValueError: the text is not JSON of exactly these fields and types, or is out of range.
        """
        found = json.loads(text)
        kinds = {field.name: field.type for field in dataclasses.fields(cls)}
        names = {str: "str", bool: "bool", int: "int"}
        if (
            not isinstance(found, dict)
            or {name: names.get(type(value)) for name, value in found.items()} != kinds
        ):
            raise ValueError(f"a record of features has exactly the fields {', '.join(kinds)}")
        return cls(**found)
