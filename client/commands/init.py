"""sotto-node init: set up a site."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.commands.questions import ask_missing, warn_of_missing_files
from client.site.setup import NewSite, make_site, new_file
from shared.sections import Value
from shared.system.command_line import messages, output

__all__ = ["init_command"]


def init_command(  # noqa: PLR0913 each is a command-line option
    folder: Annotated[Path, typer.Argument(help="Folder of the new site.")] = Path(),
    *,
    organisation: Annotated[
        str | None, typer.Option(help="Your organisation's name; public.")
    ] = None,
    user_base: Annotated[
        str | None,
        typer.Option(help="Name of the users whose budget is spent; it must never change."),
    ] = None,
    population: Annotated[
        int | None, typer.Option(help="Number of users that you declare; public.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="File, pattern or URL of the data.")] = None,
    query: Annotated[str | None, typer.Option(help="For a database: a SELECT.")] = None,
    table: Annotated[
        str | None, typer.Option(help="For a database: a table, instead of --query.")
    ] = None,
    user: Annotated[str | None, typer.Option(help="Column of the user's id.")] = None,
    item: Annotated[str | None, typer.Option(help="Column of the item's id.")] = None,
    time: Annotated[str | None, typer.Option(help="Column of the time.")] = None,
    credentials: Annotated[str | None, typer.Option(help="File with the data's secrets.")] = None,
    catalogue: Annotated[str | None, typer.Option(help="Folder of the public items.")] = None,
    max_epsilon: Annotated[
        float | None, typer.Option(help="ε that your users may spend, over all runs, for ever.")
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="The δ of that ε, far below 1 / population.")
    ] = None,
    superlink: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="The coordinator's address.")
    ] = None,
    root_certificates: Annotated[
        str | None, typer.Option(help="PEM file that signed the coordinator's certificate.")
    ] = None,
    local_port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT",
            help="Where the node's own processes meet, on 127.0.0.1; default: 9094 or the next "
            "free one.",
        ),
    ] = None,
    anchor: Annotated[
        str | None, typer.Option(help="File of the ledger's anchor, preferably on another disk.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Address of metrics and health probes; default: off."
        ),
    ] = None,
    restore: Annotated[
        bool,
        typer.Option(
            "--restore",
            help="The users' ledger is lost: start with what its anchor says was spent.",
        ),
    ] = False,
) -> None:
    """Set up a site: site.toml, ledger and key. Ask for required settings that are not given.

    The same users must have one ledger, whose budget is spent over all runs, for ever. A second one
    is refused on this machine. Nothing notices one on another machine, in another container or of
    another system user: never set the same users up twice.
    """
    new_file(folder)  # refuses an existing site before anything is asked
    given: dict[str, Value | None] = {
        "organisation": organisation,
        "user_base": user_base,
        "population": population,
        "catalogue": catalogue,
        "device": device,
        "anchor": anchor,
        "data.source": source,
        "data.query": query,
        "data.table": table,
        "data.user": user,
        "data.item": item,
        "data.time": time,
        "data.credentials": credentials,
        "policy.max_epsilon": max_epsilon,
        "policy.delta": delta,
        "coordinator.superlink": superlink,
        "coordinator.root_certificates": root_certificates,
        "coordinator.local_port": local_port,
        "node.metrics": metrics,
    }
    values = ask_missing({key: value for key, value in given.items() if value is not None})
    warn_of_missing_files(values)
    _print_new_site(make_site(folder, values, restore=restore))


def _print_new_site(new: NewSite) -> None:
    site = new.site
    if new.open_to_others:
        messages.print(
            f"{site.folder} is open to others ({new.open_to_others}): chmod 700 {site.folder}",
            style="yellow",
            soft_wrap=True,
        )
    messages.print(f"The site is in {site.folder}. Send to the coordinator:", soft_wrap=True)
    output.print(f"organisation  {site.organisation}", soft_wrap=True, markup=False)
    output.print(f"population    {site.population}")
    output.print(f"public key    {new.public_key}", soft_wrap=True, markup=False)
    messages.print(
        f"(The public key is also in {new.public_file}; the private one stays on this machine.)\n"
        "Never put back an old copy of the ledger or of its anchor, "
        f"{site.anchor_file}: see docs/ledger.md.\n"
        f"Next: sotto-node trust FILE.fab --site {site.folder}, with the app bundle from the "
        f"coordinator;\nthen: sotto-node check --site {site.folder}",
        soft_wrap=True,
    )
