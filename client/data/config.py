"""The [data] table of site.toml: where a partner's interactions are.

| `source`                             | what is read                                             |
|--------------------------------------|----------------------------------------------------------|
| `events.parquet`, `/data/events.csv` | that file                                                |
| `part-*.csv`, `**/*.parquet`         | all files that match, in order of name                   |
| `exports/events`, a folder           | all tables below it, in order of name, except where a    |
|                                      |   name begins with `_` or `.`                            |
| `s3://bucket/prefix`                 | an object or all tables below a prefix, see              |
|                                      |   `client.data.object_store`                             |
| `postgresql://host/database`         | a query or a table, see `client.data.databases`          |
| `sqlite:///file.db`                  | the same                                                 |

It also says how fast one user's events count, and how much one user adds to own counts: against
spam and crafted histories (`shared.data.event_limits`, `shared.models.influence`).

Paths are relative to site.toml. `client.data.sources` reads what is named here.
"""

from __future__ import annotations

from typing import Annotated

from client.data.credentials import refuse_secrets
from shared.data.event_limits import LIMITS, EventLimits
from shared.data.ids import MISSING
from shared.errors import ConfigError
from shared.models.influence import CAPS, InfluenceCaps
from shared.sections import NonNegativeInt, Require, TextsOf, section

__all__ = ["DataConfig"]


@section("data")
class DataConfig:
    """The [data] table.

    Attributes:
        source: path, pattern or URL, see the table at the top of this module.
        query: for a database: a SELECT that returns the rows.
        table: for a database, instead of `query`: `name` or `schema.name`.
        user: column of the user's id.
        item: column of the item's id.
        time: column of the time; "" uses `timestamp` or `position`.
        missing: spellings of a missing id, with commas between; "" for none.
        credentials: file with the source's secrets; "" reads the environment.
        endpoint: address of an object store other than Amazon's: `https://host:port`.
        domains: the domains of the catalogue that the items are of, with commas between
            (`shared.data.domains`); public, and no result of the data. "" is the whole catalogue.
        users: file of the users' public groups, a row a user, under the same column of ids; "" has
            none. `policy.group_columns` says which of its columns may be used.
        friends: file of who is whose friend, for home models (`shared.data.friends`); "" has none.
        bounded_friends: such a file for runs of the kind "social", in which nobody is the friend of
            more than `friends_most` others; "" has none, and takes part with histories only.
        friends_most: that bound, a public constant, >= 1; 0 states none.
        queries: file of what users asked for in words, a row a query with its user, item, time and
            text, for the kind "query"; "" has none. See `client.data.queries`.
        query_column: its column of texts.
        query_attributes: its columns of what the user has declared (age group, country), which a
            query is read with; none reads none.
        max_per_minute: most events of a user in 60 seconds; later ones are dropped; 0: no limit.
        max_per_day: most in 24 hours; likewise.
        repeat_seconds: seconds within which the same item of a user counts once; without times, in
            a row; 0 counts every event.
        max_user_item: how often one user counts for an item in own counts; 0: no limit.
        max_user_transition: how often one user counts for an item after another one; likewise.

    Raises:
        ConfigError: the keys do not fit together, or one holds a secret.
    """

    source: Annotated[str, Require(str.strip, "name a file, a pattern or a URL")]
    query: str = ""
    table: str = ""
    user: str = "user_id"
    item: str = "item_id"
    time: str = ""
    missing: TextsOf = MISSING
    credentials: str = ""
    endpoint: str = ""
    domains: TextsOf = ()
    users: str = ""
    friends: str = ""
    bounded_friends: str = ""
    friends_most: NonNegativeInt = 0
    queries: str = ""
    query_column: str = "query"
    query_attributes: TextsOf = ()
    max_per_minute: NonNegativeInt = LIMITS.per_minute
    max_per_day: NonNegativeInt = LIMITS.per_day
    repeat_seconds: NonNegativeInt = LIMITS.repeat_seconds
    max_user_item: NonNegativeInt = CAPS.item
    max_user_transition: NonNegativeInt = CAPS.transition

    @property
    def limits(self) -> EventLimits:
        """How fast a user's events count."""
        return EventLimits(
            per_minute=self.max_per_minute,
            per_day=self.max_per_day,
            repeat_seconds=self.repeat_seconds,
        )

    @property
    def caps(self) -> InfluenceCaps:
        """How much one user adds to own counts."""
        return InfluenceCaps(item=self.max_user_item, transition=self.max_user_transition)

    def __post_init__(self) -> None:
        refuse_secrets({"source": self.source, "endpoint": self.endpoint}, "data.")
        if bool(self.bounded_friends) is not (self.friends_most > 0):
            raise ConfigError(
                f"data.bounded_friends = '{self.bounded_friends}', data.friends_most = "
                f"{self.friends_most}: a run reads the one within the other. State both or none."
            )
        if self.query_attributes and not self.queries:
            raise ConfigError(
                f"data.query_attributes = '{','.join(self.query_attributes)}' are columns of the "
                "table data.queries, which is not stated: state it, or leave both out."
            )
        scheme, is_url, _ = self.source.partition("://")
        database, store = bool(is_url) and scheme != "s3", bool(is_url) and scheme == "s3"
        if database and bool(self.query) is bool(self.table):
            raise ConfigError(
                f"data.query = '{self.query}', data.table = '{self.table}': "
                "a database needs one of the two."
            )
        login = bool(is_url) and not scheme.startswith("sqlite")
        reserved = {"query": database, "table": database, "endpoint": store, "credentials": login}
        for key, fits in reserved.items():
            if (value := getattr(self, key)) and not fits:
                raise ConfigError(
                    f"data.{key} = '{value}' means nothing to this source: remove it."
                )
