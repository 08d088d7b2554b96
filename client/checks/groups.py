"""Check the partner's table of users, by which public groups are told apart.

Only the partner sees the findings. What is wrong with a row is no error of the node, which counts
that user as "other" (`client.data.user_columns`): it is doubtful, with file, row, field and value.

| what the table is                                             | verdict                        |
|---------------------------------------------------------------|--------------------------------|
| not there, unreadable, or without a column of the policy      | wrong                          |
| columns are allowed and no table is named                     | doubtful: all are "other"      |
| a user is in several rows that do not agree                   | doubtful: the user is "other"  |
| a value is another one but for case                           | doubtful: it is another group  |
| with `--groups`: a value that no group names, or a column     | doubtful: these are "other"    |
|   that the policy does not allow                              |                                |
| more than 10% of the users have no row                        | doubtful: these are "other"    |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from client.checks.base import Check, Facts, Verdict, doubtful, passed
from client.data.user_columns import UserRow, user_rows
from shared.groups import Factor

__all__ = ["CHECKS"]

WITHOUT_ROW = 0.1
"""More users than this without a row are probably a mistake."""
SHOWN = 12
"""Most values of a column that are listed."""


@dataclass(slots=True)
class _Read:
    """What the table holds.

    Attributes:
        rows: the first row of each user.
        duplicates: rows that differ from the user's first one.
        repeated: how many rows say the same again.
        values: by column, how many users have each value; "" for none.
        first: by column and value, the first row with it.
    """

    rows: dict[str, UserRow] = field(default_factory=dict)
    duplicates: list[UserRow] = field(default_factory=list)
    repeated: int = 0
    values: dict[str, Counter[str]] = field(default_factory=dict)
    first: dict[tuple[str, str], UserRow] = field(default_factory=dict)

    def add(self, row: UserRow) -> None:
        before = self.rows.setdefault(row.user, row)
        if before is not row:
            self.repeated += before.values == row.values
            if before.values != row.values:
                self.duplicates.append(row)
            return
        for name, value in row.values.items():
            self.values.setdefault(name, Counter())[value] += 1
            self.first.setdefault((name, value), row)


def _groups(facts: Facts) -> Verdict:
    data, columns = facts.site.data, tuple(facts.site.policy.group_columns)
    if not columns or not data.users:
        return _without_table(facts, columns)
    read = _Read()
    for row in user_rows(data, Path(facts.site.folder), columns):
        read.add(row)
    without = [user for user in facts.histories.users if user not in read.rows]
    found = _counts(read, columns, len(without))
    doubts = [*_doubts(facts, read), *_absent(facts, without)]
    if not doubts:
        return passed(found)
    problems, remedies = zip(*doubts, strict=True)
    return doubtful("; ".join((found, *problems)), " ".join(dict.fromkeys(remedies)))


def _without_table(facts: Facts, columns: tuple[str, ...]) -> Verdict:
    asked = [factor.name for factor in _factors(facts)]
    if columns:
        return doubtful(
            f"policy.group_columns names {', '.join(columns)}, and data.users no table: all users "
            f'are in the group "other"',
            "Name the table of users with data.users, or leave policy.group_columns out.",
        )
    if asked:
        return doubtful(
            f"policy.group_columns names no column, and groups by {', '.join(asked)} are expected: "
            'all users are in the group "other"',
            "Name the columns that may be used with policy.group_columns.",
        )
    unread = (
        f"data.users = '{facts.site.data.users}' is not read: " if facts.site.data.users else ""
    )
    return passed(f"{unread}policy.group_columns allows no column")


def _counts(read: _Read, columns: tuple[str, ...], without: int) -> str:
    """Say how many rows and values there are."""
    parts = [f"{len(read.rows):,} users in the table, {without:,} users with events have no row"]
    if read.repeated:
        parts.append(f"{read.repeated:,} rows say the same again")
    for name in columns:
        values = read.values.get(name, Counter())
        listed = [f"{value or 'none'} {users:,}" for value, users in values.most_common(SHOWN)]
        more = f" and {len(values) - SHOWN:,} other values" if len(values) > SHOWN else ""
        parts.append(f"{name}: {', '.join(listed) or 'no value'}{more}")
    return "; ".join(parts)


def _doubts(facts: Facts, read: _Read) -> Iterator[tuple[str, str]]:
    """Yield what is doubtful of the rows, each with its remedy."""
    if read.duplicates:
        row = read.duplicates[0]
        before = read.rows[row.user].values
        name = next(name for name in row.values if row.values[name] != before[name])
        yield (
            f"{_at(row, name)}: user '{row.user}' has {before[name]!r} in an earlier row; "
            f"such rows: {len(read.duplicates):,}",
            "Leave one row a user.",
        )
    for name, values in read.values.items():
        forms = dict[str, str]()
        for value in values:
            other = forms.setdefault(value.casefold(), value)
            if other != value:
                row = read.first[name, value]
                yield (f"{_at(row, name)}: elsewhere it is {other!r}", "Write each value one way.")
                break
    yield from _unnamed(facts, read)


def _unnamed(facts: Facts, read: _Read) -> Iterator[tuple[str, str]]:
    """Yield what the groups that are expected do not name."""
    for factor in _factors(facts):
        if factor.name not in facts.site.policy.group_columns:
            yield (
                f"groups by {factor.name} are expected, and policy.group_columns does not name it",
                "Name it there, if it may be used.",
            )
            continue
        named = {value for of_class in factor.values for value in of_class}
        values = read.values.get(factor.name, Counter())
        unknown = [value for value in values if value and value not in named]
        if unknown:
            users = sum(values[value] for value in unknown)
            yield (
                f"{_at(read.first[factor.name, unknown[0]], factor.name)}: no group has it; "
                f'{users:,} users are "other" so',
                f"Write one of {', '.join(sorted(named))}, or ask the coordinator to name it.",
            )


def _absent(facts: Facts, without: list[str]) -> Iterator[tuple[str, str]]:
    if len(without) > WITHOUT_ROW * len(facts.histories):
        yield (
            f"{facts.site.data.users}, field '{facts.site.data.user}': no row for '{without[0]}' "
            f"and {len(without) - 1:,} others",
            "Compare the ids with those of the interactions, and give every user a row.",
        )


def _factors(facts: Facts) -> list[Factor]:
    """Return the columns' groups that are expected, each column once."""
    factors = [f for table in facts.expected.tables for f in table.factors if f.values]
    return list({factor.name: factor for factor in factors}.values())


def _at(row: UserRow, name: str) -> str:
    return f"{row.source}, row {row.number}, field '{name}', value {row.values[name]!r}"


CHECKS = (
    Check(
        "groups",
        _groups,
        "Correct data.users, or leave policy.group_columns out.",
        ("catalogue", "data", "schema"),
    ),
)
