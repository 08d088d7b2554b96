"""A service on loopback in a thread of its own, and clients of both transports."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import httpx

from client.serving.service import recommender_pb2 as pb
from client.serving.service import recommender_pb2_grpc as pb_grpc
from client.serving.service.serve import Service, Started
from client.site.site import Site
from shared.models.attention import build
from tests.conftest import MODEL

if TYPE_CHECKING:
    from tests.conftest import Sites

LOCAL = ("127.0.0.1", 0)


def publish(sites: Sites, folder: Path) -> Path:
    """What a coordinator publishes."""
    build(MODEL, sites.catalogue).save_pretrained(folder / "model")
    sites.catalogue.save(folder / "catalogue")
    return folder


@dataclass
class Running:
    """A running service.

    Attributes:
        service: all of it.
        started: where it listens.
        loop: its event loop, in another thread.
    """

    service: Service
    started: Started
    loop: asyncio.AbstractEventLoop

    @property
    def grpc_address(self) -> str:
        assert self.started.grpc is not None
        return "{}:{}".format(*self.started.grpc)

    @property
    def http_address(self) -> str:
        assert self.started.http is not None
        return "http://{}:{}".format(*self.started.http)

    @contextmanager
    def stub(self) -> Iterator[Any]:
        with grpc.insecure_channel(self.grpc_address) as channel:
            yield pb_grpc.RecommenderStub(channel)  # type: ignore[no-untyped-call]

    def post(self, path: str, body: object, **options: Any) -> httpx.Response:
        return httpx.post(f"{self.http_address}{path}", json=body, timeout=20, **options)

    def ask(self, **fields: Any) -> Any:
        with self.stub() as stub:
            return stub.Recommend(pb.RecommendRequest(**fields), timeout=20)

    def refused(self, **fields: Any) -> tuple[str, str]:
        """Status and sentence of a request that is refused."""
        try:
            self.ask(**fields)
        except grpc.RpcError as error:
            return error.code().name, error.details()
        raise AssertionError("it was answered")

    def metric(self, name: str, labels: Mapping[str, str] | None = None) -> float:
        return self.service.metrics.registry.get_sample_value(name, dict(labels or {})) or 0.0


@contextmanager
def running(site: Path, folder: Path) -> Iterator[Running]:
    """Serve while the block runs."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def wait_for(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(60)

    service = Service(Site.load(site), folder)
    try:
        started = wait_for(service.start(LOCAL, LOCAL, LOCAL))
        yield Running(service, started, loop)
        wait_for(service.stop())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
