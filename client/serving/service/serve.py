"""Serve recommendations until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from client.data.feedback import FeedbackStore
from client.logs import Event, note
from client.serving.service.admission import Admission
from client.serving.service.clients import Clients, Tls
from client.serving.service.current import Current
from client.serving.service.grpc_transport import GrpcTransport
from client.serving.service.guarding import ListGuard
from client.serving.service.http_transport import HttpTransport
from client.serving.service.metrics import ServiceMetrics
from client.serving.service.operations import Operations
from client.serving.service.writer import FeedbackWriter
from client.site.site import Site
from shared.errors import SiteError
from shared.system.address import Address
from shared.system.health_server import json_answer, metrics_answer, serve_health

__all__ = ["Service", "Started", "serve"]

Listener = tuple[str, int]
_SWITCH_SECONDS = 0.0005
"""After which a thread that computes lets the one that answers go on; Python's default is 5 ms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """Where the service listens, and what it serves; None where a listener is off.

    Attributes:
        grpc: host and port.
        http: host and port.
        metrics: host and port.
        model: name of the model.
        items: size of the catalogue.
    """

    grpc: Listener | None
    http: Listener | None
    metrics: Listener | None
    model: str
    items: int


class Service:
    """All parts of the service, in one process.

    Args:
        site: whose data and settings they are.
        folder: that the coordinator published.

    Raises:
        SottoError: the settings, the model, the data or the store cannot be used.
    """

    def __init__(self, site: Site, folder: Path) -> None:
        settings, home = site.serve, Path(site.folder)
        self._site, self._tls = site, _tls(site)
        self.clients = Clients(settings.path(home, "clients"))
        torch.set_num_threads(1)  # requests share the cores, one thread each
        workers = settings.workers or os.cpu_count() or 1
        self._admission = Admission(workers, settings.queue)
        self.metrics = ServiceMetrics(lambda: self._admission.pending)
        self.store: FeedbackStore | None = site.open_feedback(create=True)
        self.current = Current(site, folder, self.store, self.metrics)
        self._writer = (
            None
            if self.store is None
            else FeedbackWriter(self.store, self.current.catch_up, settings.queue)
        )
        guard = ListGuard(60 * site.wellbeing.session_gap_minutes)
        if (protection := self.current.loaded.protection) is not None and self.store is not None:
            guard.replay(self.store, protection.protects)
        self.operations = Operations(
            self.current, self._admission, self._writer, self.metrics, guard
        )
        self._stack = AsyncExitStack()

    async def start(
        self, grpc: Listener | None, http: Listener | None, metrics: Listener | None
    ) -> Started:
        """Listen; port 0 takes a free one.

        Raises:
            SiteError: an address cannot be listened on.
        """
        settings = self._site.serve
        seconds, grace = settings.timeout_seconds, settings.grace_seconds
        try:
            if metrics is not None:
                metrics = self._serve_metrics(metrics)
            if grpc is not None:
                over_grpc = GrpcTransport(
                    self.operations,
                    self.clients,
                    tls=self._tls,
                    seconds=seconds,
                )
                self._stack.push_async_callback(over_grpc.stop, grace)
                grpc = grpc[0], await over_grpc.start(*grpc)
            if http is not None:
                over_http = HttpTransport(
                    self.operations,
                    self.clients,
                    tls=self._tls,
                    seconds=seconds,
                    any_host=bool(settings.clients or settings.client_authority),
                )
                self._stack.push_async_callback(over_http.stop, grace)
                http = http[0], await over_http.start(*http)
        except BaseException:
            await self.stop()
            raise
        self.current.watch()
        loaded = self.current.loaded
        items = len(loaded.recommender.catalogue)
        return Started(grpc=grpc, http=http, metrics=metrics, model=loaded.model, items=items)

    async def stop(self) -> None:
        """End the requests in progress, write what waits, and close."""
        await self._stack.aclose()
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self.current.close()
        self._admission.close()
        if self._writer is not None:
            self._writer.close()
        if self.store is not None:
            self.store.close()

    def _serve_metrics(self, address: Listener) -> Listener:
        routes = {
            "/metrics": lambda accept: metrics_answer(self.metrics.registry, accept),
            "/healthz": lambda _: json_answer({"process": True}, ok=True),
        }
        try:
            return self._stack.enter_context(serve_health(address, routes))
        except OSError as error:
            raise SiteError(
                f"serve.metrics = '{Address(*address)}': cannot listen there ({error.strerror}). "
                "Choose another port, or '' for none."
            ) from error


def serve(site: Site, folder: Path, started: Callable[[Started], None]) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP loads model and data again.

    Args:
        site: whose data and settings they are.
        folder: that the coordinator published.
        started: called once, when requests are answered.

    Raises:
        SottoError: the settings, the model, the data or the store cannot be used.
    """
    service = Service(site, folder)
    settings = site.serve
    addresses = (Address.parse(text) for text in (settings.grpc, settings.http, settings.metrics))
    listeners = [None if at is None else (at.host, at.port) for at in addresses]
    asyncio.run(_run(service, listeners, started))


async def _run(
    service: Service, listeners: list[Listener | None], started: Callable[[Started], None]
) -> None:
    stopped, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    with suppress(AttributeError):  # Windows has none
        loop.add_signal_handler(signal.SIGHUP, service.current.wake)
    addresses = await service.start(*listeners)
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.collect()
    gc.freeze()  # later collections do not walk through what stays
    try:
        started(addresses)
        note(Event.SERVING)
        await stopped.wait()
        await service.stop()
    finally:
        gc.unfreeze()  # else DuckDB finds its objects still there when the process ends
    note(Event.SERVED)


def _tls(site: Site) -> Tls | None:
    folder, settings = Path(site.folder), site.serve
    certificate, key = settings.path(folder, "certificate"), settings.path(folder, "key")
    if certificate is None or key is None:
        return None
    tls = Tls(certificate, key, settings.path(folder, "client_authority"))
    tls.check()
    return tls
