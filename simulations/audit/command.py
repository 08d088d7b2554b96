"""sotto-lab audit: attack a real run, and compare the result with its privacy claim."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from shared.system.command_line import failed, messages, output, write_json
from simulations.audit.audit import FILE, audit
from simulations.audit.plan import CANARIES, Adversary, AuditPlan
from simulations.commands.options import (
    CatalogueOption,
    ConfigOption,
    DataOption,
    DeltaOption,
    EpsilonOption,
    OrganisationsOption,
    PublicOption,
    RoundsOption,
    SeedOption,
    SetOption,
    TrustOption,
    settings_from,
)
from simulations.commands.progress import Bars, bars
from simulations.experiment.config import read_settings

__all__ = ["audit_command"]

_PLAN = AuditPlan()


def audit_command(  # noqa: PLR0913 each is a command-line option
    *,
    out: Annotated[Path, typer.Option(help="Folder for the run and audit.json.")],
    data_folder: DataOption = None,
    catalogue: CatalogueOption = None,
    public: PublicOption = None,
    organisations: OrganisationsOption = None,
    rounds: RoundsOption = None,
    epsilon: EpsilonOption = None,
    delta: DeltaOption = None,
    trust: TrustOption = None,
    seed: SeedOption = None,
    adversary: Annotated[
        Adversary,
        typer.Option(
            help="Who asks the sites: an ordinary run, or a coordinator that chooses weights to "
            "reveal the canaries."
        ),
    ] = _PLAN.adversary,
    canaries: Annotated[
        int | None,
        typer.Option(
            help="Synthetic users to detect; a fair coin lets each in. Default: "
            f"{CANARIES[Adversary.HONEST]:,}; hostile: {CANARIES[Adversary.HOSTILE]:,}."
        ),
    ] = None,
    held_out: Annotated[
        float, typer.Option(help="Share of the real users left out, for membership inference.")
    ] = _PLAN.held_out,
    confidence: Annotated[
        float, typer.Option(help="Probability that an honest pipeline passes.")
    ] = _PLAN.confidence,
    audit_seed: Annotated[int, typer.Option(help="Of coins and canaries.")] = _PLAN.seed,
    config: ConfigOption = None,
    assignments: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print audit.json at the end.")] = False,
) -> None:
    """Attack one run of the unchanged pipeline, and compare with the ε of its ledger.

    Trains as `simulate` does, with canaries among the users, and tries to detect them in everything
    that leaves the sites and in the model. Exit code 1: the claim is violated. See docs/privacy.md.

    For example, on the embedded data:

    sotto-lab audit --epsilon 4 --delta 1e-5 --out runs/audit

    sotto-lab audit --trust secure-aggregation --set privacy.dropouts=1 --epsilon 4 --delta 1e-5 \
--out runs/sums

    sotto-lab audit --adversary hostile --epsilon 4 --delta 1e-5 --out runs/hostile
    """
    options = settings_from(
        data=data_folder,
        catalogue=catalogue,
        public=public,
        organisations=organisations,
        rounds=rounds,
        epsilon=epsilon,
        delta=delta,
        trust=trust,
        seed=seed,
    )
    settings = read_settings(config, options | {"lab.alone": False}, assignments or [])
    plan = AuditPlan(
        adversary=adversary,
        canaries=CANARIES[adversary] if canaries is None else canaries,
        held_out=held_out,
        confidence=confidence,
        seed=audit_seed,
    )
    with bars() as drawn:
        record = audit(settings, plan, out, Bars(drawn))
    if as_json:
        write_json(record)
    else:
        _print_record(record, out)
    if record["verdict"] == "violated":
        for reason in record["reasons"]:
            messages.print(f"violated: {reason}", style="bold red", soft_wrap=True)
        failed()


def _print_record(record: dict[str, Any], out: Path) -> None:
    claim = record["claim"]
    output.print(
        f"Claimed: ε = {claim['epsilon']:.2f} at δ = {claim['delta']:g} "
        f"({claim['organisation']}'s ledger, the highest)."
    )
    if record["masks"] is not None:
        _print_masks(claim, record["masks"])
    output.print(_observers(record))
    books, sensitivity = record["books"], record["sensitivity"]
    output.print(
        f"One user's largest share of a sum: {sensitivity['largest']:.4f} clip norms.\n"
        f"{books['seen']} releases left {books['organisation']}; they cost ε = "
        f"{books['epsilon_recomputed']:.3f} by {books['accountant']}, and its ledger states "
        f"{books['epsilon_ledger']:.3f}.",
        soft_wrap=True,
    )
    if record["membership"] is not None:
        output.print(_membership(record["membership"]), soft_wrap=True)
    output.print("What this audit could not have detected:")
    for spot in record["blind_spots"]:
        output.print(f"- {spot}", soft_wrap=True)
    if record["verdict"] == "consistent":
        output.print(
            f"No violation found ({record['confidence']:.0%} confidence that an honest pipeline "
            "passes). This is not a proof of privacy; the accountant's bound is.",
            soft_wrap=True,
        )
    if record["adversary"] == Adversary.HOSTILE:
        messages.print(f"Written to {out}: {FILE}. Next: sotto-lab report RUN --audit {out}")
    else:
        messages.print(f"Written to {out}: {FILE}, result.json. Next: sotto-lab report {out}")


def _print_masks(claim: dict[str, Any], masks: dict[str, Any]) -> None:
    colluding, lost = (", ".join(masks[key]) or "nobody" for key in ("colluding", "lost"))
    output.print(
        f"That is against the coordinator and {colluding}, with {lost} missing from each sum; if "
        f"all others collude, ε = {claim['epsilon_if_all_collude']:.2f}.\n"
        f"The smallest sum with {masks['target']} that came out is of {len(masks['summed'])} "
        f"honest organisations; of {masks['tested']} masked inputs and differences the least "
        f"uniform has p = {masks['smallest_p']:.2g}.",
        soft_wrap=True,
    )


def _observers(record: dict[str, Any]) -> Table:
    table = Table(title="ε from guesses of the canaries' coins, by observer", box=SIMPLE_HEAD)
    table.add_column("observer", no_wrap=True)
    for name in ("right", "proved ε ≥", "provable", "estimated ε", "claimed"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in record["observers"]:
        estimate = each["estimate"]
        table.add_row(
            each["name"],
            f"{each['correct']}/{each['guesses']}",
            f"{each['epsilon_lower_bound']:.2f}",
            f"{each['largest_provable']:.2f}",
            f"{estimate['epsilon']:.3g} ({estimate['low']:.2g}–{estimate['high']:.2g})",
            f"{each['epsilon_claimed']:.2f}",
            style="bold red" if each["violated"] else "",
        )
    return table


def _membership(scores: dict[str, Any]) -> str:
    strict = scores["tpr_at_fpr"]["0.001"]
    return (
        f"Membership inference on the published model, {scores['members']:,} users against "
        f"{scores['non_members']:,} held out: area {scores['auc']:.3f} ({scores['auc_low']:.3f} to "
        f"{scores['auc_high']:.3f}; .5 is chance), true positives at .1% false ones "
        f"{strict['tpr']:.2%} (up to {strict['high']:.2%})."
    )
