"""Public item features from a frozen encoder of pictures or sound.

Any such encoder of the transformers library can be used, in eval mode and without gradients: of the
ViT, CLIP, ConvNeXt, wav2vec 2.0, AST or Whisper families, for example. A model that projects
pictures or sounds into a space shared with texts gives that vector; any other gives the mean of its
last states, over patches, places or times. A video's vector is the mean of its frames'.

Reading files is left to the caller: this module sees pixels and samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.errors import DataError
from shared.item_features.encoder_source import EncoderFiles
from shared.item_features.frozen_encoder import first_line, load_frozen
from shared.item_features.whitening import unit_rows

__all__ = ["MediaEncoder", "Modality"]


class Modality(StrEnum):
    """What an encoder reads of an item."""

    TEXT = "text"
    IMAGE = "image"
    AUDIO = "audio"
    VIDEO = "video"


class MediaEncoder:
    """A frozen encoder on a device.

    Args:
        files: the result of `find_encoder`.
        modality: image, audio or video; a video's frames are read by an encoder of pictures.
        device: where to compute.

    Raises:
        DataError: transformers cannot load it, weights are missing, or it needs code of its own.
    """

    def __init__(
        self, files: EncoderFiles, modality: Modality, *, device: torch.device | str = "cpu"
    ) -> None:
        self.files, self.modality = files, modality
        self._device = torch.device(device)
        self._processor, self._model = _load(files, sound=self._hears)
        self._model.to(self._device)

    @property
    def rate(self) -> int:
        """Samples a second that an encoder of sound reads; 0 for one of pictures."""
        return int(self._processor.sampling_rate) if self._hears else 0

    @property
    def _hears(self) -> bool:
        return self.modality is Modality.AUDIO

    def vectors(
        self,
        count: int,
        read: Callable[[int], Sequence[Any]],
        *,
        batch_size: int = 64,
        progress: Callable[[int, int], None] | None = None,
    ) -> NDArray[np.float64]:
        """Return one vector per item.

        Args:
            count: items, N.
            read: returns item i's pictures (PIL, RGB; several for a video) or its one sound
                (float32 [samples] at `rate`); nothing where the item has none.
            batch_size: items whose pictures are encoded together, >= 1; sounds are encoded one by
                one, as they are of different lengths.
            progress: called with the numbers of items done and in total.

        Returns:
            float64 [N, D], rows of length 1; zeros for an item that has none.

        Raises:
            DataError: the encoder does not read these, or returns something other than finite
                numbers; and what `read` raises.
        """
        found: dict[int, NDArray[np.float64]] = {}
        at_once = 1 if self._hears else batch_size
        for start in range(0, count, at_once):
            places = range(start, min(start + at_once, count))
            parts = {place: own for place in places if (own := read(place))}
            if parts:
                encoded = self._encode([part for own in parts.values() for part in own], places)
                ends = np.cumsum([len(own) for own in parts.values()])[:-1]
                own_vectors = [own.mean(0) for own in np.split(encoded, ends)]
                found |= zip(parts, own_vectors, strict=True)
            if progress is not None:
                progress(places[-1] + 1, count)
        zeros = np.zeros(len(next(iter(found.values()))) if found else 1)
        return unit_rows(np.stack([found.get(place, zeros) for place in range(count)]))

    @torch.inference_mode()
    def _encode(self, parts: Sequence[Any], places: range) -> NDArray[np.float64]:
        """Encode P pictures, or one sound, of some items: [P, D], rows of length 1."""
        try:
            given: dict[str, Any] = {"images": list(parts)}
            if self._hears:
                given = {"raw_speech": parts[0], "sampling_rate": self.rate}
            inputs = self._processor(**given, return_tensors="pt").to(self._device)
            pooled = self._pooled({key: inputs[key] for key in inputs})
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as fault:
            rows = f"{places[0] + 1}" + f" to {places[-1] + 1}" * (len(places) > 1)
            problem = f"it does not encode the {self.modality} of row {rows} ({first_line(fault)})"
            raise _unusable(self.files, problem) from fault
        if not pooled.isfinite().all():
            raise _unusable(self.files, "it returns values that are not finite")
        return unit_rows(np.asarray(pooled.double().cpu().numpy()))

    def _pooled(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return one vector of each picture or sound, [P, D]."""
        name = "get_audio_features" if self._hears else "get_image_features"
        if (project := getattr(self._model, name, None)) is not None:
            out = project(**inputs)
            return out if isinstance(out, Tensor) else _tensor(out.pooler_output)
        model = self._model
        if getattr(model.config, "is_encoder_decoder", False):
            model = model.get_encoder()
        states = _tensor(model(**inputs).last_hidden_state)  # (P, N, D) or (P, D, height, width)
        return states.mean((2, 3)) if states.dim() == 4 else states.mean(1)


def _load(files: EncoderFiles, *, sound: bool) -> tuple[Any, Any]:
    """Load what prepares files for the model, and the frozen model."""
    prepares = "AutoFeatureExtractor" if sound else "AutoImageProcessor"
    processor, model = load_frozen(files, prepares, _unusable)
    if sound and not getattr(processor, "sampling_rate", 0):
        raise _unusable(files, "its preprocessor states no sampling rate, so it reads no sound")
    return processor, model


def _tensor(value: Any) -> Tensor:  # noqa: ANN401 transformers' own types
    if not isinstance(value, Tensor):
        raise TypeError("no tensor of states")
    return value


def _unusable(files: EncoderFiles, problem: str) -> DataError:
    return DataError(
        problem,
        file=files.folder,
        field="encoder",
        remedy="Give an encoder of that modality, such as CLIP or ViT for pictures and wav2vec 2.0 "
        "or AST for sound, whole and with its preprocessor; one that needs code of its own is "
        "never loaded.",
    )
