"""Set up a coordinator: its folder, certificates, the executor's secret and server.toml.

server.toml is written last: a folder that holds one is complete. No existing file is overwritten.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

import tomlkit

from server.service.certificates import Authority, check_pair, names_of
from server.settings import FILE, Settings
from server.state.audit_log import FILE as AUDIT
from server.state.audit_log import AuditEvent, AuditLog
from shared.errors import ServerError
from shared.system.address import Address
from shared.system.files import write_atomically

__all__ = ["NewServer", "OwnCertificate", "make_server", "new_folder", "renew"]

_INTERNAL = ("localhost", "127.0.0.1", "::1")
_TEMPLATE = """\
# Settings of the coordinator. Paths are relative to this file.

# host:port by which partners reach this coordinator; part of every invitation.
address = ""
# Folder of Sotto's source, with pyproject.toml, that the app bundle is built from; "" takes the
# source that the command itself runs from.
app = ""

[listen]
# Public: /v1/fleet/* for registered nodes, and nothing else.
partners = ""
# /v1/control/* without a password: on loopback. From another machine, use a tunnel (ssh -L).
administrators = ""
# Flower's SuperLink itself: only processes of this machine need it.
superlink = ""
# /metrics, /healthz and /readyz, without a password, as in "127.0.0.1:9465"; "" has none.
metrics = ""

[tls]
# Of the public listener. After a change: stop `sotto-server up` and start it again.
certificate = ""
key = ""
# Certificate of the authority that signed it; partners get this file. "" where every system
# trusts it.
authority = ""
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCertificate:
    """A certificate that the operator brings, in place of one that the coordinator signs.

    Attributes:
        certificate: PEM chain.
        key: its private key.
        authority: PEM of the authority that signed it; None where every system trusts it.
    """

    certificate: Path
    key: Path
    authority: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewServer:
    """Settings of a new coordinator.

    Attributes:
        address: host:port by which partners reach it.
        names: further host names and IP addresses of its certificate.
        partners: host:port of the public listener; "" takes every interface and the port of
            `address`.
        administrators: host:port of the administrators' listener.
        superlink: host:port of Flower's SuperLink.
        metrics: host:port of metrics and probes; "" has none.
        own: the operator's certificate; None signs one.
        app: folder of Sotto's source; "" takes the one that runs.
    """

    address: str
    names: tuple[str, ...] = ()
    partners: str = ""
    administrators: str = "127.0.0.1:9093"
    superlink: str = "127.0.0.1:9091"
    metrics: str = ""
    own: OwnCertificate | None = None
    app: str = ""


def new_folder(folder: Path) -> Path:
    """Return the absolute path of a folder for a new coordinator.

    Raises:
        ServerError: it holds one already.
    """
    absolute = folder.expanduser().resolve()
    if (absolute / FILE).exists():
        raise ServerError(
            f"{absolute / FILE}: the folder holds a coordinator already, which was not changed. "
            "Edit that file, or name a new folder."
        )
    return absolute


def make_server(folder: Path, new: NewServer) -> Settings:
    """Set up a coordinator in `folder`, which is created if need be, for its owner alone.

    Raises:
        ServerError: a value does not fit, or a file exists already or cannot be written.
    """
    folder = new_folder(folder)
    text = _server_toml(new)
    address = Address.parse(new.address)
    assert address is not None  # _server_toml has checked
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
            f"{folder}: no coordinator can be set up there ({error}). Check path and disk."
        ) from error
    return Settings.load(folder)


def renew(settings: Settings) -> list[str]:
    """Replace the certificates that the coordinator signed by new ones for the same names.

    Returns:
        The public certificate's names; none where it is the operator's.

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
    """Return the text of server.toml, checked by reading it.

    Raises:
        ServerError: a value does not fit.
    """
    address, own = Address.parse(new.address), new.own
    port = address.port if address else 9092  # Settings.parse refuses the address below
    document = tomlkit.parse(_TEMPLATE)
    document["address"] = new.address
    document["app"] = _absolute(Path(new.app)) if new.app else ""
    document["listen"].update(
        {
            "partners": new.partners or f"0.0.0.0:{port}",
            "administrators": new.administrators,
            "superlink": new.superlink,
            "metrics": new.metrics,
        }
    )
    document["tls"].update(
        {"certificate": "server.crt", "key": "server.key", "authority": "ca.crt"}
        if own is None
        else {
            "certificate": _absolute(own.certificate),
            "key": _absolute(own.key),
            "authority": _absolute(own.authority) if own.authority else "",
        }
    )
    text = tomlkit.dumps(document)
    Settings.parse(text, Path(FILE))
    return text


def _absolute(path: Path) -> str:
    return str(path.expanduser().resolve())


def _check_names(certificate: Path, host: str) -> None:
    names = names_of(certificate)
    wild = "*." + host.partition(".")[2]
    if host not in names and wild not in names:
        raise ServerError(
            f"{certificate} is for {', '.join(names) or 'no name'}, not for {host}, which "
            "partners connect to: their nodes would refuse it. Give a certificate for that name."
        )


def _refuse_leftovers(folder: Path) -> None:
    """Refuse a folder with keys or state of an interrupted setup, or of something else."""
    names = ("ca.key", "server.key", "internal.key", "executor.secret", "flower.db", "flower")
    if leftovers := [name for name in names if (folder / name).exists()]:
        raise ServerError(
            f"{folder} holds {', '.join(leftovers)}, but no {FILE}: name an empty folder, or move "
            f"{'them' if len(leftovers) > 1 else 'it'} away."
        )
    if folder.stat().st_mode & 0o077:
        raise ServerError(
            f"{folder} is open to other users, and will hold private keys: chmod 700 {folder}"
        )
