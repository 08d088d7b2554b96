"""A list of one history as it is printed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from client.commands import recommend_output
from client.commands.recommend_output import print_list
from client.serving.explanation import Explanation, PastEvent
from client.serving.recommender import Recommended

Capture = pytest.CaptureFixture[str]


def test_reasons_stand_under_titles_in_a_narrow_terminal(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of a score of 0, which has no shares."""
    monkeypatch.setattr(recommend_output, "output", Console(width=61))
    events = tuple(PastEvent(0, "i1", f"Long title {n}", 0.1, 0.25 * n) for n in (3, 1))
    others = tuple(replace(event, attention=0.5) for event in events)
    first = Explanation(events, 0.1, 0.3, 0.1, "read", modalities={"pictures": 2.0})
    reasons = [first, Explanation(others, 0.0, 0.0, 0.0)]
    print_list(
        [
            Recommended(rank, f"i{rank}", f"Title {rank}", reason.score, reason)
            for rank, reason in enumerate(reasons, 1)
        ]
    )
    printed = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert printed[0].split() == ["rank", "item", "score", "title"]
    assert printed[2:] == [
        "1     i1    0.5    Title 1",
        "because you read Long title 3",
        "home 20%, popularity 60%, federation 20%",
        "attends to Long title 3 75%, Long title",
        "1 25%",
        "brought by pictures",
        "2     i2    0      Title 2",
        "because you chose Long title 3",
        "attends to Long title 3 50%, Long title",
        "1 50%",
    ]
