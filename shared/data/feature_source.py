"""How a catalogue's item features were computed: a record stored beside them.

The record holds what is needed to compute the same features again, and shows whether stored
features are out of date. It is not part of the catalogue's fingerprint: that covers the feature
values themselves.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

__all__ = ["FeatureSource"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSource:
    """The encoder, options and versions from which item features were computed.

    Attributes:
        encoder: name of the text encoder; "" for none.
        digest: SHA-256 in hex over the encoder's files; "" for none.
        pooling: how token vectors are combined, "mean" or "cls"; "" for none.
        words: whether the features include tf-idf of words, genres and decades.
        size: features per item, F; >= 1.
        template: version of the text template that describes an item to the encoder; >= 1.
        transformers: version of the transformers library.

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
        """Return the record as JSON, for a file's metadata."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_text(cls, text: str) -> FeatureSource:
        """Parse the result of `to_text`.

        Raises:
            ValueError: the text is not JSON of exactly these fields and types, or is out of range.
        """
        fields = json.loads(text)
        expected = {field.name: field.type for field in dataclasses.fields(cls)}
        names = {str: "str", bool: "bool", int: "int"}
        if (
            not isinstance(fields, dict)
            or {name: names.get(type(value)) for name, value in fields.items()} != expected
        ):
            raise ValueError(f"a record of features has exactly the fields {', '.join(expected)}")
        return cls(**fields)
