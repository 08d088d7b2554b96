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

Paths are relative to site.toml. `client.data.sources` reads what is named here.
"""

from __future__ import annotations

from typing import Annotated

from client.data.credentials import refuse_secrets
from shared.data.ids import MISSING
from shared.errors import ConfigError
from shared.sections import Require, TextsOf, section

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

    def __post_init__(self) -> None:
        refuse_secrets({"source": self.source, "endpoint": self.endpoint}, "data.")
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
