"""Feedback through the service: it counts at once, and nothing acknowledged is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import httpx
import pytest

from client.data.feedback import FeedbackStore
from client.data.interactions import Kind
from client.home.store import load_home
from client.serving.service import recommender_pb2 as pb
from client.serving.service import recommender_pb2_grpc as pb_grpc
from client.site.site import Site
from simulations.faults.processes import free_port
from tests.client.serving.service.running import Running, publish, running

if TYPE_CHECKING:
    from tests.conftest import Sites

ROOT = Path(__file__).parents[4]


def tell(service: Running, **fields: Any) -> Any:
    with service.stub() as stub:
        return stub.Feedback(pb.FeedbackRequest(events=[pb.Event(**fields)]), timeout=20)


def items(answer: Any) -> list[str]:
    return [item.item for item in answer.items]


def test_feedback_counts_at_once_and_again_after_a_restart(sites: Sites, tmp_path: Path) -> None:
    site, folder = sites.make(users=30), publish(sites, tmp_path / "published")
    with running(site, folder) as service:
        assert service.refused(user="new")[0] == "NOT_FOUND"
        stored = tell(service, id="e1", user="new", item="i3", kind=pb.CHOSEN)
        assert (stored.stored, stored.repeated, stored.unknown_items) == (1, 0, 0)
        after = items(service.ask(user="new"))
        assert after == items(service.ask(history={"items": ["i3"]}))
        tell(service, id="e2", user="new", item=after[0], kind=pb.DISMISSED)
        tell(service, id="e3", user="new", item=after[1], kind=pb.SHOWN)
        assert items(service.ask(user="new", k=9)) == items(
            service.ask(history={"items": ["i3"]}, filters={"deny": [after[0]]}, k=9)
        )
        again = service.post(
            "/v1/feedback",
            {"events": [{"id": "e1", "user": "new", "item": "i3", "kind": "CHOSEN"}]},
        )
        assert again.json() == {"repeated": 1}
        assert tell(service, id="e4", user="new", item="x", kind=pb.CHOSEN).unknown_items == 1
        expected = items(service.ask(user="new"))
        chosen = {"kind": "chosen"}
        assert service.metric("sotto_serve_feedback_events_total", chosen) == 2
    with running(site, folder) as service:
        assert items(service.ask(user="new")) == expected


def test_what_was_recommended_to_a_user_is_logged(sites: Sites, tmp_path: Path) -> None:
    site = sites.make(users=30)
    with running(site, publish(sites, tmp_path / "published")) as service:
        answer = service.ask(user="user1", k=3)
        assert service.ask(history={"items": ["i1"]}).exposure == ""  # nobody's
        item = answer.items[1]
        tell(
            service,
            id="s",
            user="user1",
            item=item.item,
            kind=pb.SHOWN,
            exposure=answer.exposure,
            position=2,
            model=answer.model,
        )
    with closing(FeedbackStore("sqlite:///feedback.sqlite", folder=site)) as store:
        [logged] = store.exposures()
        assert (logged.id, logged.user, logged.model) == (answer.exposure, "user1", answer.model)
        assert logged.items == tuple(items(answer))
        assert logged.scores == pytest.approx([item.score for item in answer.items])
        [event] = store.events()
        assert (event.kind, event.exposure, event.position) == (Kind.SHOWN, answer.exposure, 2)
        assert logged.items[1] == event.item


GOOD = {"id": "e", "user": "user1", "item": "i1", "kind": "CHOSEN"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": ""}, "`id` must have 1 to 200 characters"),
        ({"user": "NULL"}, "a spelling of a missing value"),
        ({"item": "x" * 201}, "`item` must have 1 to 200 characters"),
        ({"kind": "EVENT_KIND_UNSPECIFIED"}, "`kind` must be one of SHOWN, CLICKED"),
        ({"kind": "BOUGHT"}, "no FeedbackRequest"),
        ({"kind": "RATED"}, "`rating` belongs to RATED"),
        ({"rating": 3}, "`rating` belongs to RATED"),
        ({"kind": "RATED", "rating": "NaN"}, "not a finite number"),
        ({"time": 1_700_000_000}, "`time` is 1700000000: give microseconds"),
        ({"time": 4_000_000_000_000_000}, "not in the future"),
        ({"position": 0}, "`position` counts from 1"),
    ],
)
def test_an_event_that_is_none_is_refused_and_nothing_is_stored(
    one_service: Running, change: dict[str, object], words: str
) -> None:
    events = [GOOD | {"id": f"good {json.dumps(change)}"[:99]}, GOOD | change]
    answer = one_service.post("/v1/feedback", {"events": events})
    assert answer.status_code == 400
    assert words in answer.json()["message"]
    assert one_service.service.store is not None
    assert not [e for e in one_service.service.store.events() if e.id.startswith("good")]


def test_requests_of_no_event_or_of_too_many_and_conflicts_are_refused(
    one_service: Running,
) -> None:
    assert one_service.post("/v1/feedback", {}).status_code == 400
    many = {"events": [GOOD] * 1001}
    assert "1,001 events" in one_service.post("/v1/feedback", many).json()["message"]
    assert one_service.post("/v1/feedback", {"events": [GOOD]}).status_code == 200
    other = one_service.post("/v1/feedback", {"events": [GOOD | {"item": "i2"}]})
    assert (other.status_code, other.json()["code"]) == (409, "ALREADY_EXISTS")


@pytest.fixture(scope="module")
def one_service(
    make_sites: Callable[[Path], Sites], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    made = make_sites(tmp_path_factory.mktemp("fed") / "sites")
    with running(made.make(users=30), publish(made, made.folder / "published")) as service:
        yield service


def test_a_store_that_fails_is_said_and_recommendations_go_on(
    one_service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FeedbackStore, "_add_request", fails)
    answer = one_service.post("/v1/feedback", {"events": [GOOD | {"id": "full"}]})
    assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")
    assert one_service.ask(user="user1").items
    monkeypatch.undo()
    assert one_service.post("/v1/feedback", {"events": [GOOD | {"id": "full"}]}).json() == {
        "stored": 1
    }


def test_adapt_counts_what_was_chosen(
    sites: Sites, tmp_path: Path, sotto_node: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    site, folder = sites.make(users=60), publish(sites, tmp_path / "published")
    followed = []  # whether every item was followed by the next one
    for number in range(2):
        assert sotto_node("adapt", folder, "--site", site, "--json") == 0
        file = Path(json.loads(capsys.readouterr().out)["file"])
        home = load_home(file, lambda rows: rows, sites.catalogue.fingerprint)
        counts = home.transitions.counts
        followed.append(all(counts[item, item] > 0 for item in range(1, 20)))
        if not number:
            with running(site, folder) as service:
                for place in range(20):
                    tell(
                        service, id=f"e{place}", user="user1", item=f"i{place + 1}", kind=pb.CHOSEN
                    )
    assert followed == [False, True]
    assert not Site.load(site).serve.federate  # what a coordinator is told is as before


# --- a process of its own ----------------------------------------------------------------------


def start(site: Path, folder: Path) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    """What `sotto-node serve --json` starts, and its first line."""
    words = ["serve", folder, "--site", site, "--json"]
    words += ["--grpc", "127.0.0.1:{}", "--http", "127.0.0.1:{}"]
    arguments = [str(word).format(free_port()) for word in words]
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", "from client.cli import main; main()", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    return process, json.loads(line)


def test_nothing_acknowledged_is_lost_when_the_process_is_killed(
    sites: Sites, tmp_path: Path
) -> None:
    site, folder = sites.make(users=30), publish(sites, tmp_path / "published")
    acknowledged: list[str] = []
    process, line = start(site, folder)
    with grpc.insecure_channel(line["grpc"]) as channel:
        stub: Any = pb_grpc.RecommenderStub(channel)  # type: ignore[no-untyped-call]

        def tell_on(client: int) -> None:
            for number in range(10**6):
                name = f"{client}-{number}"
                event = pb.Event(id=name, user=f"user{client}", item="i1", kind=pb.CHOSEN)
                try:
                    stub.Feedback(pb.FeedbackRequest(events=[event]), timeout=5)
                except grpc.RpcError:
                    return
                acknowledged.append(name)

        clients = [threading.Thread(target=tell_on, args=(client,)) for client in range(4)]
        for client in clients:
            client.start()
        deadline = time.monotonic() + 20
        while len(acknowledged) < 100 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        for client in clients:
            client.join()
    process.communicate()
    assert len(acknowledged) >= 100
    with closing(FeedbackStore("sqlite:///feedback.sqlite", folder=site)) as store:
        assert set(acknowledged) <= {event.id for event in store.events()}
    process, line = start(site, folder)  # and it starts again
    address = f"http://{line['http']}"
    assert httpx.get(f"{address}/readyz").json() == {"ready": True}
    assert line["items"] == len(sites.catalogue)
    assert httpx.post(f"{address}/v1/recommend", json={"user": "user1"}).json()["items"]
    process.terminate()
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in log
    assert "recommendations are no longer served" in log
