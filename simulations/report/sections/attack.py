"""The sections about crafted histories: how far they come, and what one event changes."""

from __future__ import annotations

from collections.abc import Sequence

from simulations.report.models import look
from simulations.report.reading.attacks import Attacked, Attacks, Shown
from simulations.report.sections.section import Section, Table, table

__all__ = ["attack_sections"]

_ABOUT = (
    "Crafted users of one organisation try to push an item into others' first ten, or out of it. "
    "Each row is the attack that came furthest: the share of other users' lists that hold the "
    "item, and its mean rank, before and after. The defence is what a partner has by default: "
    "limits on how fast events count, no repeats, and caps on one user's part of own counts."
)
_EVASION = (
    "One event of a history is replaced, inserted or removed, six times for each user. A smoothed "
    "scorer takes the mean over thinned histories."
)


def attack_sections(measured: Sequence[Attacks]) -> list[Section]:
    """Return the sections on attacks; none where none were measured."""
    sections = []
    for number, one in enumerate(measured, start=1):
        suffix = f" ({one.name})" if len(measured) > 1 else ""
        sections.append(
            Section(
                key=f"attack-{number}",
                title=f"How far do crafted histories come?{suffix}",
                takeaway=_takeaway(one),
                about=_ABOUT,
                table=_attacks(one),
                notes=(_setting(one),),
            )
        )
        if one.evasion:
            sections.append(
                Section(
                    key=f"evasion-{number}",
                    title=f"Does one event flip a list?{suffix}",
                    takeaway=_evasion_takeaway(one),
                    about=_EVASION,
                    table=_evasion(one),
                )
            )
    return sections


def _strongest(measured: Attacks, *, defended: bool) -> list[Attacked]:
    return [row for row in measured.attacks if row.strongest and row.defended is defended]


def _takeaway(measured: Attacks) -> str:
    """Say how far the strongest push came without and with the defence."""
    worst = []
    for defended in (False, True):
        pushes = [r for r in _strongest(measured, defended=defended) if r.direction == "push"]
        worst.append(max(pushes, key=lambda row: row.after.share - row.before.share, default=None))
    plain, guarded = worst
    if plain is None or guarded is None:
        return "No push was measured."
    return (
        f"Without the defence, the strongest push ({_who(plain)}) puts its item into "
        f"{plain.after.share:.1%} of the lists of {look(plain.part).label} (before: "
        f"{plain.before.share:.1%}); with it, the strongest ({_who(guarded)}) into "
        f"{guarded.after.share:.1%} of those of {look(guarded.part).label} (before: "
        f"{guarded.before.share:.1%})."
    )


def _who(row: Attacked) -> str:
    users = "one user" if row.crafted == 1 else f"{row.crafted:,} users"
    return f"{row.attack}, {users}"


def _setting(measured: Attacks) -> str:
    epsilon = "no privacy" if measured.epsilon is None else f"ε = {measured.epsilon:g}"
    return (
        f"{measured.at} is attacked, with {measured.users:,} users; {measured.organisations} "
        f"organisations, {measured.aggregation}, {epsilon}."
    )


def _attacks(measured: Attacks) -> Table:
    head = "model|direction|target|attack|crafted users|defence|users|share before|share after"
    return table(
        (*head.split("|"), "rank before", "rank after"),
        [
            (
                *(look(row.part).label, row.direction, row.target, row.attack),
                *(f"{row.crafted:,}", "on" if row.defended else "off", f"{row.after.users:,}"),
                *_before_after(row.before, row.after),
            )
            for row in measured.attacks
            if row.strongest
        ],
    )


def _before_after(before: Shown, after: Shown) -> tuple[str, ...]:
    shares = (f"{one.share:.1%}" for one in (before, after))
    ranks = (f"{one.rank:,.0f}" for one in (before, after))
    return (*shares, *ranks)


def _evasion_takeaway(measured: Attacks) -> str:
    texts = []
    for model in dict.fromkeys(row.model for row in measured.evasion):
        plain, smooth = (
            [r for r in measured.evasion if r.model == model and bool(r.samples) is smoothed]
            for smoothed in (False, True)
        )
        if plain and smooth:
            kept, steadier = (min(row.kept_worst for row in rows) for rows in (plain, smooth))
            texts.append(
                f"{look(model).label}: the worst change of one event leaves {kept:.0%} of the "
                f"first ten, and {steadier:.0%} of a smoothed list, at NDCG@10 {plain[0].ndcg:.4f} "
                f"and {smooth[0].ndcg:.4f}."
            )
    return " ".join(texts)


def _evasion(measured: Attacks) -> Table:
    return table(
        ("model", "thinned histories", "change", "kept", "kept, worst of six", "NDCG@10"),
        [
            (
                *(look(row.model).label, f"{row.samples:,}" if row.samples else "none", row.change),
                *(f"{row.kept:.1%}", f"{row.kept_worst:.1%}", f"{row.ndcg:.4f}"),
            )
            for row in measured.evasion
        ],
    )
