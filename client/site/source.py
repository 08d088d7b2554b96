"""Look at a source before there is a site: whether its files exist, and its columns."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from client.data.config import DataConfig
from client.data.sources import open_source
from shared.sections import Value, parse_sections

__all__ = ["check_files", "read_columns"]


def check_files(source: str) -> None:
    """Check that files of this name or pattern exist; paths are from the current folder.

    Raises:
        SiteError: there are none.
    """
    open_source(DataConfig(source=str(Path(source).expanduser())), Path.cwd()).version()


def read_columns(values: Mapping[str, Value]) -> list[str]:
    """Return the columns of the source that the keys `data.*` describe.

    Raises:
        SottoError: it cannot be read.
        OSError: the same.
    """
    names = {key.partition(".")[2]: value for key, value in values.items() if key[:5] == "data."}
    if "://" not in str(names["source"]):
        names["source"] = str(Path(str(names["source"])).expanduser())
    source = open_source(parse_sections(DataConfig, names), Path.cwd())
    with closing(source.tables()) as tables:
        return next((list(table.columns) for table in tables), [])
