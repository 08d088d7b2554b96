"""Makes a new coordinator: its folder, certificates, the executor's secret and server.toml.

server.toml is written last, so that a folder that has one is whole. Nothing that is there already
is written over.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from server.service.certificates import Authority, check_pair, names_of
from server.settings import FILE, Settings
from server.state.audit_log import FILE as AUDIT
from server.state.audit_log import AuditEvent, AuditLog
from shared.errors import ServerError
from shared.system.address import Address
from shared.system.files import write_atomically

__all__ = ["NewServer", "OwnCertificate", "make_server", "new_folder", "renew"]

_INTERNAL = ("localhost", "127.0.0.1", "::1")
_TEXT = """\
# The coordinator's own file. Paths are relative to it.

# By which partners reach this coordinator: part of every invitation.
address = "{address}"
# Sotto's source, with pyproject.toml, that the app bundle is built from; "" takes the one that
# the command itself runs from.
app = "{app}"

[listen]
# The public one: /v1/fleet/* for registered nodes, and nothing else.
partners = "{partners}"
# /v1/control/* without a password: on loopback. From another machine, use a tunnel (ssh -L).
administrators = "{administrators}"
# Flower's SuperLink itself: only this machine's processes need it.
superlink = "{superlink}"

[tls]
# Of the public listener. After a change: end `sotto-server up` and start it again.
certificate = "{certificate}"
key = "{key}"
# Who signed it; partners get this file. "" where every system trusts it.
authority = "{authority}"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCertificate:
    """An operator's own certificate, in place of one that the coordinator signs.

    Attributes:
        certificate: PEM chain.
        key: its private key.
        authority: PEM of who signed it; None where every system trusts it.
    """

    certificate: Path
    key: Path
    authority: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewServer:
    """What a new coordinator is to be.

    Attributes:
        address: host:port by which partners reach it.
        names: further host names and IP addresses of its certificate.
        partners: where the public listener binds; "" takes every interface and the port of
            `address`.
        administrators: where administrators are answered.
        superlink: where Flower's SuperLink listens.
        own: a certificate that there is already.
        app: folder of Sotto's source, if it is not the one that runs.
    """

    address: str
    names: tuple[str, ...] = ()
    partners: str = ""
    administrators: str = "127.0.0.1:9093"
    superlink: str = "127.0.0.1:9091"
    own: OwnCertificate | None = None
    app: str = ""


def new_folder(folder: Path) -> Path:
    """Where a coordinator would be made, absolute.

    Raises:
        ServerError: one is there.
    """
    found = folder.expanduser().resolve()
    if (found / FILE).exists():
        raise ServerError(
            f"{found / FILE}: a coordinator is there already and stays. Edit it, or name a new "
            "folder."
        )
    return found


def make_server(folder: Path, new: NewServer) -> Settings:
    """Sets a coordinator up in `folder`, which is made if need be, its owner's alone.

    Raises:
        ServerError: a value does not make sense, or a file is there already or cannot be written.
    """
    folder = new_folder(folder)
    text = _server_toml(new)
    address = Address.parse(new.address)
    assert address is not None  # _server_toml has looked
    if new.own is not None:
        check_pair(new.own.certificate, new.own.key)
        _check_names(new.own.certificate, address.host)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_leftovers(folder)
        authority = Authority(folder / "ca.crt", folder / "ca.key")
        authority.create(f"Sotto coordinator {address.host}")
        authority.sign(_INTERNAL, folder / "internal.crt", folder / "internal.key")
        if new.own is None:
            names = dict.fromkeys((address.host, *new.names))
            authority.sign([*names], folder / "server.crt", folder / "server.key")
        write_atomically(folder / "executor.secret", secrets.token_hex(32).encode())
        (folder / "flower").mkdir(mode=0o700)
        (folder / "runs").mkdir(mode=0o700)
        AuditLog(folder / AUDIT).record(AuditEvent.INITIALISED, address=new.address)
        write_atomically(folder / FILE, text.encode())
    except OSError as error:
        raise ServerError(
            f"{folder}: cannot be set up ({error}). Check the path and disk."
        ) from error
    return Settings.load(folder)


def renew(settings: Settings) -> list[str]:
    """Signs new certificates, for the same names, in place of those that the coordinator signed.

    Returns:
        The public certificate's names; none where it is the operator's own.

    Raises:
        ServerError: the authority's key is missing.
    """
    authority = Authority(settings.internal_authority, settings.path("ca.key"))
    authority.sign(_INTERNAL, *settings.internal_certificate)
    if settings.authority != settings.internal_authority:
        return []
    certificate, key = settings.path(settings.tls.certificate), settings.path(settings.tls.key)
    names = names_of(certificate)
    authority.sign(names, certificate, key)
    return names


def _server_toml(new: NewServer) -> str:
    """The file's text, checked by reading it."""
    port = new.address.rpartition(":")[2]
    own = new.own
    authority = "ca.crt" if own is None else own.authority or ""
    values = {
        "address": new.address,
        "app": str(Path(new.app).expanduser().resolve()) if new.app else "",
        "partners": new.partners or f"0.0.0.0:{port}",
        "administrators": new.administrators,
        "superlink": new.superlink,
        "certificate": "server.crt" if own is None else own.certificate.expanduser().resolve(),
        "key": "server.key" if own is None else own.key.expanduser().resolve(),
        "authority": Path(authority).expanduser().resolve() if own and authority else authority,
    }
    for key, value in values.items():
        if set('"\\\n') & set(str(value)):
            raise ServerError(
                f"{key} = {str(value)!r}: quotation marks and backslashes do not fit."
            )
    return _checked(_TEXT.format(**values))


def _checked(text: str) -> str:
    Settings.parse(text, Path(FILE))
    return text


def _check_names(certificate: Path, host: str) -> None:
    names = names_of(certificate)
    wild = "*." + host.partition(".")[2]
    if host not in names and wild not in names:
        raise ServerError(
            f"{certificate} is for {', '.join(names) or 'no name'}, not for {host}, by which "
            "partners are to reach it: their nodes would refuse it."
        )


def _refuse_leftovers(folder: Path) -> None:
    """Keys and state of an attempt that was cut short, or of something else."""
    names = ("ca.key", "server.key", "internal.key", "executor.secret", "flower.db", "flower")
    if there := [name for name in names if (folder / name).exists()]:
        raise ServerError(
            f"{folder} holds {', '.join(there)}, but no {FILE}: name an empty folder, or move "
            f"{'them' if len(there) > 1 else 'it'} away."
        )
    if folder.stat().st_mode & 0o077:
        raise ServerError(
            f"{folder} is open to others, and private keys shall lie there: chmod 700 {folder}"
        )
