"""The task "over-use" of `sotto-lab simulate`: one run of the model, at one ε.

Settings are those of every simulation. What they leave at its default is this task's own: the shape
of the model, and for a data set how users are labelled. What ranks, or is of items, has no place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from shared.config import ModelConfig, ModelKind
from shared.errors import CheckpointError, ConfigError
from shared.over_use_task import OverUseTask
from shared.sections import Value, flatten
from simulations.experiment.config import SETTINGS, SimulationConfig, read_settings
from simulations.over_use.federation import SHAPE, Plan
from simulations.over_use.run import Experiment, run_experiment
from simulations.over_use.task import COHORT, DATA_TASK, read_task

__all__ = ["read_over_use_settings", "simulate_over_use"]


def read_over_use_settings(
    file: Path | None, options: Mapping[str, Value | None], assignments: Iterable[str]
) -> SimulationConfig:
    """Put the settings together as `read_settings` does, with this task's defaults.

    Raises:
        ConfigError: the file cannot be read, or a key or value does not fit.
    """
    given = dict(options)
    config = read_settings(file, given, assignments)
    if config.model.kind not in (ModelKind.ATTENTION, ModelKind.OVER_USE):
        raise ConfigError(f"model.kind = '{config.model.kind}' with --task over-use: leave it out.")
    config = replace(config, model=_with_defaults(config.model, ModelConfig(), SHAPE))
    if config.lab.data:
        config = replace(config, over_use=_with_defaults(config.over_use, OverUseTask(), DATA_TASK))
    return config


def _with_defaults(stated: Any, default: Any, own: Any) -> Any:  # noqa: ANN401 one section
    """Return a section with this task's values where it says nothing else."""
    values = {
        name: getattr(own, name)
        for name in type(default).__dataclass_fields__
        if getattr(stated, name) == getattr(default, name)
    }
    return replace(stated, **values)


def simulate_over_use(
    config: SimulationConfig,
    folder: Path,
    notify: Callable[[str], None],
    *,
    resume: bool = False,
) -> dict[str, Any]:
    """Train the model over simulated organisations, measure it, and write the result.

    Args:
        config: the settings.
        folder: of the run; empty or absent, unless it is resumed.
        notify: gets the progress.
        resume: whether to go on with the run in the folder.

    Returns:
        The result, as written to over-use.json.

    Raises:
        ConfigError: the folder is not empty, or a setting does not fit.
        CheckpointError: there is no run to resume, or it had other settings.
        DataError: the data cannot be read.
    """
    _check_folder(config, folder, resume=resume)
    rounds = config.training.rounds
    plan = Plan(
        privacy=config.privacy,
        model=config.model,
        rounds=None if rounds == "plan" else rounds,
        training=replace(config.training, rounds="plan"),
        server=config.server,
        engine=config.lab.engine,
    )
    task = read_task(
        config.lab.data or COHORT,
        config.lab.cohort,
        config.seed,
        config.over_use,
        config.model.max_length,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SETTINGS).write_text(config.to_toml(), encoding="utf-8")
    experiment = Experiment(
        plans=[plan], organisations=config.lab.organisations, splits=1, seed=config.seed
    )
    return run_experiment(task, experiment, folder, notify)


def _check_folder(config: SimulationConfig, folder: Path, *, resume: bool) -> None:
    """Refuse a folder that is not for this run."""
    file = folder / SETTINGS
    if not resume:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(
                f"{folder} is not an empty folder: resume the run in it (--resume), name another "
                "with --out, or remove it."
            )
        return
    if not file.is_file():
        raise CheckpointError(f"{folder} holds no run to resume: start it without --resume.")
    if flatten(read_settings(file, {}, [])) != flatten(config):
        raise CheckpointError(
            f"the run in {folder} was started with other settings: give the same ones, or start a "
            "new run in another folder."
        )
