"""sotto-lab sweep: simulate every combination of some settings, or search over them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from shared.errors import ConfigError
from shared.system.command_line import failed, messages, write_json
from simulations.commands.options import (
    CatalogueOption,
    DataOption,
    DeltaOption,
    EngineOption,
    OrganisationsOption,
    PartitionOption,
    PublicOption,
    RoundsOption,
    SetOption,
    settings_from,
)
from simulations.experiment.config import Split, read_toml
from simulations.sweep.axes import parse_axes
from simulations.sweep.folder import BEST, SweepFolder, resolve_plan
from simulations.sweep.options import (
    EpsilonsOption,
    GridOption,
    JobsOption,
    KeepOption,
    RayOption,
    RecipesOption,
    SamplerOption,
    SearchOption,
    SeedsOption,
    SpaceOption,
    ThreadsOption,
    TrialsOption,
)
from simulations.sweep.plan import Plan, SweepOptions
from simulations.sweep.print_sweep import print_outcome, print_plan, sweep_data
from simulations.sweep.progress import sweep_progress
from simulations.sweep.search import SearchPlan, plan_search, search_options
from simulations.sweep.search_cost import search_cost
from simulations.sweep.table import Outcome
from simulations.sweep.trials import Trials
from simulations.sweep.work import Grid, Source, work
from simulations.sweep.workers import LocalWorkers, RayWorkers, Workers, cores, devices

__all__ = ["sweep_command"]


def sweep_command(  # noqa: PLR0913 each is a command-line option
    *,
    out: Annotated[Path, typer.Option(help="Folder for the sweep: runs, logs and the table.")],
    config: RecipesOption = None,
    epsilons: EpsilonsOption = None,
    seeds: SeedsOption = None,
    grid: GridOption = None,
    search: SearchOption = None,
    space: SpaceOption = None,
    trials: TrialsOption = None,
    sampler: SamplerOption = None,
    data_folder: DataOption = None,
    catalogue: CatalogueOption = None,
    public: PublicOption = None,
    organisations: OrganisationsOption = None,
    rounds: RoundsOption = None,
    delta: DeltaOption = None,
    partition: PartitionOption = None,
    engine: EngineOption = None,
    assignments: SetOption = None,
    jobs: JobsOption = None,
    threads: ThreadsOption = 1,
    ray: RayOption = None,
    keep: KeepOption = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the sweep in --out; so does the same command."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the runs, and start none.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Simulate every combination of ε, seeds and other settings, or search over settings.

    Each run is a `sotto-lab simulate` in a process and a folder of its own. For example:

    sotto-lab sweep --epsilons 1,2,4,8,none --seeds 0,1,2 --delta 1e-5 --out runs/frontier

    sotto-lab sweep --search 20 --space model.recency=.5..1 --space warm_start.own_items=0|200
    --set privacy.epsilon=8 --delta 1e-5 --out runs/search

    Exit code 1: a run failed. The others still ran; the same command tries it again.
    """
    if search is None and (space or trials or sampler):
        raise ConfigError(
            "--space, --trials and --sampler need --search: state the number of trials."
        )
    options = SweepOptions(
        recipes=config or [],
        options=settings_from(
            data=data_folder,
            catalogue=catalogue,
            public=public,
            organisations=organisations,
            rounds=rounds,
            delta=delta,
            partition=partition,
            engine=engine,
        )
        | {"lab.split": None if search is None else _validation_split(config or [])},
        assignments=assignments or [],
        axes=parse_axes(epsilons, seeds, grid or []),
        keep=keep,
    )
    search_settings = {} if search is None else search_options(search, trials, sampler, space or [])
    _check(jobs, threads)
    folder = SweepFolder(out)
    plan = resolve_plan(folder, options, search_settings, resume=resume)
    planned = plan_search(plan) if plan.search else None
    if dry_run:
        print_plan(folder, plan, planned, as_json=as_json)
        return
    source = _run(folder, plan, planned, _workers(ray, jobs, threads))
    cost = search_cost(planned, plan, source.total) if planned else None
    if as_json:
        write_json(sweep_data(folder, source, cost))
    else:
        print_outcome(folder, source, cost)
    if any(outcome.status == "failed" for outcome in source.outcomes):
        failed()


def _run(folder: SweepFolder, plan: Plan, search: SearchPlan | None, workers: Workers) -> Source:
    """Run all that is planned, and write the settings of a search's best trial."""
    with folder.locked():
        folder.write_plan(plan)
        source: Source = Trials(search, plan, folder) if search else Grid(plan.runs(), folder)
        with sweep_progress(source.total, source.outcomes, messages) as progress:
            work(source, workers, folder, plan.keep, progress)
    if isinstance(source, Trials) and source.best is not None:
        _write_best(folder, source.best)
    return source


def _check(jobs: int | None, threads: int) -> None:
    for option, value in (("--jobs", jobs), ("--threads", threads)):
        if value is not None and value < 1:
            raise ConfigError(f"{option} {value}: choose a whole number >= 1.")


def _workers(ray: str | None, jobs: int | None, threads: int) -> Workers:
    if ray is not None:
        if jobs is not None:
            raise ConfigError(
                "--jobs with --ray: the cluster's cores set the number of jobs. Leave one out."
            )
        return RayWorkers(ray, threads)
    return LocalWorkers(jobs or len(devices()) or max(1, cores() // threads), threads)


def _validation_split(recipes: Sequence[Path]) -> Split:
    """Return the validation events of the split that a recipe states; leave-one-out by default."""
    stated = {read_toml(file).get("lab.split") for file in recipes}
    temporal = any(split.temporal and split in stated for split in Split)
    return Split.TEMPORAL_VALIDATION if temporal else Split.VALIDATION


def _write_best(folder: SweepFolder, best: Outcome) -> None:
    """Write the best trial's settings, for one evaluation on test items."""
    split = best.run.config.lab.split
    text = best.run.config.to_toml().replace(f'split = "{split}"', f'split = "{split.on_test}"')
    (folder.path / BEST).write_text(text, encoding="utf-8")
