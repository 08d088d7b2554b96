"""Sentences about joining claim a gain only where the test shows one."""

import pytest

from simulations.experiment.joining import describe_joining
from simulations.experiment.result_json import Joining


def joining(name: str | None, home: float, joined: float, p: float | None) -> Joining:
    return Joining(name=name, users=100, home=home, federated_home=joined, p=p)


@pytest.mark.parametrize(
    ("home", "joined", "p", "expected"),
    [
        (0.1, 0.12, 0.001, "Joining brings +20% (NDCG@10 0.1200 at home with it, and 0.1000"),
        (0.1, 0.08, 0.001, "Joining brings -20% ("),
        (0.1, 0.12, 0.3, "Joining brings nothing measurable (NDCG@10 0.1200"),
        (0.1, 0.1, None, "no user ranks otherwise"),
        (0.0, 0.1, 0.001, "Joining brings +0.1000 ("),
    ],
)
def test_all_together(home: float, joined: float, p: float | None, expected: str) -> None:
    assert expected in describe_joining([joining(None, home, joined, p)])[0]


def test_few_organisations_are_named_and_many_are_counted() -> None:
    every = joining(None, 0.1, 0.11, 0.01)
    one = joining("Alpha", 0.1, 0.117, 0.0031)
    assert describe_joining([every, one])[1:] == [
        "Joining brings Alpha +17% (p = 0.0031); without it 0.1000, with it 0.1170."
    ]
    each = [joining(f"{n}", 0.1, 0.1 + n / 100, 0.01 if n == 5 else 0.5) for n in range(-4, 6)]
    [_, spread] = describe_joining([every, *each])
    assert "Of 10 organisations, 5 are better with it (1 of them with p < 0.05)" in spread
    assert "4 are worse (0); NDCG@10 changes by -0.0400 to +0.0500." in spread
