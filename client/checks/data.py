"""Check the catalogue and the private interactions. Only the partner sees the findings."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from client.checks.base import Check, Facts, Verdict, doubtful, failed, passed
from client.data.sources import open_source
from client.site.over_use import load_use, own_values
from client.site.own_data import OwnData
from shared.config import ModelKind
from shared.data.friends import read_friends, refuse_unbounded
from shared.data.queries import queries_of
from shared.errors import DataError, SiteError
from shared.over_use.labels import COLUMN, label_of

__all__ = ["CHECKS"]

UNKNOWN_SHARE = 0.1
"""More events than this with items outside the catalogue are probably a mistake."""
LIMITED_SHARE = 0.01
"""More events than this above the limits: either the limits do not fit, or something is wrong."""
ABOVE, BELOW = 1.1, 0.5
"""How far the users found may be from those declared, which may be rounded."""
FAR_BELOW = 0.1
"""A δ above this part of 1 / users is doubtful."""


def _catalogue(facts: Facts) -> Verdict:
    catalogue = facts.catalogue
    own = ""
    if catalogue.selected is not None:
        domains = ", ".join(facts.site.data.domains)
        own = f", of which {int(catalogue.selected.sum()):,} are yours ({domains})"
    return passed(f"{len(catalogue):,} items{own}, version {catalogue.fingerprint[:12]}")


def _data(facts: Facts) -> Verdict:
    source = open_source(facts.site.data, Path(facts.site.folder))
    with closing(source.tables()) as tables:
        first = next(tables)
        columns = ", ".join(first.columns)
    return passed(f"{source.name} is reached; its columns are {columns}")


def _schema(facts: Facts) -> Verdict:
    try:
        histories = facts.histories
    except DataError as error:
        raise _with_left_out(facts, error) from error
    dropped = histories.dropped
    counts = (
        f"{len(histories):,} users with {histories.events:,} events; left out: "
        f"{dropped['duplicate']:,} repeated events, {dropped['short_history']:,} users with fewer "
        "than two events"
    )
    spellings = [text for text in histories.summary.describe() if "another form" in text]
    return replace(passed("; ".join([counts, *spellings])), details=histories.summary.as_dict())


def _with_left_out(facts: Facts, error: DataError) -> DataError:
    """Return the error with how many users a node that runs would leave out for such rows.

    Raises:
        DataError: the data cannot be read at all.
    """
    site = facts.site
    dropped = site.load_histories(facts.catalogue, sys.maxsize, strict=False).dropped
    users, rows = dropped["unreadable_user"], dropped["unreadable_row"]
    if not users and not rows:
        return error
    left_out = f"a node that runs leaves out {users:,} users and {rows:,} rows without a user"
    return DataError(
        error.problem,
        file=error.file,
        remedy=f"{error.remedy} Until then, {left_out}.",
        row=error.row,
        field=error.field,
        value=error.value,
    )


def _items(facts: Facts) -> Verdict:
    unknown = facts.histories.dropped["unknown_item"]
    share = unknown / (facts.histories.events + unknown)
    whole = facts.catalogue.selected is None
    outside = (
        f"{share:.1%} of the events have items outside the catalogue"
        f"{'' if whole else ', or outside of data.domains'}"
    )
    hints = [hint for hint in facts.histories.summary.hints if "item ids" in hint]
    if share > UNKNOWN_SHARE or hints:
        return doubtful(
            "; ".join([outside, *hints]),
            "Compare the item ids, and ask for the coordinator's newest catalogue."
            + ("" if whole else " data.domains names the domains of your items."),
        )
    return passed(outside)


def _limits(facts: Facts) -> Verdict:
    """Say what was dropped for coming too fast, or again."""
    read, limits = facts.histories, facts.site.data
    repeats, minute, day, users = (
        read.dropped[name] for name in ("repeat", "over_minute", "over_day", "limited_user")
    )
    found = (
        f"dropped: {minute:,} events above {limits.max_per_minute:,} in a minute, {day:,} above "
        f"{limits.max_per_day:,} in a day, {repeats:,} repeats; {users:,} users lost events so"
    )
    if minute + day + repeats > LIMITED_SHARE * read.summary.rows:
        return doubtful(
            found,
            "If these are people, raise data.max_per_minute, data.max_per_day or lower "
            "data.repeat_seconds; if not, find out whose accounts they are (check --json).",
        )
    return passed(found)


def _users(facts: Facts) -> Verdict:
    """Check that no user id is shared by many persons, and no person has several ids."""
    summary = facts.histories.summary
    user_hints = [hint for hint in summary.hints if "user ids" in hint]
    doubts = [text for text in (summary.user_warning(), *user_hints) if text]
    if doubts:
        return doubtful(
            "; ".join(doubts),
            "Give every person one id; list an id that stands for nobody in data.missing.",
        )
    share = summary.largest_user[1] / summary.offered
    return passed(f"no user has more than {share:.1%} of the events")


def _order(facts: Facts) -> Verdict:
    """Check that times tell the order of a user's events."""
    summary = facts.histories.summary
    if warning := summary.tie_warning():
        return doubtful(warning, "Export times with seconds, or a column `position`.")
    return passed(
        f"{summary.ties / summary.events:.1%} of the events have the user and time of another"
    )


def _population(facts: Facts) -> Verdict:
    declared, users = facts.site.population, len(facts.histories)
    comparison = f"{declared:,} users declared, {users:,} found"
    if users > ABOVE * declared:
        return doubtful(
            comparison,
            "Declare more: sums are divided by the declared number, so steps are too long.",
        )
    if users < BELOW * declared:
        return doubtful(comparison, "Declare fewer: the noise is for more users than there are.")
    return passed(comparison)


def _delta(facts: Facts) -> Verdict:
    """With δ near 1 / users, a mechanism may publish one user whole (Dwork & Roth 2014, 2.3)."""
    delta, users = facts.site.policy.delta, max(facts.site.population, len(facts.histories))
    comparison = f"δ = {delta:g}, 1 / users = {1 / users:.3g}"
    remedy = f"State a policy.delta of {FAR_BELOW / users:.1g} or less."
    if delta >= 1 / users:
        return failed(f"{comparison}: at such a δ one user may be revealed whole", remedy)
    if delta > FAR_BELOW / users:
        return doubtful(comparison, remedy)
    return passed(comparison)


def _queries(facts: Facts) -> Verdict:
    """Look at what a run of the kind "query" would read beside histories; nothing of it is sent."""
    site = facts.site
    if not site.data.queries:
        return passed("data.queries names no table")
    read = queries_of(facts.histories, site.load_queries(facts.catalogue))
    users = int((read.offsets[1:] > read.offsets[:-1]).sum())
    found = f"{len(read):,} queries of {users:,} users who have a history"
    if not len(read):
        return doubtful(found, "Check the columns of users and items, and `data.query_column`.")
    if ModelKind.QUERY not in site.policy.kinds:
        return doubtful(
            found, f"To have them learned from, list '{ModelKind.QUERY}' in policy.kinds."
        )
    return passed(found)


def _friends(facts: Facts) -> Verdict:
    """Look at what `sotto-node adapt` reads at home; the node itself does without."""
    site = facts.site
    if not site.data.friends:
        return passed("data.friends names no table")
    users = frozenset(OwnData.of_site(site).histories(facts.catalogue).users)
    try:
        table = read_friends(Path(site.folder, site.data.friends), users)
    except (DataError, SiteError) as error:
        remedy = "Until then sotto-node adapt refuses the table; the node does without it."
        return doubtful(str(error).removesuffix("."), remedy)
    befriended = int((table.degrees > 0).sum())
    most = int(table.degrees.max(initial=0))
    return passed(f"{befriended:,} users have a friend, {most:,} at most; they count at home alone")


def _bounded_friends(facts: Facts) -> Verdict:
    """Look at what a run of the kind "social" would read; nothing of it is sent."""
    data, policy = facts.site.data, facts.site.policy
    if not data.bounded_friends:
        return passed("data.bounded_friends names no table")
    file = Path(facts.site.folder, data.bounded_friends)
    users = frozenset(facts.histories.users)
    table = read_friends(file, users, strict=False)
    refuse_unbounded(table, data.friends_most, file)
    befriended = int((table.degrees > 0).sum())
    found = (
        f"{befriended:,} users have a friend; nobody is the friend of more than "
        f"{data.friends_most:,} others"
    )
    if not befriended:
        return doubtful(found, "Compare the ids of the table with those of the interactions.")
    if ModelKind.SOCIAL not in policy.kinds:
        return doubtful(
            found, f"To have them learned from, list '{ModelKind.SOCIAL}' in policy.kinds."
        )
    return passed(found)


def _over_use(facts: Facts) -> Verdict:
    """Look at what a run of the kind "over-use" would read; nothing of it is sent."""
    site = facts.site
    if ModelKind.OVER_USE not in site.policy.kinds:
        return passed(f"policy.kinds does not list '{ModelKind.OVER_USE}': it is refused")
    read = load_use(site, facts.catalogue, site.policy.max_events)
    found = f"'{ModelKind.OVER_USE}' is allowed; {len(read):,} users have events with times"
    values = own_values(site, read.users)
    if values is None:
        return doubtful(
            f"{found}; data.users has no column {COLUMN}",
            "Add it; until then runs are answered that label users by a rule.",
        )
    labels = [label_of(value) for value in values]
    over, other, odd = labels.count(1.0), labels.count(0.0), labels.count(None)
    found += f"; {COLUMN} is 1 for {over:,} and 0 for {other:,} of them"
    if odd:
        remedy = "Write 1, 0, or nothing where it is not known."
        return doubtful(f"{found}; {odd:,} have another value, and are left out", remedy)
    if not over or not other:
        return doubtful(found, "A model learns from users with 1 and from others with 0.")
    return passed(found)


_READ = ("catalogue", "data", "schema")
CHECKS = (
    Check("catalogue", _catalogue, "Get the whole catalogue again, and check `catalogue`."),
    Check("data", _data, "Check the [data] table: see docs/data.md."),
    Check("schema", _schema, "Mend the data, or name its columns in [data].", _READ[:2]),
    Check("items", _items, "", _READ),
    Check("limits", _limits, "", _READ),
    Check("users", _users, "", _READ),
    Check("order", _order, "", _READ),
    Check("population", _population, "", _READ),
    Check("delta", _delta, "", _READ),
    Check("queries", _queries, "Mend the table, or leave data.queries out.", _READ),
    Check("friends", _friends, "", _READ),
    Check("bounded friends", _bounded_friends, "Mend the table, or leave it out.", _READ),
    Check("over-use", _over_use, "Mend the times, or the column.", _READ),
)
