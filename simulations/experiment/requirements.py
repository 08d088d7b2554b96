"""Check a simulation before anything is written: its settings, its users, its held-out events.

A run that lacks something would otherwise stop after its organisations have paid.

| what is missing                                              | what happens                  |
|--------------------------------------------------------------|-------------------------------|
| the server, the noise plan or the model refuses a setting    | refused, as they say it       |
| what `rerank.method` looks at of items                       | refused                       |
| the data have no such column of groups, or no such value in it| refused, with those there are |
| a rule that needs several organisations, with `lab.alone`    | refused: one trains by itself |
| a device that is not there                                   | refused                       |
| δ is not below 1 / an organisation's users                   | refused                       |
| an organisation with fewer than two users                    | refused, with its name        |
| an organisation without a user who has two training events   | refused, with its name        |
| no test event, or no validation event, in all of the data    | refused                       |
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from server.aggregation.robust import check_aggregation
from server.noise_plan import check_masking, plan_noise
from shared.data.histories import Histories
from shared.errors import ConfigError, DataError
from shared.groups import tables_of, weighted_of
from shared.models.registry import build
from shared.rerank.reranker import check_reranking
from simulations.experiment.config import by_itself
from simulations.experiment.simulation import Simulation

__all__ = ["check_groups", "check_requirements"]

MIN_USERS, MIN_EVENTS = 2, 2
"""Fewest users of an organisation; fewest training events of a user that the model learns from."""


def check_requirements(simulation: Simulation) -> None:
    """Check everything that a run needs and that can be known before it starts.

    Raises:
        SottoError: see the table at the top of this module.
    """
    _check_settings(simulation)
    check_reranking(simulation.config.rerank, simulation.dataset.catalogue)
    check_groups(simulation)
    _check_held_out(simulation)
    _check_populations(simulation)
    for number, name in enumerate(simulation.names):
        _check_organisation(simulation, name, simulation.histories(number))


def _check_settings(simulation: Simulation) -> None:
    """Let every part of a run that can refuse a setting see the settings."""
    config, here = simulation.config, Path()
    # "Each alone" is a federation of one organisation.
    sizes = (len(simulation.parts), *([1] if config.lab.alone else []))
    for organisations in sizes:
        settings = config if organisations == sizes[0] else by_itself(config)
        run = settings.run(organisations=organisations, catalogue=here, out=here, resume=False)
        try:
            check_aggregation(run.server)
        except ConfigError as error:
            if organisations == len(simulation.parts):
                raise
            raise ConfigError(
                f"{error} Each organisation alone cannot be trained so: set lab.alone = false."
            ) from None
    run = config.run(organisations=sizes[0], catalogue=here, out=here, resume=False)
    check_masking(run, simulated=True)
    plan_noise(run)
    with torch.random.fork_rng():
        build(run.model, simulation.dataset.catalogue)
    _check_device(config.lab.device)


def _check_device(name: str) -> None:
    if name == "auto":
        return
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"lab.device = '{name}': choose auto, cpu, cuda or cuda:N.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"lab.device = '{name}', but no CUDA device is visible: choose 'auto'.")


def _check_populations(simulation: Simulation) -> None:
    privacy = simulation.config.privacy
    largest = max(simulation.populations)
    if privacy.delta >= 1 / largest:
        raise ConfigError(
            f"privacy.delta = {privacy.delta:g} is not below 1 / {largest}, an organisation's "
            "users: at such a δ a mechanism may publish a user outright. Choose one below "
            f"{1 / largest:.2g}, 1e-5 for instance."
        )


def check_groups(simulation: Simulation) -> None:
    """Refuse groups that nobody is in: a misspelt one would be measured as empty."""
    settings, known = simulation.config.groups, simulation.dataset.groups
    weighted = weighted_of(settings.weights)
    for table in (*tables_of(settings.tables), *([weighted.table] if weighted else [])):
        for factor in table.factors:
            if not factor.values:
                continue
            if factor.name not in known:
                raise ConfigError(
                    f"groups of '{factor.name}': the data's table of users has no such column with "
                    f"2 to 12 values; it has {', '.join(known) or 'none'}."
                )
            values = sorted(set(known[factor.name]))
            for value in (value for of_class in factor.values for value in of_class):
                if value not in values:
                    raise ConfigError(
                        f"groups of '{factor.name}': nobody has '{value}'; the values are "
                        f"{', '.join(values)}."
                    )


def _check_held_out(simulation: Simulation) -> None:
    split = simulation.split
    if len(split.test_targets) and len(split.validation_targets):
        return
    which = "test" if not len(split.test_targets) else "validation"
    raise DataError(
        f"the data leave nothing to {'test' if which == 'test' else 'validate'}: no user has a "
        f"{which} event",
        file=simulation.config.lab.data or simulation.dataset.name,
        remedy="Leave-one-out takes users with three events: the last is the test event, the one "
        "before it the validation event, the rest train. Bring longer histories."
        if simulation.cuts is None
        else "With a cut in time, a user with events before and after it has one. Set "
        "lab.validation_share or lab.test_share higher, or choose lab.split = 'test'.",
    )


def _check_organisation(simulation: Simulation, name: str, histories: Histories) -> None:
    # Before a cut in time, some of an organisation's users are not there yet.
    users = len(histories) if simulation.cuts is None else np.count_nonzero(histories.lengths)
    if users < MIN_USERS:
        when = "" if simulation.cuts is None else " before the cut in time"
        raise ConfigError(
            f"{name} has {users} user{'' if users == 1 else 's'}{when}, of "
            f"{len(simulation.dataset.histories):,} in all: an organisation takes {MIN_USERS} or "
            "more. Choose fewer organisations, or bring more users."
        )
    config = simulation.config
    needed = MIN_EVENTS + (config.server.evaluate_every > 0 or config.groups.share > 0)
    if histories.lengths.max() < needed:
        longest = int(simulation.dataset.histories.lengths.max())
        raise DataError(
            f"nothing is left to train on at {name}: no user has {needed} training events "
            f"(the longest history of the data has {longest} events)",
            file=simulation.config.lab.data or simulation.dataset.name,
            remedy=_remedy_of_training(simulation, needed),
        )


def _remedy_of_training(simulation: Simulation, needed: int) -> str:
    if simulation.cuts is not None:
        return (
            "Only events before the cut in time train: set lab.validation_share or lab.test_share "
            "lower, or choose lab.split = 'test'."
        )
    lower = ", or set lab.cold lower." if simulation.config.lab.cold else "."
    return (
        f"The last two events of a user are held out: bring users with {needed + 2} events or "
        f"more{lower}"
    )
