"""The section on kinds of model: accuracy, coverage, cost and ε of each, and which to take."""

from __future__ import annotations

from simulations.experiment.kinds import WHEN, Compared, Kinds
from simulations.report.sections.section import Section, table
from simulations.report.text.takeaways import epsilon_text

__all__ = ["kinds_sections"]

_HEAD = (
    *("ε", "kind", "seeds", "NDCG@10", "at home", "recall@10", "F1@10", "coverage"),
    *("ε spent", "seconds", "MB a round"),
)


def kinds_sections(kinds: Kinds) -> list[Section]:
    """Return the section on what a comparison found."""
    named = dict.fromkeys(row.kind for row in kinds.kinds)
    return [
        Section(
            key="kinds",
            title="Which kind of model to take?",
            takeaway=" ".join(kinds.advice) or "No two kinds finished at the same ε.",
            about="Means over seeds. Seconds are those of federated training; MB are what all "
            "organisations send and receive in a round. The test is a paired t-test over users, of "
            "NDCG@10 at home where it was measured; F1@10 is of one relevant item a user.",
            table=table(_HEAD, [_row(row) for row in kinds.kinds]),
            notes=tuple(f"{kind}: {WHEN[kind]}" for kind in named if kind in WHEN),
        )
    ]


def _row(row: Compared) -> tuple[str, ...]:
    return (
        *("none" if row.epsilon is None else epsilon_text(row.epsilon), row.kind, f"{row.seeds}"),
        *(f"{row.ndcg:.4f}", "-" if row.home is None else f"{row.home:.4f}", f"{row.hr:.4f}"),
        *(f"{row.f1:.4f}", f"{row.coverage:.3f}"),
        *("-" if row.spent is None else f"{row.spent:.2f}", f"{row.seconds:,.0f}"),
        "-" if row.megabytes is None else f"{row.megabytes:,.1f}",
    )
