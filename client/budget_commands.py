"""sotto-node budget: what was spent, what is left, and putting a broken ledger right."""

from __future__ import annotations

from shared.commands import command_group

__all__ = ["budget"]

budget = command_group("What your users' privacy budget was spent on.", alone=True)


@budget.callback()
def budget_command() -> None:
    """What your users' privacy budget was spent on, and what is left of it."""
