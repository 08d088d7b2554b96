"""The service on loopback: what both transports answer, and what is refused."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import httpx
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from client.home.friends_part import FriendsPart
from client.home.home_model import Memory, TransitionCounts
from client.serving import item_index
from client.serving.named_items import Filters
from client.serving.recommender import Recommender
from client.serving.service import recommender_pb2 as pb
from client.serving.service import recommender_pb2_grpc as pb_grpc
from client.serving.service.clients import add_client
from client.serving.service.serve import Service
from client.serving.service.status import Code
from client.site.site import Site
from shared.data.friends import FriendTable
from shared.errors import ConfigError, SiteError
from shared.models.attention import build
from tests.client.authority import Authority
from tests.client.home.stored import save_counts
from tests.client.serving.service.running import Running, publish, running
from tests.conftest import MODEL, some_catalogue

if TYPE_CHECKING:
    from tests.conftest import Sites


@pytest.fixture(scope="module")
def home(make_sites: Callable[[Path], Sites], tmp_path_factory: pytest.TempPathFactory) -> Sites:
    return make_sites(tmp_path_factory.mktemp("served") / "sites")


@pytest.fixture(scope="module")
def served(home: Sites) -> Iterator[Running]:
    """One service for all tests that change nothing of it."""
    site = home.make(users=30, changes={"serve.queue": 16, "serve.workers": 1})
    with running(site, publish(home, home.folder / "published")) as service:
        yield service


def test_both_transports_answer_what_the_model_ranks(served: Running, home: Sites) -> None:
    histories = Site.load(home.folder / "alpha").load_histories(home.catalogue, 50, min_events=1)
    user, items = histories.users[3], [home.catalogue.item_ids[n - 1] for n in histories[3]]
    model = Recommender.load(home.folder / "published")
    expected = model.recommend(items, 4, filters=Filters(deny=frozenset({"i1"})))
    for whom in ({"user": user}, {"history": {"items": items}}):
        asked = whom | {"k": 4, "filters": {"deny": ["i1"]}, "request_id": "r"}
        over_grpc = served.ask(**asked)
        over_http = served.post("/v1/recommend", asked).json()
        assert [(item.rank, item.item) for item in over_grpc.items] == [
            (item.rank, item.item) for item in expected
        ]
        assert [item.score for item in over_grpc.items] == pytest.approx(
            [item.score for item in expected]
        )
        shown = json_format.MessageToDict(over_grpc, preserving_proto_field_name=True)
        assert shown.pop("exposure", "") != over_http.pop("exposure", "-")
        assert shown == over_http
        assert over_grpc.request_id == "r"
    assert [item.item for item in served.ask(history={"items": items}, explain=True, k=2).items]
    alike = model.similar(["i3"], 3)
    with served.stub() as stub:
        listed = stub.Similar(pb.SimilarRequest(items=["i3"], k=3))
    assert [item.item for item in listed.items] == [item.item for item in alike]


def test_explanations_are_those_of_the_recommender(served: Running, home: Sites) -> None:
    items = ["i2", "i5", "i9"]
    model = Recommender.load(home.folder / "published")
    [expected] = model.recommend(items, 1, explain=True)
    [answer] = served.ask(history={"items": items}, k=1, explain=True).items
    assert expected.explanation is not None
    assert answer.explanation.sentence == expected.explanation.sentence
    differences = {reason.item: reason.difference for reason in answer.explanation.reasons}
    assert differences == pytest.approx(
        {event.item: event.difference for event in expected.explanation.events}
    )
    attention = {reason.item: reason.attention for reason in answer.explanation.reasons}
    assert attention == pytest.approx(
        {event.item: event.attention for event in expected.explanation.events}
    )
    assert sum(attention.values()) == pytest.approx(1.0)
    parts = answer.explanation
    assert parts.popularity + parts.federated + parts.home == pytest.approx(answer.score)


def test_a_client_that_knows_nothing_but_reflection_gets_recommendations(served: Running) -> None:
    """As grpcurl does it: names, descriptors and messages all come from the server."""
    with grpc.insecure_channel(served.grpc_address) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)

        def ask(**fields: Any) -> Any:
            request = reflection_pb2.ServerReflectionRequest(**fields)
            [answer] = stub.ServerReflectionInfo(iter([request]))
            return answer

        names = [one.name for one in ask(list_services="").list_services_response.service]
        [service] = [name for name in names if not name.startswith("grpc.")]
        pool = descriptor_pool.DescriptorPool()
        files = ask(file_containing_symbol=service).file_descriptor_response
        for file in files.file_descriptor_proto:
            pool.Add(descriptor_pb2.FileDescriptorProto.FromString(file))
        method = pool.FindServiceByName(service).methods_by_name["Recommend"]
        kinds = (method.input_type, method.output_type)
        request_type, response_type = map(message_factory.GetMessageClass, kinds)
        call = channel.unary_unary(
            f"/{service}/Recommend",
            request_serializer=request_type.SerializeToString,
            response_deserializer=response_type.FromString,
        )
        request = json_format.ParseDict({"history": {"items": ["i1", "i2"]}}, request_type())
        answer = json_format.MessageToDict(call(request))
        assert [item["rank"] for item in answer["items"]] == list(range(1, 11))
        health: Any = health_pb2_grpc.HealthStub(channel)
        state = health.Check(health_pb2.HealthCheckRequest(service=service))
        assert state.status == health_pb2.HealthCheckResponse.SERVING


BAD = [
    ({"user": "nobody"}, Code.NOT_FOUND, "user 'nobody' has no history here"),
    ({"history": {"items": ["i1", "x"]}}, Code.INVALID_ARGUMENT, "the history names item 'x'"),
    ({"history": {}, "k": 0}, Code.INVALID_ARGUMENT, "k = 0: ask for 1 to 20 items"),
    ({"history": {}, "k": 21}, Code.INVALID_ARGUMENT, "k = 21: ask for 1 to 20 items"),
    ({}, Code.INVALID_ARGUMENT, "name a `user`, or give a `history`"),
    ({"user": ""}, Code.INVALID_ARGUMENT, "`user` must have 1 to 200 characters"),
    ({"user": "1.2e+11"}, Code.INVALID_ARGUMENT, "a rounded number"),
    ({"history": {}, "filters": {"deny": ["x"]}}, Code.INVALID_ARGUMENT, "deny list names item"),
    ({"history": {}, "filters": {"categories": ["x"]}}, Code.INVALID_ARGUMENT, "the category 'x'"),
]


@pytest.mark.parametrize(("asked", "code", "sentence"), BAD)
def test_a_bad_request_has_a_status_and_a_sentence(
    served: Running, asked: dict[str, Any], code: Code, sentence: str
) -> None:
    status, details = served.refused(**asked)
    assert (status, sentence in details) == (code.name, True), details
    answer = served.post("/v1/recommend", asked)
    assert answer.status_code == code.value
    assert answer.json() == {"code": code.name, "message": details}
    assert "Traceback" not in details
    batch = served.post("/v1/recommend-batch", {"requests": [asked, {"history": {}}]}).json()
    first, second = batch["responses"]
    assert first["error"] == {"code": code.name, "message": details}
    assert len(second["items"]) == 10  # the others are answered


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, "no JSON object"),
        ({"content": b"[" * 10**5, "headers": {"Content-Type": "application/json"}}, 400, "JSON"),
        ({"json": {"nme": "u"}}, 400, 'no field named "nme"'),
        ({"json": {"user": 7}}, 400, "RecommendRequest"),
        ({"json": {"user": "\ud800"}}, 400, "RecommendRequest"),
        ({"content": b"{}", "headers": {"Content-Type": "text/plain"}}, 415, "application/json"),
        ({"json": {"user": "u" * 5_000_000}}, 413, "send less"),
        ({"json": {}, "headers": {"Host": "evil.example"}}, 401, "localhost alone"),
    ],
)
def test_a_body_that_is_none_is_refused(
    served: Running, options: dict[str, Any], status: int, words: str
) -> None:
    if "json" in options:
        headers = {"Content-Type": "application/json"} | options.get("headers", {})
        options = {"content": json.dumps(options["json"]).encode(), "headers": headers}
    answer = httpx.post(f"{served.http_address}/v1/recommend", timeout=20, **options)
    assert answer.status_code == status
    assert words in answer.json()["message"]


def test_other_paths_and_methods_are_refused_in_json(served: Running) -> None:
    assert httpx.get(f"{served.http_address}/v2").json()["code"] == "NOT_FOUND"
    assert httpx.get(f"{served.http_address}/v1/similar").status_code == 405
    assert httpx.get(f"{served.http_address}/readyz").json() == {"ready": True}


def test_unknown_users_and_items_can_be_allowed(served: Running) -> None:
    nobody = served.ask(user="nobody", allow_unknown_user=True)
    empty = served.ask(history={})
    assert [i.item for i in nobody.items] == [i.item for i in empty.items] != []
    known = served.ask(history={"items": ["i1"]})
    some = served.ask(history={"items": ["x", "i1"]}, skip_unknown=True)
    assert [i.item for i in some.items] == [i.item for i in known.items]


def test_a_stream_is_answered_in_order_and_together(served: Running) -> None:
    asked = [
        pb.RecommendRequest(
            user="nobody" if number % 7 == 3 else f"user{number % 30}",
            k=1 + number % 3,
            request_id=str(number),
            explain=number % 11 == 5,
        )
        for number in range(200)
    ]
    alone = {}
    for request in asked[:30]:
        if request.user != "nobody":
            response = served.ask(user=request.user, k=request.k)
            alone[request.request_id] = [item.item for item in response.items]
    with served.stub() as stub:
        answers = list(stub.RecommendBatch(iter(asked), timeout=30))
    assert [answer.request_id for answer in answers] == [one.request_id for one in asked]
    for request, answer in zip(asked, answers, strict=True):
        if request.user == "nobody":
            assert answer.error.code == "NOT_FOUND"
        else:
            assert len(answer.items) == request.k
            assert answer.items[0].HasField("explanation") is request.explain
    for number, items in alone.items():
        assert [item.item for item in answers[int(number)].items] == items


def test_too_many_at_once_are_refused_and_the_service_stays_up(served: Running) -> None:
    request = pb.RecommendRequest(history={"items": ["i1", "i2"]}, explain=True)

    async def flood() -> list[str]:
        async with grpc.aio.insecure_channel(served.grpc_address) as channel:
            call = channel.unary_unary(
                "/sotto.v1.Recommender/Recommend",
                request_serializer=pb.RecommendRequest.SerializeToString,
                response_deserializer=pb.RecommendResponse.FromString,
            )

            async def ask() -> str:
                try:
                    await call(request, timeout=60)
                except grpc.aio.AioRpcError as error:
                    return str(error.code().name)
                return "OK"

            return await asyncio.gather(*(ask() for _ in range(2000)))

    answers = asyncio.run(flood())
    assert set(answers) == {"OK", "RESOURCE_EXHAUSTED"}
    assert answers.count("OK") >= 17  # the queue and the one that is computed
    assert served.ask(history={"items": ["i1"]}).items
    assert served.metric("sotto_serve_waiting") <= 1


def test_http_refuses_what_does_not_fit_with_429(served: Running) -> None:
    free = threading.Event()
    busy = [served.service._admission.run(free.wait, 10.0) for _ in range(17)]
    for work in busy:
        asyncio.run_coroutine_threadsafe(work, served.loop)
    deadline = time.monotonic() + 5
    while served.metric("sotto_serve_waiting") < 17 and time.monotonic() < deadline:
        time.sleep(0.01)
    answer = served.post("/v1/recommend", {"history": {}})
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
    with served.stub() as stub, pytest.raises(grpc.RpcError) as refused:
        stub.Recommend(pb.RecommendRequest(history={}), timeout=5)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    free.set()
    while served.metric("sotto_serve_waiting") > 0:
        time.sleep(0.01)


def test_a_deadline_ends_a_request_that_waits(served: Running) -> None:
    blocked = served.service._admission.run(lambda: time.sleep(0.6), 5.0)
    future = asyncio.run_coroutine_threadsafe(blocked, served.loop)
    begin = time.monotonic()
    with served.stub() as stub, pytest.raises(grpc.RpcError) as late:
        stub.Recommend(pb.RecommendRequest(history={}), timeout=0.2)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - begin < 0.55
    future.result()


def test_an_error_of_ours_is_a_sentence_and_not_a_traceback(
    served: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("user7 likes item 13")

    monkeypatch.setattr(Recommender, "rank_many", fails)
    status, details = served.refused(history={})
    assert status == "INTERNAL"
    assert "user7" not in details
    assert "ZeroDivision" not in details
    assert served.post("/v1/recommend", {"history": {}}).status_code == 500
    monkeypatch.undo()
    assert served.ask(history={}).items


def test_the_description_fits_the_answers_and_the_page_loads_nothing(served: Running) -> None:
    description = httpx.get(f"{served.http_address}/openapi.json").json()
    assert description["openapi"] == "3.1.0"
    schemas = description["components"]["schemas"]
    for path, methods in description["paths"].items():
        content = methods["post"]["requestBody"]["content"]["application/json"]
        example = content["example"]
        if "requests" in example:
            example["requests"][0]["user"] = "user1"
        elif "user" in example:
            example["user"] = "user1"
        answer = served.post(path, example)
        assert answer.status_code == 200, answer.text
        name = methods["post"]["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
        assert set(answer.json()) <= set(schemas[name.rpartition("/")[2]]["properties"])
    text = httpx.get(f"{served.http_address}/").text
    assert all(path in text for path in description["paths"])
    assert text.count("<script") == 1
    assert not any(word in text for word in ("src=", "@import", "url(", "https://"))


def test_metrics_count_what_happened(served: Running) -> None:
    before = served.metric("sotto_serve_empty_lists_total")
    served.ask(history={"items": ["i1"]}, filters={"allow": ["i1"]})  # which was seen
    assert served.metric("sotto_serve_empty_lists_total") == before + 1
    assert served.started.metrics is not None
    text = httpx.get("http://{}:{}/metrics".format(*served.started.metrics)).text
    for name in ("requests_total", "seconds_bucket", "waiting", "model_info", "popularity_sum"):
        assert f"sotto_serve_{name}" in text or f"sotto_serve_recommended_{name}" in text
    assert 'code="NOT_FOUND"' in text
    assert not any(user in text for user in ("user3", "nobody"))


def test_an_address_in_use_is_said(served: Running, home: Sites) -> None:
    site = home.make("in use")
    for name in ("grpc", "http", "metrics"):
        taken = getattr(served.started, name)
        service = Service(Site.load(site), home.folder / "published")
        listeners = {"grpc": None, "http": None, "metrics": None, name: taken}
        with pytest.raises(SiteError, match=rf"serve\.{name} = '127\.0\.0\.1:{taken[1]}'"):
            asyncio.run(service.start(**listeners))


# --- clients that hang -------------------------------------------------------------------------


def test_clients_that_hang_hold_nothing_up(
    sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.serving.service.http_server._Protocol._HEAD_SECONDS", 0.3)
    site = sites.make(changes={"serve.timeout_seconds": 0.5})
    with running(site, publish(sites, tmp_path / "published")) as service:
        assert service.started.http is not None
        silent = [socket.create_connection(service.started.http) for _ in range(50)]
        slow = socket.create_connection(service.started.http)
        slow.sendall(
            b"POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
            b"Content-Type: application/json\r\n\r\n{"
        )

        def hang() -> Iterator[pb.RecommendRequest]:
            yield pb.RecommendRequest(history={})
            time.sleep(3)

        with service.stub() as stub:
            stream = stub.RecommendBatch(hang())
            assert next(stream).items
            assert service.ask(history={}).items  # meanwhile
            with pytest.raises(grpc.RpcError) as ended:
                next(stream)
        assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "sent nothing for 0.5 s" in ended.value.details()
        slow.settimeout(5)
        assert b" 408 " in slow.recv(200)
        for one in silent:
            one.settimeout(5)
            assert one.recv(1) == b""  # closed by the service
            one.close()
        slow.close()
        assert service.post("/v1/recommend", {"history": {}}).status_code == 200


# --- who may ask -------------------------------------------------------------------------------


def test_only_known_tokens_are_answered(sites: Sites, tmp_path: Path) -> None:
    site = sites.make(changes={"serve.clients": "clients.toml"})
    token = add_client(site / "clients.toml", "shop")
    assert token not in (site / "clients.toml").read_text()
    with running(site, publish(sites, tmp_path / "published")) as service:
        request = pb.RecommendRequest(history={})

        def over_grpc(header: str) -> str:
            metadata = [("authorization", header)] if header else []
            with service.stub() as stub:
                try:
                    stub.Recommend(request, metadata=metadata, timeout=10)
                except grpc.RpcError as error:
                    return str(error.code().name)
            return "OK"

        def over_http(header: str) -> int:
            headers = {"Authorization": header} if header else {}
            return service.post("/v1/recommend", {"history": {}}, headers=headers).status_code

        for bad in ("", "Bearer", "Bearer wrong", f"Basic {token}", f"Bearer {token}x"):
            assert (over_grpc(bad), over_http(bad)) == ("UNAUTHENTICATED", 401), bad
        assert (over_grpc(f"Bearer {token}"), over_http(f"bearer {token}")) == ("OK", 200)
        with service.stub() as stub, pytest.raises(grpc.RpcError) as refused:
            list(stub.RecommendBatch(iter([request]), timeout=10))
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        second = add_client(site / "clients.toml", "app")  # while it runs
        assert over_http(f"Bearer {second}") == 200
        lines = (site / "clients.toml").read_text().splitlines()
        (site / "clients.toml").write_text("\n".join(line for line in lines if "app" in line))
        assert (over_http(f"Bearer {token}"), over_http(f"Bearer {second}")) == (401, 200)
    with pytest.raises(SiteError, match="'app' has a token already"):
        add_client(site / "clients.toml", "app")


@pytest.mark.parametrize("mutual", [False, True])
def test_tls_and_clients_certificates(sites: Sites, tmp_path: Path, mutual: bool) -> None:
    authority = Authority(tmp_path)
    own, client = authority.server(), authority.server(client=True)
    settings = {"serve.certificate": str(own[0]), "serve.key": str(own[1])}
    if mutual:
        settings["serve.client_authority"] = str(authority.certificate)
    root = authority.certificate.read_bytes()
    chain, key = (file.read_bytes() for file in client)
    with running(sites.make(changes=settings), publish(sites, tmp_path / "published")) as service:

        def over_grpc(credentials: Any) -> str:
            with grpc.secure_channel(service.grpc_address, credentials) as channel:
                stub: Any = pb_grpc.RecommenderStub(channel)  # type: ignore[no-untyped-call]
                try:
                    stub.Recommend(pb.RecommendRequest(history={}), timeout=5)
                except grpc.RpcError as error:
                    return str(error.code().name)
            return "OK"

        def over_http(pair: tuple[Path, Path] | None = None) -> int | None:
            context = ssl.create_default_context(cafile=authority.certificate)
            if pair:
                context.load_cert_chain(pair[0], pair[1])
            address = service.http_address.replace("http:", "https:")
            try:
                return httpx.post(
                    f"{address}/v1/recommend", json={"history": {}}, verify=context, timeout=5
                ).status_code
            except httpx.TransportError:
                return None

        known = grpc.ssl_channel_credentials(root, key, chain)
        assert (over_grpc(known), over_http(client)) == ("OK", 200)
        nobody = over_grpc(grpc.ssl_channel_credentials(root)), over_http()
        assert nobody == (("UNAVAILABLE", None) if mutual else ("OK", 200))
        assert over_grpc(grpc.local_channel_credentials()) == "UNAVAILABLE"
    own[1].write_bytes(key)
    with pytest.raises(SiteError, match="no pair that can be used"):
        Service(Site.load(sites.folder / "alpha"), tmp_path / "published")


def test_beyond_this_machine_it_listens_only_with_tls_and_clients(sites: Sites) -> None:
    with pytest.raises(SiteError, match=r"serve\.http = '0\.0\.0\.0:80' is beyond this machine"):
        Site.load(sites.make("a", changes={"serve.http": "0.0.0.0:80"}))
    tls = {"serve.certificate": "c.pem", "serve.key": "k.pem", "serve.grpc": "0.0.0.0:80"}
    with pytest.raises(SiteError, match=r"set serve\.clients \(bearer tokens\)"):
        Site.load(sites.make("b", changes=tls))
    assert Site.load(sites.make("c", changes=tls | {"serve.clients": "c.toml"})).serve.clients
    secret = {"serve.feedback": "postgresql://u:secret@host/db"}
    with pytest.raises(SiteError, match=r"serve\.feedback \(not shown\)"):
        Site.load(sites.make("d", changes=secret))


# --- reload ------------------------------------------------------------------------------------


def test_a_new_model_is_used_and_no_request_is_dropped(sites: Sites, tmp_path: Path) -> None:
    site, folder = sites.make(users=30), publish(sites, tmp_path / "published")
    with running(site, folder) as service, ThreadPoolExecutor(4) as pool:
        first, ended = service.started.model, False

        def ask_on() -> set[str]:
            models = set()
            while not ended:
                answer = service.ask(user="user1")
                assert len(answer.items) == 10
                models.add(answer.model)
            return models

        asking = [pool.submit(ask_on) for _ in range(3)]
        current = service.service.current
        bigger = some_catalogue(items=25)  # the new catalogue has more items
        build(MODEL, bigger).save_pretrained(folder / "model")
        assert not current.look()  # the files have just changed
        assert not current.look()  # half of it: the model of another catalogue
        assert service.metric("sotto_serve_reloads_total", {"what": "model", "outcome": "failed"})
        assert service.ask(user="user1").model == first
        bigger.save(folder / "catalogue")
        current.look()
        assert current.look()
        time.sleep(0.2)
        ended = True
        models = set.union(*(one.result() for one in asking))
        assert models == {first, current.loaded.model}
        assert len(service.ask(history={"items": ["i25"]}, k=24).items) == 24


def test_a_large_catalogue_is_indexed_before_it_is_used(
    sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(item_index, "RECALL", 0.0)  # of a catalogue that is not large
    monkeypatch.setattr(item_index, "MOST_ERROR", 1e9)
    site = sites.make(users=30, changes={"serve.index_above": 19})
    folder = publish(sites, tmp_path / "published")
    with running(site, folder) as service:
        current = service.service.current
        first = current.loaded
        assert first.recommender._search._index is not None  # type: ignore[attr-defined]
        assert len(service.ask(user="user1").items) == 10
        build(MODEL, sites.catalogue).save_pretrained(folder / "model")
        current.look()
        assert current.look()
        assert current.loaded.model != first.model
        assert current.loaded.recommender._search._index is not None  # type: ignore[attr-defined]
        assert service.ask(user="user1").model == current.loaded.model


def test_half_a_file_leaves_the_old_model_in_use(sites: Sites, tmp_path: Path) -> None:
    site, folder = sites.make(users=30), publish(sites, tmp_path / "published")
    with running(site, folder) as service:
        current, weights = service.service.current, folder / "model" / "model.safetensors"
        content = weights.read_bytes()
        weights.write_bytes(content[: len(content) // 2])
        assert not current.look()
        assert not current.look()
        assert service.ask(user="user1").model == service.started.model
        weights.write_bytes(content)
        current.look()
        assert current.look()
        assert service.ask(user="user1").items


def test_new_data_count_after_a_look(sites: Sites, tmp_path: Path) -> None:
    site, folder = sites.make(users=30), publish(sites, tmp_path / "published")
    other = sites.make("beta", users=40)
    with running(site, folder) as service:
        assert service.refused(user="user35")[0] == "NOT_FOUND"
        new = (other / "interactions.parquet").read_bytes()
        (site / "interactions.parquet").write_bytes(new)
        service.service.current.look()
        assert service.service.current.look()
        assert service.ask(user="user35").items


def test_lists_are_reranked_where_the_site_says_so(home: Sites) -> None:
    folder = publish(home, home.folder / "published")
    changes = {"rerank.method": "exposure", "rerank.strength": 0.5}
    site = home.make("reranked", changes, users=20)
    settings, model = Site.load(site).rerank, Recommender.load(folder)
    expected = model.recommend(["i3"], 4, rerank=settings)
    with running(site, folder) as service:
        asked = {"history": {"items": ["i3"]}, "k": 4}
        plain, told = service.ask(**asked), service.ask(**asked, explain=True)
        over_http = service.post("/v1/recommend", asked | {"explain": True}).json()
    assert plain.rerank == told.rerank == over_http["rerank"] == "exposure, strength 0.5"
    assert [item.item for item in plain.items] == [one.item for one in expected]
    assert not plain.items[0].HasField("rank_by_score")
    assert [item.rank_by_score for item in told.items] == [one.before for one in expected]
    assert [item["rank_by_score"] for item in over_http["items"]] == [
        one.before for one in expected
    ]
    site = home.make("unfit", {"rerank.method": "calibrated"}, users=20)  # no item has a genre
    with pytest.raises(ConfigError, match="no item of the catalogue has a genre"):
        Service(Site.load(site), folder)


def test_friends_of_a_named_user_count(home: Sites) -> None:
    folder, site = publish(home, home.folder / "published"), home.make("befriended", users=20)
    own = Site.load(site).load_histories(home.catalogue, 50, min_events=1)
    table = FriendTable.from_edges({(own.users[3], own.users[4]): 1.0})
    friends = FriendsPart(table, np.ones(1, np.float32), own.select([3, 4]), 0.1, 0.0)
    counts = TransitionCounts.of(own, len(home.catalogue), Memory(1, 1.0))
    fingerprint = home.catalogue.fingerprint
    save_counts(site / "home.safetensors", counts, 8.0, fingerprint, friends)
    model = Recommender.load(folder, site / "home.safetensors")
    items = [home.catalogue.item_ids[number - 1] for number in own[3]]
    with running(site, folder) as service:
        named = service.ask(user=own.users[3], k=3, explain=True)
        nobody = service.ask(history={"items": items}, k=3)
    expected = model.recommend(items, 3, user=own.users[3], explain=True)
    assert [item.item for item in named.items] == [one.item for one in expected]
    assert named.items[0].explanation.sentence == "because your friends chose it"
    alone = model.recommend(items, 3)
    assert [item.item for item in nobody.items] == [one.item for one in alone]
    assert [one.score for one in alone] != [one.score for one in expected]
