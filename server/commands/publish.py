"""sotto-server publish."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from server.commands.options import ServerOption
from server.runs.model_card import claimed_epsilon
from server.runs.publish import publish
from server.runs.run import find_run
from server.settings import Settings
from shared.system.command_line import messages, output

__all__ = ["publish_command"]


def publish_command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run's name.")],
    server: ServerOption = Path(),
    *,
    out: Annotated[Path, typer.Option(help="New folder for the model.")],
) -> None:
    """Write the model, the catalogue, and a model card that states the privacy claim."""
    settings = Settings.load(server)
    published = publish(settings, find_run(settings, run), out)
    worst = claimed_epsilon(published)
    if math.isinf(worst):
        messages.print("Trained WITHOUT privacy: use it with public data only.", style="yellow")
    else:
        messages.print(
            f"The largest ε of any organisation is {worst:.3f}, at δ = "
            f"{published.config.privacy.delta:g}."
        )
    output.print(f"{out}", soft_wrap=True, markup=False)
