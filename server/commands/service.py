"""sotto-server init, renew, up, ready, proxy, supervise and audit."""

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
from server.service.certificates import file_fingerprint, fingerprint
from server.service.listeners import serve_proxy
from server.service.setup import NewServer, OwnCertificate, make_server, new_folder, renew
from server.service.up import (
    check_startup,
    is_ready,
    lock_coordinator,
    run_services,
    wait_until_ready,
)
from server.settings import Settings
from server.state.audit_log import FILE as AUDIT
from server.state.audit_log import AuditEvent, AuditLog
from shared.errors import ServerError
from shared.system.command_line import failed, messages, output, write_json
from shared.system.supervise import Restart, Start

__all__ = [
    "audit_command",
    "init_command",
    "proxy_command",
    "ready_command",
    "renew_command",
    "supervise_command",
    "up_command",
]

_INTERVAL = 1.0
"""Seconds between two checks of all runs."""


def init_command(  # noqa: PLR0913 each is a command-line option
    folder: Annotated[Path, typer.Argument(help="New folder for the coordinator's files.")],
    *,
    address: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="The address that partners connect to.")
    ],
    name: Annotated[
        list[str] | None,
        typer.Option(help="Another host name or IP address for its certificate."),
    ] = None,
    listen: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            help="Where to listen for partners. [default: all interfaces, same port]",
        ),
    ] = "",
    administrators: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to listen for administrators.")
    ] = "127.0.0.1:9093",
    superlink: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where Flower's SuperLink listens.")
    ] = "127.0.0.1:9091",
    metrics: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT", help="Address of metrics and health probes. [default: off]"
        ),
    ] = "",
    certificate: Annotated[
        Path | None, typer.Option(help="Your own certificate, PEM chain.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    authority: Annotated[
        Path | None,
        typer.Option(
            help="PEM of the authority that signed it; not needed if every system trusts it."
        ),
    ] = None,
    app: Annotated[
        str, typer.Option(help="Folder of Sotto's source. [default: the one that runs]")
    ] = "",
) -> None:
    """Set up a coordinator: certificates, secrets and server.toml. Overwrites nothing."""
    new_folder(folder)  # before anything else is checked
    if (certificate is None) != (key is None) or (authority and certificate is None):
        raise ServerError("Give --certificate and --key together; --authority needs both.")
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
            metrics=metrics,
            own=own,
            app=app,
        ),
    )
    messages.print(f"The coordinator is in {settings.folder}.", soft_wrap=True, markup=False)
    if settings.authority is not None:
        output.print(f"authority    {settings.authority}", soft_wrap=True)
        output.print(
            f"SHA-256 of that file         {file_fingerprint(settings.authority)}", soft_wrap=True
        )
        output.print(
            f"SHA-256 of the certificate   {fingerprint(settings.authority)}", soft_wrap=True
        )
    messages.print(
        "Keep ca.key and executor.secret secret. Back up the whole folder.\n"
        f"Next: sotto-server up --server {settings.folder}",
        soft_wrap=True,
        markup=False,
    )


def renew_command(server: ServerOption = Path()) -> None:
    """Replace the coordinator's certificates, for the same names. Partners change nothing."""
    settings = Settings.load(server)
    names = renew(settings)
    if names:
        messages.print(f"New certificates, the public one for {', '.join(names)}.", markup=False)
    else:
        messages.print("New internal certificate; the public one is your own and was not changed.")
    messages.print("To use them, stop `sotto-server up` and start it again.")


def up_command(server: ServerOption = Path()) -> None:
    """Run SuperLink, executor, proxy and supervisor until stopped by Ctrl-C or SIGTERM."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    settings = Settings.load(server)
    audit = AuditLog(settings.path(AUDIT))
    with lock_coordinator(Path(settings.folder)) as lock:
        for warning in check_startup(settings):
            messages.print(f"warning: {warning}", style="yellow", soft_wrap=True, markup=False)
        audit.record(AuditEvent.SERVICE_STARTED)
        threading.Thread(target=_print_ready, args=(settings,), daemon=True).start()
        try:
            run_services(settings, lock, _print_restart)
        finally:
            audit.record(AuditEvent.SERVICE_STOPPED)
    messages.print("The coordinator is down.")


def ready_command(server: ServerOption = Path()) -> None:
    """Check whether the coordinator answers, for probes: exit code 0 if so, 1 if not."""
    if not is_ready(Settings.load(server)):
        messages.print("The coordinator does not answer.")
        failed()


def proxy_command(server: ServerOption = Path()) -> None:
    """Run the proxy alone; `up` does, and systemd or Kubernetes may."""
    serve_proxy(Settings.load(server))


def supervise_command(server: ServerOption = Path()) -> None:
    """Resume runs whose process ends; `up` does, and systemd or Kubernetes may."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    settings = Settings.load(server)
    supervisor = RunSupervisor(settings, Flower(settings))
    while True:
        supervisor.check_runs()
        time.sleep(_INTERVAL)


def audit_command(server: ServerOption = Path(), *, as_json: JsonOption = False) -> None:
    """Check that no entry of the audit log was changed, and print it."""
    log = AuditLog(Settings.load(server).path(AUDIT))
    entries = [dict(entry) for entry in log.entries()]
    if as_json:
        write_json(entries)
        return
    for entry in entries:
        rest = {k: v for k, v in entry.items() if k not in ("n", "at", "event")}
        fields = " ".join(f"{key}={value}" for key, value in rest.items())
        line = f"{entry['n']:>5}  {entry['at']}  {entry['event']:<16} {fields}"
        output.print(line, soft_wrap=True, markup=False)
    messages.print(
        f"{len(entries)} entries, none changed. Hash of the last: {log.head}", soft_wrap=True
    )


def _print_ready(settings: Settings) -> None:
    if wait_until_ready(settings):
        metrics = f", metrics at {settings.metrics}" if settings.metrics else ""
        messages.print(
            f"The coordinator is up: partners at {settings.address}, administrators at "
            f"{settings.administrators}{metrics}.",
            soft_wrap=True,
            markup=False,
        )


def _print_restart(restart: Start | Restart) -> None:
    if isinstance(restart, Start):
        return
    messages.print(
        f"{restart.program} ended with code {restart.code}; starting it again in "
        f"{restart.seconds:g} s.",
        style="yellow",
    )
