"""Refuse a model file that does not hold exactly the model's tensors.

| the file                                   | what happens                          |
|--------------------------------------------|---------------------------------------|
| has every tensor, and each has its shape   | loaded                                |
| lacks a tensor                             | refused, with the tensor's name       |
| has a tensor that the model has not        | refused, with the tensor's name       |
| has a tensor of another shape              | refused, with the name and the shapes |
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from shared.errors import DataError

__all__ = ["check_complete"]

_REMEDY = "Copy the model's folder again, whole: config.json and model.safetensors belong together."


def check_complete(stored: Mapping[str, Tensor], own: Mapping[str, Tensor], folder: object) -> None:
    """Refuse weights that are not exactly the model's.

    Args:
        stored: what the file holds, by name.
        own: the model's tensors; their values do not matter.
        folder: where the file lies, for the message.

    Raises:
        DataError: a tensor is missing, has another shape, or is not the model's.
    """
    shapes = {
        name: f"{list(stored[name].shape)}, not {list(own[name].shape)}"
        for name in stored.keys() & own.keys()
        if stored[name].shape != own[name].shape
    }
    for problem, names in (
        ("lacks", own.keys() - stored.keys()),
        ("has a shape that the model has not in", shapes.keys()),
        ("has, beside the model's tensors,", stored.keys() - own.keys()),
    ):
        if names:
            first, more = sorted(names)[0], len(names) - 1
            shape = f" ({shapes[first]})" if first in shapes else ""
            others = f" and {more} more" if more else ""
            raise DataError(
                f"the model file {problem} '{first}'{shape}{others}",
                file=str(folder),
                remedy=_REMEDY,
            )
