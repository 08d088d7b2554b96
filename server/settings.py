"""The coordinator's own file, server.toml: addresses, certificates, where things lie."""

from __future__ import annotations

import tomllib
from dataclasses import field
from pathlib import Path

from shared.errors import ConfigError, ServerError
from shared.sections import flat_tables, parse_sections, section
from shared.system.address import Address

__all__ = ["FILE", "Listen", "Settings", "Tls"]

FILE = "server.toml"


@section("listen")
class Listen:
    """The [listen] table: host:port each.

    Attributes:
        partners: the public listener: partners' nodes, and nothing else, get through.
        administrators: where `sotto-server run` and its like ask; on loopback, since Flower
            1.41 asks administrators for no password.
        superlink: where Flower's SuperLink itself listens; always on loopback.
    """

    partners: str = "0.0.0.0:9092"
    administrators: str = "127.0.0.1:9093"
    superlink: str = "127.0.0.1:9091"


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

    Raises:
        ServerError: an address is none, or one that must be on loopback is not.
    """

    address: str
    listen: Listen = field(default_factory=Listen)
    tls: Tls = field(default_factory=Tls)
    app: str = ""
    folder: str = ""

    def __post_init__(self) -> None:
        listen = self.listen
        for key, text in (
            ("address", self.address),
            ("listen.partners", listen.partners),
            ("listen.administrators", listen.administrators),
            ("listen.superlink", listen.superlink),
        ):
            if Address.parse(text) is None:
                raise ServerError(
                    f"{self.folder}/{FILE}: {key} = '{text}': give host:port, as in "
                    "sotto.example:9092 or [2001:db8::1]:9092."
                )
        for key, found in (("administrators", self.administrators), ("superlink", self.superlink)):
            if not found.loopback:
                raise ServerError(
                    f"{self.folder}/{FILE}: listen.{key} = '{found}': Flower asks nobody for a "
                    "password there, so it must be on 127.0.0.1. From another machine, use a "
                    "tunnel (ssh -L)."
                )

    @classmethod
    def load(cls, path: Path) -> Settings:
        """Reads a server.toml, or the one in a folder.

        Raises:
            ServerError: it is missing, is not TOML, or a key is unknown, missing or wrong.
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
            raise ServerError(f"{file}: not valid UTF-8. Mend it.") from error
        return cls.parse(text, file.resolve())

    @classmethod
    def parse(cls, text: str, file: Path) -> Settings:
        """Reads what stands in a server.toml.

        Args:
            text: of the file.
            file: where it lies.

        Raises:
            ServerError: it is not TOML, or a key is unknown, missing or wrong.
        """
        try:
            tables = tomllib.loads(text)
        except ValueError as error:
            raise ServerError(f"{file}: not valid TOML ({error}). Mend that line.") from error
        if "folder" in tables:
            raise ServerError(f"{file}: 'folder' is where this file lies, no key of it: remove it.")
        try:
            return parse_sections(cls, flat_tables(tables) | {"folder": str(file.parent)})
        except ConfigError as error:
            raise ServerError(f"{file}: {error}") from error

    def path(self, name: str) -> Path:
        """A file of the coordinator's folder; an absolute path stays."""
        return Path(self.folder, Path(name).expanduser())

    @property
    def public(self) -> Address:
        """By which partners reach it."""
        return _parsed(self.address)

    @property
    def partners(self) -> Address:
        """Where partners' nodes are answered."""
        return _parsed(self.listen.partners)

    @property
    def administrators(self) -> Address:
        """Where administrators are answered."""
        return _parsed(self.listen.administrators)

    @property
    def superlink(self) -> Address:
        """Where Flower's SuperLink listens."""
        return _parsed(self.listen.superlink)

    @property
    def authority(self) -> Path | None:
        """What partners need to trust the public certificate; None where systems trust it."""
        return self.path(self.tls.authority) if self.tls.authority else None

    @property
    def internal_authority(self) -> Path:
        """Signed the certificate by which the coordinator's own processes know each other."""
        return self.path("ca.crt")

    @property
    def internal_certificate(self) -> tuple[Path, Path]:
        """That certificate and its key."""
        return self.path("internal.crt"), self.path("internal.key")

    @property
    def database(self) -> Path:
        """Flower's state: registered nodes, runs, messages in flight."""
        return self.path("flower.db")

    @property
    def executor_secret(self) -> Path:
        """By which the SuperLink knows its executor."""
        return self.path("executor.secret")

    @property
    def flower_home(self) -> Path:
        """What Flower keeps of its own."""
        return self.path("flower")

    @property
    def runs(self) -> Path:
        """One folder a run."""
        return self.path("runs")


def _parsed(text: str) -> Address:
    found = Address.parse(text)
    assert found is not None  # __post_init__ has looked
    return found
