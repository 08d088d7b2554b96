"""The folder of a model: its shape as JSON, and its weights as safetensors.

| file                | holds                                        |
|---------------------|----------------------------------------------|
| `config.json`       | the shape, one key a setting; and its kind   |
| `model.safetensors` | the weights, by name                         |
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = ["read_model", "read_shape", "write_model"]

_SHAPE, _WEIGHTS = "config.json", "model.safetensors"


def write_model(
    folder: str | os.PathLike[str], shape: Mapping[str, object], weights: Mapping[str, Tensor]
) -> None:
    """Write both files into a folder, which is created where it is missing.

    Raises:
        OSError: a file cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _SHAPE).write_text(json.dumps(shape, indent=2) + "\n", encoding="utf-8")
    contiguous = {name: value.contiguous() for name, value in weights.items()}
    save_file(contiguous, folder / _WEIGHTS, {"format": "pt"})


def read_model(folder: str | os.PathLike[str]) -> tuple[bytes, dict[str, Tensor]]:
    """Read the shape as it is written, and the weights; nothing is executed.

    The weights are views of the file: copy them before it may change.

    Raises:
        OSError: a file is missing or cannot be read.
        SafetensorError: the file of weights is damaged.
    """
    return read_shape(folder), load_file(Path(folder) / _WEIGHTS)


def read_shape(folder: str | os.PathLike[str]) -> bytes:
    """Read the shape as it is written.

    Raises:
        OSError: the file is missing or cannot be read.
    """
    return (Path(folder) / _SHAPE).read_bytes()
