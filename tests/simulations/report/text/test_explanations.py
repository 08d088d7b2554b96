"""What a report says of how it was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from simulations.report.reading.runs import read_run
from simulations.report.text import explanations
from tests.simulations.report.folders import RunSpec, write_run

CUT = {
    "validation_from": "2016-03-22T08:27:17Z",
    "test_from": "2017-06-21T07:17:30Z",
    "new_users": 47,
    "untrained_users": 7,
    "new_items": 1347,
}


def protocol(folder: Path, **changes: object) -> str:
    result = write_run(folder, RunSpec())
    result["evaluation"] |= changes
    (folder / "result.json").write_text(json.dumps(result))
    return " ".join(explanations.protocol(read_run(folder)))


@pytest.mark.parametrize(
    ("split", "time", "expected"),
    [
        (
            "test",
            {"later_training_share": 0.317, "unseen_targets": 3},
            ["Each user's last item is held out.", "31.7% of the training events are later"],
        ),
        (
            "test",
            {"later_training_share": None, "unseen_targets": 3},
            ["The data have no times", "3 of 600 test events are of items without"],
        ),
        (
            "temporal",
            {"later_training_share": 0.0, "unseen_targets": 13, "cut": CUT},
            [
                "each user's first item from the second on",
                "test from then on. 47 users are new after the cut and are not evaluated; 7 of the "
                "evaluated 600 have no training event; 1,347 items",
                "0.0% of the training events are later",
            ],
        ),
    ],
)
def test_a_report_says_how_events_were_held_out(
    tmp_path: Path, split: str, time: dict[str, Any], expected: list[str]
) -> None:
    text = protocol(tmp_path / "run", split=split, time=time, ties="equal scores in one order")
    for part in (*expected, "Where scores tie: equal scores in one order."):
        assert part in text


def test_a_run_of_an_earlier_version_is_reported_without_it(tmp_path: Path) -> None:
    text = protocol(tmp_path / "run")
    assert "Each user's last item is held out." in text
    assert "training events are later" not in text
    assert "None" not in text
