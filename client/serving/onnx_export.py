"""The published model's scorer as ONNX, for runtimes without Python.

| name                      | what                                                                |
|---------------------------|---------------------------------------------------------------------|
| input `histories`         | int64 [B, T], T the model's `max_length`: internal ids 1..V, a      |
|                           |   user's last T events, oldest first, padded with 0 on the right    |
| output `scores`           | float32 [B, V]; column j belongs to internal id j + 1; their        |
|                           |   softmax is the score of `recommend` without a home model          |
| metadata `sotto.catalogue`| the fingerprint of the catalogue, whose row i has internal id i + 1 |
|                           |   (with domains, that of the catalogue of their rows)               |

The home model is not part of it: it is a table of counts, and stays at home.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from client.logs import errors_only
from client.serving.published import load_published
from shared.errors import ConfigError
from shared.models.attention import AttentionRecommender
from shared.system.files import UMASK, write_atomically

__all__ = ["export_onnx"]


class _NextItemScores(nn.Module):
    def __init__(self, model: AttentionRecommender) -> None:
        super().__init__()
        self.model = model

    def forward(self, histories: Tensor) -> Tensor:
        return self.model.next_item_scores(histories)


def export_onnx(folder: Path, file: Path, domains: Sequence[str] = ()) -> None:
    """Write the scorer of a published folder as one ONNX file, which is replaced if it is there.

    Args:
        folder: holds `catalogue/` and `model/`.
        file: its folder must be there.
        domains: of the catalogue, whose items alone are ranked; none takes all.

    Raises:
        ConfigError: `onnx` or `onnxscript` is not installed, the model is of another kind than
            "attention", or the file cannot be written.
        DataError: see `load_published`.
    """
    try:
        import onnx  # type: ignore[import-not-found,unused-ignore]  # noqa: F401, PLC0415 optional
        import onnxscript  # type: ignore[import-not-found,unused-ignore]  # noqa: F401, PLC0415
    except ImportError as error:
        raise ConfigError(
            f"the package {error.name} is not installed: pip install 'sotto[onnx]'."
        ) from error
    catalogue, model = load_published(folder, domains=domains)
    if not model.ranks_by_products:
        raise ConfigError(f"a model of type {model.model_type} is not exported: serve it here.")
    # What a frozen layer holds decides how it is computed, and a graph has no such choice.
    model.requires_grad_(requires_grad=True)
    example = torch.zeros(2, model.config.max_length, dtype=torch.int64)
    example[:, 0] = 1
    with _quiet():
        program = torch.onnx.export(
            _NextItemScores(model).train(mode=False),
            (example,),
            dynamo=True,
            input_names=["histories"],
            output_names=["scores"],
            dynamic_shapes={"histories": {0: torch.export.Dim("users")}},
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props["sotto.catalogue"] = catalogue.fingerprint
    try:
        write_atomically(file, program.model_proto.SerializeToString(), mode=UMASK)
    except OSError as error:
        raise ConfigError(f"--onnx {file}: cannot be written ({error.strerror}).") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks on packages that are not needed to itself."""
    with errors_only("torch.onnx"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
