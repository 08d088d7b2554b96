"""Models are measured by what was chosen of what was shown, and weighed by its position."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from client.data.feedback import FeedbackEvent
from client.data.interactions import Kind
from client.serving.choices import evaluate_choices
from client.site.site import Site
from shared.errors import SiteError
from tests.client.serving.service.running import publish

if TYPE_CHECKING:
    from tests.conftest import Sites

NOW = 1_700_000_000_000_000


def event(number: int, kind: Kind, item: str, **more: Any) -> FeedbackEvent:  # noqa: ANN401
    user = more.pop("user", "new")
    values = {"exposure": "list", "model": "m"} | more
    return FeedbackEvent(
        id=f"e{number}", user=user, item=item, kind=kind, time=NOW + number, **values
    )


def store_events(site: Path, events: list[FeedbackEvent]) -> None:
    store = Site.load(site).open_feedback(create=True)
    assert store is not None
    with closing(store):
        store.add([events])


def counts_up(rows: Tensor, /) -> Tensor:
    """Expect the item whose number is the length of the history plus 1."""
    scores = torch.zeros(len(rows), 20)
    lengths = (rows > 0).sum(1).clamp(max=19)
    scores[torch.arange(len(rows)), lengths] = 9.0
    return scores


def test_choices_are_ranked_after_all_before_them_and_weighed(sites: Sites) -> None:
    site = sites.make(users=30)
    shown = [event(n, Kind.SHOWN, f"i{n}", position=n) for n in (1, 2, 4)]
    chosen = [event(11, Kind.CHOSEN, "i1"), event(12, Kind.CHOSEN, "i4")]
    others = [
        event(21, Kind.CHOSEN, "i9"),  # never shown
        event(22, Kind.CHOSEN, "x", exposure="x"),  # not in the catalogue
        event(23, Kind.CLICKED, "i2"),  # no interaction here
    ]
    store_events(site, shown + chosen + others)
    found = evaluate_choices(
        Site.load(site), sites.catalogue, {"federated": counts_up}, window=5, k=1
    )
    assert (found.choices, found.left_out) == (2, 2)
    # After nothing, i1 is expected (weight 1); after i1 it is i2, and i4 was chosen (weight 4).
    assert found.models["federated"].hr == pytest.approx(1 / 5)
    [rate] = found.shown
    assert (rate.model, rate.shown, rate.chosen) == ("m", 3, 2)
    assert rate.rate == pytest.approx(2 / 3)
    assert rate.corrected == pytest.approx((1 + 4) / 3)
    flat = evaluate_choices(
        Site.load(site), sites.catalogue, {"federated": counts_up}, window=5, k=1, eta=0
    )
    assert flat.models["federated"].hr == pytest.approx(1 / 2)


def test_what_is_made_at_home_has_seen_no_feedback(sites: Sites) -> None:
    found = []
    for name, chosen in (("a", False), ("b", True)):
        site = sites.make(name, users=30)
        (site / "interactions.parquet").write_bytes(
            (sites.folder / "a" / "interactions.parquet").read_bytes()
        )
        events = [event(1, Kind.SHOWN, "i1", position=1), event(2, Kind.CHOSEN, "i1")]
        store_events(site, events)
        if chosen:  # by others, later, and never shown: it would count at home
            more = [event(9 + n, Kind.CHOSEN, f"i{n}", user=f"user{n}") for n in range(3, 12)]
            store_events(site, more)
        one = evaluate_choices(Site.load(site), sites.catalogue, {"federated": counts_up}, window=5)
        found.append(one.models)
    assert found[0] == found[1]


def test_without_what_was_shown_there_is_nothing_to_measure(sites: Sites) -> None:
    site = sites.make(users=30)
    with pytest.raises(SiteError, match="no feedback yet"):
        evaluate_choices(Site.load(site), sites.catalogue, {"federated": counts_up}, window=5)
    store_events(site, [event(1, Kind.CHOSEN, "i1")])
    with pytest.raises(SiteError, match="Send SHOWN with exposure and position"):
        evaluate_choices(Site.load(site), sites.catalogue, {"federated": counts_up}, window=5)


def test_the_command_prints_both_tables(
    sites: Sites, tmp_path: Path, sotto_node: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    site, folder = sites.make(users=30), publish(sites, tmp_path / "published")
    events = [event(1, Kind.SHOWN, "i1", position=2), event(2, Kind.CHOSEN, "i1")]
    store_events(site, events)
    asked = ("evaluate", folder, "--site", site, "--feedback")
    assert sotto_node(*asked, "--json", "--eta", 2) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["eta"], answer["choices"], answer["shown"][0]["corrected"]) == (2, 1, 4)
    assert sotto_node(*asked) == 0
    printed = capsys.readouterr().out
    for words in ("rate if looked at", "published model, adapted", "have no weight"):
        assert words in " ".join(printed.split())
    assert sotto_node(*asked, "--data", "x.csv") == 2
    assert sotto_node(*asked, "--eta", "-1") == 2
