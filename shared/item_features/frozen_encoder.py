"""Load a frozen encoder of transformers, and what prepares its input, from checked files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from shared.errors import DataError
from shared.item_features.encoder_source import EncoderFiles

__all__ = ["first_line", "load_frozen"]


def load_frozen(
    files: EncoderFiles,
    prepares: str,
    unusable: Callable[[EncoderFiles, str], DataError],
    **options: object,
) -> tuple[Any, Any]:
    """Load what prepares the input, and the model in eval mode without gradients.

    Nothing is downloaded, and no code that comes with a model runs.

    Args:
        files: a complete encoder.
        prepares: the class of transformers that prepares the input, such as "AutoTokenizer".
        unusable: makes the error for a problem.
        **options: of `from_pretrained` of that class.

    Raises:
        DataError: transformers cannot load it, or weights are missing.
    """
    import transformers  # noqa: PLC0415 takes seconds

    always = {"local_files_only": True, "trust_remote_code": False}
    try:
        prepare = getattr(transformers, prepares).from_pretrained(files.folder, **options, **always)
        model, report = transformers.AutoModel.from_pretrained(
            files.folder,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            **always,
        )
    except Exception as fault:  # a damaged file can make the library raise anything
        raise unusable(files, f"transformers cannot load it ({first_line(fault)})") from fault
    # A pooler's weights are often missing; the states that are read do not use it.
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise unusable(
            files, f"its weights lack {len(missing)} of the model's, such as {missing[0]}"
        )
    return prepare, model.eval().requires_grad_(False)


def first_line(fault: Exception) -> str:
    """Return what an error says first, in 200 characters at most."""
    return str(fault).strip().partition("\n")[0][:200] or type(fault).__name__
