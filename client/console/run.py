"""Start and stop the console, and where it may listen.

| address            | what is needed                                                         |
|--------------------|------------------------------------------------------------------------|
| `127.0.0.1:9473`   | nothing: other machines cannot reach it                                |
| `0.0.0.0:9473`     | certificate and key, and the names by which browsers reach it          |

There is always a token.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.console.access import Access
from client.console.app import PartnerConsole
from client.serving.service.clients import Tls
from client.serving.service.http_server import HttpServer
from client.site.site import Site
from shared.errors import SiteError
from shared.system.address import Address

__all__ = ["Place", "RunningConsole", "run_console"]

_ANY = {"0.0.0.0", "::"}  # noqa: S104 such an address needs names
_GRACE = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the console listens.

    Attributes:
        host: address of this machine.
        port: 0 takes a free one.
        tls: certificates; None serves in clear.
        names: hosts by which browsers reach it beside those of this machine.

    Raises:
        SiteError: it is beyond loopback, and there are no certificates or no name.
    """

    host: str
    port: int
    tls: Tls | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if Address(self.host, self.port).loopback:
            return
        if self.tls is None:
            raise SiteError(
                f"--address {Address(self.host, self.port)} is beyond this machine: give "
                "--certificate and --key, or listen on 127.0.0.1."
            )
        if self.host in _ANY and not self.names:
            raise SiteError(
                f"--address {Address(self.host, self.port)}: say by which name browsers reach it, "
                "as in --name console.example. It answers to no other."
            )

    @property
    def known_as(self) -> tuple[str, ...]:
        """All names but those of this machine."""
        return self.names if self.host in _ANY else (*self.names, self.host)


class RunningConsole:
    """A console that listens.

    Args:
        site: whose node it is.
        model: the published folder; None for none.
        before: an earlier one, to compare with.
        place: where it listens.
    """

    def __init__(self, site: Site, model: Path | None, before: Path | None, place: Place) -> None:
        self._place = place
        self.access = Access(site.folder, place.known_as, secure=place.tls is not None)
        self.console = PartnerConsole(site, model, before, self.access)
        self._server = HttpServer(self.console.app, setting="--address", tls=place.tls)

    async def start(self) -> str:
        """Listen, begin to load the model, and return the address that holds the token.

        Raises:
            SiteError: the address cannot be listened on.
        """
        place = self._place
        port = await self._server.start(place.host, place.port)
        self.console.desk.start()
        host = place.names[0] if place.names else place.host
        scheme = "http" if place.tls is None else "https"
        return f"{scheme}://{Address(host, port)}/?token={self.access.token}"

    async def stop(self) -> None:
        """Take no further requests, and end what runs."""
        await self._server.stop(_GRACE)
        await asyncio.to_thread(self.console.close)


def run_console(
    site: Site,
    model: Path | None,
    before: Path | None,
    place: Place,
    started: Callable[[str], None],
) -> None:
    """Serve the console until SIGTERM or SIGINT.

    Args:
        site: whose node it is.
        model: the published folder; None for none.
        before: an earlier one, to compare with.
        place: where it listens.
        started: is given the address once it can be opened.

    Raises:
        SiteError: the address cannot be listened on.
    """
    asyncio.run(_run(RunningConsole(site, model, before, place), started))


async def _run(running: RunningConsole, started: Callable[[str], None]) -> None:
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, ended.set)
    try:
        started(await running.start())
        await ended.wait()
    finally:
        await running.stop()


_SIGNALS: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT)
