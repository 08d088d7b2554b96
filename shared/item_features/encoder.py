"""Public item features from a frozen text encoder: what a language model makes of the catalogue.

Any encoder of the transformers library, in eval mode and without gradients. One vector a text
(mean over its tokens, as in Sentence-BERT: Reimers & Gurevych 2019, arXiv:1908.10084), of length
1, then whitened as all item features are. They depend on the public catalogue and the encoder
alone, so they cost no privacy.

Floating point differs between machines: features are computed once, by the coordinator, and
handed out with the catalogue, whose fingerprint covers them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from shared.data.catalogue import Catalogue
from shared.errors import DataError
from shared.item_features.encoder_source import EncoderFiles
from shared.item_features.tfidf import text_vectors
from shared.item_features.whitening import unit_rows, whitened

__all__ = ["TEMPLATE", "Pooling", "TextEncoder", "encoded_features", "item_text"]

TEMPLATE = 1
"""Version of `item_text`: another text makes other features."""
_MAX_TOKENS = 256
"""Longer texts are cut: titles and genres are far shorter."""


class Pooling(StrEnum):
    """How the states of a text's tokens become one vector.

    MEAN averages them; CLS takes the first, for encoders that were trained that way.
    """

    MEAN = "mean"
    CLS = "cls"


def item_text(title: str, genres: Sequence[str], year: int | None) -> str:
    """What an encoder reads of an item; empty if nothing is known.

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
        files: what `find_encoder` found.
        pooling: how tokens become one vector.
        device: where to compute.

    Raises:
        DataError: transformers cannot load it, weights are missing, or it needs its own code.
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
        """One vector a text.

        Args:
            texts: N texts; equal ones get equal vectors.
            batch_size: texts encoded at a time, >= 1.
            progress: called with the distinct texts done and in all.

        Returns:
            [N, D], rows of length 1; zeros for a text that is blank or has no token.

        Raises:
            DataError: the encoder returns something other than finite numbers.
        """
        # Longest first: texts of one length need little padding, and memory runs out at once.
        distinct = sorted({text for text in texts if text.strip()}, key=lambda t: (-len(t), t))
        found: dict[str, NDArray[np.float64]] = {}
        for start in range(0, len(distinct), batch_size):
            batch = distinct[start : start + batch_size]
            found |= zip(batch, self._encode(batch), strict=True)
            if progress is not None:
                progress(len(found), len(distinct))
        zeros = np.zeros(self._width)
        return unit_rows(np.stack([found.get(text, zeros) for text in texts]))

    @torch.inference_mode()
    def _encode(self, texts: list[str]) -> NDArray[np.float64]:
        """[B, D], before any scaling."""
        try:
            tokens = self._tokenizer(
                texts,
                padding=True,
                truncation=True,
                max_length=_longest(self._tokenizer, self._model),
                return_tensors="pt",
            ).to(self._device)
            mask = tokens["attention_mask"]  # (B, T)
            if not mask.shape[1]:
                return np.zeros((len(texts), self._width))
            states = self._model(
                input_ids=tokens["input_ids"], attention_mask=mask
            ).last_hidden_state  # (B, T, D)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as fault:
            raise _unusable(
                self.files, f"it does not encode texts ({_first_line(fault)})"
            ) from fault
        pooled = self._pool(states, mask)
        if not pooled.isfinite().all():
            raise _unusable(self.files, "it returns values that are not finite")
        return np.asarray(pooled.double().cpu().numpy())

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
    """One vector an item; items whose texts mean alike things have alike vectors.

    Args:
        catalogue: the public item list, V items.
        encoder: reads `item_text` of each.
        size: wanted directions F, >= 1; at most V - 1 or the encoder's width are informative, the
            rest are then zero.
        words: whether to add what `text_features` sees, exact words, genres and decades; it and
            the encoder then have the same total variance before whitening.
        batch_size: items encoded at a time, >= 1.
        progress: called with the texts done and in all.

    Returns:
        float32 [V, F]; columns have mean 0, are uncorrelated, and have variance 1 (or 0), the
        strongest direction first. An item that a part knows nothing of is taken for the average.
    """
    texts = [
        item_text(*item)
        for item in zip(catalogue.titles, catalogue.genres, catalogue.years, strict=True)
    ]
    parts = [encoder.vectors(texts, batch_size=batch_size, progress=progress)]
    if words:
        parts.append(text_vectors(catalogue, size))
    return torch.from_numpy(whitened(np.hstack([_balanced(part) for part in parts]), size))


def _balanced(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centred, with a total variance of 1 / V, or of 0; a row of zeros is taken for the mean."""
    known = vectors.any(1, keepdims=True)
    centred = np.where(known, vectors - vectors.sum(0) / max(known.sum(), 1), 0.0)
    strength = np.linalg.norm(centred)
    if strength <= 1e-6 * np.linalg.norm(vectors):  # all alike, but for rounding
        return np.zeros_like(vectors)
    return np.asarray(centred / strength)


def _load(files: EncoderFiles) -> tuple[Any, Any]:
    """Tokenizer and model, frozen."""
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(files.folder, padding_side="right", **options)
        model, report = AutoModel.from_pretrained(
            files.folder,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            **options,
        )
    except Exception as fault:  # whatever a damaged file makes the library raise
        problem = f"transformers cannot load it ({_first_line(fault)})"
        raise _unusable(files, problem) from fault
    # A pooler is often left out; no state that is read here passes through it.
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise _unusable(
            files, f"its weights lack {len(missing)} of the model's, such as {missing[0]}"
        )
    if tokenizer.pad_token is None:
        raise _unusable(files, "its tokenizer has no padding token, so it is no text encoder")
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise _unusable(files, "its tokenizer knows more tokens than the model")
    return tokenizer, model.eval().requires_grad_(False)


def _longest(tokenizer: Any, model: Any) -> int:  # noqa: ANN401 transformers' own types
    """Tokens that both can take; some models keep two positions for themselves."""
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


def _first_line(fault: Exception) -> str:
    return str(fault).strip().partition("\n")[0][:200] or type(fault).__name__
