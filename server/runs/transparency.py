"""What a published model's card says in plain words: its main parameters, popularity, and groups.

The first part is written for people whose lists the model orders, so that an organisation that
serves it can take it into its terms: Regulation (EU) 2022/2065 (Digital Services Act), article 27,
asks for the main parameters of a recommender, the most significant criteria, why they matter, and
what a user can change. All of it follows from the run's settings, the published weights and noised
figures of groups: nothing else is known here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.config import ModelConfig, RunConfig
from shared.groups import columns_of, weighted_of

__all__ = ["describe_groups", "main_parameters", "popularity_shares"]

DECILES = 10
Escape = Callable[[str], str]


def popularity_shares(logits: NDArray[np.floating[Any]]) -> tuple[float, ...]:
    """Return each tenth of the items' share of a model's choices before any event, largest first.

    Args:
        logits: of each item, without any event, [V].
    """
    chances = np.exp(logits.astype(np.float64) - float(logits.max()))
    ordered = np.sort(chances / chances.sum())[::-1]
    return tuple(float(part.sum()) for part in np.array_split(ordered, DECILES))


def main_parameters(
    config: RunConfig, popularity: Sequence[float], modalities: Mapping[str, float] | None = None
) -> str:
    """Return the section about what decides the order of a list.

    Args:
        config: the run's parameters.
        popularity: `popularity_shares` of the model; () where it is not known.
        modalities: what each block of an item's features weighs, by its name; may be empty.
    """
    model = config.model
    rows = [
        (
            f"the user's own last {model.max_length} events",
            f"most. An event counts {_recency(model)} the one after it",
            "what somebody chose last says most about what is chosen next",
        ),
        (
            "how items are described, and what users of all organisations chose after what",
            "much: it says which items go with the user's own" + _gates(modalities or {}),
            "few users chose the same items, and many chose alike ones",
        ),
    ]
    if model.item_bias:
        rows.append(
            (
                "how often an item is chosen by users of all organisations",
                _popularity(config, popularity),
                "without it, items that hardly anybody wants would fill the lists",
            )
        )
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"""\
## What decides the order of a list
For users, in plain words (Digital Services Act, article 27).

| criterion | how much it counts | why |
|---|---|---|
{table}

{_not_used(config)} Items that the user has met already are left out.

**What a user can change** is up to the organisation that serves the model, which can offer all of \
this: leaving single events, or all, out of what is looked at (without any event, popularity alone \
decides); dismissing an item; other orders, by the user's own genres or popularity, \
with more variety, or with a place for rare items (`rerank`); and the reason for each item \
(`explain`).
"""


def _gates(modalities: Mapping[str, float]) -> str:
    """Return what each block weighs in the description of an item that has all, as a clause."""
    if not modalities:
        return ""
    shares = [f"{name} {share:.0%}" for name, share in modalities.items()]
    return f". Of the description, {', '.join(shares)}"


def describe_groups(groups: Mapping[str, Any], escape: Escape) -> str:
    """Return the section about groups of users; it says so where nothing was measured.

    Args:
        groups: as `server.rounds.groups.measured_groups` returns them; {} where there are none.
        escape: makes a name safe in Markdown.
    """
    if not groups:
        return """\
## Groups of users
How well the model serves groups of users was not measured in this run: nobody knows whether some \
are served worse.
"""
    everybody = groups["all"]
    parts = [_group_table(table, groups["k"], escape) for table in groups["tables"]]
    return f"""\
## Groups of users
Measured once on the users' last event before the end of training, at \
{groups["organisations"]} organisations, and released with noise: standard deviation \
{groups["noise"]:.1f} on each sum. NDCG@{groups["k"]} of all users together: \
{everybody["ndcg"]:.4f} (95%: {everybody["low"]:.4f} to {everybody["high"]:.4f}). The intervals \
of a table hold for all of its groups at once, noise and chance included.

{"".join(parts)}
A gap whose interval begins below 0 may be chance. A difference does not say why: groups differ in \
how many events they have, and in how alike their tastes are.
"""


def _recency(model: ModelConfig) -> str:
    return f"{model.recency:g} times as much as" if model.recency < 1 else "as much as"


def _popularity(config: RunConfig, popularity: Sequence[float]) -> str:
    strength = config.training.debias
    said = "some" if strength else "much"
    if strength:
        said += f": {strength:.0%} of it was taken out (logit adjustment)"
    if popularity:
        said += (
            f". Before any event, the most popular tenth of the items gets {popularity[0]:.0%} "
            f"and the less popular half {sum(popularity[DECILES // 2 :]):.0%}"
        )
    return said


def _not_used(config: RunConfig) -> str:
    weighted = weighted_of(config.groups.first_weights)
    if weighted is None:
        return (
            "Age, gender, place and other properties of a user are not used, neither for the order "
            "of a list nor in training."
        )
    named = ", ".join(columns_of([weighted.table])) or "how many events users have"
    return (
        f"Age, gender, place and other properties of a user are not used for the order of a list. "
        f"In training, groups of users by {named} counted differently."
    )


def _group_table(table: Mapping[str, Any], k: int, escape: Escape) -> str:
    rows = "\n".join(
        f"| {escape(group['name'])} | {group['users']:,.0f} | {_figure(group, 'hr')} | "
        f"{_figure(group, 'ndcg')} | {_interval(group)} |"
        for group in table["groups"]
    )
    return f"""\
| group | users (noised) | HR@{k} | NDCG@{k} | 95% |
|---|---|---|---|---|
{rows}

{_gap(table, escape)}

"""


def _figure(group: Mapping[str, Any], name: str) -> str:
    return "too few" if group[name] is None else f"{group[name]:.4f}"


def _interval(group: Mapping[str, Any]) -> str:
    return "" if group["low"] is None else f"{group['low']:.4f} to {group['high']:.4f}"


def _gap(table: Mapping[str, Any], escape: Escape) -> str:
    if table["worst"] is None:
        return "Fewer than two groups have users enough to compare them."
    chance = "" if table["gap_low"] > 0 else ", so that it may be chance"
    return (
        f"Served worst: **{escape(table['worst'])}**; best: {escape(table['best'])}. The gap is "
        f"{table['gap']:.4f} (95%: {table['gap_low']:.4f} to {table['gap_high']:.4f}{chance})."
    )
