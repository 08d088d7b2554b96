"""Print the data and the result of a simulation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from rich.table import Table
from rich.text import Text

from shared.config import Masking
from shared.data.queries import Asked
from shared.system.command_line import messages, output
from simulations.commands.print_groups import print_groups
from simulations.experiment.hold_out import describe_timing
from simulations.experiment.joining import describe_joining
from simulations.experiment.kinds import what_is_missing
from simulations.experiment.result_json import Joining
from simulations.experiment.simulation import Simulation

__all__ = ["print_data", "print_result"]

_TITLES = {
    "popularity": "most popular, exact",
    "popularity_private": "most popular, same ε",
    "markov": "Markov counts, exact",
    "item_knn": "ItemKNN, exact",
    "ease": "EASE, exact",
    "counts3": "all data, last three events, exact",
    "counts3_local": "own data, last three events",
    "local": "each organisation alone, same ε",
    "home": "own data at home, exact",
    "federated": "federated",
    "federated_home": "federated, adapted at home",
    "federated_home_private": "the same, with private counts",
    "federated_new": "federated, cold items as new",
}
"""In the order of the table: what an organisation can choose between comes last."""


def print_data(simulation: Simulation) -> None:
    """Print how much data there is, how it is spread, and what was left out."""
    histories, summary = simulation.dataset.histories, simulation.dataset.histories.summary
    sizes = sorted(len(rows) for rows in simulation.parts)
    messages.print(
        f"{simulation.dataset.name}: {len(histories):,} users, "
        f"{len(simulation.dataset.catalogue):,} items, {histories.events:,} interactions, "
        f"{len(sizes)} organisations of {sizes[0]:,} to {sizes[-1]:,} users"
    )
    untested = len(histories) - len(simulation.evaluation_split.test_targets)
    if untested and simulation.cuts is None:
        messages.print(f"users without a test event, who train and are not evaluated: {untested:,}")
    for text in describe_timing(simulation.timing, len(histories) - untested):
        messages.print(Text(f"split: {text}"), soft_wrap=True)
    for text in filter(None, (simulation.about_rounds, simulation.about_groups)):
        messages.print(Text(text), soft_wrap=True)
    for text in summary.describe():
        messages.print(Text(f"data: {text}"), soft_wrap=True)
    if simulation.config.lab.queries:
        own = _own_queries(simulation)
        users = len({one.user for one in own})
        messages.print(
            f"queries: {len(own):,} by {users:,} users with a history, for items of the catalogue; "
            "other rows are left out",
            soft_wrap=True,
        )
    friends = simulation.dataset.friends
    missing = what_is_missing(
        str(simulation.config.model.kind),
        simulation.dataset.catalogue,
        queries=len(_own_queries(simulation)),
        friends=0 if friends is None else len(friends.friends),
    )
    warnings = (*summary.warnings(), *map(str, simulation.dataset.catalogue.ignored))
    for text in (*warnings, *filter(None, [missing])):
        messages.print(Text(f"warning: {text}", style="yellow"), soft_wrap=True)


def _own_queries(simulation: Simulation) -> list[Asked]:
    """Return the queries of users who have a history."""
    users = set(simulation.dataset.histories.users)
    return [one for one in simulation.dataset.queries if one.user in users]


_FIGURES = {
    "ndcg@10": "NDCG@10",
    "coverage@10": "coverage",
    "exposure_rare": "rarer half",
    "calibration_error": "calibration",
    "distance": "distance",
}
"""Of a reranked list."""


def print_result(result: dict[str, Any], out: Path) -> None:
    """Print a table of the models' figures, the privacy claim and the cost.

    Args:
        result: result.json.
        out: the run's folder.
    """
    privacy, evaluation = result["privacy"], result["evaluation"]
    # Accuracy and coverage: four columns fit a terminal.
    figures = list(next(iter(evaluation["models"].values())))[:4]
    table = Table(title=f"{evaluation['users']:,} users, {evaluation['protocol']}")
    table.add_column("model")
    for name in figures:
        table.add_column(name, justify="right")
    for name in sorted(evaluation["models"], key=list(_TITLES).index):
        values = evaluation["models"][name]
        style = "bold" if name.startswith("federated") else ""
        cells = [f"{values[figure]:.4f}" for figure in figures]
        table.add_row(_TITLES[name], *cells, style=style)
    output.print(table)
    for name, reason in evaluation.get("skipped", {}).items():
        output.print(f"{_TITLES[name]}: not computed ({reason})", soft_wrap=True)
    if "rerank" in result:
        _print_reranking(result["rerank"])
    if "groups" in result:
        print_groups(result["groups"])
    if gates := result.get("gates"):
        shares = ", ".join(f"{name} {share:.0%}" for name, share in gates.items())
        output.print(f"gates, of an item that has all modalities: {shares}", soft_wrap=True)
    if friends := result.get("friends"):
        learned = "learned from" if result["rounds"] else "as they begin, without rounds, beside"
        output.print(
            f"friends: α = {friends['alpha']:.3f}, β = {friends['beta']:.1f}, {learned} "
            f"{friends['bounded']:,} friends within the bound, of {friends['within']:,} at the "
            f"same organisation and {friends['given']:,} in all",
            soft_wrap=True,
        )
    if "cold" in evaluation:
        output.print(_cold_items(evaluation["cold"]), soft_wrap=True)
    if evaluation.get("joining"):
        joining = TypeAdapter(tuple[Joining, ...]).validate_python(evaluation["joining"])
        for sentence in describe_joining(joining):
            output.print(sentence, soft_wrap=True)
    output.print(_claim(privacy), soft_wrap=True)
    seconds = result["cost"]["seconds"]
    output.print(
        f"{seconds['total']:.0f} s in total, {seconds['train']:.0f} s of them federated training; "
        f"{result['cost']['bytes_up_per_round'] / 1e6:.1f} MB sent and "
        f"{result['cost']['bytes_down_per_round'] / 1e6:.1f} MB received by all sites a round"
    )
    output.print(f"Written to {out}: result.json, model/, sites/*/ledger.sqlite", soft_wrap=True)
    output.print(
        f"Next: sotto-lab report {out} --out {out}/report.html, or recommend with it: "
        f"sotto-node recommend --model {out} --history ID,ID",
        soft_wrap=True,
        markup=False,
    )


def _cold_items(cold: dict[str, Any]) -> str:
    text = f"{cold['items']:,} cold items are the test item of {cold['users']:,} users"
    figures = [f"{_TITLES[name]} {values['hr@10']:.4f}" for name, values in cold["models"].items()]
    return f"{text}; hr@10: {', '.join(figures)}" if figures else text


def _colluders(privacy: dict[str, Any]) -> str:
    """Return with whom the coordinator may collude, under secure aggregation."""
    if "colluding" not in privacy:
        return ""
    return f" and {privacy['colluding']} organisations that collude with it"


def _masking(privacy: dict[str, Any]) -> str:
    """Return what else is to be said of secure aggregation, in lines of its own."""
    if "colluding" not in privacy:
        return ""
    everybody = max(one["epsilon_if_all_collude"] for one in privacy["organisations"])
    text = f"If all other organisations colluded, it would be ε = {everybody:.2f}.\n"
    if privacy["masking"] == Masking.OFF:
        text += (
            "MASKING WAS OFF: the noise of secure aggregation was simulated alone, and each answer "
            "left with a share of it.\n"
        )
    return text


def _claim(privacy: dict[str, Any]) -> str:
    if not privacy["private"]:
        return "Trained WITHOUT privacy: suitable for public data only."
    worst = max(privacy["organisations"], key=lambda organisation: organisation["epsilon"])
    return (
        f"Each user's whole history is ({worst['epsilon']:.2f}, {privacy['delta']:g})-"
        f"differentially private towards the coordinator{_colluders(privacy)} (worst: "
        f"{worst['name']}; add or remove one user; numerical composition).\n{_masking(privacy)}"
        "The noise of a simulation is seeded and can be computed again: these files protect nobody."
    )


def _print_reranking(section: dict[str, Any]) -> None:
    """Print what another order of lists costs each model, beside the lists of the scores."""
    names = [name for name in _FIGURES if name in next(iter(section["models"].values()))["after"]]
    table = Table(title=f"reranked: {section['method']}, strength {section['strength']:g}")
    table.add_column("model")
    for name in names:
        table.add_column(_FIGURES[name], justify="right")
    for model, both in section["models"].items():
        for when, words in (("before", _TITLES[model]), ("after", "  reranked")):
            cells = [f"{both[when][name]:.4f}" for name in names]
            table.add_row(words, *cells)
    output.print(table)
