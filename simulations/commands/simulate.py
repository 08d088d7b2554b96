"""sotto-lab simulate and prepare: run a federation on one machine, or write its sites."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import tomli_w
import typer

from shared.config import RunConfig
from shared.system.command_line import messages, write_json
from simulations.commands.options import (
    CatalogueOption,
    ConfigOption,
    DataOption,
    DeltaOption,
    EngineOption,
    EpsilonOption,
    OrganisationsOption,
    PartitionOption,
    PublicOption,
    RerankOption,
    RerankStrengthOption,
    RoundsOption,
    SeedOption,
    SetOption,
    TrustOption,
    settings_from,
)
from simulations.commands.print_simulation import print_data, print_result
from simulations.commands.progress import Bars, bars
from simulations.experiment.config import SETTINGS, read_settings
from simulations.experiment.prepare import prepare, reopen
from simulations.experiment.simulate import simulate
from simulations.experiment.simulation import Simulation

__all__ = ["LabTask", "prepare_command", "simulate_command"]


class LabTask(StrEnum):
    """What is trained."""

    RECOMMEND = "recommend"
    OVER_USE = "over-use"


def simulate_command(  # noqa: PLR0913 each is a command-line option
    *,
    out: Annotated[Path, typer.Option(help="Folder for the run: sites, model and results.")],
    data_folder: DataOption = None,
    catalogue: CatalogueOption = None,
    public: PublicOption = None,
    organisations: OrganisationsOption = None,
    rounds: RoundsOption = None,
    epsilon: EpsilonOption = None,
    delta: DeltaOption = None,
    trust: TrustOption = None,
    partition: PartitionOption = None,
    engine: EngineOption = None,
    seed: SeedOption = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    rerank: RerankOption = None,
    rerank_strength: RerankStrengthOption = None,
    task: Annotated[
        LabTask,
        typer.Option(
            help="'recommend': a recommender. 'over-use': the risk of over-use, from when users "
            "were active; without --data on invented users, 'movielens' is the embedded data."
        ),
    ] = LabTask.RECOMMEND,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print result.json at the end.")] = False,
    baselines: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps baselines without ε, for further runs on these data."),
    ] = None,
) -> None:
    """Train one model over simulated organisations, and evaluate it.

    Settings come from --config, then from the options, then from --set; the later one wins.
    `sotto-lab settings` lists them all.
    """
    options = settings_from(
        data=data_folder,
        catalogue=catalogue,
        public=public,
        organisations=organisations,
        epsilon=epsilon,
        delta=delta,
        trust=trust,
        partition=partition,
        seed=seed,
        rounds=rounds,
        engine=engine,
        rerank=rerank,
        rerank_strength=rerank_strength,
    )
    if task is LabTask.OVER_USE:
        _simulate_over_use(config, options, assignments or [], out, resume=resume, as_json=as_json)
        return
    if resume:
        simulation = reopen(out, options, assignments or [])
    else:
        simulation = prepare(read_settings(config, options, assignments or []), out)
    print_data(simulation)
    with bars() as drawn:
        result = simulate(simulation, Bars(drawn), baselines=baselines)
    if as_json:
        write_json(result)
    else:
        print_result(result, out)


def _simulate_over_use(
    file: Path | None,
    options: dict[str, Any],
    assignments: list[str],
    out: Path,
    *,
    resume: bool,
    as_json: bool,
) -> None:
    # With them comes scipy, which a recommender does without.
    from simulations.over_use.command import print_result as print_risks  # noqa: PLC0415
    from simulations.over_use.simulate import (  # noqa: PLC0415
        read_over_use_settings,
        simulate_over_use,
    )

    source = out / SETTINGS if resume and (out / SETTINGS).is_file() else file
    settings = read_over_use_settings(source, options, assignments)
    result = simulate_over_use(settings, out, messages.print, resume=resume)
    if as_json:
        write_json(result)
    else:
        print_risks(result, out)


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
    options = settings_from(
        data=data_folder,
        catalogue=catalogue,
        public=public,
        organisations=organisations,
        epsilon=epsilon,
        delta=delta,
        partition=partition,
        seed=seed,
    )
    simulation = prepare(read_settings(config, options, assignments or []), out)
    print_data(simulation)
    file = _write_run_config(simulation)
    messages.print(
        "Run it with Flower's own command:\n"
        f"  flwr run . --run-config {file} "
        f'--federation-config "num-supernodes={len(simulation.parts)}" --stream',
        soft_wrap=True,
    )


def _write_run_config(simulation: Simulation) -> Path:
    """Write the run configuration that `flwr run` takes."""
    folder = simulation.folder.resolve()
    run = simulation.config.run(
        organisations=len(simulation.parts),
        catalogue=folder / "catalogue",
        out=folder,
        resume=False,
    )
    flat = RunConfig.to_flat(run) | {"paths.sites": str(folder / "sites")}
    file = folder / "flower.toml"
    file.write_text(tomli_w.dumps(flat), encoding="utf-8")
    return file
