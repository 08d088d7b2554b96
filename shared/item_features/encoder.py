"""Public item features from a frozen text encoder.

Any encoder of the transformers library can be used, in eval mode and without gradients. Each text
becomes one vector of length 1, by default the mean over its tokens as in Sentence-BERT (Reimers &
Gurevych 2019, arXiv:1908.10084). The vectors are then whitened like all item features. They depend
only on the public catalogue and the encoder, so they cost no privacy.

Floating-point results differ between machines. Therefore the coordinator computes the features
once and distributes them with the catalogue, whose fingerprint covers them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.data.catalogue import Catalogue
from shared.errors import DataError
from shared.item_features.encoder_source import EncoderFiles
from shared.item_features.frozen_encoder import first_line, load_frozen
from shared.item_features.tfidf import text_vectors
from shared.item_features.whitening import unit_rows, whitened

__all__ = [
    "TEMPLATE",
    "Pooling",
    "TextEncoder",
    "encoded_features",
    "item_text",
    "item_texts",
    "text_parts",
]

TEMPLATE = 1
"""Version of `item_text`; raise it when the text, and so the features, change."""
_MAX_TOKENS = 256
"""Longer texts are truncated; titles with genres are far shorter."""


class Pooling(StrEnum):
    """How the states of a text's tokens are combined into one vector.

    MEAN averages them. CLS takes the first, for encoders that were trained that way.
    """

    MEAN = "mean"
    CLS = "cls"


def item_text(title: str, genres: Sequence[str], year: int | None) -> str:
    """Return the text that describes an item to an encoder; "" if nothing is known.

    >>> item_text("Alien", ["Horror", "Sci-Fi"], 1979)
    'Alien (1979). Horror, Sci-Fi'
    >>> item_text("Alien (1979)", [], 1979)
    'Alien (1979)'
    """
    title = title.strip()
    if year is not None and str(year) not in title:
        title = f"{title} ({year})".strip()
    return ". ".join(part for part in (title, ", ".join(genres)) if part)


class TextEncoder:
    """A frozen encoder on a device.

    Args:
        files: the result of `find_encoder`.
        pooling: how token states are combined.
        device: where to compute.

    Raises:
        DataError: transformers cannot load it, weights are missing, or it needs code of its own.
    """

    def __init__(
        self,
        files: EncoderFiles,
        *,
        pooling: Pooling = Pooling.MEAN,
        device: torch.device | str = "cpu",
    ) -> None:
        self.files, self.pooling = files, pooling
        self._device = torch.device(device)
        self._tokenizer, self._model = _load(files)
        self._model.to(self._device)
        self._width = len(self._encode(["a text to try it with"])[0])

    def vectors(
        self,
        texts: Sequence[str],
        *,
        batch_size: int = 64,
        progress: Callable[[int, int], None] | None = None,
    ) -> NDArray[np.float64]:
        """Return one vector per text.

        Args:
            texts: N texts; equal texts get equal vectors.
            batch_size: number of texts encoded together, >= 1.
            progress: called with the numbers of distinct texts done and in total.

        Returns:
            float64 [N, D], rows of length 1; zeros for a text that is blank or has no token.

        Raises:
            DataError: the encoder returns something other than finite numbers.
        """
        # Longest first: similar lengths need little padding, and a lack of memory shows at once.
        distinct = sorted({text for text in texts if text.strip()}, key=lambda t: (-len(t), t))
        encoded: dict[str, NDArray[np.float64]] = {}
        for start in range(0, len(distinct), batch_size):
            batch = distinct[start : start + batch_size]
            encoded |= zip(batch, self._encode(batch), strict=True)
            if progress is not None:
                progress(len(encoded), len(distinct))
        zeros = np.zeros(self._width)
        return unit_rows(np.stack([encoded.get(text, zeros) for text in texts]))

    @property
    def model(self) -> Any:  # noqa: ANN401 transformers' own type
        """The frozen model, of transformers."""
        return self._model

    def states_before(
        self, texts: Sequence[str], blocks: int, *, most_tokens: int, batch_size: int = 64
    ) -> list[Tensor]:
        """Return what goes into the model's last blocks, of each text: [tokens, D], float32.

        Args:
            texts: N texts; one that is blank has no tokens.
            blocks: how many blocks are left out, >= 1.
            most_tokens: of a text; the rest is cut off.
            batch_size: number of texts encoded together, >= 1.

        Raises:
            DataError: as `vectors`.
        """
        found: list[Tensor] = []
        for start in range(0, len(texts), batch_size):
            batch = list(texts[start : start + batch_size])
            layers, mask = self._layers(batch, most_tokens)
            lengths = mask.sum(1).tolist()
            states = layers[-1 - blocks].float().cpu()
            found += [
                own[: length if text.strip() else 0]
                for own, length, text in zip(states, lengths, batch, strict=True)
            ]
        return found

    @torch.inference_mode()
    def _encode(self, texts: list[str]) -> NDArray[np.float64]:
        """Encode B texts, without scaling: [B, D]."""
        layers, mask = self._layers(texts)
        if not mask.shape[1]:
            return np.zeros((len(texts), self._width))
        pooled = self._pool(layers[-1], mask)
        if not pooled.isfinite().all():
            raise _unusable(self.files, "it returns values that are not finite")
        return np.asarray(pooled.double().cpu().numpy())

    @torch.inference_mode()
    def _layers(self, texts: list[str], most: int = _MAX_TOKENS) -> tuple[list[Tensor], Tensor]:
        """Return the states of B texts' tokens after each block, [B, T, D], and their mask."""
        try:
            tokens = self._tokenizer(
                texts,
                padding=True,
                truncation=True,
                max_length=min(most, _max_tokens(self._tokenizer, self._model)),
                return_tensors="pt",
            ).to(self._device)
            mask: Tensor = tokens["attention_mask"]  # (B, T)
            if not mask.shape[1]:
                return [], mask
            out = self._model(
                input_ids=tokens["input_ids"], attention_mask=mask, output_hidden_states=True
            )
            return [*out.hidden_states[:-1], out.last_hidden_state], mask
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as fault:
            raise _unusable(
                self.files, f"it does not encode texts ({first_line(fault)})"
            ) from fault

    def _pool(self, states: Tensor, mask: Tensor) -> Tensor:  # (B, T, D), (B, T) -> (B, D)
        if self.pooling == Pooling.CLS:
            return states[:, 0] * mask[:, :1]
        return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def encoded_features(
    catalogue: Catalogue,
    encoder: TextEncoder,
    size: int,
    *,
    words: bool = False,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Return one vector per item; items with texts of similar meaning have similar vectors.

    Args:
        catalogue: the public item list, V items.
        encoder: reads the `item_text` of each item.
        size: number of features F, >= 1. At most min(V - 1, encoder width) are informative; the
            remaining columns are zero.
        words: whether to add the exact words, genres and decades that `text_features` uses. Both
            parts then have the same total variance before whitening.
        batch_size: number of items encoded together, >= 1.
        progress: called with the numbers of texts done and in total.

    Returns:
        float32 [V, F]; columns are uncorrelated, with mean 0 and variance 1 (or 0), strongest
        first. An item without a vector in one part gets that part's mean.
    """
    vectors = encoder.vectors(item_texts(catalogue), batch_size=batch_size, progress=progress)
    return torch.from_numpy(whitened(text_parts(catalogue, vectors, size, words=words), size))


def item_texts(catalogue: Catalogue) -> list[str]:
    """Return the text of each item, [V]."""
    items = zip(catalogue.titles, catalogue.genres, catalogue.years, strict=True)
    return [item_text(*item) for item in items]


def text_parts(
    catalogue: Catalogue, vectors: NDArray[np.float64], size: int, *, words: bool
) -> NDArray[np.float64]:
    """Return what is whitened to features: the encoder's vectors, and those of words after them.

    Args:
        catalogue: V items.
        vectors: of the encoder, [V, D].
        size: number of features; `words` as of `encoded_features`.
        words: whether there are any.

    Returns:
        [V, D + ...]; of each part the total variance is 1 / V.
    """
    parts = [vectors, *([text_vectors(catalogue, size)] if words else [])]
    return np.hstack([_balanced(part) for part in parts])


def _balanced(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centre and scale to a total variance of 1 / V (or 0); a row of zeros becomes the mean."""
    described = vectors.any(1, keepdims=True)
    centred = np.where(described, vectors - vectors.sum(0) / max(described.sum(), 1), 0.0)
    strength = np.linalg.norm(centred)
    if strength <= 1e-6 * np.linalg.norm(vectors):  # all equal, up to rounding
        return np.zeros_like(vectors)
    return np.asarray(centred / strength)


def _load(files: EncoderFiles) -> tuple[Any, Any]:
    """Load the tokenizer and the frozen model."""
    tokenizer, model = load_frozen(files, "AutoTokenizer", _unusable, padding_side="right")
    if tokenizer.pad_token is None:
        raise _unusable(files, "its tokenizer has no padding token, so it is no text encoder")
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise _unusable(files, "its tokenizer knows more tokens than the model")
    return tokenizer, model


def _max_tokens(tokenizer: Any, model: Any) -> int:  # noqa: ANN401 transformers' own types
    """Return how many tokens both accept; some models reserve two positions."""
    positions = getattr(model.config, "max_position_embeddings", None) or _MAX_TOKENS + 2
    return int(min(tokenizer.model_max_length, positions - 2, _MAX_TOKENS))


def _unusable(files: EncoderFiles, problem: str) -> DataError:
    return DataError(
        problem,
        file=files.folder,
        field="encoder",
        remedy="Give an encoder of texts such as BERT or MiniLM, whole and with its tokenizer; one "
        "that needs code of its own is never loaded.",
    )
