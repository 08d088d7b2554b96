"""What `sotto-node evaluate --feedback` prints."""

from __future__ import annotations

from client.home.evaluate import NAMES
from client.serving.choices import ChoicesEvaluation
from shared.system.command_line import output, table_of

__all__ = ["print_choices"]


def print_choices(found: ChoicesEvaluation, k: int) -> None:
    """Print both tables, and what they rest on."""
    shown = table_of("model in service", "shown", "chosen", "rate", "rate if looked at")
    for one in found.shown:
        shown.add_row(
            one.model or "not stated",
            f"{one.shown:,}",
            f"{one.chosen:,}",
            f"{one.rate:.4f} ± {one.half_width:.4f}",
            f"{one.corrected:.4f} ± {one.corrected_half_width:.4f}",
        )
    output.print(shown)
    models = table_of("model", f"HR@{k}", f"NDCG@{k}")
    for name, figures in found.models.items():
        ndcg = f"{figures.ndcg:.4f} ± {figures.half_width:.4f}"
        models.add_row(NAMES[name], f"{figures.hr:.4f}", ndcg)
    output.print(models)
    output.print(
        f"{found.choices:,} choices, weighed by 1 / P(look at position p), P = p^-{found.eta:g}; "
        f"{found.left_out:,} were left out. What is made at home has seen no feedback. Items that "
        "were never shown have no weight: the figures favour models like those in service.",
        soft_wrap=True,
    )
