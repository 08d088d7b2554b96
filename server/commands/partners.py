"""sotto-server invite, accept, revoke and list."""

from __future__ import annotations

import shlex
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from server.commands.options import JsonOption, ServerOption
from server.runs.flower import Flower
from server.service.certificates import file_fingerprint, fingerprint
from server.settings import Settings
from server.state.audit_log import FILE as AUDIT
from server.state.audit_log import AuditEvent, AuditLog
from server.state.partners import Member, PartnerRegistry, PartnerState, read_key
from shared.errors import ServerError
from shared.secure_aggregation.signing import fingerprint as key_fingerprint
from shared.secure_aggregation.signing import public_from_text
from shared.system.command_line import messages, output, table_of, write_json

__all__ = ["accept_command", "invite_command", "list_command", "revoke_command"]

_UNKNOWN = "?"
_HANDOUT = "handout"
"""The folder that a partner is sent, as docs/run.md makes it."""
NameArgument = Annotated[str, typer.Argument(help="Your name for the organisation.")]


def invite_command(
    name: NameArgument, server: ServerOption = Path(), *, as_json: JsonOption = False
) -> None:
    """Record an invitation, and print what to send to the partner."""
    settings = Settings.load(server)
    authority = settings.authority
    invitation = {
        "name": name,
        "address": settings.address,
        "authority": None if authority is None else str(authority),
        "authority_sha256": None if authority is None else fingerprint(authority),
        "authority_file_sha256": None if authority is None else file_fingerprint(authority),
        "command": _join_command(settings, name),
    }
    PartnerRegistry(Path(settings.folder)).invite(name)
    _audit(settings).record(AuditEvent.INVITED, name=name)
    if as_json:
        write_json(invitation)
        return
    messages.print(f"Send this to {name}, over a channel that you both trust:", markup=False)
    output.print(f"address      {invitation['address']}", soft_wrap=True, markup=False)
    if authority is not None:
        output.print(f"authority    {authority}", soft_wrap=True)
        output.print(
            f"SHA-256 of that file         {invitation['authority_file_sha256']}", soft_wrap=True
        )
        output.print(
            f"SHA-256 of the certificate   {invitation['authority_sha256']}", soft_wrap=True
        )
    output.print(f"command      {invitation['command']}", soft_wrap=True, markup=False)
    messages.print(
        f"Send also a folder '{_HANDOUT}' with the authority's file, the catalogue's folder and "
        "the app bundle (sotto-server bundle). The command is typed beside that folder. It asks "
        "for the partner's own settings, such as its privacy limits.\n"
        "When the partner has sent its public key: sotto-server accept "
        f"'ecdsa-sha2-nistp384 ...' --name {shlex.quote(name)}",
        soft_wrap=True,
        markup=False,
    )


def accept_command(
    public_key: Annotated[
        str,
        typer.Argument(
            metavar="PUBKEY",
            help="The line that the partner's `sotto-node init` printed, or a file with it.",
        ),
    ],
    name: Annotated[str, typer.Option(help="The organisation's name, as invited.")],
    server: ServerOption = Path(),
) -> None:
    """Register an invited partner's key, so that its node may connect."""
    settings = Settings.load(server)
    partners, flower = PartnerRegistry(Path(settings.folder)), Flower(settings)
    line, digest = read_key(public_key)
    partners.check_key(name, digest)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "node.pub")
        file.write_bytes(line)
        node = flower.register(file, name)
    partners.accept(name, key=digest, node=node)
    _audit(settings).record(AuditEvent.ACCEPTED, name=name, node=node, key=digest)
    messages.print(f"{name} is accepted as node {node}.", markup=False)


def revoke_command(name: NameArgument, server: ServerOption = Path()) -> None:
    """Stop a partner's node from connecting. Its past answers stay in the model."""
    settings = Settings.load(server)
    partners = PartnerRegistry(Path(settings.folder))
    partner = {partner.name: partner for partner in partners.all()}.get(name)
    if partner is not None and partner.state is PartnerState.ACCEPTED:
        Flower(settings).unregister(partner.node)
    revoked = partners.revoke(name)
    _audit(settings).record(AuditEvent.REVOKED, name=name, node=revoked.node, key=revoked.key)
    messages.print(f"{name} is revoked.", markup=False)


def list_command(server: ServerOption = Path(), *, as_json: JsonOption = False) -> None:
    """Show every invited organisation, and whether its node is connected."""
    settings = Settings.load(server)
    partners = PartnerRegistry(Path(settings.folder)).all()
    nodes = _nodes(settings) if any(p.state is PartnerState.ACCEPTED for p in partners) else {}
    if as_json:
        write_json(
            [
                asdict(partner)
                | {
                    "connection": _connection(partner, nodes),
                    "aggregation_key_fingerprint": _fingerprint(partner),
                }
                for partner in partners
            ]
        )
        return
    headings = ("partner", "state", "since (UTC)", "connection", "node", "aggregation key")
    table = table_of(*headings)
    for partner in partners:
        since = partner.since[:16].replace("T", " ")
        row = [partner.name, partner.state, since, _connection(partner, nodes), partner.node]
        row.append(_fingerprint(partner))
        table.add_row(*(Text(str(cell)) for cell in row))
    output.print(table)


def _join_command(settings: Settings, name: str) -> str:
    words = ["sotto-node", "init", "site", "--organisation", name]
    words += ["--superlink", settings.address]
    if settings.authority is not None:
        words += ["--root-certificates", f"{_HANDOUT}/{settings.authority.name}"]
    return shlex.join([*words, "--catalogue", f"{_HANDOUT}/catalogue"])


def _nodes(settings: Settings) -> dict[str, str]:
    try:
        return Flower(settings).nodes()
    except ServerError as error:
        messages.print(f"{error}", style="yellow", soft_wrap=True, markup=False)
        return {}


def _connection(partner: Member, nodes: dict[str, str]) -> str:
    if partner.state is not PartnerState.ACCEPTED:
        return ""
    return nodes.get(partner.node, _UNKNOWN)


def _fingerprint(partner: Member) -> str:
    """Return the fingerprint of the aggregation key that the node stated last; "" for none."""
    key = partner.aggregation_key
    return key_fingerprint(public_from_text(key)) if key else ""


def _audit(settings: Settings) -> AuditLog:
    return AuditLog(settings.path(AUDIT))
