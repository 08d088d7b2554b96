"""Read pictures, sounds and frames of videos that a column of the item list names.

| modality | what a file is                                                                        |
|----------|---------------------------------------------------------------------------------------|
| image    | any picture that Pillow reads; of an animated one, the first frame                    |
| audio    | WAV of 8, 16, 24 or 32 bits; channels are averaged, another rate is resampled, and    |
|          |   the first 30 seconds are read                                                       |
| video    | an animated GIF, WebP or PNG, or a folder of pictures in the order of their names; 8  |
|          |   frames are read, evenly drawn                                                       |

| what the column holds                                          | what happens                   |
|----------------------------------------------------------------|--------------------------------|
| nothing                                                        | the item lacks the modality    |
| a path, from the folder of the item list                       | read                           |
| a path without a file; a file that is damaged or of another    | refused, with row and path     |
|   kind; a picture of more than 89 million pixels; no sound     |                                |
"""

from __future__ import annotations

import hashlib
import math
import warnings
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

from shared.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["FRAMES", "SECONDS", "ItemFile", "read_frames", "read_picture", "read_sound"]

FRAMES = 8
"""Frames of a video that are read."""
SECONDS = 30
"""Seconds of a sound that are read, from its beginning."""
PICTURES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Suffixes of frames in a folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemFile:
    """A file that the item list names.

    Attributes:
        path: where it is.
        table: the item list, for errors.
        row: in the item list, from 1.
        column: of the item list.
        value: what stands there.
    """

    path: Path
    table: str
    row: int
    column: str
    value: str

    def refused(self, problem: str, remedy: str) -> DataError:
        """Return the error about this file."""
        return DataError(
            problem,
            file=self.table,
            row=self.row,
            field=self.column,
            value=self.value,
            remedy=remedy,
        )

    def parts(self) -> list[Path]:
        """Return the files that it is: itself, or the pictures of a folder, in order of name.

        Raises:
            DataError: there is none.
        """
        if self.path.is_dir():
            parts = sorted(p for p in self.path.iterdir() if p.suffix.lower() in PICTURES)
        else:
            parts = [self.path] if self.path.is_file() else []
        if not parts:
            problem = "the folder holds no picture" if self.path.is_dir() else "no such file"
            remedy = f"Put it at {self.path}, or leave the cell empty where an item has none."
            raise self.refused(problem, remedy)
        return parts

    def digest(self) -> bytes:
        """Return SHA-256 over names and bytes of the files; raises DataError as `parts`."""
        digest = hashlib.sha256()
        for part in self.parts():
            with part.open("rb") as file:
                own = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{part.name}\0{own}\n".encode())
        return digest.digest()


def read_picture(file: ItemFile) -> Image:
    """Return a picture, RGB.

    Raises:
        DataError: there is none, or it is damaged.
    """
    if file.path.is_dir():
        raise file.refused("it is a folder, and no picture", "Name one picture, or encode a video.")
    return _pictures(file, file.parts()[0], 1)[0]


def read_frames(file: ItemFile) -> list[Image]:
    """Return `FRAMES` frames of a video, evenly drawn, RGB; all of a shorter one.

    Raises:
        DataError: there is none, or it is damaged.
    """
    parts = file.parts()
    if file.path.is_dir():
        return [_pictures(file, parts[place], 1)[0] for place in evenly(len(parts), FRAMES)]
    return _pictures(file, parts[0], FRAMES)


def evenly(count: int, most: int) -> list[int]:
    """Return up to `most` places of `count`, in the middle of equal stretches.

    >>> evenly(10, 2), evenly(2, 8)
    ([2, 7], [0, 1])
    """
    drawn = min(count, most)
    return [(2 * place + 1) * count // (2 * drawn) for place in range(drawn)]


def _pictures(file: ItemFile, path: Path, most: int) -> list[Image]:
    from PIL import Image, ImageSequence  # noqa: PLC0415 most of the lab does without

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                if most == 1:
                    return [opened.convert("RGB")]
                places = set(evenly(getattr(opened, "n_frames", 1), most))
                frames = enumerate(ImageSequence.Iterator(opened))
                return [frame.convert("RGB") for place, frame in frames if place in places]
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as fault:
        problem = f"it has more than {Image.MAX_IMAGE_PIXELS:,} pixels"
        raise file.refused(problem, "Make it smaller.") from fault
    except (OSError, SyntaxError, ValueError) as fault:
        problem = f"Pillow cannot read {path.name} as a picture"
        remedy = "Give a whole picture, such as JPEG or PNG; videos are animated GIF, WebP or PNG."
        raise file.refused(problem, remedy) from fault


def read_sound(file: ItemFile, rate: int) -> NDArray[np.float32]:
    """Return a sound's first `SECONDS` in [-1, 1], float32 [samples], at `rate` samples a second.

    Raises:
        DataError: there is none, it is damaged, empty, or no WAV of whole numbers.
    """
    remedy = "Give WAV of 8, 16, 24 or 32 bits, for example by: ffmpeg -i FILE -c:a pcm_s16le OUT"
    path = file.parts()[0]
    try:
        with wave.open(str(path), "rb") as opened:
            channels, width = opened.getnchannels(), opened.getsampwidth()
            own = opened.getframerate()
            data = opened.readframes(SECONDS * own)
    except (EOFError, OSError, wave.Error) as fault:
        raise file.refused("it cannot be read as WAV", remedy) from fault
    samples = _samples(data, width)
    samples = samples[: len(samples) // channels * channels].reshape(-1, channels).mean(1)
    if not len(samples):
        raise file.refused("it holds no sound", remedy)
    if own != rate:
        common = math.gcd(own, rate)
        samples = resample_poly(samples, rate // common, own // common)
    return np.asarray(samples, np.float32)


def _samples(data: bytes, width: int) -> NDArray[np.float64]:
    """Return whole numbers of 1 to 4 bytes in [-1, 1]; 8 bits are without a sign, as WAV has it."""
    if width == 1:
        return (np.frombuffer(data, np.uint8).astype(np.float64) - 128) / 128
    whole = len(data) // width * width
    padded = np.zeros((whole // width, 4), np.uint8)
    padded[:, 4 - width :] = np.frombuffer(data[:whole], np.uint8).reshape(-1, width)
    return padded.view("<i4")[:, 0].astype(np.float64) / 2**31
