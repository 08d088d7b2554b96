"""sotto-lab: simulate a federation, account for privacy, fetch benchmark data."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # before Flower is imported

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Table

from shared.config import RunConfig
from shared.system.command_line import command_group, messages, output, run, write_json
from simulations.audit.command import audit_command
from simulations.calibrate.command import calibrate_command
from simulations.commands.accountant import accountant_command
from simulations.commands.items import encode_command
from simulations.commands.options import (
    CatalogueOption,
    ConfigOption,
    DataOption,
    DeltaOption,
    EpsilonOption,
    OrganisationsOption,
    PartitionOption,
    PublicOption,
    SeedOption,
    SetOption,
    number,
    paths,
)
from simulations.commands.settings import settings
from simulations.datasets import datasets
from simulations.experiment.config import Engine, read_settings
from simulations.experiment.pretrain import pretrain_command
from simulations.experiment.progress import Bars, bars
from simulations.experiment.simulate import Simulation, prepare, reopen, simulate
from simulations.report.command import report_command
from simulations.sweep.command import sweep_command

__all__ = ["main"]

app = command_group("Simulate federations, sweep privacy budgets, audit claims.")
data = command_group("Benchmark data.")
app.add_typer(data, name="data")
items = command_group("Public item features.")
app.add_typer(items, name="items")
items.command("encode")(encode_command)
app.command("pretrain")(pretrain_command)
app.command("accountant")(accountant_command)
app.command("audit")(audit_command)
app.command("report")(report_command)
app.command("sweep")(sweep_command)
app.command("calibrate")(calibrate_command)


@app.command("simulate")
def simulate_command(  # noqa: PLR0913 each is a command-line option
    *,
    out: Annotated[Path, typer.Option(help="Folder for everything of the run.")],
    data_folder: DataOption = None,
    catalogue: CatalogueOption = None,
    public: PublicOption = None,
    organisations: OrganisationsOption = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of training.")] = None,
    epsilon: EpsilonOption = None,
    delta: DeltaOption = None,
    partition: PartitionOption = None,
    engine: Annotated[Engine | None, typer.Option(help="What runs the apps.")] = None,
    seed: SeedOption = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print result.json at the end.")] = False,
) -> None:
    """Train one recommender over simulated organisations and measure it.

    What is given later wins: --config, then options, then --set. See: sotto-lab settings.
    """
    options = paths(data=data_folder, catalogue=catalogue, public=public) | {
        "lab.organisations": organisations,
        "privacy.epsilon": number(epsilon),
        "privacy.delta": delta,
        "lab.partition": partition,
        "seed": seed,
        "training.rounds": rounds,
        "lab.engine": engine,
    }
    if resume:
        simulation = reopen(out, options, assignments or [])
    else:
        simulation = prepare(read_settings(config, options, assignments or []), out)
    _tell_data(simulation)
    with bars() as drawn:
        result = simulate(simulation, Bars(drawn))
    if as_json:
        write_json(result)
    else:
        _tell_result(result, out)


@app.command("prepare")
def prepare_command(  # noqa: PLR0913 each is a command-line option
    *,
    out: Annotated[Path, typer.Option(help="Folder for catalogue, sites and results.")],
    data_folder: DataOption = None,
    catalogue: CatalogueOption = None,
    public: PublicOption = None,
    organisations: OrganisationsOption = None,
    epsilon: EpsilonOption = None,
    delta: DeltaOption = None,
    partition: PartitionOption = None,
    seed: SeedOption = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Write the sites of a federation, to be run with `flwr run .` instead of `simulate`."""
    options = paths(data=data_folder, catalogue=catalogue, public=public) | {
        "lab.organisations": organisations,
        "privacy.epsilon": number(epsilon),
        "privacy.delta": delta,
        "lab.partition": partition,
        "seed": seed,
    }
    simulation = prepare(read_settings(config, options, assignments or []), out)
    _tell_data(simulation)
    file = _write_run_config(simulation)
    messages.print(
        "Run it with Flower's own command:\n"
        f"  flwr run . --run-config {file} "
        f'--federation-config "num-supernodes={len(simulation.parts)}" --stream',
        soft_wrap=True,
    )


@app.command("settings")
def settings_command(
    as_json: Annotated[bool, typer.Option("--json", help="As data.")] = False,
) -> None:
    """List every setting that --config and --set take, with its default."""
    found = settings()
    if as_json:
        write_json([asdict(setting) for setting in found])
        return
    table = Table("setting", "default", "meaning")
    for setting in found:
        default = "(state it)" if setting.default is None else json.dumps(setting.default)
        table.add_row(setting.key, default, setting.meaning)
    output.print(table)


@data.command("fetch")
def fetch_command(
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(datasets.SOURCES)}.")],
    to: Annotated[Path, typer.Option(help="Folder to put it in.")] = Path("data"),
    url: Annotated[str | None, typer.Option(help="A mirror; the checksum still holds.")] = None,
    sha256: Annotated[str | None, typer.Option(help="Another checksum to demand.")] = None,
) -> None:
    """Download a benchmark from its publisher, verify its checksum, unpack it."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=messages) as shown:
        task = shown.add_task(f"fetching {name}", total=None)
        folder = datasets.fetch(
            name,
            to,
            url=url,
            sha256=sha256,
            progress=lambda done, total: shown.update(task, completed=done, total=total),
        )
    messages.print(f"{name} is in {folder}. Train on it: sotto-lab simulate --data {folder} ...")


def main() -> None:
    """The console command; see `shared.system.command_line` for its exit codes."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    run(app, interrupted="finished rounds are saved: go on with --resume")


def _write_run_config(simulation: Simulation) -> Path:
    folder = simulation.folder.resolve()
    run = simulation.config.run(
        organisations=len(simulation.parts),
        catalogue=folder / "catalogue",
        out=folder,
        resume=False,
    )
    flat = RunConfig.to_flat(run) | {"paths.sites": str(folder / "sites")}
    file = folder / "flower.toml"
    lines = [f'"{key}" = {json.dumps(value)}' for key, value in flat.items()]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def _tell_data(simulation: Simulation) -> None:
    histories, dropped = simulation.dataset.histories, simulation.dataset.histories.dropped
    sizes = sorted(len(rows) for rows in simulation.parts)
    messages.print(
        f"{simulation.dataset.name}: {len(histories):,} users, "
        f"{len(simulation.dataset.catalogue):,} items, {histories.events:,} interactions, "
        f"{len(sizes)} organisations of {sizes[0]:,} to {sizes[-1]:,} users"
    )
    if any(dropped.values()):
        counts = ", ".join(f"{count:,} {why}" for why, count in dropped.items() if count)
        messages.print(f"left out: {counts.replace('_', ' ')}")


_TITLES = {
    "popularity": "most popular, exact",
    "popularity_private": "most popular, same ε",
    "markov": "Markov counts, exact",
    "local": "each organisation alone",
    "federated": "federated",
    "federated_new": "federated, cold as new",
}


def _tell_result(result: dict[str, Any], out: Path) -> None:
    privacy, evaluation = result["privacy"], result["evaluation"]
    # Those of accuracy and coverage: what fits a terminal.
    figures = list(next(iter(evaluation["models"].values())))[:4]
    table = Table(title=f"{evaluation['users']:,} users, {evaluation['protocol']}")
    table.add_column("model")
    for name in figures:
        table.add_column(name, justify="right")
    for name, values in evaluation["models"].items():
        style = "bold" if name == "federated" else ""
        cells = [f"{values[figure]:.4f}" for figure in figures]
        table.add_row(_TITLES[name], *cells, style=style)
    output.print(table)
    if "cold" in evaluation:
        output.print(_cold(evaluation["cold"]), soft_wrap=True)
    output.print(_claim(privacy), soft_wrap=True)
    seconds = result["cost"]["seconds"]
    output.print(
        f"{seconds['total']:.0f} s in all, {seconds['train']:.0f} s training together; "
        f"{result['cost']['bytes_up_per_round'] / 1e6:.1f} MB up and "
        f"{result['cost']['bytes_down_per_round'] / 1e6:.1f} MB down a round"
    )
    output.print(f"Written to {out}: result.json, model/, sites/*/ledger.sqlite", soft_wrap=True)


def _cold(cold: dict[str, Any]) -> str:
    text = f"{cold['items']:,} cold items, asked for by {cold['users']:,} users"
    figures = [f"{_TITLES[name]} {values['hr@10']:.4f}" for name, values in cold["models"].items()]
    return f"{text}; hr@10: {', '.join(figures)}" if figures else text


def _claim(privacy: dict[str, Any]) -> str:
    if not privacy["private"]:
        return "Trained WITHOUT privacy: fit for public data only."
    worst = max(privacy["organisations"], key=lambda organisation: organisation["epsilon"])
    return (
        f"Each user's whole history is ({worst['epsilon']:.2f}, {privacy['delta']:g})-"
        f"differentially private towards the coordinator (worst: {worst['name']}; add or remove "
        "one user; numerical composition).\n"
        "Simulated noise is seeded, so these files themselves protect nobody."
    )
