"""What `recommend` prints: the list of one history, and what was written for many users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

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


def print_list(listed: Sequence[Recommended], *, explain: bool) -> None:
    """Print a list as a table, with the reasons of its items where they are asked for."""
    more: tuple[str, ...] = ("because", "home", "popularity", "federation") if explain else ()
    reasons = [one.explanation for one in listed if one.explanation is not None]
    social = any(reason.friends for reason in reasons)
    more += ("friends",) if social else ()
    by_item = attends_by_item(reasons)
    more += ("attends to",) if by_item else ()
    modalities = any(reason.modalities for reason in reasons)
    more += ("brought by",) if modalities else ()
    moved = any(one.before is not None for one in listed)
    table = table_of("rank", *(["by score"] if moved else []), "item", "title", "score", *more)
    for one in listed:
        cells = [str(one.rank), one.item, one.title, f"{one.score:.4g}"]
        if moved:
            cells.insert(1, str(one.before or "later"))
        if one.explanation is not None:
            reason = one.explanation
            parts = [reason.home, reason.popularity, reason.federated]
            parts += [reason.friends] if social else []
            cells.append(reason.sentence)
            cells += [f"{part / reason.score:.0%}" for part in parts]
            if by_item:
                named = [f"{event.name} {event.attention:.0%}" for event in reason.attended]
                cells.append(", ".join(named))
            cells += [reason.brought_by] if modalities else []
        table.add_row(*cells)
    output.print(table)
    if not listed:
        messages.print("The filters leave no item.")


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
