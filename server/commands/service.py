"""sotto-server init, renew, up, proxy, keep and audit."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Annotated

import typer

from server.commands.options import JsonOption, ServerOption
from server.runs.flower import Flower
from server.runs.supervisor import RunSupervisor
from server.service.certificates import fingerprint
from server.service.listeners import serve
from server.service.setup import NewServer, OwnCertificate, make_server, new_folder, renew
from server.service.up import check, is_ready, keep_up, only_server, until_ready
from server.settings import Settings
from server.state.audit_log import FILE as AUDIT
from server.state.audit_log import AuditEvent, AuditLog
from shared.errors import ServerError
from shared.system.command_line import failed, messages, output, write_json
from shared.system.supervise import Restart, Start

__all__ = [
    "audit_command",
    "init_command",
    "keep_command",
    "proxy_command",
    "ready_command",
    "renew_command",
    "up_command",
]

_LOOK = 1.0


def init_command(  # noqa: PLR0913 each is a command-line option
    folder: Annotated[Path, typer.Argument(help="Where the coordinator's files shall lie.")],
    *,
    address: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="By which partners reach this coordinator.")
    ],
    name: Annotated[
        list[str] | None,
        typer.Option(help="A further host name or IP address of its certificate."),
    ] = None,
    listen: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT", help="Where to listen for partners. [default: all, same port]"
        ),
    ] = "",
    administrators: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to listen for administrators.")
    ] = "127.0.0.1:9093",
    superlink: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where Flower's SuperLink listens.")
    ] = "127.0.0.1:9091",
    certificate: Annotated[
        Path | None, typer.Option(help="A certificate of your own, PEM chain.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    authority: Annotated[
        Path | None,
        typer.Option(help="Who signed it, PEM; leave it out where every system trusts it."),
    ] = None,
    app: Annotated[str, typer.Option(help="Sotto's source, if not the one that runs.")] = "",
) -> None:
    """Set up a coordinator: certificates, secrets and server.toml. Writes over nothing."""
    new_folder(folder)  # before anything else is looked at
    if (certificate is None) != (key is None) or (authority and certificate is None):
        raise ServerError("--certificate and --key belong together; --authority goes with them.")
    own = None
    if certificate is not None and key is not None:
        own = OwnCertificate(certificate=certificate, key=key, authority=authority)
    settings = make_server(
        folder,
        NewServer(
            address=address,
            names=tuple(name or ()),
            partners=listen,
            administrators=administrators,
            superlink=superlink,
            own=own,
            app=app,
        ),
    )
    messages.print(f"The coordinator is in {settings.folder}.", soft_wrap=True, markup=False)
    if settings.authority is not None:
        output.print(f"authority    {settings.authority}", soft_wrap=True, markup=False)
        output.print(f"SHA-256      {fingerprint(settings.authority)}", soft_wrap=True)
    messages.print(
        "Keep ca.key and executor.secret to yourself; a copy of the whole folder is a backup.\n"
        f"Next: sotto-server up --server {settings.folder}",
        soft_wrap=True,
        markup=False,
    )


def renew_command(server: ServerOption = Path()) -> None:
    """Sign the coordinator's certificates anew, for the same names. Partners need nothing new."""
    settings = Settings.load(server)
    names = renew(settings)
    if names:
        messages.print(f"New certificates, the public one for {', '.join(names)}.", markup=False)
    else:
        messages.print("A new internal certificate; the public one is your own, and stays.")
    messages.print("They count when `sotto-server up` is ended and started again.")


def up_command(server: ServerOption = Path()) -> None:
    """Keep SuperLink, executor, proxy and keeper running until told to end."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    settings = Settings.load(server)
    audit = AuditLog(settings.path(AUDIT))
    with only_server(Path(settings.folder)) as lock:
        for doubt in check(settings):
            messages.print(f"doubtful: {doubt}", style="yellow", soft_wrap=True, markup=False)
        audit.record(AuditEvent.SERVICE_STARTED)
        threading.Thread(target=_tell_ready, args=(settings,), daemon=True).start()
        try:
            keep_up(settings, lock, _tell_restart)
        finally:
            audit.record(AuditEvent.SERVICE_STOPPED)
    messages.print("The coordinator is down.")


def ready_command(server: ServerOption = Path()) -> None:
    """Look whether the coordinator answers: 0 it does, 1 it does not. For probes."""
    if not is_ready(Settings.load(server)):
        messages.print("It does not answer.")
        failed()


def proxy_command(server: ServerOption = Path()) -> None:
    """Run the proxy alone: part of `up`, or behind systemd or Kubernetes."""
    serve(Settings.load(server))


def keep_command(server: ServerOption = Path()) -> None:
    """Resume runs that break off: part of `up`, or behind systemd or Kubernetes."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    settings = Settings.load(server)
    supervisor = RunSupervisor(settings, Flower(settings))
    while True:
        supervisor.check_runs()
        time.sleep(_LOOK)


def audit_command(server: ServerOption = Path(), *, as_json: JsonOption = False) -> None:
    """Check the audit log's chain, and show it."""
    log = AuditLog(Settings.load(server).path(AUDIT))
    entries = [dict(entry) for entry in log.entries()]
    if as_json:
        write_json(entries)
        return
    for entry in entries:
        rest = {k: v for k, v in entry.items() if k not in ("n", "at", "event")}
        told = " ".join(f"{key}={value}" for key, value in rest.items())
        line = f"{entry['n']:>5}  {entry['at']}  {entry['event']:<16} {told}"
        output.print(line, soft_wrap=True, markup=False)
    messages.print(
        f"{len(entries)} entries, none of them changed. Head: {log.head}", soft_wrap=True
    )


def _tell_ready(settings: Settings) -> None:
    if until_ready(settings):
        messages.print(
            f"The coordinator is up: partners at {settings.address}, administrators at "
            f"{settings.administrators}.",
            soft_wrap=True,
            markup=False,
        )


def _tell_restart(restart: Start | Restart) -> None:
    if isinstance(restart, Start):
        return
    messages.print(
        f"{restart.program} ended with {restart.code}; it starts again in {restart.seconds:g} s.",
        style="yellow",
    )
