"""Refuse a model file that does not hold exactly the model's tensors.

transformers loads such a file with a warning at most: a missing tensor keeps whatever its memory
held, and a tensor of another name is left out.

| the file                                   | what happens                          |
|--------------------------------------------|---------------------------------------|
| has every tensor, and each has its shape   | loaded                                |
| lacks a tensor                             | refused, with the tensor's name       |
| has a tensor that the model has not        | refused, with the tensor's name       |
| has a tensor of another shape              | refused, with the name and the shapes |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from shared.errors import DataError

__all__ = ["check_complete"]

_REMEDY = "Copy the model's folder again, whole: config.json and model.safetensors belong together."


def check_complete(report: Mapping[str, Any], folder: object) -> None:
    """Refuse a model that was not loaded completely.

    Args:
        report: what `from_pretrained(..., output_loading_info=True)` returned beside the model.
        folder: where the model was loaded from, for the message.

    Raises:
        DataError: a tensor is missing, has another shape, or is not the model's.
    """
    shapes = {name: f"{list(stored)}, not {list(own)}" for name, stored, own in _mismatched(report)}
    for problem, names in (
        ("lacks", _names(report, "missing_keys") - set(shapes)),
        ("has a shape that the model has not in", shapes),
        ("has, beside the model's tensors,", _names(report, "unexpected_keys")),
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


def _names(report: Mapping[str, Any], key: str) -> set[str]:
    return set(report.get(key) or ())


def _mismatched(report: Mapping[str, Any]) -> Iterable[tuple[str, Any, Any]]:
    return list(report.get("mismatched_keys") or ())
