"""flower-supernode, which reconnects for ever, and is never left half dead.

| what happens                                     | Flower 1.41 alone            | here         |
|--------------------------------------------------|------------------------------|--------------|
| a connection is cut within the TLS handshake     | gives up, and does not end   | tries again  |
| the coordinator's certificate has expired        | the same                     | tries again  |
| any other error ends the connection              | does not end                 | ends with 1  |
| the thread of its heartbeats dies                | goes on, taken for dead      | ends with 1  |

Flower takes every error that has "ssl", "tls" or "certificate" in its words for a lasting one. What
has given up does not end, because its listener for the executor runs in another thread; so nobody
starts it again.

Run it as `python -m client.supernode`, with the arguments of `flower-supernode`.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable
from logging import WARNING
from typing import NoReturn

import httpx
from flwr.supercore import log
from flwr.supercore.retry import RetryInvoker, make_simple_http_retry_invoker
from flwr.supernode import fleet_http_connection
from flwr.supernode.cli.flower_supernode import flower_supernode

__all__ = ["main"]


def main() -> NoReturn:
    """Runs `flower-supernode`; whatever ends one of its threads ends the process."""
    vars(fleet_http_connection)["make_simple_http_retry_invoker"] = _patient
    threading.excepthook = _end_with
    sys.argv[0] = "flower-supernode"
    try:
        flower_supernode()
    except SystemExit:  # an end in good order
        raise
    except BaseException:
        traceback.print_exc()
    _end()


def _patient() -> RetryInvoker:
    """Flower's way to try again, for every error of the transport."""
    invoker = make_simple_http_retry_invoker()
    others = invoker.should_giveup
    assert others is not None

    invoker.should_giveup = _unless_transport(others)
    return invoker


def _unless_transport(others: Callable[[Exception], bool]) -> Callable[[Exception], bool]:
    def lasting(error: Exception) -> bool:
        if isinstance(error, httpx.TransportError):
            log(WARNING, "No connection to the coordinator: %s", error)
            return False
        return others(error)

    return lasting


def _end_with(ended: threading.ExceptHookArgs) -> None:
    threading.__excepthook__(ended)
    if ended.exc_type is not SystemExit:
        _end()


def _end() -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


if __name__ == "__main__":
    main()
