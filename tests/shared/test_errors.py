import inspect
import re
from pathlib import Path

import pytest

from shared import errors
from shared.errors import BudgetExceeded, DataError, Refused, SottoError
from shared.outcomes import Refusal

CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and value.__module__ == errors.__name__
}
EXCEPTIONS = {name: value for name, value in CLASSES.items() if issubclass(value, Exception)}


def drawn() -> dict[str, str]:
    """Class -> parent, as the module's docstring draws them."""
    parents: dict[str, str] = {}
    path = ["SottoError"]
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"((?:│   |    )*)[├└]── (\w+)  ", line):
            depth, name = len(match[1]) // 4 + 1, match[2]
            parents[name] = path[depth - 1]
            path[depth:] = [name]
    return parents


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    real = {name: value.__bases__[0].__name__ for name, value in EXCEPTIONS.items()}
    assert drawn() | {"SottoError": "Exception"} == real
    assert "BudgetExceeded" in drawn()


def test_everything_public_is_exported_and_documented() -> None:
    assert sorted(errors.__all__) == sorted(CLASSES)
    assert all(value.__doc__ for value in CLASSES.values())


def test_a_data_error_says_where_what_and_what_to_do() -> None:
    error = DataError(
        "the time is missing",
        file=Path("a.csv"),
        row=3,
        field="timestamp",
        value="",
        remedy="Write a time.",
    )
    assert str(error) == (
        "a.csv, row 3, field 'timestamp', value '': the time is missing. Write a time."
    )
    assert (error.problem, error.file, error.remedy) == (
        "the time is missing",
        "a.csv",
        "Write a time.",
    )
    assert (error.row, error.field, error.value) == (3, "timestamp", "")


def test_a_data_error_leaves_out_what_it_does_not_know() -> None:
    assert str(DataError("it is empty", file="a.csv", remedy="Export it.")) == (
        "a.csv: it is empty. Export it."
    )
    assert "row 0, value 0:" in str(DataError("bad", file="f", remedy="Mend it.", row=0, value=0))


def test_a_refusal_carries_a_public_code_and_a_private_detail() -> None:
    refused = Refused(Refusal.POLICY, "too often")
    assert (refused.code, refused.detail) == (Refusal.POLICY, "too often")
    assert str(refused) == f"{Refusal.POLICY.sentence}: too often"
    exceeded = BudgetExceeded("ε = 9")
    assert (exceeded.code, exceeded.detail) == (Refusal.BUDGET, "ε = 9")


@pytest.mark.parametrize("kind", EXCEPTIONS.values(), ids=list(EXCEPTIONS))
def test_one_handler_catches_them_all(kind: type[Exception]) -> None:
    assert issubclass(kind, SottoError)
