"""What `recommend` prints: the list of one history, and what was written for many users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Group
from rich.padding import Padding
from rich.text import Text

from client.serving.batch import Summary
from client.serving.explanation import attends_by_item
from client.serving.recommender import Recommended
from shared.system.command_line import messages, output, table_of

__all__ = ["item_as_json", "print_list", "print_summary"]


def item_as_json(one: Recommended) -> dict[str, object]:
    """Return an item's fields; `before` only where lists are reranked."""
    because = None if one.explanation is None else one.explanation.sentence
    fields = asdict(one) | {"because": because}
    if one.before is None:
        del fields["before"]
    return fields


def print_list(listed: Sequence[Recommended]) -> None:
    """Print a list as a table; the reason of an item that has one stands under its title."""
    by_item = attends_by_item([one.explanation for one in listed if one.explanation is not None])
    moved = any(one.before is not None for one in listed)
    table = table_of("rank", *(["by score"] if moved else []), "item", "score", "title")
    for one in listed:
        before = [str(one.before or "later")] if moved else []
        table.add_row(str(one.rank), *before, one.item, f"{one.score:.4g}", _title(one, by_item))
    output.print(table)
    if not listed:
        messages.print("The filters leave no item.")


def _title(one: Recommended, by_item: bool) -> Group:
    """Return an item's title, and its reason in indented lines below."""
    reason = one.explanation
    if reason is None:
        return Group(Text(one.title, overflow="fold"))
    lines = [reason.sentence]
    parts = (
        ("home", reason.home),
        ("popularity", reason.popularity),
        ("federation", reason.federated),
    )
    if reason.score > 0:  # one that is less than a float can hold has no shares
        lines.append(", ".join(f"{name} {part / reason.score:.0%}" for name, part in parts))
    if by_item and reason.attended:
        named = [f"{event.name} {event.attention:.0%}" for event in reason.attended]
        lines.append(f"attends to {', '.join(named)}")
    if reason.brought_by:
        lines.append(f"brought by {reason.brought_by}")
    texts = [Padding(Text(line, overflow="fold"), (0, 0, 0, 2)) for line in lines]
    return Group(Text(one.title, overflow="fold"), *texts)


def print_summary(summary: Summary, out: Path, home: Path | None) -> None:
    """Print what was written, and with which home model."""
    output.print(
        f"{summary.rows:,} recommendations for {summary.users:,} users in "
        f"{summary.seconds:,.0f} s: {out}",
        soft_wrap=True,
    )
    output.print(
        f"With your own model, {home}."
        if home
        else "With the published model alone: sotto-node adapt makes one of your own.",
        soft_wrap=True,
    )
    if summary.without_history:
        output.print(
            f"{summary.without_history:,} of the users have no event with an item of the "
            "catalogue: they got what the model recommends without a history.",
            soft_wrap=True,
        )
    if summary.guarded:
        output.print(
            f"{summary.guarded:,} lists were changed by the wellbeing guard: the column "
            "`wellbeing` says how.",
            soft_wrap=True,
        )
    if summary.short_lists:
        output.print(
            f"{summary.short_lists:,} lists are shorter: the filters leave fewer items.",
            soft_wrap=True,
        )
