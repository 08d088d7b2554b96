"""What a catalogue holds of its encoder's last blocks, so that they can be adapted to users.

The lower blocks are frozen, and what they make of the items' texts is public: it is computed once,
by the coordinator, and handed out with the catalogue, whose fingerprint covers it. A partner needs
no encoder, and everybody has identical values (`shared.models.text` is who reads them).

Letters: V items, N tokens of all items together, D the encoder's width, F features.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from shared.system.files import atomic_replacement

if TYPE_CHECKING:
    import torch

__all__ = ["BLOCK_WEIGHTS", "MOST_TOKENS", "AdaptableText"]

MOST_TOKENS = 32
"""Tokens of a text that are kept; what follows them is left to the frozen features."""
BLOCK_WEIGHTS = (
    *("attention.self.query", "attention.self.key", "attention.self.value"),
    *("attention.output.dense", "attention.output.LayerNorm"),
    *("intermediate.dense", "output.dense", "output.LayerNorm"),
)
"""Layers of a block in the BERT family (arXiv:1810.04805), each with `weight` and `bias`."""
_ABOUT = "about"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class AdaptableText:
    """The items' tokens before an encoder's last blocks, these blocks, and the way to features.

    Attributes:
        tokens: states before the first of the blocks, of one item after the other, float16 [N, D].
        lengths: tokens of each item, 0..`MOST_TOKENS`, int64 [V].
        vectors: what the blocks make of each item as they are, of length 1 or 0, float32 [V, D].
        projection: takes a change of a vector to one of its features, float32 [D, F].
        weights: of each block in turn, by the names of `BLOCK_WEIGHTS`.
        heads: of attention.
        epsilon: of layer normalisation, > 0.
        pooling: how states become a vector, "mean" or "cls".

    Raises:
        ValueError: the fields contradict each other.
    """

    tokens: torch.Tensor
    lengths: torch.Tensor
    vectors: torch.Tensor
    projection: torch.Tensor
    weights: tuple[Mapping[str, torch.Tensor], ...]
    heads: int
    epsilon: float
    pooling: str

    def __post_init__(self) -> None:
        sizes = {self.tokens.shape[1], self.vectors.shape[1], len(self.projection)}
        named = {f"{layer}.{part}" for layer in BLOCK_WEIGHTS for part in ("weight", "bias")}
        if (
            len(sizes) > 1
            or int(self.lengths.sum()) != len(self.tokens)
            or len(self.lengths) != len(self.vectors)
            or not self.weights
            or any(set(block) != named for block in self.weights)
            or self.heads < 1
            or self.width % self.heads
            or self.pooling not in ("mean", "cls")
        ):
            raise ValueError("the parts of an encoder do not fit each other")

    @property
    def width(self) -> int:
        """The encoder's width D."""
        return int(self.tokens.shape[1])

    @property
    def longest(self) -> int:
        """Tokens of the longest text, >= 1."""
        return max(1, int(self.lengths.max()))

    def digest(self) -> bytes:
        """Return SHA-256 over all of it."""
        digest = hashlib.sha256(json.dumps(self._about(), sort_keys=True).encode())
        for name, tensor in sorted(self._tensors().items()):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.digest()

    def save(self, file: Path, fingerprint: str) -> None:
        """Write it, replacing the file atomically, with the fingerprint of its catalogue."""
        from safetensors.torch import save_file  # noqa: PLC0415 with torch, which takes seconds

        metadata = {"fingerprint": fingerprint, _ABOUT: json.dumps(self._about())}
        whole = {name: tensor.contiguous() for name, tensor in self._tensors().items()}
        with atomic_replacement(file) as temporary:
            save_file(whole, temporary, metadata=metadata)

    @classmethod
    def load(cls, file: Path) -> AdaptableText:
        """Read what `save` wrote.

        Raises:
            OSError: the file cannot be read.
            SafetensorError: it is damaged.
            ValueError: it holds something else.
        """
        with safe_open(file, framework="pt") as stored:
            about = json.loads((stored.metadata() or {}).get(_ABOUT, "null"))
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        try:
            blocks = [
                {
                    name.partition(".")[2]: tensor
                    for name, tensor in tensors.items()
                    if name.partition(".")[0] == str(number)
                }
                for number in range(about.pop("blocks"))
            ]
            own = {name: tensors[name] for name in ("tokens", "lengths", "vectors", "projection")}
            return cls(weights=tuple(blocks), **own, **about)
        except (AttributeError, IndexError, KeyError, TypeError) as fault:
            raise ValueError("it does not hold an encoder's last blocks") from fault

    def _about(self) -> dict[str, Any]:
        return {
            "blocks": len(self.weights),
            "heads": self.heads,
            "epsilon": self.epsilon,
            "pooling": self.pooling,
        }

    def _tensors(self) -> dict[str, torch.Tensor]:
        own = {
            "tokens": self.tokens,
            "lengths": self.lengths,
            "vectors": self.vectors,
            "projection": self.projection,
        }
        for number, block in enumerate(self.weights):
            own |= {f"{number}.{name}": tensor for name, tensor in block.items()}
        return own
