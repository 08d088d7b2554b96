"""The proxy as a process: two TLS listeners in front of the SuperLink, until a signal to end."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from server.service.proxy import ADMINISTRATORS, PARTNERS, Gate, Rule, upstream
from server.settings import Settings
from shared.errors import ServerError
from shared.system.address import Address

__all__ = ["bound", "serve"]

_GRACE = 5


class _Server(uvicorn.Server):
    """One of several in a process: signals are for all of them."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals alone."""
        yield


def serve(settings: Settings) -> None:
    """Listens for partners and administrators until SIGTERM or SIGINT.

    Raises:
        ServerError: an address is taken or not of this machine.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    sockets = [bound("partners", settings.partners)]
    sockets.append(bound("administrators", settings.administrators))
    public = settings.path(settings.tls.certificate), settings.path(settings.tls.key)
    asyncio.run(_serve(settings, sockets, [public, settings.internal_certificate]))


def bound(key: str, address: Address) -> socket.socket:
    """A socket that is bound to an address.

    Args:
        key: which one of [listen] it is.
        address: where.

    Raises:
        ServerError: it is taken, or not of this machine.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((address.host, address.port))
    except OSError as error:
        made.close()
        raise ServerError(
            f"listen.{key} = '{address}' cannot be had ({error.strerror}): end what listens "
            "there, or choose another address in server.toml."
        ) from error
    return made


async def _serve(
    settings: Settings, sockets: list[socket.socket], pairs: list[tuple[Path, Path]]
) -> None:
    async with upstream(str(settings.superlink), str(settings.internal_authority)) as client:
        rules: tuple[Rule, ...] = (PARTNERS, ADMINISTRATORS)
        servers = [
            _Server(_configured(Gate(rule, client), *pair))
            for rule, pair in zip(rules, pairs, strict=True)
        ]
        loop = asyncio.get_running_loop()
        for kind in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(kind, _end, servers)
        running = (
            server.serve([listening]) for server, listening in zip(servers, sockets, strict=True)
        )
        await asyncio.gather(*running)


def _end(servers: list[_Server]) -> None:
    for server in servers:
        server.should_exit = True


def _main() -> None:
    """As a process of `up`, without the time that the whole command line takes to start."""
    try:
        serve(Settings.load(Path(sys.argv[1])))
    except ServerError as error:
        sys.exit(f"proxy: {error}")


def _configured(gate: Gate, certificate: Path, key: Path) -> uvicorn.Config:
    return uvicorn.Config(
        gate,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        ws="none",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=_GRACE,
    )


if __name__ == "__main__":
    _main()
