"""Broken and partial folders: each mistake is named, with the file and the field."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared.errors import ReportError
from simulations.experiment.result_json import Count, Document, Finite, Result
from simulations.report.reading.audits import read_audit
from simulations.report.reading.documents import read_document
from simulations.report.reading.runs import read_run
from simulations.report.reading.sweeps import read_sweep
from tests.simulations.report.folders import RunSpec, audit_of, write_run, write_sweep


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_run(tmp_path / "run", RunSpec(users=30))
    return tmp_path / "run"


def put(value: object, *path: str | int) -> Callable[[dict[str, Any]], None]:
    def change(result: dict[str, Any]) -> None:
        inner: Any = result
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(3, "schema"), "has schema 3, and this version reads 1 and 2"),
        (put("much", "privacy", "delta"), "field 'privacy.delta': a number is expected, but it is"),
        (put(1.5, "privacy", "delta"), "a number from 0 to 1 is expected, but it is 1.5"),
        (put(None, "privacy", "private"), "'privacy.private': true or false is expected"),
        (put([], "privacy", "organisations"), "'privacy.organisations': at least one organisation"),
        (put(3, "privacy", "organisations"), "'privacy.organisations': a list is expected"),
        (
            put(-1, "privacy", "organisations", 1, "epsilon"),
            r"'privacy.organisations\[1\].epsilon': a number from 0 to inf is .* it is -1",
        ),
        (
            put("east", "privacy", "organisations", 0, "name"),
            r"'privacy.organisations\[0\].name': one of data.organisations is expected",
        ),
        (
            put("leak", "privacy", "organisations", 0, "releases", 0, "kind"),
            r"organisations\[0\].releases\[0\].kind': .*'statistics'.*, but it is 'leak'",
        ),
        (put(7, "data", "name"), "'data.name': a text is expected, but it is 7"),
        (put(0.5, "data", "users"), "'data.users': a whole number is expected"),
        (put({}, "evaluation", "models"), "'evaluation.models': at least one model"),
        (put("x", "evaluation", "models", "markov", "hr@10"), "'evaluation.models.markov.hr@10'"),
        (
            put([2.0], "evaluation", "exposure", "chosen"),
            r"'evaluation.exposure.chosen\[0\]': a number from 0 to 1 .* 2.0",
        ),
        (
            put([0.5], "evaluation", "exposure", "chosen"),
            "'evaluation.exposure.chosen': 10 numbers",
        ),
        (put(0.5, "evaluation", "models", "markov", "hr@10"), "they are of different runs"),
        (put(31, "evaluation", "users"), "they are of different runs"),
    ],
)
def test_a_field_that_is_wrong_is_named(
    folder: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    file = folder / "result.json"
    result = json.loads(file.read_text())
    change(result)
    file.write_text(json.dumps(result))
    with pytest.raises(ReportError, match=message) as caught:
        read_run(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "result.json",
            None,
            "result.json cannot be read .No such file.*: give the folder of a finished run",
        ),
        ("result.json", "{", "result.json is not valid JSON"),
        ("result.json", "[]", "has schema None"),
        ("config.toml", None, "config.toml cannot be read"),
        ("config.toml", "x =", "config.toml is not valid TOML"),
        ("evaluation.parquet", "no table", "evaluation.parquet is damaged"),
    ],
)
def test_a_file_that_is_missing_or_damaged_is_named(
    folder: Path, name: str, content: str | None, message: str
) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    with pytest.raises(ReportError, match=message):
        read_run(folder)


def test_ranks_without_a_column_or_of_other_users_are_refused(folder: Path) -> None:
    file = folder / "evaluation.parquet"
    table = pq.read_table(file)
    pq.write_table(table.drop_columns(["events"]), file)
    with pytest.raises(ReportError, match="lacks the columns events"):
        read_run(folder)
    pq.write_table(table.slice(1), file)
    with pytest.raises(ReportError, match="29 rows of the model 'popularity'"):
        read_run(folder)
    pq.write_table(table.append_column("events", table["rank"]), file)
    with pytest.raises(ReportError, match="is damaged"):
        read_run(folder)


def test_a_run_of_an_earlier_version_is_read_without_what_it_lacks(folder: Path) -> None:
    (folder / "evaluation.parquet").unlink()
    result = json.loads((folder / "result.json").read_text())
    del result["evaluation"]["exposure"]
    (folder / "result.json").write_text(json.dumps(result))
    run = read_run(folder)
    assert run.evaluation is None
    assert run.exposure is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("maybe", "verdict"), "'verdict': 'consistent' or 'violated' is expected"),
        (put(2, "confidence"), "'confidence': a number from 0 to 1"),
        (put("x", "observers", 1, "canaries"), r"'observers\[1\].canaries': a whole number"),
        (put({}, "observers", 0, "estimate"), r"'observers\[0\].estimate.epsilon': .* missing"),
        (put([0.1], "membership", "roc", "tpr"), "'membership.roc.tpr': a list of 7 numbers"),
        (put({"rare": {}}, "membership", "tpr_at_fpr"), "tpr_at_fpr.rare.tpr': .* is missing"),
        (
            put({"rare": {"tpr": 1, "low": 0, "high": 1}}, "membership", "tpr_at_fpr"),
            "'membership.tpr_at_fpr.rare': a false positive rate as its name is expected",
        ),
        (put([1], "blind_spots"), r"'blind_spots\[0\]': a text is expected, but it is 1"),
    ],
)
def test_an_audit_with_a_wrong_field_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    audit = json.loads(json.dumps(audit_of()))
    change(audit)
    (tmp_path / "audit.json").write_text(json.dumps(audit))
    with pytest.raises(ReportError, match=message):
        read_audit(tmp_path)


def test_an_audit_may_lack_what_was_not_tried(tmp_path: Path) -> None:
    audit = audit_of(epsilon=None, books=None, membership=None, observers=[])
    (tmp_path / "audit.json").write_text(json.dumps(audit))
    read = read_audit(tmp_path)
    assert (read.epsilon, read.books, read.membership, read.observers) == (None, None, None, ())


def test_a_sweep_without_its_table_or_without_a_finished_run_is_refused(tmp_path: Path) -> None:
    write_sweep(tmp_path / "sweep", [RunSpec(users=30)], ["epsilon=1,seed=9"])
    file = tmp_path / "sweep" / "sweep.parquet"
    table = pq.read_table(file)
    pq.write_table(table.filter(pa.compute.is_null(table["model"])), file)
    with pytest.raises(ReportError, match="no finished run: continue the sweep"):
        read_sweep(tmp_path / "sweep")
    pq.write_table(table.drop_columns(["status", "ndcg@10"]), file)
    with pytest.raises(ReportError, match="lacks the columns status, ndcg@10"):
        read_sweep(tmp_path / "sweep")
    file.write_text("no table")
    with pytest.raises(ReportError, match=r"sweep\.parquet cannot be read"):
        read_sweep(tmp_path / "sweep")
    shutil.rmtree(tmp_path / "sweep")
    with pytest.raises(ReportError, match=r"sweep\.parquet cannot be read"):
        read_sweep(tmp_path / "sweep")


VALUES: list[Any] = [
    *(None, True, False, 0, -1, 3, 0.5, -0.5, float("nan"), float("inf"), "", "text", [], {}),
    *([1], [1.5, "x"], [None], ["x"], [{}], [{}, 1], {"b": 1}, [[1]], 10**400),
]
"""Of every type that JSON has, and at the edges of each."""


class Part(Document):
    b: Count = 0


class Fields(Document):
    number: Finite = 0.0
    count: Count = 0
    text: str = ""
    flag: bool = True
    section: Part = Part()
    sections: tuple[Part, ...] = ()
    numbers: tuple[Finite, ...] = ()
    texts: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("name", "accepted"),
    [
        ("number", [0, -1, 3, 0.5, -0.5]),
        ("count", [0, 3, 10**400]),
        ("text", ["", "text"]),
        ("flag", [True, False]),
        ("section", [{}, {"b": 1}]),
        ("sections", [[], [{}]]),
        ("numbers", [[], [1]]),
        ("texts", [[], ["x"]]),
    ],
)
def test_a_field_takes_the_values_of_its_type_and_refuses_all_others(
    tmp_path: Path, name: str, accepted: list[Any]
) -> None:
    file = tmp_path / "file.json"
    for value in VALUES:
        file.write_text(json.dumps({"schema": 1, name: value}))
        if repr(value) not in map(repr, accepted):
            with pytest.raises(ReportError, match=rf"file\.json, field '{name}"):
                read_document(file, Fields, "none.")
        else:
            read = getattr(read_document(file, Fields, "none."), name)
            plain = read.model_dump(exclude_unset=True) if isinstance(read, Part) else read
            if name == "sections":
                plain = tuple(part.model_dump(exclude_unset=True) for part in read)
            assert plain == (tuple(value) if isinstance(value, list) else value)


def test_a_result_of_the_first_release_is_read() -> None:
    """With every field that it wrote, and an optional one that it had not yet."""
    stored = Path(__file__).with_name("stored") / "result.json"
    result = read_document(stored, Result, "none.")
    assert result.document() == json.loads(stored.read_text())
    assert result.evaluation.cold is None
