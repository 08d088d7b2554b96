"""How well a run serves each public group: exactly, and as its organisations released it.

The lab's exact figures are of the events that are asked for, over all users; the release is of each
user's last training event, with noise, as a real run has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.compute.groups import user_cells
from server.noise_plan import plan_noise, release_of
from shared.config import RunConfig
from shared.evaluation.group_figures import TableFigures, table_figures
from shared.evaluation.paired import ndcg_gains
from shared.evaluation.ranking import Ranking
from shared.groups import Table, columns_of, tables_of
from shared.models.attention import AttentionRecommender
from shared.models.popularity import popularity_ranks
from shared.privacy.accounting.accountant import epsilon
from shared.privacy.release import ReleaseKind
from simulations.experiment.result_json import Groups
from simulations.experiment.simulation import Simulation

__all__ = ["asked_cells", "exact_figures", "groups_section"]

SHOWN = ("popularity", "federated", "federated_home")
"""Models whose figures are given by group."""
K = 10


def groups_section(
    simulation: Simulation,
    rankings: Mapping[str, Ranking],
    model: AttentionRecommender,
    released: Mapping[str, Any],
) -> Groups | None:
    """Return the section "groups" of result.json; None where the run names no groups.

    Args:
        simulation: the run.
        rankings: by model, of all users who are asked.
        model: the published one: its popularity tells tastes apart.
        released: as the run's status has it; {} where nothing was.
    """
    tables = tables_of(simulation.config.groups.tables)
    if not tables:
        return None
    cells = asked_cells(simulation, tables, model)
    exact = {
        name: [one.as_dict() for one in exact_figures(tables, cells, rankings[name].ranks.numpy())]
        for name in SHOWN
        if name in rankings
    }
    config = simulation.run_config(simulation.folder)
    return Groups.model_validate(
        {"exact": exact, "released": _release(config, released) if released else None},
        strict=False,
    )


def asked_cells(
    simulation: Simulation, tables: tuple[Table, ...], model: AttentionRecommender
) -> NDArray[np.int64]:
    """Return the cell of each user who is asked, in each table: [M, G]."""
    inputs, groups = simulation.evaluation_split.test_inputs, simulation.dataset.groups
    rows = {user: row for row, user in enumerate(simulation.dataset.histories.users)}
    names = columns_of(tables)
    columns = {
        user: {name: groups[name][rows[user]] for name in names if name in groups}
        for user in inputs.users
    }
    return user_cells(tables, inputs, columns, popularity_ranks(model))


def exact_figures(
    tables: tuple[Table, ...], cells: NDArray[np.int64], ranks: NDArray[np.int64]
) -> list[TableFigures]:
    """Return the exact figures of each table.

    Args:
        tables: of groups.
        cells: of the M users, [M, G].
        ranks: of their items, 1 the best, [M].
    """
    hits = (ranks <= K).astype(np.float64)
    gains = ndcg_gains(ranks, K)
    found = []
    for place, table in enumerate(tables):
        columns = (hits, gains, np.ones(len(ranks)), gains**2)
        sums = np.zeros((table.size, len(columns)))
        np.add.at(sums, cells[:, place], np.stack(columns, axis=1))
        figures = table_figures(table.text, table.cells, sums[:, :3], squares=sums[:, 3])
        found.append(figures)
    return found


def _release(config: RunConfig, released: Mapping[str, Any]) -> dict[str, Any]:
    noise = plan_noise(config).groups
    asked = release_of(config, ReleaseKind.EVALUATE, noise, 1.0, config.measurements)
    alone = epsilon([asked], config.privacy.delta)
    return dict(released) | {"epsilon_alone": alone, "share": config.groups.share}
