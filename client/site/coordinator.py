"""Where the coordinator is and how this node proves itself: the [coordinator] table of site.toml.

| `superlink`                   | host and port                                |
|-------------------------------|----------------------------------------------|
| `sotto.example:443`           | sotto.example, 443                           |
| `192.0.2.7:9092`              | 192.0.2.7, 9092                              |
| `[2001:db8::1]:9092`          | 2001:db8::1, 9092                            |
| ``                            | none yet: `sotto-node up` refuses            |
| `https://sotto.example:443`   | refused: Flower wants the address alone      |
| `sotto.example`               | refused: without a port                      |
"""

from __future__ import annotations

from typing import Annotated

from shared.errors import ConfigError
from shared.sections import Require, section
from shared.system.address import PORTS, Address

__all__ = ["CoordinatorConfig"]


@section("coordinator")
class CoordinatorConfig:
    """The [coordinator] table; its paths are relative to site.toml.

    Attributes:
        superlink: address of the coordinator's SuperLink, host:port; see the table above.
        root_certificates: PEM file with the authority that signed the coordinator's certificate;
            "" trusts the authorities that the system trusts.
        key: the node's private key; the public one lies beside it, with `.pub` at its end.
        flower: folder of what Flower keeps on the node: the app that the partner vetted.
        local_port: where the node's own processes meet, on 127.0.0.1; one for each node of a
            machine.

    Raises:
        ConfigError: an address or a port is none.
    """

    superlink: Annotated[
        str,
        Require(
            lambda text: not text or Address.parse(text) is not None,
            "give host:port, without https://, as in sotto.example:9092 or [2001:db8::1]:9092",
        ),
    ] = ""
    root_certificates: str = ""
    key: str = "node_key"
    flower: str = "flower"
    local_port: Annotated[
        int, Require(lambda port: port in PORTS, "choose a port from 1 to 65535")
    ] = 9094

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the coordinator's SuperLink.

        >>> CoordinatorConfig(superlink="[2001:db8::1]:9092").address
        ('2001:db8::1', 9092)

        Raises:
            ConfigError: none is stated.
        """
        address = Address.parse(self.superlink)
        if address is None:
            raise ConfigError(
                "'coordinator.superlink' is not set: state the address that the coordinator gave "
                "you, as host:port."
            )
        return address.host, address.port
