"""Time and memory of reading interactions from files and databases into histories.

    python -m simulations.benchmarks.sources [--events 10000000] [--sources parquet,postgresql]
        [--json]

Makes random interactions (`--ids text` writes ids as `customer-000017` in place of 17) in a
temporary folder and in a PostgreSQL server of its own there, and reads each source as a node would,
in a process of its own. Memory is that process's peak resident set, PyTorch's code included; the
database server's is not part of it. Reading is cut to the last 51 events, as for a model of 50.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import sqlalchemy as sa

from client.data.config import DataConfig
from client.data.sources import read_source
from shared.data.catalogue import Catalogue
from simulations.datasets.temporary_postgresql import Server, temporary_server

__all__ = ["main"]

LENGTH = 51
SOURCES = ("parquet", "csv", "sqlite", "postgresql", "postgresql-query")
_COLUMNS = "user_id, item_id, timestamp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The size of the data.

    Attributes:
        events: rows.
        users: who they are drawn from.
        items: what they are drawn from, by a power law.
        text: whether ids are texts and times are ISO 8601, or all of them integers.
    """

    events: int
    users: int
    items: int
    text: bool

    def batches(self, rows: int = 500_000) -> Iterator[pa.Table]:
        """Yield random rows in batches, unordered."""
        random = np.random.default_rng(0)
        for start in range(0, self.events, rows):
            n = min(rows, self.events - start)
            table = pa.table(
                {
                    "user_id": random.integers(0, self.users, n),
                    "item_id": random.zipf(1.3, n) % self.items,
                    "timestamp": 1_600_000_000 + random.integers(0, 10**8, n),
                }
            )
            yield _as_text(table) if self.text else table

    def catalogue(self) -> Catalogue:
        """Return the catalogue of all items."""
        names = (f"item-{n:06d}" if self.text else str(n) for n in range(self.items))
        ids = tuple(names)
        return Catalogue(ids, ids, ((),) * self.items, (None,) * self.items)


def _as_text(table: pa.Table) -> pa.Table:
    numbers = duckdb.from_arrow(table)
    return numbers.project(
        "format('customer-{:06d}', user_id) AS user_id, format('item-{:06d}', item_id) AS item_id,"
        "strftime(to_timestamp(timestamp) AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%SZ') AS timestamp"
    ).to_arrow_table()


def main() -> None:
    """Measure; with --child, be the measured process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--ids", choices=["integer", "text"], default="integer")
    parser.add_argument("--sources", default="parquet,postgresql", help=",".join(SOURCES))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    text = options.ids == "text"
    shape = Shape(events=options.events, users=options.users, items=options.items, text=text)
    if options.child:
        sys.stdout.write(json.dumps(_measured(json.loads(options.child), shape)))
        return
    names = options.sources.split(",")
    if unknown := set(names) - set(SOURCES):
        parser.error(f"unknown sources {sorted(unknown)}: choose from {', '.join(SOURCES)}")
    figures = _figures(names, shape)
    sys.stdout.write(json.dumps(figures) + "\n" if options.json else _shown(figures))


def _figures(names: list[str], shape: Shape) -> list[dict[str, float | str]]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        figures: list[dict[str, float | str]] = []
        for name in names:
            data, password = {"source": f"events.{name}"}, "benchmark"
            if name.startswith("postgresql"):
                server = stack.enter_context(temporary_server(password))
                _fill_postgresql(server, shape)
                rows = {"query": f"SELECT {_COLUMNS} FROM events"}  # noqa: S608 - a constant
                rows = rows if name.endswith("query") else {"table": "events"}
                data = {"source": server.url} | rows
            elif name == "sqlite":
                _fill_sqlite(folder / "events.db", shape)
                data = {"source": "sqlite:///events.db", "table": "events"}
            else:
                _write(folder / f"events.{name}", shape)
            figures.append({"source": name} | _in_a_child(data, folder, password))
        return figures


def _in_a_child(data: dict[str, str], folder: Path, password: str) -> dict[str, float]:
    command = [sys.executable, "-m", __spec__.name, *sys.argv[1:], "--child", json.dumps(data)]
    # An absolute path: `python -m` looks for this package from the working directory on.
    paths = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    variables = os.environ | {"SOTTO_DATA_PASSWORD": password, "PYTHONPATH": paths}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, cwd=folder, env=variables
    )
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def _measured(data: dict[str, Any], shape: Shape) -> dict[str, float]:
    catalogue, before = shape.catalogue(), _peak()
    started = time.perf_counter()
    histories = read_source(DataConfig(**data), Path(), catalogue, max_length=LENGTH)
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "peak_mib": round(_peak()),
        "before_mib": round(before),
        "users": len(histories),
        "events_kept": histories.events,
    }


def _peak() -> float:
    """Return the peak resident set in MiB; Linux counts it in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2 ** (20 if sys.platform == "darwin" else 10)


def _write(path: Path, shape: Shape) -> None:
    writer: pq.ParquetWriter | pyarrow.csv.CSVWriter | None = None
    for table in shape.batches():
        if writer is None:
            kind = pyarrow.csv.CSVWriter if path.suffix == ".csv" else pq.ParquetWriter
            writer = kind(path, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def _create(shape: Shape, id_type: str) -> str:
    kinds = (id_type, id_type, "timestamptz" if shape.text else "bigint")
    columns = ", ".join(
        f"{name} {kind}" for name, kind in zip(_COLUMNS.split(", "), kinds, strict=True)
    )
    return f"CREATE TABLE events ({columns})"


def _fill_sqlite(path: Path, shape: Shape) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(_create(shape, "text" if shape.text else "integer"))
        for table in shape.batches():
            rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
            connection.executemany("INSERT INTO events VALUES (?, ?, ?)", rows)


def _fill_postgresql(server: Server, shape: Shape) -> None:
    url = sa.make_url(server.url).set(drivername="postgresql+psycopg", password=server.password)
    with sa.create_engine(url).begin() as connection:
        connection.execute(sa.text(_create(shape, "text" if shape.text else "bigint")))
        cursor = connection.connection.cursor()
        for table in shape.batches():
            buffer = pa.BufferOutputStream()
            pyarrow.csv.write_csv(table, buffer, pyarrow.csv.WriteOptions(include_header=False))
            with cursor.copy("COPY events FROM STDIN (FORMAT csv)") as copy:
                copy.write(buffer.getvalue().to_pybytes())


def _shown(figures: list[dict[str, float | str]]) -> str:
    header = list(figures[0])
    rows = [header, *([str(figure[name]) for name in header] for figure in figures)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
