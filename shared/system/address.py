"""The address at which something listens: a host and a port.

| text                          | host and port                                |
|-------------------------------|----------------------------------------------|
| `sotto.example:443`           | sotto.example, 443                           |
| `192.0.2.7:9092`              | 192.0.2.7, 9092                              |
| `[2001:db8::1]:9092`          | 2001:db8::1, 9092                            |
| `https://sotto.example:443`   | none: give host and port without a scheme    |
| `sotto.example`, `a:b:c`      | none: without a port, or ambiguous           |
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

__all__ = ["PORTS", "Address"]

PORTS = range(1, 65536)
"""The valid port numbers."""


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port.

    Attributes:
        host: a name or an IP address, without brackets.
        port: in `PORTS`.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address | None:
        """Parse `host:port`; return None if it is not of that form.

        >>> Address.parse("[2001:db8::1]:9092")
        Address(host='2001:db8::1', port=9092)
        >>> Address.parse("sotto.example") is None
        True
        """
        host, _, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            return None
        if not host or set("/@?# \t\n") & set(host):
            return None
        if not (port.isascii() and port.isdigit() and int(port) in PORTS):
            return None
        try:
            host.encode("idna")
        except UnicodeError:  # a label that is empty or too long
            return None
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only processes of this machine can reach it.

        >>> Address("127.0.0.1", 80).loopback, Address("0.0.0.0", 80).loopback
        (True, False)
        """
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
