"""The command."""

from __future__ import annotations

import argparse
from dataclasses import asdict

import torch

import simulations.benchmarks.wellbeing as package
from shared.system.command_line import messages, output, table_of, write_json
from simulations.benchmarks.wellbeing.comparison import Comparison, compare

__all__ = ["main"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m simulations.benchmarks.wellbeing",
        description=(package.__doc__ or "").partition("\n")[0],
    )
    parser.add_argument("--data", default="", help="as of sotto-lab simulate --data")
    parser.add_argument("--users", type=int, default=600)
    parser.add_argument("--days", type=int, default=28)
    parser.add_argument("--threshold", type=float, default=0.3, help="risk from which to protect")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = compare(
        given.data, given.users, given.days, given.threshold, given.seed, messages.print
    )
    if given.json:
        write_json(asdict(found))
    else:
        show(found)


def show(found: Comparison) -> None:
    """Print the rows, and how well engagement is estimated."""
    table = table_of(
        *("guard", "score", "AUROC", "protected: at risk", "others"),
        *("hours a day: at risk", "change", "by night", "others"),
        *("NDCG: at risk", "others", "change", "empty, others"),
    )
    for row in found.rows:
        table.add_row(
            row.guard,
            row.score,
            f"{row.auroc:.3f}",
            f"{row.protected_at_risk:.0%}",
            f"{row.protected_others:.1%}",
            f"{row.hours_at_risk:.2f}",
            f"{row.hours_change:+.1%} ± {row.hours_half_width:.1%}",
            f"{row.night_at_risk:.2f}",
            f"{row.hours_others:.3f}",
            f"{row.ndcg_at_risk:.4f}",
            f"{row.ndcg_others:.4f}",
            f"{row.ndcg_change:+.4f} ± {row.ndcg_half_width:.4f}",
            f"{row.empty_others:.2%}",
        )
    output.print(table)
    output.print(
        f"engagement: correlation {found.engagement_correlation:.2f} with the truth over "
        f"{found.films:,} films with 20 events",
        soft_wrap=True,
    )


if __name__ == "__main__":
    main()
