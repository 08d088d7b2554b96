"""sotto-node check and up: check a site, and run its node."""

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
from client.node.processes import supernode
from client.node.up import begin_log, run_node
from client.site.lock import lock_node
from client.site.site import Site
from shared.config import ModelConfig
from shared.errors import SiteError
from shared.system.command_line import messages, output, write_json

__all__ = ["check_command", "up_command"]


_MARKS = {
    Status.OK: ("ok", "green"),
    Status.WARNING: ("doubtful", "yellow"),
    Status.ERROR: ("wrong", "bold red"),
    Status.SKIPPED: ("-", "dim"),
}
_PUBLIC = {check.name for check in connection.CHECKS} | {"port"}
"""Checks whose findings depend on no user."""
_SKIPPABLE = [check.name for check in CHECKS if check.may_be_skipped]


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
    groups: Annotated[
        str,
        typer.Option(help="The run's groups.tables, to look for users that are in none of them."),
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Check whether the node can join; exit with 0 if so, 1 if doubtful, 2 if it cannot."""
    expected = Expected(
        noise_multiplier=noise_multiplier,
        sample_rate=sample_rate,
        local_steps=local_steps,
        model=ModelConfig(hidden_size=hidden_size, max_length=max_length),
        candidates=candidates,
        groups=groups,
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
    begin_log()
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
