"""Serve /metrics, /healthz and /readyz of a coordinator, where server.toml names an address.

| `listen.metrics` | where they are answered                          |
|------------------|--------------------------------------------------|
| ``               | nowhere                                          |
| `127.0.0.1:9465` | on this machine alone                            |
| `0.0.0.0:9465`   | to everybody who reaches the machine             |
| `9465`           | refused: without an address                      |

They are answered by the process of `sotto-server up` itself, which restarts all others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from server.runs.run import all_statuses
from server.service.listeners import address_error
from server.service.prometheus import health_routes
from server.settings import Settings
from shared.system.health_server import serve_health
from shared.system.supervise import Processes

__all__ = ["serve_coordinator_health"]


@contextmanager
def serve_coordinator_health(
    settings: Settings, processes: Processes, answers: Callable[[], bool]
) -> Iterator[tuple[str, int] | None]:
    """Answer while the block runs; yield the address, or None where server.toml names none.

    Args:
        settings: the coordinator's.
        processes: those of `sotto-server up`.
        answers: returns whether the proxy and the SuperLink behind it answer, now.

    Raises:
        ServerError: the address cannot be listened on.
    """
    address = settings.metrics
    if address is None:
        yield None
        return
    routes = health_routes(
        statuses=lambda: all_statuses(settings),
        processes=lambda: processes.running,
        answers=answers,
    )
    with ExitStack() as stack:
        try:
            listening = stack.enter_context(serve_health((address.host, address.port), routes))
        except OSError as error:
            raise address_error("metrics", address, error) from error
        yield listening
