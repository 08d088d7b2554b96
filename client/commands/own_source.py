"""Where a command finds the partner's own data: in a site, or in a file that is named.

Options of `adapt`, `recommend` and `evaluate`, and the lists of ids that these read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer

from client.home.store import HOME_FILE
from client.serving.published import home_place
from client.site.own_data import OwnData
from client.site.site import FILE, Site
from shared.data.columns import require_columns
from shared.data.ids import MISSING, canonical_id
from shared.data.tables import FileTable, read_table
from shared.errors import ConfigError, DataError

__all__ = [
    "DataOption",
    "DomainOption",
    "ItemColumnOption",
    "OwnSource",
    "TimeColumnOption",
    "UserColumnOption",
    "find_source",
    "read_id_rows",
    "read_ids",
    "site_in",
]

DataOption = Annotated[
    str | None,
    typer.Option(
        "--data", metavar="FILE", help="Your interactions, where there is no site: file or pattern."
    ),
]
UserColumnOption = Annotated[
    str | None, typer.Option(help="With --data: its column of users.", show_default="user_id")
]
ItemColumnOption = Annotated[
    str | None, typer.Option(help="With --data: its column of items.", show_default="item_id")
]
TimeColumnOption = Annotated[
    str | None, typer.Option(help="With --data: its column of times.", show_default="timestamp")
]
DomainOption = Annotated[
    list[str] | None,
    typer.Option(
        "--domain",
        metavar="NAME",
        help="Without a site: domain of the catalogue that your items are of; may be repeated.",
        show_default="all of the catalogue",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnSource:
    """A partner's data, and what belongs to them.

    Attributes:
        data: the interactions.
        folder: of the site; the current folder without one.
        home: where the adapted model is kept.
        device: where scores are computed.
        site: whose data they are; None without one.
    """

    data: OwnData
    folder: Path
    home: Path
    device: torch.device
    site: Site | None = None


def site_in(folder: Path) -> Site | None:
    """Return the site of a folder; None where it has no site.toml.

    Raises:
        SiteError: site.toml is not readable.
    """
    return Site.load(folder) if (folder / FILE).exists() else None


def find_source(
    site: Path,
    file: str | None,
    columns: Mapping[str, str | None],
    domains: Sequence[str] | None,
) -> OwnSource:
    """Return the data of a site, or of a file.

    Args:
        site: the site's folder or site.toml.
        file: interactions; None takes the site's.
        columns: "user", "item" and "time" -> the file's column; None is the usual one.
        domains: of the catalogue, that the file's items are of; None takes all of it.

    Raises:
        ConfigError: there is neither a site nor a file, or columns or domains are named without a
            file.
        SiteError: site.toml is not readable.
    """
    named = {role: name for role, name in columns.items() if name is not None}
    if file is None:
        if named:
            option = f"--{next(iter(named))}-column"
            raise ConfigError(f"{option} is for --data FILE: a site's columns are in site.toml.")
        if domains:
            raise ConfigError(
                "--domain is for --data FILE: a site's are data.domains of site.toml."
            )
        if site == Path() and not Path(FILE).exists():
            raise ConfigError(
                "there is no site.toml in this folder: name your interactions with --data FILE, "
                "or your site with --site FOLDER."
            )
        return _of_site(Site.load(site))
    return OwnSource(
        data=OwnData.of_file(file, named, domains or ()),
        folder=Path.cwd(),
        home=Path.cwd() / HOME_FILE,
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
    )


def _of_site(site: Site) -> OwnSource:
    return OwnSource(
        data=OwnData.of_site(site),
        folder=Path(site.folder),
        home=home_place(site),
        device=site.torch_device(),
        site=site,
    )


def read_ids(file: Path, role: str, name: str) -> list[str]:
    """Return the distinct canonical ids in a column of a table, in order; see `read_id_rows`."""
    return list(read_id_rows(file, role, name))


def read_id_rows(file: Path, role: str, name: str) -> dict[str, int]:
    """Return the distinct canonical ids in a column of a table, in order, with their first rows.

    Args:
        file: CSV, TSV or Parquet.
        role: "user" or "item".
        name: the column.

    Raises:
        DataError: it is no table, has no such column or no row, or an id is empty.
    """
    table = FileTable(file)
    require_columns({role: name}, table.columns, file, "")
    texts: Sequence[str | None] = read_table(table, [name])[name].to_pylist()
    missing = {text.casefold() for text in MISSING}
    ids = [canonical_id(text or "") for text in texts]
    for row, (text, one) in enumerate(zip(texts, ids, strict=True), start=1):
        if not one or one.casefold() in missing:
            raise DataError(
                "the id is empty" if not one else "the id is a spelling of a missing value",
                file=file,
                row=row,
                field=name,
                value=text,
                remedy="Give every row an id, or leave it out.",
            )
    rows = dict[str, int]()
    for row, one in enumerate(ids, start=1):
        rows.setdefault(one, row)
    return rows
