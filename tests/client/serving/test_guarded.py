"""Lists in a file are guarded as those of the service are, and by the same function."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from client.site.wellbeing import WellbeingConfig
from tests.client.serving.service.running import publish, running
from tests.client.serving.service.test_feedback import items
from tests.client.wellbeing.sites import HEAVY, LIGHT, OTHER, guarded_site

if TYPE_CHECKING:
    from tests.conftest import Sites

    Command = Callable[..., int]
    Capture = pytest.CaptureFixture[str]

GUARD = {"cap": 3, "damping": 30.0, "finite_worth": 1e9, "items": "finite.csv"}


def made(sites: Sites, name: str, **wellbeing: object) -> Path:
    site = guarded_site(sites, name, **wellbeing)
    (site / "finite.csv").write_text("item_id,finite\ni9,true\ni12,true\n")
    return site


def rows(file: Path) -> dict[str, list[dict[str, object]]]:
    found: dict[str, list[dict[str, object]]] = {}
    for row in pq.read_table(file).to_pylist():
        found.setdefault(row["user"], []).append(row)
    return found


def test_a_file_has_what_the_service_shows_first(
    sites: Sites, tmp_path: Path, sotto_node: Command, capsys: Capture
) -> None:
    folder, out = publish(sites, tmp_path / "published"), tmp_path / "lists.parquet"
    site = made(sites, "alpha", quiet_hours="00:00-23:59", **GUARD)
    asked = ("recommend", "--model", folder, "--users", "all", "--k", 4, "--out", out)
    assert sotto_node(*asked, "--site", site, "--json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["guarded"] == 1
    assert "quiet hours are of the moment when a list is shown" in printed.err
    lists = rows(out)
    assert sotto_node(*asked, "--site", made(sites, "plain", who="nobody")) == 0
    plain = rows(out)
    for user in (LIGHT, OTHER):
        assert [{**row, "wellbeing": ""} for row in plain[user]] == lists[user]
    [said] = {row["wellbeing"] for row in lists[HEAVY]}
    assert str(said).startswith("3 of 4 items are shown: a session has 3 at most. ")
    service_site = made(sites, "served", **GUARD)
    with running(service_site, folder) as service:
        answer = service.ask(user=HEAVY, k=4)
        assert [row["item"] for row in lists[HEAVY]] == items(answer)
        assert said == " ".join(measure.sentence for measure in answer.wellbeing.measures)
        assert service.refused(history={"items": ["i1"]}, wellbeing=True)[0] == "INVALID_ARGUMENT"
    assert sotto_node(*asked, "--site", made(sites, "quiet", quiet_hours="00:00-23:59")) == 0
    assert rows(out) == plain  # the moment is not known
    assert "keep them where you show these lists" in capsys.readouterr().err


def test_an_interrupted_file_of_another_policy_begins_anew(
    sites: Sites, tmp_path: Path, sotto_node: Command, capsys: Capture
) -> None:
    folder, out = publish(sites, tmp_path / "published"), tmp_path / "lists.csv"
    site = made(sites, "alpha", who="opted-in", users="users.csv", cap=1)
    (site / "users.csv").write_text(f"user_id,wellbeing\n{HEAVY},true\n")
    asked = ("recommend", "--model", folder, "--users", "all", "--site", site, "--out", out)
    assert sotto_node(*asked) == 0
    assert out.read_text().splitlines()[0].endswith('"score","wellbeing"')
    assert out.read_text().count(f'"{HEAVY}",') == 1
    parts = out.with_name(f"{out.name}.parts")
    (site / "users.csv").write_text(f"user_id,wellbeing\n{HEAVY},false\n")
    parts.mkdir()
    (parts / "plan.json").write_text("{}")
    (parts / "000000.json").write_text('{"users": 3}')
    assert sotto_node(*asked) == 0
    assert "Starting anew" in capsys.readouterr().err
    assert out.read_text().count(f'"{HEAVY}",') == 10


def test_the_policy_of_files_leaves_out_what_depends_on_the_moment() -> None:
    on = {"who": "all", "model": "m"}
    both = WellbeingConfig(**on, cap=3, quiet_hours="23:00-06:00")  # type: ignore[arg-type]
    assert both.for_files == WellbeingConfig(**on, cap=3)  # type: ignore[arg-type]
    moment = WellbeingConfig(**on, pause_after_minutes=9.0)  # type: ignore[arg-type]
    assert moment.for_files is None
    assert WellbeingConfig(cap=3).for_files is None
