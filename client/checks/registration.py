"""Ask the coordinator whether it knows this node's key, without connecting the node.

Flower's SuperLink looks the key up before it looks at the interval of heartbeats, so a request to
activate the node with an interval that is never valid changes nothing, and its error tells:

| the answer                        | what it means                                             |
|-----------------------------------|-----------------------------------------------------------|
| 2003, invalid heartbeat interval  | `ACCEPTED`: the key is registered                         |
| 2004, activation failed           | `UNKNOWN_KEY`: it is not, or no longer                    |
| 401                               | `BAD_SIGNATURE`: a clock is wrong, or the key is another  |
| 403, 404, 405                     | `OTHER_SERVICE`: not the coordinator's port for partners  |
| anything else, or none            | `SiteError`                                               |
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from client.flower_internals import (
    ActivateNodeRequest,
    ApiErrorCode,
    FleetHttpClient,
    FlowerError,
    NodeAuthHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    public_key_to_bytes,
)
from client.site.proxies import loopback_bypassed
from shared.errors import SiteError

__all__ = ["Registration", "ask_registration"]

_NEVER_VALID = 0.0
"""Seconds between heartbeats."""
_ELSEWHERE = (403, 404, 405)


class Registration(StrEnum):
    """What the coordinator knows of a node's key."""

    ACCEPTED = "accepted"
    UNKNOWN_KEY = "unknown key"
    BAD_SIGNATURE = "bad signature"
    OTHER_SERVICE = "other service"


def ask_registration(superlink: str, roots: Path | None, key_file: Path) -> Registration:
    """Ask the coordinator whether it has accepted a key, over Flower's own client.

    Args:
        superlink: host:port.
        roots: PEM file of the authority to trust; None trusts those of the system.
        key_file: the node's private key.

    Raises:
        SiteError: the coordinator gave no answer that tells.
        OSError: a file is not readable.
    """
    key = load_ssh_private_key(key_file.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)  # client.site.keys refuses all others
    with (
        loopback_bypassed(),
        FleetHttpClient.from_server_address(
            superlink,
            False,
            None if roots is None else roots.read_bytes(),
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(key, key.public_key()),
            ],
        ) as client,
    ):
        request = ActivateNodeRequest(
            public_key=public_key_to_bytes(key.public_key()), heartbeat_interval=_NEVER_VALID
        )
        try:
            client.ActivateNode(request)
        except httpx.HTTPStatusError as error:
            return _read_error(error.response)
        except (httpx.HTTPError, RuntimeError) as error:
            raise SiteError(f"it gave no answer ({type(error).__name__})") from None
    raise SiteError("it answered as Flower 1.41 does not")


def _read_error(response: httpx.Response) -> Registration:
    error = FlowerError.from_json(response.text)
    code = None if error is None else error.code
    if code == ApiErrorCode.FLEET_INVALID_HEARTBEAT_INTERVAL:
        return Registration.ACCEPTED
    if code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED:
        return Registration.UNKNOWN_KEY
    if response.status_code == httpx.codes.UNAUTHORIZED:
        return Registration.BAD_SIGNATURE
    if response.status_code in _ELSEWHERE:
        return Registration.OTHER_SERVICE
    raise SiteError(f"it answered with the status {response.status_code}")
