"""sotto-node budget: what was spent, what is left, and the repair of a broken ledger."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from client.commands.budget_plot import draw
from client.commands.options import (
    REPAIR,
    JsonOption,
    SiteOption,
    YesOption,
    open_ledger,
    subcommand_follows,
)
from client.ledger import recovery
from client.ledger.ledger import Ledger
from client.site.site import Site
from client.site.statement import (
    HomeCost,
    RunCost,
    Statement,
    epsilon_over_time,
    read_statement,
    shown,
)
from shared.errors import ConfigError, LedgerError
from shared.system.command_line import (
    command_group,
    confirm,
    failed,
    messages,
    output,
    table_of,
    write_json,
)

__all__ = ["budget"]

budget = command_group("What your users' privacy budget was spent on.", runs_alone=True)


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
    """Show what your users' privacy budget was spent on, by run, and what is left of it."""
    if subcommand_follows(context):
        return
    owner = Site.load(site)
    ledger = open_ledger(owner)
    statement = read_statement(owner, ledger)
    if plot is not None:
        draw(statement, epsilon_over_time(ledger, statement.delta), plot)
        messages.print(f"drawn: {plot}", soft_wrap=True)
    if as_json:
        write_json(asdict(statement) | {"left": statement.left})
    else:
        _print_statement(statement)


@budget.command("verify")
def verify_command(*, site: SiteOption = Path(), as_json: JsonOption = False) -> None:
    """Check every entry, the anchor and the kept answers; exit with 1 if something is wrong."""
    owner = Site.load(site)
    entries, problem = None, None
    try:
        entries = owner.open_ledger().verify()
    except LedgerError as error:
        problem = str(error)
    if as_json:
        write_json({"whole": problem is None, "entries": entries, "problem": problem})
    elif problem is None:
        output.print(f"{entries} entries: the hash chain is intact, and the anchor agrees with it.")
    else:
        output.print(Text(f"{problem} {REPAIR}"), soft_wrap=True)
    if problem is not None:
        failed()


@budget.command("restore")
def restore_command(*, site: SiteOption = Path(), yes: YesOption = False) -> None:
    """Repair a ledger that does not open from its anchor; no charge is lost."""
    owner = Site.load(site)
    messages.print(_RESTORE.format(**_files(owner)), soft_wrap=True)
    if not yes and not confirm("Restore the ledger?"):
        failed()
    ledger = recovery.restore(owner.ledger_file, owner.user_base, owner.anchor_file)
    _print_repaired(owner, ledger)


@budget.command("write-off")
def write_off_command(
    *,
    reason: Annotated[str, typer.Option(help="Your reason, which is recorded in the ledger.")],
    site: SiteOption = Path(),
    yes: YesOption = False,
) -> None:
    """Give up the budget: start a ledger without any left, where what was spent is unknown."""
    if not reason.strip():
        raise ConfigError(
            "--reason is empty: say why the budget is given up; it is recorded in the ledger."
        )
    owner = Site.load(site)
    messages.print(_WRITE_OFF.format(**_files(owner)), soft_wrap=True)
    if _is_intact(owner):
        messages.print(
            "[bold]Ledger and anchor are intact and agree: there is no need for this.[/]",
            soft_wrap=True,
        )
    if not yes and not confirm("Give up the whole budget for ever?"):
        failed()
    ledger = recovery.write_off(owner.ledger_file, owner.user_base, owner.anchor_file, reason)
    _print_repaired(owner, ledger)


_RESTORE = """\
If you have a newer copy of the damaged file, put it back instead; nothing else is needed.
Stop the node first. This makes ledger and anchor agree on the one with more charges:
  ledger  {ledger}
  anchor  {anchor}
If the ledger is intact and newer than the anchor, only the anchor is updated. Otherwise the ledger
is renamed, and a new one starts with all charges that the anchor holds. No budget is gained. The
list of runs and answers stays in the renamed file."""
_WRITE_OFF = """\
This is for a site whose anchor is lost or damaged, if no copy of it exists. Stop the node first.
Both files are renamed:
  ledger  {ledger}
  anchor  {anchor}
A new ledger starts with an infinite charge. No limit leaves these users any budget, so that only
public data can be trained on under this user_base."""


def _files(site: Site) -> dict[str, Path]:
    return {"ledger": site.ledger_file, "anchor": site.anchor_file}


def _is_intact(site: Site) -> bool:
    try:
        site.open_ledger().verify()
    except LedgerError:
        return False
    return True


def _print_repaired(site: Site, ledger: Ledger) -> None:
    spent = ledger.spent(site.policy.delta)
    output.print(
        f"{ledger.verify()} entries, ε = {shown(spent)} of {shown(site.policy.max_epsilon)} "
        "spent. Files that were replaced are in the same folder as *.set-aside-*."
    )
    if not ledger.trusted_fingerprint():
        output.print("Next: trust the app bundle again: sotto-node trust FILE.fab")


def _print_statement(statement: Statement) -> None:
    output.print(
        Text(
            f"{statement.organisation}, users '{statement.user_base}': spent ε = "
            f"{shown(statement.spent)} of {shown(statement.limit)}, left "
            f"{shown(statement.left)} (δ = {statement.delta:g})"
        ),
        soft_wrap=True,
    )
    if statement.spent_if_all_collude > statement.spent:
        output.print(
            f"If all other organisations colluded with the coordinator: ε = "
            f"{shown(statement.spent_if_all_collude)}",
            soft_wrap=True,
        )
    if statement.runs:
        output.print(_runs(statement.runs))
    if statement.home is not None:
        output.print(_home(statement.home), soft_wrap=True)
    if statement.refusals:
        output.print(_refusals(statement))
    output.print(_remaining_rounds(statement), soft_wrap=True)
    if statement.runs:
        output.print("Next: sotto-node outbox lists every answer that left.")


def _runs(runs: tuple[RunCost, ...]) -> Table:
    table = table_of("run", "rounds", "kind", "σ", "q", "steps", "ε", "so far", "last")
    table.title = "ε of each run by itself, and of all charges up to its last one"
    for run in runs:
        forms = run.releases
        table.add_row(
            Text(run.run if run.run is not None else "(before a restore)"),
            str(run.rounds or "?"),
            "\n".join(form.kind for form in forms),
            "\n".join(f"{form.noise_multiplier:.4g}" for form in forms),
            "\n".join(f"{form.sample_rate:.4g}" for form in forms),
            "\n".join(str(form.steps) for form in forms),
            shown(run.epsilon),
            shown(run.cumulative),
            run.last[:10],
        )
    return table


def _home(home: HomeCost) -> str:
    limit = "no home.max_epsilon any more" if home.limit is None else f"{shown(home.limit)}"
    return (
        f"Private home models, which your own users are shown: {home.models}, the last on "
        f"{home.last[:10]}; spent ε = {shown(home.spent)} of {limit}. With what left: ε = "
        f"{shown(home.together)}."
    )


def _refusals(statement: Statement) -> Table:
    table = table_of("refused", "times", "reason")
    for code, times in statement.refusals.items():
        table.add_row(code, str(times), code.sentence)
    return table


def _remaining_rounds(statement: Statement) -> str:
    following = statement.following
    if following is None:
        return "No round was charged yet. The node takes part in runs while it is up: sotto-node up"
    like = following.like
    form = f"σ {like.noise_multiplier:.4g}, q {like.sample_rate:.4g}, steps {like.steps}"
    if following.rounds == 0:
        return (
            f"No further round like the last one ({form}) fits. Only a higher policy.max_epsilon "
            "in site.toml, which is less privacy for your users, would allow one."
        )
    number = "any number" if following.rounds is None else f"{following.rounds:,}"
    more = " or more" if following.at_least else ""
    return f"More rounds like the last one ({form}) that fit: {number}{more}."
