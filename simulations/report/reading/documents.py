"""Read a JSON file by its schema; an error names the file, the field, the value and a remedy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from shared.errors import ReportError
from simulations.experiment.result_json import Document

__all__ = ["MISSING", "field_error", "read_document"]

D = TypeVar("D", bound=Document)
MISSING = object()
"""Stands for the value of a field that is not there."""
_EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "an object",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "missing": "a value",
    "model_type": "an object",
    "string_type": "a text",
    "tuple_type": "a list",
}
"""What is expected, by the type of pydantic's error."""


def read_document(file: Path, schema: type[D], remedy: str) -> D:
    """Read a file of one of the schemas that `schema` names.

    Args:
        file: holds one JSON object with the field `schema`.
        schema: the fields that it has.
        remedy: what to do if the file cannot be read, as a sentence.

    Raises:
        ReportError: the file is missing or damaged, has another schema, or a field does not fit.
    """
    try:
        text = file.read_text(encoding="utf-8")
        values = json.loads(text)
    except OSError as error:
        raise ReportError(f"{file} cannot be read ({error.strerror}): {remedy}") from error
    except ValueError as error:
        raise ReportError(f"{file} is not valid JSON ({error}): {remedy}") from error
    number = values.get("schema") if isinstance(values, dict) else None
    if number not in schema.schemas or isinstance(number, bool):
        known = " and ".join(map(str, schema.schemas))
        raise ReportError(
            f"{file} has schema {number!r}, and this version reads {known}: report on it with the "
            "version that wrote it."
        )
    try:
        return schema.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        value = MISSING if problem["type"] == "missing" else problem["input"]
        raise field_error(file, problem["loc"], _expected(problem), value) from None


def field_error(
    file: Path, path: Sequence[str | int], expected: str, value: object = MISSING
) -> ReportError:
    """Return the error for a field whose value is not what is expected.

    >>> str(field_error(Path("a.json"), ["data", 1, "users"], "a number"))[:64]
    "a.json, field 'data[1].users': a number is expected, but it is m"
    """
    name = ""
    for part in path:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else part
    shown = "it is missing" if value is MISSING else f"it is {value!r:.60}"
    return ReportError(
        f"{file}, field '{name}': {expected} is expected, but {shown}. "
        "Write it again with this version of sotto-lab."
    )


def _expected(problem: ErrorDetails) -> str:
    context = problem.get("ctx", {})
    if "remedy" in context:
        return str(context["remedy"])
    if problem["type"] in ("enum", "literal_error"):
        return str(context["expected"])
    return _EXPECTED.get(problem["type"], problem["msg"])
