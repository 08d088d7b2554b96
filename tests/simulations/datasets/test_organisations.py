"""A column of the data names each user's organisation, or is refused with a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import DataError
from simulations.datasets.load import load
from simulations.experiment.prepare import prepare, reopen
from tests.simulations.experiment.test_simulate import run, settings

MARKETS = {"u0": "uk", "u1": "de", "u2": "uk", "u3": "de", "u4": "uk"}


def write_data(folder: Path, markets: dict[str, str], *, users: bool = False) -> Path:
    """Five users of six events; the market stands with the interactions, or with the users."""
    folder.mkdir()
    header = "user_id,item_id,timestamp" + ("" if users else ",market")
    rows = [
        f"{user},i{time},{time}" + ("" if users else f",{market}")
        for user, market in markets.items()
        for time in range(6)
    ]
    (folder / "interactions.csv").write_text("\n".join([header, *rows]) + "\n")
    items = [f"i{item},A story {item}" for item in range(6)]
    (folder / "items.csv").write_text("\n".join(["item_id,title", *items]) + "\n")
    if users:
        lines = [f"{user},{market}" for user, market in markets.items()]
        (folder / "users.csv").write_text("\n".join(["user_id,market", *lines]) + "\n")
    return folder


@pytest.mark.parametrize("users", [False, True])
def test_a_column_of_interactions_or_users_names_the_organisations(
    tmp_path: Path, *, users: bool
) -> None:
    data = write_data(tmp_path / "data", MARKETS, users=users)
    config = settings(data, "lab.partition=market", "lab.organisations=9")
    simulation = prepare(config, tmp_path / "run")
    assert simulation.names == ["de", "uk"]
    assert [part.tolist() for part in simulation.parts] == [[1, 3], [0, 2, 4]]
    assert sorted(site.name for site in (tmp_path / "run" / "sites").iterdir()) == ["de", "uk"]
    assert reopen(tmp_path / "run", {}, []).names == ["de", "uk"]


def test_the_result_names_them(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", MARKETS)
    result = run(settings(data, "lab.partition=market"), tmp_path / "run")
    named = [{"name": "de", "population": 2}, {"name": "uk", "population": 3}]
    assert result["data"]["organisations"] == named
    assert [one["name"] for one in result["privacy"]["organisations"]] == ["de", "uk"]


@pytest.mark.parametrize(
    ("markets", "column", "message"),
    [
        (MARKETS, "land", "no column of the interactions or users is called 'land'.*market"),
        (MARKETS, "user_id", "no column of the interactions or users is called 'user_id'"),
        (MARKETS | {"u3": ""}, "market", "a user has no organisation"),
        (dict.fromkeys(MARKETS, "uk"), "market", "all users are at one organisation"),
        (MARKETS | {"u3": "../x"}, "market", "other characters"),
        (MARKETS | {" u3 ": "uk"}, "market", "the user 'u3' is at 'de' and at 'uk'"),
    ],
)
def test_a_column_that_names_no_organisations_is_refused(
    tmp_path: Path, markets: dict[str, str], column: str, message: str
) -> None:
    data = write_data(tmp_path / "data", markets)
    with pytest.raises(DataError, match=message):
        load(data, organisation=column)
