from __future__ import annotations

import io
import json
import math
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from shared.errors import ConfigError
from shared.system.command_line import (
    command_group,
    confirm,
    failed,
    messages,
    output,
    run,
    table_of,
    write_json,
)


def leave(monkeypatch: pytest.MonkeyPatch, *arguments: str, after: str = "") -> int:
    """A command line with one command a way to end."""
    app = command_group("Ends in every way.")
    ways = {
        "done": lambda: None,
        "found": failed,
        "mistake": lambda: (_ for _ in ()).throw(ConfigError("x = 3: [bold]choose[/] less.")),
        "interrupted": lambda: (_ for _ in ()).throw(KeyboardInterrupt),
        "fault": lambda: 1 / 0,
    }

    def command(way: str) -> None:
        ways[way]()  # type: ignore[no-untyped-call]

    app.command("end")(command)
    app.command("other")(lambda: None)
    monkeypatch.setattr(sys, "argv", ["x", *arguments])
    with pytest.raises(SystemExit) as left:
        run(app, interrupted=after)
    return int(left.value.code or 0)


@pytest.mark.parametrize(
    ("way", "code", "said"),
    [
        ("done", 0, ""),
        ("found", 1, ""),
        ("mistake", 2, "error: x = 3: [bold]choose[/] less.\n"),
        ("interrupted", 130, "\ninterrupted; go on with --resume\n"),
    ],
)
def test_a_command_ends_with_its_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    way: str,
    code: int,
    said: str,
) -> None:
    assert leave(monkeypatch, "end", way, after="go on with --resume") == code
    assert capsys.readouterr() == ("", said)


def test_a_mistyped_command_is_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert leave(monkeypatch, "ende", "done") == 2
    assert "No such command 'ende'" in capsys.readouterr().err


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        leave(monkeypatch, "end", "fault")


def test_a_group_may_do_something_without_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str | None] = []
    group = command_group("Alone or not.", runs_alone=True)

    @group.callback()
    def alone(context: typer.Context) -> None:
        called.append(context.invoked_subcommand)

    group.command("sub")(lambda: None)
    for arguments in ([], ["sub"]):
        monkeypatch.setattr(sys, "argv", ["x", *arguments])
        with pytest.raises(SystemExit) as left:
            run(group)
        assert left.value.code == 0
    assert called == [None, "sub"]


@pytest.mark.parametrize(
    ("typed", "sure"),
    [("y\n", True), (" YES \n", True), ("n\n", False), ("\n", False), ("", False)],
)
def test_only_yes_is_yes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: str, sure: bool
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    assert confirm("Sure?") is sure
    printed = capsys.readouterr()
    assert printed.err.startswith("Sure? [y/N] ")
    assert ("--yes" in printed.err) is not sure
    assert printed.out == ""


def test_json_has_no_infinity(capsys: pytest.CaptureFixture[str]) -> None:
    write_json({"a": [1.5, math.inf, (math.nan, "x")], "b": {"c": -math.inf}, "d": None, "e": True})
    found = json.loads(capsys.readouterr().out)
    assert found == {"a": [1.5, None, [None, "x"]], "b": {"c": None}, "d": None, "e": True}


def test_a_table_loses_no_character(capsys: pytest.CaptureFixture[str]) -> None:
    table = table_of("name", "value")
    table.add_row("x" * 300, "1")
    output.print(table)
    assert capsys.readouterr().out.count("x") == 300


def colons(draw: random.Random) -> str:
    """Return a SHA-256 as openssl prints it."""
    return ":".join(f"{draw.randrange(256):02X}" for _ in range(32))


@pytest.mark.parametrize(
    "form",
    [
        colons,
        lambda draw: f"[{draw.randbytes(32).hex()}]",
        lambda draw: f"ecdsa-sha2-nistp384 {draw.randbytes(24).hex()} [bold]:cd:[/bold] \\[a]",
        lambda draw: f"Büch[er] {draw.choice(['[/]', '[red]', ':smile:', ':CD:', ':ab:'])}",
    ],
)
def test_what_is_printed_is_what_was_given(
    form: Callable[[random.Random], str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fingerprint, key or name goes through neither markup nor emoji codes."""
    draw = random.Random(17)
    for console in (output, messages):
        monkeypatch.setattr(console, "_width", 400)  # also where COLUMNS was set at the start
    texts = [form(draw) for _ in range(300)] + ["AB:CD:EF", ":CD:", ":A:B:", "[link=x]y[/link]"]
    for text in texts:
        output.print(f"SHA-256  {text}", soft_wrap=True)
        messages.print(f"SHA-256  {text}", soft_wrap=True)
    printed = capsys.readouterr()
    assert printed.out.splitlines() == printed.err.splitlines() == [f"SHA-256  {t}" for t in texts]
    table = table_of("fingerprint")
    for text in texts:
        table.add_row(text)
    output.print(table)
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.strip() for row in rows] == [text.strip() for text in texts]


def test_there_are_no_other_consoles() -> None:
    root = Path(__file__).parents[3]
    others = [
        path.relative_to(root).as_posix()
        for package in ("client", "server", "shared", "simulations")
        for path in (root / package).rglob("*.py")
        if re.search(
            r"\bConsole\(|rich\.print|from rich import print", path.read_text(encoding="utf-8")
        )
    ]
    assert others == ["shared/system/command_line.py"]
