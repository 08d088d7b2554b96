"""How recommendations are served: the [serve] table of site.toml, which `sotto-node serve` reads.

| `grpc`, `http`    | who may ask                                                            |
|-------------------|------------------------------------------------------------------------|
| ``                | nobody: this transport is off                                          |
| `127.0.0.1:9470`  | processes of this machine, without TLS and tokens unless they are set  |
| `0.0.0.0:9470`    | others: refused without `certificate` and `key`, and without `clients` |
|                   | (bearer tokens) or `client_authority` (certificates of clients)        |
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from client.data.credentials import refuse_secrets
from client.data.interactions import TIME_FORMS
from shared.errors import ConfigError
from shared.sections import PositiveInt, PositiveNumber, Require, TextsOf, section
from shared.system.address import Address

__all__ = ["INTERACTIONS", "ServeConfig"]

INTERACTIONS = ("chosen", "clicked", "rated")
"""Kinds of feedback that may count as interactions."""
_Address = Annotated[
    str,
    Require(
        lambda text: not text or Address.parse(text) is not None,
        "give host:port, as in 127.0.0.1:9470, or '' for none",
    ),
]


@section("serve")
class ServeConfig:
    """The [serve] table; paths are relative to site.toml.

    Attributes:
        model: folder that the coordinator published, with model/ and catalogue/.
        home: file of the adapted model that `sotto-node adapt` wrote; "" takes home.safetensors
            beside site.toml where there is one.
        grpc: address, host:port, of gRPC; "" for none.
        http: address of JSON over HTTP; "" for none.
        metrics: address of metrics and probes, without a password; "" for none.
        certificate: PEM chain of this server; "" serves without TLS.
        key: its private key.
        client_authority: PEM of the authority that signs certificates of clients; "" asks for none.
        clients: file of the clients that have a bearer token, which `--add-client` writes.
        feedback: SQLAlchemy address of the store of feedback, without a password.
        feedback_credentials: file with its user and password; "" reads the environment.
        interactions: kinds of feedback that are interactions: some of chosen, clicked, rated.
        federate: whether these interactions also count in what a coordinator asks for, as events of
            the same users under the same ledger; otherwise they stay at home.
        times: form of the times in the source, of `client.data.interactions.TIME_FORMS`; "" takes
            that of the first one. With `federate` it must be stated: read from the data, one
            user's time would decide how those of others are read.
        max_events: last events of a user that are kept in memory.
        workers: requests that are computed at once; 0 takes one a core.
        index_above: items above which an approximate index is searched, where faiss is installed
            (`client.serving.item_index`); 0 searches exactly always.
        queue: requests that wait; one more is refused.
        timeout_seconds: after which a request that is not answered is given up.
        grace_seconds: that requests in progress have after a signal to stop.
        reload_seconds: between two looks at model, home model, catalogue and data files.
        data_seconds: between two readings of a source of which only reading tells what changed.

    Raises:
        ConfigError: the keys do not fit together, or one holds a secret.
    """

    model: str = ""
    home: str = ""
    grpc: _Address = "127.0.0.1:9470"
    http: _Address = "127.0.0.1:9471"
    metrics: _Address = ""
    certificate: str = ""
    key: str = ""
    client_authority: str = ""
    clients: str = ""
    feedback: Annotated[str, Require(lambda text: "://" in text, "give a SQLAlchemy URL")] = (
        "sqlite:///feedback.sqlite"
    )
    feedback_credentials: str = ""
    interactions: Annotated[
        TextsOf,
        Require(
            lambda kinds: set(kinds) <= set(INTERACTIONS),
            f"choose some of {', '.join(INTERACTIONS)}",
        ),
    ] = ("chosen",)
    federate: bool = False
    times: Annotated[
        str,
        Require(
            lambda form: not form or form in TIME_FORMS,
            f"choose {', '.join(TIME_FORMS)}, or '' for the form of the first one",
        ),
    ] = ""
    max_events: PositiveInt = 1000
    workers: Annotated[int, Require(lambda n: n >= 0, "choose a whole number >= 0")] = 0
    index_above: Annotated[int, Require(lambda n: n >= 0, "choose a whole number >= 0")] = 1_000_000
    queue: PositiveInt = 256
    timeout_seconds: PositiveNumber = 5.0
    grace_seconds: PositiveNumber = 10.0
    reload_seconds: PositiveNumber = 5.0
    data_seconds: PositiveNumber = 3600.0

    def __post_init__(self) -> None:
        refuse_secrets({"feedback": self.feedback}, "serve.")
        if bool(self.certificate) is not bool(self.key):
            raise ConfigError(
                f"serve.certificate = '{self.certificate}', serve.key = '{self.key}': TLS needs "
                "both, and without TLS there is neither."
            )
        if self.client_authority and not self.certificate:
            raise ConfigError(
                f"serve.client_authority = '{self.client_authority}': clients' certificates need "
                "TLS: set serve.certificate and serve.key."
            )
        if self.federate and not self.times:
            raise ConfigError(
                "serve.federate = true needs serve.times, the form of the times in your data: "
                f"choose {', '.join(TIME_FORMS)} ('seconds' also where the column is 'position')."
            )
        for name in ("grpc", "http"):
            self._check_listener(name, getattr(self, name))

    def _check_listener(self, name: str, text: str) -> None:
        """Refuse to listen beyond loopback without TLS and a way to know clients."""
        address = Address.parse(text)
        if address is None or address.loopback:
            return
        if not self.certificate:
            raise ConfigError(
                f"serve.{name} = '{text}' is beyond this machine: set serve.certificate and "
                "serve.key, or listen on 127.0.0.1."
            )
        if not (self.clients or self.client_authority):
            raise ConfigError(
                f"serve.{name} = '{text}' is beyond this machine: set serve.clients (bearer "
                "tokens) or serve.client_authority (clients' certificates), or listen on "
                "127.0.0.1."
            )

    def path(self, folder: Path, name: str) -> Path | None:
        """Return the path of a key, from site.toml's folder; None where it is ""."""
        text = str(getattr(self, name))
        return folder / text if text else None
