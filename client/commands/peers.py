"""sotto-node peers: this site's aggregation key, and those of independent organisations."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from client.commands.options import JsonOption, SiteOption, YesOption
from client.site.aggregation_key import (
    key_file,
    make_aggregation_key,
    public_line_of,
    read_public,
)
from client.site.keys import public_file
from client.site.peers import add_peer, remove_peer
from client.site.roster import is_same_name
from client.site.site import Site
from shared.errors import ConfigError
from shared.secure_aggregation.signing import Identity, fingerprint, public_to_text
from shared.system.command_line import (
    command_group,
    confirm,
    failed,
    messages,
    output,
    table_of,
    write_json,
)

__all__ = ["peers"]

peers = command_group("Who the others are, by their aggregation keys: the roster of this site.")
NameArgument = Annotated[str, typer.Argument(help="The organisation's name, as it states it.")]


@peers.command("key")
def key_command(site: SiteOption = Path(), *, as_json: JsonOption = False) -> None:
    """Print this site's public aggregation key, for the other organisations."""
    loaded = Site.load(site)
    identity = make_aggregation_key(loaded)
    line, mark = public_line_of(identity), fingerprint(identity.public)
    if as_json:
        fields = {"organisation": identity.name, "public_key": line, "fingerprint": mark}
        write_json(fields | {"file": str(public_file(key_file(loaded)))})
        return
    output.print(f"organisation  {identity.name}", soft_wrap=True)
    output.print(f"public key    {line}", soft_wrap=True)
    output.print(f"fingerprint   {mark}", soft_wrap=True)
    messages.print(
        "Send the line to the other organisations, not through the coordinator, and read them the "
        "fingerprint over another channel, such as the telephone.\n"
        f"(The line is also in {public_file(key_file(loaded))}; the private key stays here.)",
        soft_wrap=True,
    )


@peers.command("add")
def add_command(
    name: NameArgument,
    key: Annotated[
        str,
        typer.Argument(
            metavar="KEYFILE_OR_LINE",
            help="What the organisation's `sotto-node peers key` printed, or a file with it.",
        ),
    ],
    *,
    site: SiteOption = Path(),
    expected: Annotated[
        str | None,
        typer.Option(
            "--fingerprint",
            metavar="HEX",
            help="The fingerprint that the organisation told you over another channel.",
        ),
    ] = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Add an organisation that you know to be independent, after its fingerprint was compared."""
    loaded = Site.load(site)
    own = make_aggregation_key(loaded)
    public, named = read_public(key)
    _check(name, public, named, own)
    if expected is not None:
        _check_fingerprint(name, public, expected)
    question = (
        f"{name}: {fingerprint(public)}\n"
        f"Did {name} tell you this fingerprint over another channel than the key's?"
    )
    if not yes and expected is None and not confirm(question):
        failed()
    _print_roster(add_peer(loaded, name, public), own, as_json=as_json)


@peers.command("remove")
def remove_command(
    name: NameArgument, *, site: SiteOption = Path(), as_json: JsonOption = False
) -> None:
    """Remove an organisation from the roster: its noise no longer counts."""
    loaded = Site.load(site)
    own = make_aggregation_key(loaded)
    _print_roster(remove_peer(loaded, name), own, as_json=as_json)


@peers.command("list")
def list_command(site: SiteOption = Path(), *, as_json: JsonOption = False) -> None:
    """Show the roster: names and fingerprints, and whether answers can be masked with it."""
    loaded = Site.load(site)
    _print_roster(loaded, make_aggregation_key(loaded), as_json=as_json)


def _check(name: str, public: bytes, named: str, own: Identity) -> None:
    if public == own.public or is_same_name(name, own.name):
        raise ConfigError(
            f"'{name}', {fingerprint(public)}: this is the site itself, which counts by itself. "
            "Add the others alone."
        )
    if named and named != name:
        raise ConfigError(
            f"the line is the key of '{named}', not of '{name}'. A name has to be written as the "
            f"organisation states it: sotto-node peers add '{named}' ..."
        )


def _check_fingerprint(name: str, public: bytes, expected: str) -> None:
    if _digits(expected) != _digits(fingerprint(public)):
        raise ConfigError(
            f"the key of '{name}' has the fingerprint {fingerprint(public)}, not {expected}. "
            "Somebody may have put another key in its place: do not add it; ask the organisation."
        )


def _digits(text: str) -> str:
    return re.sub(r"[\s:-]", "", text).lower()


def _print_roster(site: Site, own: Identity, *, as_json: bool) -> None:
    roster = site.roster
    if as_json:
        write_json(_as_dict(site, own))
        return
    table = table_of("organisation", "fingerprint")
    table.add_row(Text(f"{own.name} (this site)"), fingerprint(own.public))
    for name, key in roster.peers.items():
        table.add_row(Text(name), fingerprint(key))
    output.print(table)
    if roster.problem:
        output.print(f"No answer can be masked yet. {roster.problem}.", soft_wrap=True)
        return
    names = "" if roster.peers else " Without their keys no answer can be masked."
    output.print(
        f"{roster.organisations} organisations, of which {roster.colluding} may collude with the "
        f"coordinator; {roster.fewest} are in every sum: the noise of {roster.honest_shares} "
        f"counts.{names}",
        soft_wrap=True,
    )


def _as_dict(site: Site, own: Identity) -> dict[str, Any]:
    roster = site.roster
    return {
        "organisation": own.name,
        "fingerprint": fingerprint(own.public),
        "peers": [
            {"name": name, "public_key": public_to_text(key), "fingerprint": fingerprint(key)}
            for name, key in roster.peers.items()
        ],
        "organisations": roster.organisations,
        "colluding": roster.colluding,
        "fewest": roster.fewest,
        "honest_shares": roster.honest_shares,
        "problem": roster.problem or None,
    }
