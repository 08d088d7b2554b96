"""sotto-node budget: what was spent, what is left, and putting a broken ledger right."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from client.commands.budget_plot import draw
from client.commands.options import JsonOption, SiteOption, YesOption, no_options_before, opened
from client.commands.statement import RunCost, Statement, curve, statement
from client.ledger import recovery
from client.ledger.ledger import Ledger
from client.site.site import Site
from shared.errors import ConfigError, LedgerError
from shared.system.command_line import (
    command_group,
    confirmed,
    failed,
    messages,
    output,
    table_of,
    write_json,
)

__all__ = ["budget"]

budget = command_group("What your users' privacy budget was spent on.", alone=True)


@budget.callback()
def budget_command(
    context: typer.Context,
    *,
    site: SiteOption = Path(),
    plot: Annotated[
        Path | None, typer.Option(help="Draw ε over time into this .png, .svg or .pdf.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What your users' privacy budget was spent on, by run, and what is left of it."""
    if no_options_before(context):
        return
    owner = Site.load(site)
    ledger = opened(owner)
    found = statement(owner, ledger)
    if plot is not None:
        draw(found, curve(ledger, found.delta), plot)
        messages.print(f"drawn: {plot}", soft_wrap=True)
    if as_json:
        write_json(asdict(found) | {"left": found.left})
    else:
        _tell(found)


@budget.command("verify")
def verify_command(*, site: SiteOption = Path(), as_json: JsonOption = False) -> None:
    """Check every entry, the anchor and the kept answers; exit 1 if something does not fit."""
    owner = Site.load(site)
    entries, problem = None, None
    try:
        entries = owner.open_ledger().verify()
    except LedgerError as error:
        problem = str(error)
    if as_json:
        write_json({"whole": problem is None, "entries": entries, "problem": problem})
    elif problem is None:
        output.print(f"{entries} entries: the chain is whole, and the anchor agrees.")
    else:
        output.print(Text(problem), soft_wrap=True)
    if problem is not None:
        failed()


@budget.command("restore")
def restore_command(*, site: SiteOption = Path(), yes: YesOption = False) -> None:
    """Put a ledger right that does not open, from its anchor; nothing is forgotten."""
    owner = Site.load(site)
    messages.print(_RESTORE.format(**_files(owner)), soft_wrap=True)
    if not yes and not confirmed("Restore?"):
        failed()
    ledger = recovery.restore(owner.ledger_file, owner.user_base, owner.anchor_file)
    _tell_ledger(owner, ledger)


@budget.command("write-off")
def write_off_command(
    *,
    reason: Annotated[str, typer.Option(help="Why, in your own words, for the record.")],
    site: SiteOption = Path(),
    yes: YesOption = False,
) -> None:
    """Start a new ledger whose whole budget is spent: where nobody knows what was."""
    if not reason.strip():
        raise ConfigError("--reason is empty: say why the budget is given up, for the record.")
    owner = Site.load(site)
    messages.print(_WRITE_OFF.format(**_files(owner)), soft_wrap=True)
    if _whole(owner):
        messages.print(
            "[bold]Ledger and anchor are whole and agree: there is no need for this.[/]",
            soft_wrap=True,
        )
    if not yes and not confirmed("Give up the whole budget, for ever?"):
        failed()
    ledger = recovery.write_off(owner.ledger_file, owner.user_base, owner.anchor_file, reason)
    _tell_ledger(owner, ledger)


_RESTORE = """\
If you have a newer copy of the file at fault, put that back instead: nothing else is needed.
The node must not be running. Ledger and anchor are made to agree on the larger of the two:
  ledger  {ledger}
  anchor  {anchor}
A ledger that is whole and newer stays, and the anchor follows it. Any other is set aside, and a
new one starts with all that the anchor says was charged: no budget comes back, but the list of
runs and of what left stays in the file that is set aside."""
_WRITE_OFF = """\
This is for a site whose anchor is lost or damaged, with no copy anywhere. The node must not be
running. Both files are set aside under other names:
  ledger  {ledger}
  anchor  {anchor}
A new ledger starts with an infinite charge: these users' budget is gone, whatever the limit is or
becomes, and only public data could be trained on under this user_base."""


def _files(site: Site) -> dict[str, Path]:
    return {"ledger": site.ledger_file, "anchor": site.anchor_file}


def _whole(site: Site) -> bool:
    try:
        site.open_ledger().verify()
    except LedgerError:
        return False
    return True


def _tell_ledger(site: Site, ledger: Ledger) -> None:
    spent = ledger.spent(site.policy.delta)
    output.print(
        f"{ledger.verify()} entries, ε = {_shown(spent)} of {_shown(site.policy.max_epsilon)} "
        "spent. Replaced files lie beside their place as *.set-aside-*."
    )


def _tell(found: Statement) -> None:
    output.print(
        Text(
            f"{found.organisation}, users '{found.user_base}': spent ε = {_shown(found.spent)} "
            f"of {_shown(found.limit)}, left {_shown(found.left)} (δ = {found.delta:g})"
        ),
        soft_wrap=True,
    )
    if found.runs:
        output.print(_runs(found.runs))
    if found.refusals:
        output.print(_refusals(found))
    output.print(_reach(found), soft_wrap=True)


def _runs(runs: tuple[RunCost, ...]) -> Table:
    table = table_of("run", "rounds", "kind", "σ", "q", "steps", "alone", "so far", "last")
    table.title = "ε of each run alone, and of everything up to its last charge"
    for run in runs:
        forms = run.releases
        table.add_row(
            Text(run.run if run.run is not None else "(before a restore)"),
            str(run.rounds or "?"),
            "\n".join(form.kind for form in forms),
            "\n".join(f"{form.noise_multiplier:.4g}" for form in forms),
            "\n".join(f"{form.sample_rate:.4g}" for form in forms),
            "\n".join(str(form.steps) for form in forms),
            _shown(run.epsilon),
            _shown(run.cumulative),
            run.last[:10],
        )
    return table


def _refusals(found: Statement) -> Table:
    table = table_of("refused", "times", "because")
    for code, times in found.refusals.items():
        table.add_row(code, str(times), code.sentence)
    return table


def _reach(found: Statement) -> str:
    following = found.following
    if following is None:
        return "No round was charged yet."
    like = following.like
    form = f"σ {like.noise_multiplier:.4g}, q {like.sample_rate:.4g}, steps {like.steps}"
    number = "any number" if following.rounds is None else f"{following.rounds:,}"
    more = " or more" if following.at_least else ""
    return f"More rounds like the last one ({form}) that fit: {number}{more}."


def _shown(epsilon: float) -> str:
    return "∞" if epsilon == math.inf else f"{epsilon:.4g}"
