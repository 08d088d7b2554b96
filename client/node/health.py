"""Serve /healthz, /readyz and /metrics of a node, where site.toml names an address for them.

| path       | 200                                                              | otherwise |
|------------|------------------------------------------------------------------|-----------|
| `/healthz` | both of the node's processes run                                 | 503       |
| `/readyz`  | in addition, the ledger opens, the vetted app is unchanged, and  | 503       |
|            | the coordinator answers in TLS                                   |           |
| `/metrics` | always                                                           |           |

A body names each condition and whether it holds. It never says why: `sotto-node check` does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from prometheus_client import CollectorRegistry

from client.bundle.trust import verify_trusted
from client.checks.handshake import shake_hands
from client.node.prometheus import NodeMetrics
from client.site.site import Site
from shared.errors import SiteError, SottoError
from shared.system.health_server import Answer, Routes, json_answer, metrics_answer, serve_health
from shared.system.supervise import Processes

__all__ = ["serve_node_health"]

_FRESH = 10.0
"""Seconds for which results are reused, so that the coordinator is not asked at every probe."""


@contextmanager
def serve_node_health(site: Site, processes: Processes) -> Iterator[tuple[str, int] | None]:
    """Answer while the block runs; yield the address, or None where site.toml names none.

    Raises:
        SiteError: the address cannot be listened on.
    """
    address = site.node.metrics_address
    if address is None:
        yield None
        return
    with ExitStack() as stack:
        try:
            listening = stack.enter_context(
                serve_health(address, _NodeHealth(site, processes).routes)
            )
        except OSError as error:
            raise SiteError(
                f"node.metrics = '{site.node.metrics}': cannot listen there ({error.strerror}). "
                "Choose another port, or '' for none."
            ) from error
        yield listening


class _NodeHealth:
    """The answers of each path."""

    def __init__(self, site: Site, processes: Processes) -> None:
        self._site, self._processes = site, processes
        self._registry = CollectorRegistry()
        self._registry.register(NodeMetrics(site, processes))
        self._checked: tuple[float, dict[str, bool]] = (-_FRESH, {})

    @property
    def routes(self) -> Routes:
        """All paths."""
        return {
            "/healthz": lambda _: _conditions({"processes": self._processes.all_running}),
            "/readyz": lambda _: _conditions(
                {"processes": self._processes.all_running} | self._check_site()
            ),
            "/metrics": lambda accept: metrics_answer(self._registry, accept),
        }

    def _check_site(self) -> dict[str, bool]:
        site, (at, results) = self._site, self._checked
        if time.monotonic() - at > _FRESH:
            results = {
                "ledger": _succeeds(site.open_ledger),
                "bundle": _succeeds(lambda: verify_trusted(site)),
                "coordinator": _succeeds(
                    lambda: shake_hands(site.coordinator.address, site.root_certificates_file)
                ),
            }
            self._checked = time.monotonic(), results
        return results


def _succeeds(act: Callable[[], object]) -> bool:
    try:
        act()
    except (SottoError, OSError):
        return False
    return True


def _conditions(conditions: dict[str, bool]) -> Answer:
    return json_answer(conditions, ok=all(conditions.values()))
