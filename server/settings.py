"""Settings of the coordinator: server.toml, and the files of its folder.

| key                          | value      | what happens                               |
|------------------------------|------------|--------------------------------------------|
| any of the addresses         | `a.b`      | refused: give host:port                    |
| `listen.administrators`,     | `0.0.0.0:1`| refused: Flower asks for no password there |
| `listen.superlink`           |            |                                            |
| two addresses                | one port   | refused, unless they are of two interfaces |
| a misspelt key               |            | refused, with the key that was meant       |
"""

from __future__ import annotations

import tomllib
from dataclasses import field
from itertools import combinations
from pathlib import Path
from typing import Annotated

from shared.errors import ConfigError, ServerError
from shared.sections import Require, flat_tables, parse_sections, section
from shared.system.address import Address

__all__ = ["FILE", "Listen", "Settings", "Tls"]

FILE = "server.toml"
HostAndPort = Annotated[
    str,
    Require(
        lambda text: Address.parse(text) is not None,
        "give host:port, as in sotto.example:9092 or [2001:db8::1]:9092",
    ),
]
NoneOrHostAndPort = Annotated[
    str,
    Require(
        lambda text: not text or Address.parse(text) is not None,
        "give host:port, as in 127.0.0.1:9465, or '' for none",
    ),
]
OnLoopback = Annotated[
    HostAndPort,
    Require(
        lambda text: _parse(text).loopback,
        "Flower asks for no password there, so it must be on 127.0.0.1. From another machine, use "
        "a tunnel (ssh -L)",
    ),
]


@section("listen")
class Listen:
    """The [listen] table: host:port each.

    Attributes:
        partners: the public listener, for partners' nodes alone.
        administrators: the listener for `sotto-server run` and the like; on loopback, since Flower
            1.41 asks administrators for no password.
        superlink: where Flower's SuperLink itself listens; always on loopback.
        metrics: where /metrics, /healthz and /readyz are answered; "" has none. They name runs,
            partners and outcomes, without a password.
    """

    partners: HostAndPort = "0.0.0.0:9092"
    administrators: OnLoopback = "127.0.0.1:9093"
    superlink: OnLoopback = "127.0.0.1:9091"
    metrics: NoneOrHostAndPort = ""


@section("tls")
class Tls:
    """The [tls] table: files of the public listener, relative to server.toml.

    Attributes:
        certificate: PEM chain, the server's own certificate first.
        key: its private key, PEM.
        authority: PEM of the authority that signed it, which partners get; "" where every system
            trusts it.
    """

    certificate: str = "server.crt"
    key: str = "server.key"
    authority: str = "ca.crt"


@section()
class Settings:
    """All of server.toml; paths are relative to the file.

    Attributes:
        address: host:port by which partners reach this coordinator; part of every invitation.
        listen: where it listens.
        tls: the public listener's certificate.
        app: folder of Sotto's source, with pyproject.toml, that the app bundle is built from; ""
            takes the source that this command runs from.
        folder: where server.toml lies; not a key of the file.
    """

    address: HostAndPort
    listen: Listen = field(default_factory=Listen)
    tls: Tls = field(default_factory=Tls)
    app: str = ""
    folder: str = ""

    @classmethod
    def load(cls, path: Path) -> Settings:
        """Read a server.toml, or the one in a folder.

        Raises:
            ServerError: it is missing or not TOML, or a key is unknown, missing or does not fit.
        """
        file = path / FILE if path.is_dir() else path
        try:
            text = file.read_text(encoding="utf-8")
        except OSError as error:
            raise ServerError(
                f"{file}: not readable ({error.strerror}). Name the coordinator's folder with "
                "--server, or make one: sotto-server init"
            ) from error
        except ValueError as error:
            raise ServerError(f"{file}: not valid UTF-8. Save it as UTF-8.") from error
        return cls.parse(text, file.resolve())

    @classmethod
    def parse(cls, text: str, file: Path) -> Settings:
        """Read the text of a server.toml.

        Args:
            text: of the file.
            file: where it lies.

        Raises:
            ServerError: it is not TOML, or a key is unknown, missing or does not fit.
        """
        try:
            tables = tomllib.loads(text)
        except ValueError as error:
            raise ServerError(f"{file}: not valid TOML ({error}). Correct that line.") from error
        if "folder" in tables:
            raise ServerError(
                f"{file}: 'folder' is no key of this file, which lies in that folder: remove it."
            )
        try:
            settings = parse_sections(cls, flat_tables(tables) | {"folder": str(file.parent)})
            settings.check_listeners()
        except ConfigError as error:
            raise ServerError(f"{file}: {error}") from error
        return settings

    def path(self, name: str) -> Path:
        """Return the path of a file of the coordinator's folder; an absolute one stays."""
        return Path(self.folder, Path(name).expanduser())

    @property
    def public(self) -> Address:
        """Address by which partners reach the coordinator."""
        return _parse(self.address)

    @property
    def partners(self) -> Address:
        """Address of the public listener."""
        return _parse(self.listen.partners)

    @property
    def administrators(self) -> Address:
        """Address of the administrators' listener."""
        return _parse(self.listen.administrators)

    @property
    def superlink(self) -> Address:
        """Address of Flower's SuperLink."""
        return _parse(self.listen.superlink)

    @property
    def metrics(self) -> Address | None:
        """Address of metrics and probes; None where there are none."""
        return _parse(self.listen.metrics) if self.listen.metrics else None

    @property
    def listeners(self) -> dict[str, Address]:
        """Every address of [listen] that something listens at, by key."""
        found = {
            "partners": self.partners,
            "administrators": self.administrators,
            "superlink": self.superlink,
        }
        return found | ({} if self.metrics is None else {"metrics": self.metrics})

    def check_listeners(self) -> None:
        """Check that no two addresses of [listen] are the same.

        Raises:
            ConfigError: two are, or one of them has the same port on all interfaces.
        """
        for (key, address), (other, taken) in combinations(self.listeners.items(), 2):
            wild = {"0.0.0.0", "::"} & {address.host, taken.host}  # noqa: S104 compared, not bound
            if address.port == taken.port and (wild or address.host == taken.host):
                raise ConfigError(
                    f"listen.{key} = '{address}' and listen.{other} = '{taken}' are one port: "
                    "give each a port of its own."
                )

    @property
    def authority(self) -> Path | None:
        """Authority of the public certificate, for partners; None where every system trusts it."""
        return self.path(self.tls.authority) if self.tls.authority else None

    @property
    def internal_authority(self) -> Path:
        """Authority of the internal certificate."""
        return self.path("ca.crt")

    @property
    def internal_certificate(self) -> tuple[Path, Path]:
        """Certificate and key for connections among the coordinator's own processes."""
        return self.path("internal.crt"), self.path("internal.key")

    @property
    def database(self) -> Path:
        """Flower's database: registered nodes, runs, messages in flight."""
        return self.path("flower.db")

    @property
    def executor_secret(self) -> Path:
        """Secret by which the executor authenticates to the SuperLink."""
        return self.path("executor.secret")

    @property
    def flower_home(self) -> Path:
        """Folder of Flower's own configuration."""
        return self.path("flower")

    @property
    def runs(self) -> Path:
        """Folder that holds one folder a run."""
        return self.path("runs")


def _parse(text: str) -> Address:
    address = Address.parse(text)
    assert address is not None  # HostAndPort has checked
    return address
