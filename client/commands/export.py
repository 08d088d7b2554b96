"""sotto-node export: the published model in a form that other programs run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.serving.onnx_export import export_onnx
from shared.system.command_line import output

__all__ = ["export_command"]


def export_command(
    model: Annotated[
        Path, typer.Argument(help="The published folder, with model/ and catalogue/.")
    ],
    *,
    onnx: Annotated[Path, typer.Option(metavar="FILE", help="The file to write.")],
    domain: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Domain of the catalogue whose items are ranked; may be repeated.",
            show_default="all of the catalogue",
        ),
    ] = None,
) -> None:
    """Write the published model's scorer as ONNX. The adapted model stays at home."""
    export_onnx(model, onnx, domain or ())
    output.print(
        f"Written to {onnx}: histories int64 [users, events] to scores [users, items]. "
        f"Row i{' of the rows of ' + ', '.join(domain) if domain else ''} of "
        f"{model / 'catalogue'} has id i, counted from 1; 0 is padding.",
        soft_wrap=True,
    )
