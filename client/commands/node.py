"""sotto-node init, check and up: set up a site, check it, and run its node."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from client.checks import connection
from client.checks.base import Expected, Finding, Status
from client.checks.preflight import CHECKS, exit_code, preflight
from client.commands.options import JsonOption, SiteOption
from client.commands.questions import ask_missing, warn_of_missing_files
from client.logs import set_up
from client.node.processes import supernode
from client.node.up import run_node
from client.site.lock import lock_node
from client.site.setup import NewSite, make_site, new_file
from client.site.site import Site
from shared.config import ModelConfig
from shared.errors import SiteError
from shared.sections import Value
from shared.system.command_line import messages, output, write_json

__all__ = ["check_command", "init_command", "up_command"]


_MARKS = {
    Status.OK: ("ok", "green"),
    Status.WARNING: ("doubtful", "yellow"),
    Status.ERROR: ("wrong", "bold red"),
    Status.SKIPPED: ("-", "dim"),
}
_PUBLIC = {check.name for check in connection.CHECKS} | {"port"}
"""Checks whose findings depend on no user."""
_SKIPPABLE = [check.name for check in CHECKS if check.may_be_skipped]


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


def check_command(  # noqa: PLR0913 each is a command-line option
    site: SiteOption = Path(),
    *,
    noise_multiplier: Annotated[
        float | None,
        typer.Option(help="Noise of a round, to compute how many more fit the budget."),
    ] = None,
    sample_rate: Annotated[
        float | None, typer.Option(help="Sample rate of a round, in (0, 1].")
    ] = None,
    local_steps: Annotated[
        int | None, typer.Option(help="Number of noised sums in a round.")
    ] = None,
    hidden_size: Annotated[int, typer.Option(help="Of the model, to estimate memory.")] = 456,
    max_length: Annotated[int, typer.Option(help="Of the model, to estimate memory.")] = 50,
    candidates: Annotated[int, typer.Option(help="Of the run, to estimate memory.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Check whether the node can join; exit with 0 if so, 1 if doubtful, 2 if it cannot."""
    expected = Expected(
        noise_multiplier=noise_multiplier,
        sample_rate=sample_rate,
        local_steps=local_steps,
        model=ModelConfig(hidden_size=hidden_size, max_length=max_length),
        candidates=candidates,
    )
    results = preflight(site, expected)
    findings = list(results) if as_json else _print_findings(results)
    if as_json:
        write_json([finding.as_dict() for finding in findings])
    raise typer.Exit(exit_code(findings))


def up_command(
    site: SiteOption = Path(),
    *,
    skip_check: Annotated[
        list[str] | None,
        typer.Option(help=f"Start although this check fails: {' or '.join(_SKIPPABLE)}."),
    ] = None,
) -> None:
    """Check the site, then keep its node running until it is stopped."""
    set_up()
    skipped = set(skip_check or ())
    if unknown := skipped - set(_SKIPPABLE):
        raise SiteError(
            f"--skip-check {unknown.pop()}: only {' and '.join(_SKIPPABLE)} may be skipped."
        )
    loaded = Site.load(site)
    loaded.check_seed({})
    supernode(loaded, b"")
    with lock_node(Path(loaded.folder)) as lock:
        failed = _print_names(preflight(site, Expected()))
        if errors := [name for name in failed if name not in skipped]:
            raise SiteError(
                f"the node does not start: {', '.join(errors)}. Causes and remedies: "
                f"sotto-node check --site {loaded.folder}"
            )
        run_node(loaded, lock)


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


def _print_names(findings: Iterable[Finding]) -> list[str]:
    """Print the names of doubtful and failed checks, and return those that failed.

    The output of a service is stored and forwarded like a log, and details could reveal something
    about users. Those of the connection and the port cannot, and are printed.
    """
    problems = [f for f in findings if f.status in (Status.WARNING, Status.ERROR)]
    for finding in problems:
        messages.print(f"{_MARKS[finding.status][0]}: {finding.name}")
        if finding.name in _PUBLIC:
            messages.print(f"  {finding.observation}. {finding.remedy}", soft_wrap=True)
    return [finding.name for finding in problems if finding.status is Status.ERROR]


def _print_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Print each finding as soon as its check is done."""
    printed = []
    for finding in findings:
        mark, style = _MARKS[finding.status]
        line = Text.assemble((f"{mark:<9}", style), f"{finding.name:<17}", finding.observation)
        output.print(line, soft_wrap=True)
        if finding.remedy:
            output.print(Text(f"{'':<26}{finding.remedy}"), soft_wrap=True)
        printed.append(finding)
    counts = {status: sum(f.status is status for f in printed) for status in Status}
    output.print(
        f"{counts[Status.OK]} fine, {counts[Status.WARNING]} doubtful, {counts[Status.ERROR]} wrong"
        + (f", {counts[Status.SKIPPED]} skipped" if counts[Status.SKIPPED] else "")
    )
    return printed
