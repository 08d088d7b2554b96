"""The wellbeing guard in the running service: what users at risk and others are shown, and why."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from client.data.feedback import FeedbackStore
from client.serving.service import recommender_pb2 as pb
from client.site.site import Site
from shared.data.catalogue import Catalogue
from shared.errors import DataError
from tests.client.serving.service.running import publish, running
from tests.client.serving.service.test_feedback import items, tell
from tests.client.wellbeing.sites import HEAVY, LIGHT, OTHER, guarded_site

if TYPE_CHECKING:
    from tests.conftest import Sites


def names(answer: Any) -> list[str]:
    return [measure.name for measure in answer.wellbeing.measures]


def decisions(site: Path) -> list[dict[str, Any]]:
    with closing(FeedbackStore("sqlite:///feedback.sqlite", folder=site)) as store:
        return [
            {"user": one.user, "id": one.id} | json.loads(one.text) for one in store.decisions()
        ]


def test_a_user_at_risk_gets_less_and_others_what_they_got(sites: Sites, tmp_path: Path) -> None:
    folder = publish(sites, tmp_path / "published")
    plain_site = guarded_site(sites, "plain", who="nobody")
    with running(plain_site, folder) as service:
        plain = {user: items(service.ask(user=user, k=4)) for user in (HEAVY, LIGHT)}
        status, sentence = service.refused(user=HEAVY, wellbeing=True)
        assert (status, "set [wellbeing]" in sentence) == ("INVALID_ARGUMENT", True)
        assert items(service.ask(user=HEAVY, k=4, wellbeing=False)) == plain[HEAVY]
    assert decisions(plain_site) == []
    site = guarded_site(sites, cap=6)
    with running(site, folder) as service:
        for _ in range(3):
            other = service.ask(user=LIGHT, k=4)
            assert (items(other), other.HasField("wellbeing")) == (plain[LIGHT], False)
        first = service.ask(user=HEAVY, k=4)
        assert (items(first), names(first)) == (plain[HEAVY], [])
        second = service.post("/v1/recommend", {"user": HEAVY, "k": 4}).json()
        assert [item["item"] for item in second["items"]] == plain[HEAVY][:2]
        sentence = "2 of 4 items are shown: a session has 6 at most."
        assert second["wellbeing"] == {"measures": [{"name": "cap", "sentence": sentence}]}
        third = service.ask(user=HEAVY, k=4)
        assert (items(third), names(third)) == ([], ["cap"])
        assert 1700 < third.wellbeing.pause_seconds <= 1800
        assert items(service.ask(user=HEAVY, k=4, wellbeing=False)) == plain[HEAVY]  # opts out
        nobody = service.ask(history={"items": ["i1"]}, k=4)
        assert not nobody.HasField("wellbeing")
        assert service.refused(history={"items": []}, wellbeing=True)[0] == "INVALID_ARGUMENT"
        assert service.metric("sotto_serve_wellbeing_measures_total", {"measure": "cap"}) == 2
        assert service.metric("sotto_serve_empty_lists_total") == 0
    logged = decisions(site)
    assert [one["user"] for one in logged] == [HEAVY] * 3
    assert [one["id"] for one in logged] == [first.exposure, second["exposure"], third.exposure]
    assert [list(one["measures"]) for one in logged] == [[], ["cap"], ["cap"]]
    assert logged[1]["otherwise"] == plain[HEAVY]
    assert logged[1]["risk"] > 0.9
    with running(site, folder) as service:  # the session goes on
        assert names(service.ask(user=HEAVY, k=4)) == ["cap"]


def test_the_most_engaging_give_way_and_each_item_says_where_it_was(
    sites: Sites, tmp_path: Path
) -> None:
    site = guarded_site(sites, damping=30.0, finite_worth=1e9, items="finite.csv")
    (site / "finite.csv").write_text("item_id,finite\ni9,true\ni3,yes\ni4,\nunknown,1\n")
    torch.manual_seed(3)  # of the published model's weights
    with running(site, publish(sites, tmp_path / "published")) as service:
        plain = service.ask(user=HEAVY, k=6, wellbeing=False, filters={"include_seen": True})
        answer = service.ask(
            user=HEAVY, k=6, explain=True, filters={"include_seen": True, "deny": ["i3"]}
        )
        assert names(answer) == ["damping", "finite"]
        assert {"i6", "i7", "i8", "i9"} <= set(items(answer))
        assert "i3" not in items(answer)  # filters hold
        scores = [item.score for item in answer.items]
        assert [item.rank for item in answer.items] == [1, 2, 3, 4, 5, 6]
        order = sorted(range(6), key=lambda place: -scores[place])
        assert order == sorted(range(6), key=lambda place: answer.items[place].rank_by_score)
        assert len(plain.items) == len(answer.items)


def test_who_is_protected_is_the_partners_and_the_users_choice(
    sites: Sites, tmp_path: Path
) -> None:
    site = guarded_site(sites, who="opted-in", cap=1, users="users.csv", threshold=0.0)
    (site / "users.csv").write_text(f"user_id,wellbeing\n{HEAVY},true\n{LIGHT},false\n{OTHER},\n")
    with running(site, publish(sites, tmp_path / "published")) as service:
        found = {user: len(service.ask(user=user, k=3).items) for user in (HEAVY, LIGHT, OTHER)}
        assert found == {HEAVY: 1, LIGHT: 3, OTHER: 3}
        answers = service.post(
            "/v1/recommend-batch",
            {
                "requests": [
                    {"user": OTHER, "k": 3, "wellbeing": True},
                    {"user": LIGHT, "k": 3, "wellbeing": True},
                    {"user": LIGHT, "k": 3},
                    {"user": HEAVY, "k": 3, "wellbeing": False},
                ]
            },
        ).json()["responses"]
        assert [len(answer.get("items", [])) for answer in answers] == [1, 1, 3, 3]
        protection = service.service.current.loaded.protection
        assert protection is not None
        (site / "users.csv").write_text("user_id,wellbeing\nnobody,true\n")
        service.service.current.look()
        assert service.service.current.look()  # the table has changed
        assert len(service.ask(user=HEAVY, k=3).items) == 3


def test_feedback_lets_a_session_go_on(
    sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = guarded_site(sites, pause_after_minutes=60.0, pause_minutes=10.0)
    with running(site, publish(sites, tmp_path / "published")) as service:
        now = time.time()
        clock = [now]
        monkeypatch.setattr(time, "time", lambda: clock[0])

        def ask_at(minutes: float) -> list[str]:
            clock[0] = now + 60 * minutes
            return names(service.ask(user=HEAVY, k=2))

        assert ask_at(0) == []
        guard = service.service.operations._guard
        tell(service, id="e1", user=HEAVY, item="i1", kind=pb.CLICKED, time=int(now * 1e6))
        for minutes in (25, 50):
            guard._sessions.touch(HEAVY, now + 60 * minutes)
        assert ask_at(70) == ["pause"]
        assert ask_at(79) == ["pause"]
        assert ask_at(80.5) == []


def test_what_a_coordinator_reads_does_not_know_of_it(sites: Sites, tmp_path: Path) -> None:
    site = guarded_site(sites, cap=3)
    text = (site / "site.toml").read_text(encoding="utf-8")
    (site / "site.toml").write_text(
        text.replace("serve.times", "serve.federate = true\nserve.times"), encoding="utf-8"
    )
    loaded, catalogue = Site.load(site), sites.catalogue
    assert loaded.serve.federate
    with running(site, publish(sites, tmp_path / "published")) as service:
        tell(service, id="e1", user=HEAVY, item="i9", kind=pb.CHOSEN)
        before, version = sent_of(loaded, catalogue), loaded.data_version()
        for _ in range(3):
            service.ask(user=HEAVY, k=2)
    assert len(decisions(site)) == 3
    assert (sent_of(loaded, catalogue), loaded.data_version()) == (before, version)


def sent_of(site: Site, catalogue: Catalogue) -> dict[str, list[int]]:
    """What a coordinator's runs read."""
    histories = site.load_histories(catalogue, 100, strict=False, min_events=1)
    return {user: own.tolist() for user, own in zip(histories.users, histories, strict=True)}


@pytest.mark.parametrize(
    ("keys", "files", "words"),
    [
        ({"model": "none"}, {}, "the model of over-use cannot be read"),
        ({"users": "u.csv"}, {"u.csv": "user_id,wellbeing\nu1,maybe\n"}, "neither true nor false"),
        ({"users": "u.csv"}, {"u.csv": "user_id,other\nu1,true\n"}, "no column 'wellbeing'"),
        (
            {"users": "u.csv"},
            {"u.csv": "user_id,wellbeing,time_zone\nu1,true,Mars/Base\n"},
            "no time zone",
        ),
        ({"items": "i.csv"}, {"i.csv": "item_id,finite\ni1,false\n"}, "no item of the catalogue"),
        (
            {},
            {"interactions.csv": "user_id,item_id,position\nu1,i1,1\nu1,i2,2\n"},
            "sessions are known by times",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_before_it_listens(
    sites: Sites, tmp_path: Path, keys: dict[str, Any], files: dict[str, str], words: str
) -> None:
    site = guarded_site(sites, **({"cap": 3} | keys))
    for name, text in files.items():
        (site / name).write_text(text, encoding="utf-8")
    with (
        pytest.raises(DataError, match=words),
        running(site, publish(sites, tmp_path / "published")),
    ):
        pass
