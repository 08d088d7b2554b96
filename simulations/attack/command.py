"""sotto-lab attack: crafted histories that push or bury items, and what the defence leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from shared.system.command_line import messages, output, table_of, write_json
from simulations.attack.attack import FILE, attack
from simulations.attack.plan import KINDS, Attack, AttackPlan, Parts
from simulations.commands.options import (
    CatalogueOption,
    ConfigOption,
    DataOption,
    DeltaOption,
    EpsilonOption,
    OrganisationsOption,
    PartitionOption,
    PublicOption,
    RoundsOption,
    SeedOption,
    SetOption,
    TrustOption,
    settings_from,
)
from simulations.commands.progress import Bars, bars
from simulations.experiment.config import read_settings

__all__ = ["attack_command"]

_PLAN = AttackPlan()


def attack_command(  # noqa: PLR0913 each is a command-line option
    *,
    out: Annotated[Path, typer.Option(help="Folder for catalogue, sites and attack.json.")],
    data_folder: DataOption = None,
    catalogue: CatalogueOption = None,
    public: PublicOption = None,
    organisations: OrganisationsOption = None,
    rounds: RoundsOption = None,
    epsilon: EpsilonOption = None,
    delta: DeltaOption = None,
    trust: TrustOption = None,
    partition: PartitionOption = None,
    seed: SeedOption = None,
    at: Annotated[
        str,
        typer.Option(help="Organisation whose users attack.", show_default="the first"),
    ] = _PLAN.at,
    targets: Annotated[
        str, typer.Option(help="Kinds of items to push or to bury, with commas between.")
    ] = ",".join(KINDS),
    share: Annotated[
        float, typer.Option(help="Crafted users of a group, as a share of its users.")
    ] = _PLAN.share,
    parts: Annotated[
        Parts,
        typer.Option(
            help="The federated model and what is made of it at home; either alone: home beside a "
            "model that was published before the attack."
        ),
    ] = _PLAN.parts,
    evasion: Annotated[
        int, typer.Option(help="Users of whom single events are changed; 0: none.")
    ] = _PLAN.evasion,
    attack_seed: Annotated[int, typer.Option(help="Of targets and crafted users.")] = _PLAN.seed,
    config: ConfigOption = None,
    assignments: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print attack.json at the end.")] = False,
) -> None:
    """Craft users of one organisation that push an item or bury it, and see how far they come.

    The federated model, that organisation's home model and their blend are trained with each
    attack, without and with the defence that is on by default. See docs/attacks.md. For example:

    sotto-lab attack --epsilon 8 --delta 1e-5 --rounds 0 --out runs/attack

    sotto-lab attack --epsilon 8 --delta 1e-5 --rounds 0 --parts federated \
--set server.aggregation=median --set server.malicious=1 --out runs/attack-median
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
        partition=partition,
        seed=seed,
    )
    settings = read_settings(config, options | {"lab.alone": False}, assignments or [])
    plan = AttackPlan(
        at=at,
        targets=tuple(kind.strip() for kind in targets.split(",")),
        share=share,
        parts=parts,
        evasion=evasion,
        seed=attack_seed,
    )
    with bars() as drawn:
        record = attack(settings, plan, out, Bars(drawn))
    if as_json:
        write_json(record)
        return
    _print_attacks(record)
    if record["evasion"]:
        _print_evasion(record["evasion"])
    messages.print(f"Every attack by itself: {out / FILE}", soft_wrap=True)


def _print_attacks(record: Mapping[str, Any]) -> None:
    at, run = record["at"], record["run"]
    output.print(
        f"{at['organisation']} has {at['users']:,} users; one of them attacks, or "
        f"{at['crafted']:,}. Strongest attack of each kind: share of the other users' first ten "
        f"that holds the target (its mean rank), {run['aggregation']} of {run['organisations']} "
        "organisations.",
        soft_wrap=True,
    )
    table = table_of("part", "attack", "users", "target", "before", "no defence", "defence")
    rows = [row for row in record["attacks"] if row["strongest"]]
    for plain in (row for row in rows if not row["defended"]):
        [guarded] = [row for row in rows if row["defended"] and _same(row, plain)]
        table.add_row(
            *(plain["part"], plain["direction"], f"{plain['crafted']:,}", plain["target"]),
            _shown(guarded["before"]),
            *(f"{_shown(row['after'])} {row['attack']}" for row in (plain, guarded)),
        )
    output.print(table)


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two rows are about the same part, target and number of attackers."""
    alike = ("part", "target", "direction")
    kinds = [Attack(row["attack"]).grouped for row in (one, other)]
    return kinds[0] is kinds[1] and all(one[name] == other[name] for name in alike)


def _shown(shown: Mapping[str, Any]) -> str:
    return f"{shown['share']:.1%} ({shown['rank']:,.0f})"


def _print_evasion(rows: Sequence[Mapping[str, Any]]) -> None:
    output.print("One event of a history changed: share of the first ten that stays.")
    table = table_of("model", "smoothed", "change", "kept", "worst of six", "NDCG@10", "ms a list")
    for row in rows:
        table.add_row(
            row["model"],
            f"{row['samples']} samples" if row["samples"] else "no",
            row["change"],
            *(f"{row[name]:.1%}" for name in ("kept", "kept_worst")),
            f"{row['ndcg@10']:.4f}",
            f"{1000 * row['seconds_per_list']:.1f}",
        )
    output.print(table)
