"""The proxy's process: two TLS listeners in front of the SuperLink, until SIGTERM or SIGINT."""

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

from server.service.proxy import ADMINISTRATORS, PARTNERS, Gate, Rule, superlink_client
from server.settings import Settings
from shared.errors import ServerError
from shared.system.address import Address

__all__ = ["address_error", "bind_socket", "serve_proxy"]

_GRACE = 5
"""Seconds for requests in progress after a signal to end."""


class _Server(uvicorn.Server):
    """One of several servers in a process, which end together by a signal."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handler."""
        yield


def serve_proxy(settings: Settings) -> None:
    """Answer partners and administrators until SIGTERM or SIGINT.

    Raises:
        ServerError: an address is in use, or is not one of this machine.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    sockets = [bind_socket("partners", settings.partners)]
    sockets.append(bind_socket("administrators", settings.administrators))
    public = settings.path(settings.tls.certificate), settings.path(settings.tls.key)
    asyncio.run(_serve(settings, sockets, [public, settings.internal_certificate]))


def bind_socket(key: str, address: Address) -> socket.socket:
    """Return a socket that is bound to an address.

    Args:
        key: the address's key in [listen].
        address: to bind to.

    Raises:
        ServerError: it is in use, or is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((address.host, address.port))
    except OSError as error:
        bound.close()
        raise address_error(key, address, error) from error
    return bound


def address_error(key: str, address: Address, error: OSError) -> ServerError:
    """Return the error of an address that cannot be listened on; arguments as `bind_socket`."""
    return ServerError(
        f"listen.{key} = '{address}' cannot be used ({error.strerror}): stop what listens there, "
        "or choose another address in server.toml."
    )


async def _serve(
    settings: Settings, sockets: list[socket.socket], pairs: list[tuple[Path, Path]]
) -> None:
    async with superlink_client(
        str(settings.superlink), str(settings.internal_authority)
    ) as client:
        rules: tuple[Rule, ...] = (PARTNERS, ADMINISTRATORS)
        servers = [
            _Server(_server_config(Gate(rule, client), *pair))
            for rule, pair in zip(rules, pairs, strict=True)
        ]
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _end, servers)
        running = (
            server.serve([listening]) for server, listening in zip(servers, sockets, strict=True)
        )
        await asyncio.gather(*running)


def _end(servers: list[_Server]) -> None:
    for server in servers:
        server.should_exit = True


def _main() -> None:
    """Run as a process of `up`, without importing the whole command line."""
    try:
        serve_proxy(Settings.load(Path(sys.argv[1])))
    except ServerError as error:
        sys.exit(f"proxy: {error}")


def _server_config(gate: Gate, certificate: Path, key: Path) -> uvicorn.Config:
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
