"""Recommendations for many users, written to one file in blocks of users.

Finished blocks lie in a folder beside the file, `NAME.parts`, until all are there: a run that was
killed goes on behind the last one. A block is the same whenever it is computed, so that the file
does not depend on how often a run was interrupted. Blocks of another request (of another model,
home model, list of users, state of the data) are discarded.

| the file        | what it holds                                                                 |
|-----------------|-------------------------------------------------------------------------------|
| `.parquet`      | user, item, title: text; rank: int32; score: float32; one row group a block   |
| `.csv`          | the same columns, with a header                                               |
| `.jsonl`        | one object a line, with these keys                                            |

With explanations there is a column more, `because`: a sentence. With the wellbeing guard there is
`wellbeing`: what was done to the user's list, in sentences; "" for most. The file is readable by
its owner alone: it says what users chose or may choose.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from client.serving.guarded import guard_file
from client.serving.named_items import Filters
from client.serving.recommender import Lists, Recommender
from shared.data.histories import Histories
from shared.errors import ConfigError
from shared.rerank.settings import RerankConfig
from shared.system.files import PRIVATE, atomic_replacement, write_atomically
from shared.system.locks import exclusive_lock

if TYPE_CHECKING:
    from client.wellbeing.protection import Protection

__all__ = ["SUFFIXES", "Batch", "Summary", "check_file", "recommend_all"]

SUFFIXES = (".parquet", ".csv", ".jsonl")
_BLOCK = 8192
"""Users of a block."""
_PLAN, _LOCK = "plan.json", "lock"
_MEBI = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What is to be recommended, to whom, and where it is written.

    Attributes:
        recommender: ranks.
        passes: each reads the histories of some users; a user without events is answered, too.
        k: length of a list.
        filters: which items may be recommended.
        explain: whether to add reasons.
        rerank: another order of what is shown.
        file: is replaced when all is done; its suffix is one of `SUFFIXES`.
        protection: decides on lists of users at risk of over-use; None where nobody is protected.
        request: what the result depends on, as JSON holds it: blocks of another one are discarded.
    """

    recommender: Recommender
    passes: Sequence[Callable[[], Histories]]
    k: int
    filters: Filters
    explain: bool
    file: Path
    request: Mapping[str, object]
    rerank: RerankConfig = field(default_factory=RerankConfig)
    protection: Protection | None = None

    @property
    def parts(self) -> Path:
        """The folder of finished blocks."""
        return self.file.with_name(f"{self.file.name}.parts")


@dataclass(slots=True, kw_only=True)
class Summary:
    """What a batch has done.

    Attributes:
        users: how many were answered.
        without_history: those of them who have no event with an item of the catalogue.
        short_lists: those of them for whom filters left fewer than k items.
        guarded: those whose list the wellbeing guard has changed.
        rows: recommendations.
        resumed: users whose block was there already.
        seconds: of this run.
    """

    users: int = 0
    without_history: int = 0
    short_lists: int = 0
    guarded: int = 0
    rows: int = 0
    resumed: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class _Progress:
    """Says how far a batch has come, every ten seconds."""

    say: Callable[[str], None]
    passes: int
    began: float = field(default_factory=time.monotonic)
    last: float = field(default_factory=time.monotonic)
    users: int = 0

    def add(self, users: int, number: int, done: int, of: int) -> None:
        self.users += users
        now = time.monotonic()
        if now - self.last >= 10:
            self.last = now
            part = f" (part {number + 1} of {self.passes})" if self.passes > 1 else ""
            rate = self.users / (now - self.began)
            self.say(f"{done:,} of {of:,} users{part}, {rate:,.0f} a second")


def check_file(file: Path) -> None:
    """Refuse a file that a batch cannot write.

    Raises:
        ConfigError: its suffix is not in `SUFFIXES`, or its folder is not there.
    """
    if file.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--out {file}: choose a name that ends in {', '.join(SUFFIXES)}.")
    if not file.parent.is_dir():
        raise ConfigError(f"--out {file}: there is no folder {file.parent}. Make it first.")
    if file.is_dir():
        raise ConfigError(f"--out {file}: this is a folder. Name a file.")


def recommend_all(batch: Batch, say: Callable[[str], None]) -> Summary:
    """Recommend to all users, and write the file.

    Args:
        batch: the request.
        say: is told how far it has come.

    Raises:
        ConfigError: the file cannot be written; or another process writes it.
        SottoError: the data cannot be read, or the model does not score.
    """
    check_file(batch.file)
    began = time.monotonic()
    try:
        with exclusive_lock(
            batch.parts / _LOCK,
            lambda holder: ConfigError(
                f"--out {batch.file}: process {holder} is writing it. Wait, or name another file."
            ),
        ):
            _discard_other(batch, say)
            summary = _write_blocks(batch, say)
            _join(batch)
            for finished in batch.parts.iterdir():
                finished.unlink()  # the lock, too: whoever waits for it makes a new one
            batch.parts.rmdir()
    except OSError as error:
        raise ConfigError(
            f"--out {batch.file}: cannot be written ({error.strerror or error}). What is finished "
            f"stays in {batch.parts}: the same command goes on from there."
        ) from error
    summary.seconds = time.monotonic() - began
    return summary


def _discard_other(batch: Batch, say: Callable[[str], None]) -> None:
    """Keep finished blocks if they belong to this request, and discard them otherwise."""
    plan = batch.parts / _PLAN
    request = {**batch.request, "block": _BLOCK, "passes": len(batch.passes)}
    text = json.dumps(request, sort_keys=True, default=str)
    batch.parts.chmod(0o700)
    if plan.exists() and plan.read_text(encoding="utf-8") == text:
        return
    leftovers = [file for file in batch.parts.iterdir() if file.name != _LOCK]
    if leftovers:
        say("Starting anew: what an interrupted run has left belongs to another request.")
    for file in leftovers:
        file.unlink()
    write_atomically(plan, text.encode())


def _write_blocks(batch: Batch, say: Callable[[str], None]) -> Summary:
    summary, progress = Summary(), _Progress(say, len(batch.passes))
    for number, read in enumerate(batch.passes):
        done = batch.parts / f"{number:06}.json"
        if done.exists():
            finished = json.loads(done.read_text(encoding="utf-8"))
            _add(summary, finished, resumed=True)
            continue
        histories = read()
        of_pass = Summary()
        for block, start in enumerate(range(0, max(1, len(histories)), _BLOCK)):
            end = min(start + _BLOCK, len(histories))
            name = f"{number:06}-{block:06}"
            counts = batch.parts / f"{name}.json"
            if counts.exists():
                _add(of_pass, json.loads(counts.read_text(encoding="utf-8")), resumed=True)
                continue
            part = histories.select(np.arange(start, end))
            _add(of_pass, _write_block(batch, part, name), resumed=False)
            progress.add(len(part), number, end, len(histories))
        _add(summary, _counts(of_pass), resumed=False)
        summary.resumed += of_pass.resumed
        write_atomically(done, json.dumps(_counts(of_pass)).encode())
    if summary.resumed:
        say(f"{summary.resumed:,} users were answered by an earlier run.")
    return summary


def _counts(summary: Summary) -> dict[str, int]:
    names = ("users", "without_history", "short_lists", "guarded", "rows")
    return {name: getattr(summary, name) for name in names}


def _add(summary: Summary, counts: Mapping[str, int], *, resumed: bool) -> None:
    for name, value in counts.items():
        setattr(summary, name, getattr(summary, name) + value)
    summary.resumed += counts["users"] if resumed else 0


def _write_block(batch: Batch, users: Histories, name: str) -> dict[str, int]:
    """Write one block, then what it counts: who finds the counts finds the block."""
    lists = batch.recommender.rank_many(users, batch.k, filters=batch.filters, rerank=batch.rerank)
    short, said = int((lists.ids[:, -1] == 0).sum()), [""] * len(users)
    if batch.protection is not None:
        lists, said = guard_file(batch.protection, batch.recommender, users, lists, batch.filters)
    table = _table(batch, users, lists, said)
    suffix = batch.file.suffix.lower()
    with atomic_replacement(batch.parts / f"{name}{suffix}") as file:
        _write_table(table, file, suffix)
        file.chmod(PRIVATE)
    counts = {
        "users": len(users),
        "without_history": int((users.lengths == 0).sum()),
        "short_lists": short,
        "guarded": sum(map(bool, said)),
        "rows": table.num_rows,
    }
    write_atomically(batch.parts / f"{name}.json", json.dumps(counts).encode())
    return counts


def _table(batch: Batch, users: Histories, lists: Lists, said: Sequence[str]) -> pa.Table:
    ids, scores = lists.ids, lists.scores
    row, place = np.nonzero(ids)
    items = pa.array(ids[row, place] - 1)
    catalogue = batch.recommender.catalogue
    columns = {
        "user": pa.array(users.users, pa.string()).take(pa.array(row)),
        "rank": pa.array(place + 1, pa.int32()),
        "item": pa.array(catalogue.item_ids, pa.string()).take(items),
        "title": pa.array(catalogue.titles, pa.string()).take(items),
        "score": pa.array(scores[row, place], pa.float32()),
    }
    if batch.explain:
        columns["because"] = pa.array(
            [
                reason.sentence
                for user, history, own in zip(users.users, users, ids, strict=True)
                for reason in batch.recommender.explain(history.tolist(), own[own > 0], user=user)
            ],
            pa.string(),
        )
    if batch.protection is not None:
        columns["wellbeing"] = pa.array(said, pa.string()).take(pa.array(row))
    return pa.table(columns)


def _write_table(table: pa.Table, file: Path, suffix: str) -> None:
    """Write a block; text without a header."""
    if suffix == ".parquet":
        pq.write_table(table, file)
    elif suffix == ".csv":
        pa_csv.write_csv(table, file, pa_csv.WriteOptions(include_header=False))
    else:
        with file.open("w", encoding="utf-8") as lines:
            for one in table.to_pylist():
                one["score"] = float(f"{one['score']:.7g}")  # the digits that a float32 has
                lines.write(json.dumps(one, ensure_ascii=False) + "\n")


def _join(batch: Batch) -> None:
    """Put the blocks together, one at a time in memory."""
    suffix = batch.file.suffix.lower()
    blocks = sorted(batch.parts.glob(f"[0-9]*-[0-9]*{suffix}"))
    with atomic_replacement(batch.file) as whole:
        if suffix == ".parquet":
            _join_parquet(blocks, whole)
        else:
            with whole.open("wb") as out:
                if suffix == ".csv":
                    out.write(_header(batch).encode())
                for block in blocks:
                    with block.open("rb") as part:
                        shutil.copyfileobj(part, out, _MEBI)
        whole.chmod(PRIVATE)


def _join_parquet(blocks: Sequence[Path], whole: Path) -> None:
    with pq.ParquetWriter(whole, pq.read_schema(blocks[0])) as out:
        for block in blocks:
            out.write_table(pq.read_table(block))


def _header(batch: Batch) -> str:
    names = ["user", "rank", "item", "title", "score"]
    names += ["because"] * batch.explain + ["wellbeing"] * (batch.protection is not None)
    return ",".join(f'"{name}"' for name in names) + "\n"
