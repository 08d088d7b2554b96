"""sotto-lab audit: what attacks on a real run say of its privacy claim."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from shared.system.command_line import failed, messages, output, write_json
from simulations.audit.audit import FILE, AuditPlan, audit
from simulations.commands.options import (
    CatalogueOption,
    ConfigOption,
    DataOption,
    DeltaOption,
    EpsilonOption,
    OrganisationsOption,
    PublicOption,
    SeedOption,
    SetOption,
    number,
    paths,
)
from simulations.commands.progress import Bars, bars
from simulations.experiment.config import read_settings

__all__ = ["audit_command"]

_PLAN = AuditPlan()


def audit_command(  # noqa: PLR0913 each is a command-line option
    *,
    out: Annotated[Path, typer.Option(help="Folder for the run and what was found.")],
    data_folder: DataOption = None,
    catalogue: CatalogueOption = None,
    public: PublicOption = None,
    organisations: OrganisationsOption = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of training.")] = None,
    epsilon: EpsilonOption = None,
    delta: DeltaOption = None,
    seed: SeedOption = None,
    canaries: Annotated[
        int, typer.Option(help="Made-up users to look for; a fair coin lets each in.")
    ] = _PLAN.canaries,
    held_out: Annotated[
        float, typer.Option(help="Share of the real users left out, to be told from the others.")
    ] = _PLAN.held_out,
    confidence: Annotated[
        float, typer.Option(help="Chance that an honest pipeline passes.")
    ] = _PLAN.confidence,
    audit_seed: Annotated[int, typer.Option(help="Of coins and canaries.")] = _PLAN.seed,
    config: ConfigOption = None,
    assignments: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print audit.json at the end.")] = False,
) -> None:
    """Attack one run of the pipeline as it is, and compare with what its ledger claims.

    Trains as `simulate` does, with canaries among the users, and looks for them in all that leaves
    the sites and in the model. Exits with 1 if the claim is violated. See docs/privacy.md.

    For example, on the embedded data:

    sotto-lab audit --epsilon 4 --delta 1e-5 --out runs/audit
    """
    options = paths(data=data_folder, catalogue=catalogue, public=public) | {
        "lab.organisations": organisations,
        "lab.alone": False,
        "privacy.epsilon": number(epsilon),
        "privacy.delta": delta,
        "training.rounds": rounds,
        "seed": seed,
    }
    settings = read_settings(config, options, assignments or [])
    plan = AuditPlan(canaries=canaries, held_out=held_out, confidence=confidence, seed=audit_seed)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    with bars() as drawn:
        found = audit(settings, plan, out, Bars(drawn))
    if as_json:
        write_json(found)
    else:
        _tell(found, out)
    if found["verdict"] == "violated":
        for reason in found["reasons"]:
            messages.print(f"violated: {reason}", style="bold red", soft_wrap=True)
        failed()


def _tell(found: dict[str, Any], out: Path) -> None:
    claim = found["claim"]
    output.print(
        f"Claimed: ε = {claim['epsilon']:.2f} at δ = {claim['delta']:g} "
        f"({claim['organisation']}'s ledger, the highest)."
    )
    output.print(_observers(found))
    books, sensitivity = found["books"], found["sensitivity"]
    output.print(
        f"One user's largest share of a sum: {sensitivity['largest']:.4f} clip norms.\n"
        f"{books['seen']} releases seen leaving {books['organisation']} cost ε = "
        f"{books['epsilon_recomputed']:.3f} by {books['accountant']}; its ledger says "
        f"{books['epsilon_ledger']:.3f}.",
        soft_wrap=True,
    )
    if found["membership"] is not None:
        output.print(_membership(found["membership"]), soft_wrap=True)
    output.print("What this audit could not have seen:")
    for spot in found["blind_spots"]:
        output.print(f"- {spot}", soft_wrap=True)
    if found["verdict"] == "consistent":
        output.print(
            f"No violation found ({found['confidence']:.0%} confidence that an honest pipeline "
            "passes). That is no proof of privacy: the accountant's is.",
            soft_wrap=True,
        )
    messages.print(f"Written to {out}: {FILE}, result.json. Next: sotto-lab report {out}")


def _observers(found: dict[str, Any]) -> Table:
    table = Table(title="ε by who could tell the canaries' coins", box=SIMPLE_HEAD)
    table.add_column("observer", no_wrap=True)
    for name in ("right", "at least", "provable", "looks like"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in found["observers"]:
        estimate = each["estimate"]
        table.add_row(
            each["name"],
            f"{each['correct']}/{each['guesses']}",
            f"{each['epsilon_lower_bound']:.2f}",
            f"{each['largest_provable']:.2f}",
            f"{estimate['epsilon']:.3g} ({estimate['low']:.2g}–{estimate['high']:.2g})",
            style="bold red" if each["violated"] else "",
        )
    return table


def _membership(found: dict[str, Any]) -> str:
    strict = found["tpr_at_fpr"]["0.001"]
    return (
        f"Membership inference on the published model, {found['members']:,} users against "
        f"{found['non_members']:,} held out: area {found['auc']:.3f} ({found['auc_low']:.3f} to "
        f"{found['auc_high']:.3f}; .5 is chance), true positives at .1% false ones "
        f"{strict['tpr']:.2%} (up to {strict['high']:.2%})."
    )
