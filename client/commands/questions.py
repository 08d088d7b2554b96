"""The questions of `sotto-node init`, for settings that are not given as options.

An answer is checked before the next question. A wrong one is asked for again, and no other.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import typer

from client.site.site import Site
from client.site.source import check_files, read_columns
from shared.errors import SiteError, SottoError
from shared.sections import Value, parse_sections
from shared.system.command_line import messages

__all__ = ["ask_missing", "warn_of_missing_files"]


@dataclass(frozen=True, slots=True)
class _Question:
    """A setting that `init` asks for."""

    key: str
    flag: str
    text: str
    kind: type = str


_SOURCE, _CATALOGUE = "data.source", "catalogue"
_QUESTIONS = (
    _Question("organisation", "--organisation", "Your organisation's name (public)"),
    _Question("user_base", "--user-base", "A name for your users, which must never change"),
    _Question("population", "--population", "How many users you declare (public)", int),
    _Question(_SOURCE, "--source", "Where the interactions are: a file, pattern or URL"),
    _Question(_CATALOGUE, "--catalogue", "Folder of the item list from the coordinator"),
    _Question(
        "policy.max_epsilon", "--max-epsilon", "ε that your users may spend, for ever", float
    ),
    _Question("policy.delta", "--delta", "The δ of that ε, far below 1 / population", float),
)
_TABLE = _Question("data.table", "--table", "The table that holds the rows: name or schema.name")
_SUPERLINK = _Question(
    "coordinator.superlink", "--superlink", "The coordinator's address, host:port (empty: later)"
)
_COLUMNS = (
    ("data.user", "the user's id", ("user_id",)),
    ("data.item", "the item's id", ("item_id",)),
    ("data.time", "the time", ("timestamp", "position")),
)
"""Key, what the column holds, and the names that need not be stated."""
_UNASKED: dict[str, Value] = {
    "organisation": "-",
    "user_base": "-",
    "population": 1,
    _SOURCE: "-",
    _CATALOGUE: "-",
    "policy.max_epsilon": 1.0,
    "policy.delta": 1e-300,
    "folder": ".",
}
"""Values that fit any others, in place of answers that are still to come."""


def ask_missing(given: Mapping[str, Value]) -> dict[str, Value]:
    """Return the given settings and those that were asked for.

    Raises:
        SiteError: a setting is missing and there is no terminal to ask at; or one is wrong.
    """
    values = dict(given)
    missing = [question for question in _QUESTIONS if question.key not in values]
    if not missing:
        return values
    if not sys.stdin.isatty():
        flags = ", ".join(question.flag for question in missing)
        raise SiteError(f"not stated: {flags}. None of them has a default.")
    if problem := _problem(values, ""):
        raise SiteError(problem)
    for question in missing:
        values[question.key] = _ask(question, values)
        if question.key == _SOURCE and _needs_table(values):
            values[_TABLE.key] = _ask(_TABLE, values)
    values |= _ask_columns(values)
    if _SUPERLINK.key not in values:
        values[_SUPERLINK.key] = _ask(_SUPERLINK, values, default="")
    return values


def warn_of_missing_files(values: Mapping[str, Value]) -> None:
    """Print which of the files that a new site names are not there; they may come later."""
    for key in (_SOURCE, _CATALOGUE, "coordinator.root_certificates"):
        if key in values and (problem := _missing_file(key, str(values[key]))):
            messages.print(f"warning: {problem}", style="yellow", soft_wrap=True)


def _ask(question: _Question, values: Mapping[str, Value], default: str | None = None) -> Value:
    """Ask until the answer fits the values so far."""
    while True:
        answer: Value = typer.prompt(
            question.text,
            type=question.kind,
            err=True,
            default=default,
            show_default=False,
        )
        problem = _problem({**values, question.key: answer}, question.key)
        if not problem:
            return answer
        messages.print(problem, style="yellow", soft_wrap=True)


def _problem(values: Mapping[str, Value], key: str) -> str:
    """Return what is wrong with the values so far; "" if nothing is."""
    complete = _UNASKED | dict(values)
    if "data.query" in values or "data.table" in values:
        complete |= {} if _SOURCE in values else {_SOURCE: "sqlite:///-"}
    elif _needs_table(values):
        complete["data.table"] = "-"
    try:
        parse_sections(Site, complete)
    except SottoError as error:
        return str(error)
    return _missing_file(key, str(values[key])) if key in (_SOURCE, _CATALOGUE) else ""


def _missing_file(key: str, text: str) -> str:
    if "://" in text:
        return ""
    place = Path(text).expanduser()
    if key == _SOURCE:
        try:
            check_files(text)
        except SottoError as error:
            return str(error)
        return ""
    if not (place / "items.parquet" if key == _CATALOGUE else place).exists():
        holds = "holds no items.parquet" if key == _CATALOGUE else "does not exist"
        return f"{key} = '{text}': it {holds}. Check the path."
    return ""


def _needs_table(values: Mapping[str, Value]) -> bool:
    scheme, is_url, _ = str(values.get(_SOURCE, "")).partition("://")
    named = "data.query" in values or "data.table" in values
    return bool(is_url) and scheme != "s3" and not named


def _ask_columns(values: Mapping[str, Value]) -> dict[str, Value]:
    """Ask for the columns that are not there under the name that is assumed."""
    columns = _columns(values)
    answers: dict[str, Value] = {}
    for key, meaning, assumed in _COLUMNS:
        if key in values or any(name in columns for name in assumed):
            continue
        shown = f" (there are {', '.join(columns)})" if columns else ""
        while True:
            answer = typer.prompt(f"Column of {meaning}{shown}", default=assumed[0], err=True)
            if not columns or answer in columns:
                break
            messages.print(f"There is no column '{answer}'.", style="yellow")
        answers[key] = answer
    return answers


def _columns(values: Mapping[str, Value]) -> list[str]:
    """Return the columns of the source; none where it cannot be read yet, as without a password."""
    try:
        return read_columns(values)
    except (SottoError, OSError) as error:
        messages.print(f"The columns cannot be read yet: {error}", style="yellow", soft_wrap=True)
        return []
