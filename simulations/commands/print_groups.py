"""Print how well public groups are served."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from shared.system.command_line import output

__all__ = ["print_groups"]

MODEL = "federated"


def print_groups(section: dict[str, Any]) -> None:
    """Print each table: the federated model's exact NDCG@10, and what was released of it."""
    released = section.get("released")
    for place, exact in enumerate(section["exact"][MODEL]):
        table = Table(title=f"groups: {exact['table']}")
        table.add_column("group")
        for name in ("users", "NDCG@10", "95%"):
            table.add_column(name, justify="right")
        if released:
            for name in ("released: users", "NDCG@10", "95%"):
                table.add_column(name, justify="right")
        noised = released["tables"][place]["groups"] if released else [None] * len(exact["groups"])
        for group, other in zip(exact["groups"], noised, strict=True):
            if group["users"] or other:
                cells = _cells(group) + (_cells(other) if other else [])
                table.add_row(group["name"], *cells)
        output.print(table)
        output.print(f"exact: {_gap(exact)}", soft_wrap=True)
        if released:
            output.print(f"released: {_gap(released['tables'][place])}", soft_wrap=True)


def _cells(group: dict[str, Any]) -> list[str]:
    if group["ndcg"] is None:
        return [f"{group['users']:,.0f}", "-", "too few"]
    interval = f"{group['low']:.3f} to {group['high']:.3f}"
    return [f"{group['users']:,.0f}", f"{group['ndcg']:.4f}", interval]


def _gap(table: dict[str, Any]) -> str:
    """Say which group is served worst, and whether that may be chance."""
    if table["worst"] is None:
        return "too few groups have figures to compare them"
    sure = "" if table["gap_low"] > 0 else ": it may be chance"
    return (
        f"worst is {table['worst']}, best {table['best']}; the gap is {table['gap']:.4f} "
        f"(95%: {table['gap_low']:.4f} to {table['gap_high']:.4f}){sure}"
    )
