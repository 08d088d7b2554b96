"""Which HTTP proxy leads to an address, by the environment: as Flower's client chooses it.

Flower's client (httpx) obeys `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`. A node's own processes meet
on loopback, where no proxy can reach them, so a node adds loopback to `NO_PROXY` by itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.request import getproxies

import httpx

from shared.errors import SiteError
from shared.system.address import Address

__all__ = ["bypass_loopback", "loopback_bypassed", "proxy_for"]

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_NAMES = ("NO_PROXY", "no_proxy")


def bypass_loopback(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that exclude loopback from proxies, beside what they exclude already.

    >>> bypass_loopback({"NO_PROXY": "example.org"})["no_proxy"]
    'example.org,localhost,127.0.0.1,::1'
    """
    # The name in small letters counts where both are set.
    excluded = variables.get("no_proxy") or variables.get("NO_PROXY") or ""
    value = ",".join(filter(None, (excluded, *_LOOPBACK)))
    return dict.fromkeys(_NAMES, value)


@contextmanager
def loopback_bypassed() -> Iterator[None]:
    """Exclude loopback from proxies in this process while the block runs, as in a node's."""
    before = {name: os.environ.get(name) for name in _NAMES}
    os.environ.update(bypass_loopback(os.environ))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def proxy_for(host: str, port: int) -> Address | None:
    """Return the proxy that leads to an address; None where the connection is direct.

    Raises:
        SiteError: the environment names a proxy that Flower's client cannot use.
    """
    url = httpx.URL(f"https://{Address(host, port)}")
    try:
        with loopback_bypassed(), httpx.Client(verify=False) as client:  # noqa: S501 connects nowhere
            # httpx tells its choice in no public way.
            direct = client._transport_for_url(url) is client._transport
            named = getproxies()
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise SiteError(
            "the environment names a proxy that Flower's client cannot use "
            f"({str(error).partition('.')[0]}): correct HTTPS_PROXY and ALL_PROXY, or list "
            f"{host} in NO_PROXY"
        ) from None
    if direct:
        return None
    proxy = httpx.URL(named.get("https") or named.get("all") or "")
    return Address(proxy.host, proxy.port or (443 if proxy.scheme == "https" else 80))
