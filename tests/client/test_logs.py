from __future__ import annotations

import ast
import io
import json
import logging
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from flwr.app import Context, RecordDict

import client
import client.app
from client import logs
from client.logs import Event, Fields, about, cause, note, request, set_up
from client.site.site import Site
from client.site.user_count import users_file
from shared.errors import BudgetExceeded, DataError, LedgerError, Refused, SiteError, WireError
from shared.hash_chain import canonical_text
from shared.outcomes import Refusal

if TYPE_CHECKING:
    from tests.conftest import Sites

SECRET = "user7 likes item 13"


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(logs.FORMAT_VARIABLE, raising=False)
    monkeypatch.delenv(logs.DETAILS_VARIABLE, raising=False)


@pytest.fixture
def lines() -> io.StringIO:
    """Lines for people."""
    stream = io.StringIO()
    set_up(stream)
    return stream


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Lines for programs."""
    monkeypatch.setenv(logs.FORMAT_VARIABLE, "json")
    stream = io.StringIO()
    set_up(stream)
    return stream


def read(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def raised(error: Exception) -> Exception:
    try:
        raise error  # noqa: TRY301
    except Exception as caught:
        return caught


# --- form --------------------------------------------------------------------------------------


def test_a_line_for_programs_has_its_fields_and_no_other(objects: io.StringIO) -> None:
    with request(kind="train"):
        about(run="r", round=3, organisation="alpha")
        note(Event.ANSWERED, seconds=0.12345, bytes=640)
    [line] = read(objects)
    time = str(line.pop("time"))
    assert time.endswith("Z")
    assert len(time) == len("2025-01-01T00:00:00.000Z")
    assert line == {
        "level": "info",
        "event": "answered",
        "kind": "train",
        "run": "r",
        "round": 3,
        "organisation": "alpha",
        "seconds": 0.123,
        "bytes": 640,
        "message": Event.ANSWERED.sentence,
    }


def test_a_line_for_people_says_the_same(lines: io.StringIO) -> None:
    with request(kind="train", run="r", round=3):
        note(Event.DECLINED, code="budget", why="too much")
    text = lines.getvalue()
    assert 'Z WARNING declined: a request was refused; no budget was spent. kind="train"' in text
    assert text.endswith('run="r" round=3 code="budget" why="too much"\n')


def test_what_is_known_of_a_request_ends_with_it(objects: io.StringIO) -> None:
    with request(kind="train"):
        about(run="r")
        with request(kind="evaluate"):
            note(Event.ANSWERED)
        note(Event.ANSWERED)
    note(Event.SETTING)
    assert [(line.get("kind"), line.get("run")) for line in read(objects)] == [
        ("evaluate", None),
        ("train", "r"),
        (None, None),
    ]


def test_requests_of_two_threads_are_not_mixed_up(objects: io.StringIO) -> None:
    barrier = threading.Barrier(2)

    def answer(run: str) -> None:
        with request(kind="train"):
            about(run=run)
            barrier.wait()
            note(Event.ANSWERED, code=run)

    threads = [threading.Thread(target=answer, args=(run,)) for run in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {(line["run"], line["code"]) for line in read(objects)} == {("a", "a"), ("b", "b")}


def test_a_coordinator_cannot_forge_a_line(lines: io.StringIO) -> None:
    note(Event.ANSWERED, run="r\n2025-01-01T00:00:00.000Z INFO    stopped\x1b[2J" + "x" * 10**6)
    assert lines.getvalue().count("\n") == 1
    assert "\x1b" not in lines.getvalue()
    assert len(lines.getvalue()) < 1000


def test_an_unknown_log_format_is_reported_and_lines_are_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(logs.FORMAT_VARIABLE, "xml")
    stream = io.StringIO()
    set_up(stream)
    assert "SOTTO_LOG must be 'lines' or 'json'" in stream.getvalue()


def test_setting_up_twice_writes_each_line_once(lines: io.StringIO) -> None:
    set_up(io.StringIO())
    note(Event.ANSWERED)
    assert lines.getvalue().count("answered") == 1


def test_every_event_has_a_sentence() -> None:
    assert len({event.sentence for event in Event}) == len(Event)


# --- what it does not hold ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        ValueError(SECRET),
        SiteError(SECRET),
        DataError("no time", file="x.csv", remedy="Mend it.", row=3, field="time", value=SECRET),
        UnicodeDecodeError("utf-8", SECRET.encode(), 0, 1, SECRET),
    ],
)
def test_an_error_is_its_type_and_a_line_of_code(objects: io.StringIO, error: Exception) -> None:
    note(Event.FAILED, **cause(raised(error)))
    [line] = read(objects)
    assert (line["event"], line["level"]) == ("failed", "error")
    assert line["error"] == type(error).__name__
    assert str(line["where"]).startswith("client/test_logs.py:")
    assert "why" not in line
    assert SECRET not in objects.getvalue()


def test_the_line_of_code_is_ours_even_if_a_library_raised(tmp_path: Path) -> None:
    with pytest.raises(SiteError) as unreadable:
        Site.load(tmp_path)
    assert str(cause(unreadable.value)["where"]).startswith("client/site/site.py:")
    with pytest.raises(TypeError) as refused:
        canonical_text({"no": object()})
    assert Path(refused.traceback[-1].path).name == "encoder.py", "json's own"
    assert str(cause(refused.value)["where"]).startswith("shared/hash_chain.py:")


@pytest.mark.parametrize(
    "error",
    [
        Refused(Refusal.POLICY, "steps 9, where <= 3 is allowed"),
        BudgetExceeded("it would lead to ε = 9"),
        LedgerError("x: the ledger is missing"),
        WireError("field 'k' is str, not int"),
    ],
)
def test_an_error_without_data_is_logged_with_its_text(error: Exception) -> None:
    assert cause(raised(error))["why"] == str(error)


def test_a_librarys_words_are_left_out(objects: io.StringIO) -> None:
    library = logging.getLogger("any.library")
    library.warning("bad row of %s", SECRET)
    library.error(SECRET, exc_info=raised(ValueError(SECRET)))
    # Its own mistake; not through its logger, where the test's own handlers would stumble.
    [handler] = [h for h in logging.getLogger().handlers if getattr(h, "stream", 0) is objects]
    broken = {"name": "any.library", "msg": "%d values", "args": (SECRET,)}
    handler.handle(logging.makeLogRecord(broken))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(SECRET, stacklevel=1)
    found = read(objects)
    assert [line["library"] for line in found] == ["any.library"] * 3 + ["py.warnings"]
    assert {line["event"] for line in found} == {"library"}
    assert SECRET not in objects.getvalue()


def test_handlers_of_others_are_taken_away(capfd: pytest.CaptureFixture[str]) -> None:
    logging.getLogger().addHandler(logging.StreamHandler())
    set_up(io.StringIO())
    logging.getLogger("any.library").error(SECRET)
    assert capfd.readouterr().err == ""


def test_the_nodes_code_logs_in_no_other_way() -> None:
    """No logger but that of `client.logs`, and no print."""
    for file in Path(client.__path__[0]).rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        if file.name != "logs.py":
            assert "print" not in names, file
            assert "getLogger" not in ast.unparse(tree), file


def test_the_fields_are_those_that_depend_on_no_user() -> None:
    """Whoever adds one must think about it here, too."""
    assert set(Fields.__annotations__) == {
        *("organisation", "kind", "run", "round", "code", "seconds", "bytes"),
        *("error", "where", "why", "library", "program", "file"),
    }


# --- details -----------------------------------------------------------------------------------


def test_details_are_kept_apart_and_only_if_asked_for(
    objects: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "details"
    monkeypatch.setenv(logs.DETAILS_VARIABLE, str(file))
    note(Event.FAILED, **cause(raised(ValueError(SECRET))))
    logging.getLogger("any.library").warning("row of %s", SECRET)
    text = file.read_text(encoding="utf-8")
    assert f"ValueError: {SECRET}" in text
    assert f"any.library: row of {SECRET}" in text
    assert file.stat().st_mode & 0o777 == 0o600
    assert SECRET not in objects.getvalue()


def test_details_that_cannot_be_written_break_nothing(
    objects: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(logs.DETAILS_VARIABLE, str(tmp_path / "no" / "folder"))
    note(Event.FAILED, **cause(raised(ValueError(SECRET))))
    assert len(read(objects)) == 1


# --- in the node -------------------------------------------------------------------------------


def real(site: Path) -> Context:
    return Context(
        run_id=1, node_id=1, node_config={"site": str(site)}, state=RecordDict(), run_config={}
    )


def test_a_real_node_notes_each_request(
    sites: Sites, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(logs.FORMAT_VARIABLE, "json")
    site = sites.make("alpha")
    client.app.app(sites.message(), real(site))
    client.app.app(sites.message(round=2, sample_rate=0.25, local_steps=10**6), real(site))
    (site / "interactions.parquet").write_bytes(SECRET.encode())
    client.app.app(sites.message(round=3), real(site))
    limited, answered, declined, failed = (
        json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")
    )
    assert limited["event"] == "limited"  # some of these users repeat an item in a row
    assert {line["organisation"] for line in (answered, declined, failed)} == {"alpha"}
    assert [line["round"] for line in (answered, declined, failed)] == [1, 2, 3]
    assert (answered["event"], answered["kind"], answered["run"]) == ("answered", "train", "r")
    assert answered["bytes"] > 1000
    assert answered["seconds"] > 0
    assert (declined["event"], declined["code"]) == ("declined", "policy")
    assert "steps 1e+06, where <= 1000 is allowed" in declined["why"]
    assert (failed["event"], failed["where"].split(":")[0]) == ("failed", "shared/data/tables.py")


@pytest.mark.parametrize(("before", "noted"), [(1.5, True), (0.5, True), (1.1, False), (1, False)])
def test_users_that_vanished_between_two_rounds_are_noted(
    sites: Sites,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    before: float,
    noted: bool,
) -> None:
    """On this machine alone, and without a number."""
    monkeypatch.setenv(logs.FORMAT_VARIABLE, "json")
    site = sites.make("alpha")
    first = client.app.app(sites.message(), real(site))
    file = users_file(Site.load(site))
    users = int(file.read_text())
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text(f"{before * users:.0f}")
    second = client.app.app(sites.message(round=2), real(site))
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line[:1] == "{"]
    warned = [line for line in lines if line["event"] == "users"]
    assert bool(warned) is noted
    told = [{key: line[key] for key in line.keys() - {"time", "seconds"}} for line in warned]
    assert not any(str(users) in str(line) for line in told)
    assert set(first.content) == set(second.content)
    assert int(file.read_text()) == users


def test_flowers_own_messages_are_left_out_unless_asked_for(
    objects: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    flower = logging.getLogger("flwr")
    for name in ("flwr", "uvicorn.error", "uvicorn.access"):
        monkeypatch.setattr(logging.getLogger(name), "filters", [])
    shown: list[logging.LogRecord] = []

    class Colourful(logging.StreamHandler[io.StringIO]):
        colored = True

        def emit(self, record: logging.LogRecord) -> None:
            shown.append(record)

    colourful = Colourful(io.StringIO())
    monkeypatch.setattr(flower, "handlers", [colourful])
    flower.setLevel(logging.INFO)
    vars(logs)["_set_up_flower"]()
    flower.info("Received: %s", SECRET)
    flower.error("gave up on %s", SECRET)
    assert shown == []
    [line] = read(objects)
    assert (line["event"], line["library"]) == ("library", "flwr")
    assert SECRET not in str(line)
    flower.filters.clear()
    monkeypatch.setenv(logs.FLOWER_VARIABLE, "on")
    vars(logs)["_set_up_flower"]()
    flower.info("Received")
    assert [record.getMessage() for record in shown] == ["Received"]
    assert not colourful.colored


def test_a_simulated_node_leaves_logging_alone(
    sites: Sites, caplog: pytest.LogCaptureFixture
) -> None:
    site = sites.make("alpha")
    before = [*logging.getLogger().handlers]
    context = real(site)
    context.node_config["simulated"] = True
    client.app.app(sites.message(local_steps=10**6), context)
    assert logging.getLogger().handlers == before
    assert "declined: " in caplog.text
