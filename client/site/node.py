"""How the node runs on its machine: the [node] table of site.toml.

| `metrics`        | where /metrics, /healthz and /readyz are answered |
|------------------|---------------------------------------------------|
| ``               | nowhere                                           |
| `127.0.0.1:9464` | on this machine alone                             |
| `[::]:9464`      | to everybody who reaches the machine              |
| `9464`           | refused: without an address                       |
"""

from __future__ import annotations

from typing import Annotated

from shared.sections import Require, section
from shared.system.address import Address

__all__ = ["NodeConfig"]


@section("node")
class NodeConfig:
    """The [node] table.

    Attributes:
        executor_user: whose processes run the app: a user of this machine who can read the data
            and not the node's key. Takes a `sotto-node up` that is root's; "" runs them as the
            user that starts it.
        metrics: address, host:port, of metrics and probes; "" has none. They tell what the ledger
            tells, without a password.

    Raises:
        ConfigError: an address is none.
    """

    executor_user: str = ""
    metrics: Annotated[
        str,
        Require(
            lambda text: not text or Address.parse(text) is not None,
            "give host:port, as in 127.0.0.1:9464, or '' for none",
        ),
    ] = ""

    @property
    def metrics_address(self) -> tuple[str, int] | None:
        """Host and port of metrics and probes; None where there are none.

        >>> NodeConfig(metrics="127.0.0.1:9464").metrics_address
        ('127.0.0.1', 9464)
        """
        address = Address.parse(self.metrics)
        return None if address is None else (address.host, address.port)
