"""Ask once how well the model serves each public group, and divide the sums.

One noised release of every organisation that answers "evaluate". That after the last round is of
the published weights, and nothing of the run depends on it; others weigh the groups in the rounds
that follow (`server.rounds.group_weights`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.serverapp import Grid

from server.rounds.collection import LookUp, Memory
from server.rounds.collection_report import CollectionReport
from server.rounds.replies import Sums
from server.rounds.requests import evaluation_spec
from server.rounds.secure_collection import SecureCollection, collection_of
from server.state.attempts import Attempts
from shared.config import RunConfig
from shared.evaluation.group_figures import table_figures
from shared.messages import SUMS, EvaluateRequest

__all__ = ["GroupMeasurement", "measured_groups"]

log = logging.getLogger("sotto.server")


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupMeasurement:
    """Asks for the figures of groups.

    Attributes:
        grid: Flower's.
        look_up: returns the organisations.
        config: the run's parameters.
        on_finish: called with the collection's report.
        attempts: the run's counter under secure aggregation; None where each site answers for
            itself.
    """

    grid: Grid
    look_up: LookUp
    config: RunConfig
    on_finish: Callable[[CollectionReport], None] = lambda _: None
    attempts: Attempts | None = None

    def ask(self, request: EvaluateRequest, before: int = 0) -> dict[str, Any]:
        """Return the figures of all users and of each table's groups; {} where noise hides all.

        Organisations that do not answer are left out: a partner may decline metrics.

        Args:
            request: what is asked.
            before: the round that it precedes; 0 for the measurement after the last one.
        """
        when = f" before round {before}" if before else ""
        spec = evaluation_spec(request, f"the measurement of groups{when}")
        collection = collection_of(spec, self.config, Memory(), self.attempts)
        if isinstance(collection, SecureCollection):
            collection.ask_once(self.grid, self.look_up)
        else:
            messages = collection.requests(self.grid, self.look_up(self.grid))
            timeout = self.config.server.deadline_seconds
            collection.take(self.grid.send_and_receive(messages, timeout=timeout))
        self.on_finish(collection.report)
        return measured_groups([sums for _, sums in collection.valid], request)


def measured_groups(replies: Sequence[Sums], request: EvaluateRequest) -> dict[str, Any]:
    """Return the figures that follow from the organisations' noised sums, as JSON has them.

    Args:
        replies: sums of each organisation, [m].
        request: that they answer.

    Returns:
        "k"; "organisations", how many answered; "noise", the standard deviation of the noise in
        each sum; "all", HR@k, NDCG@k and users of all together; "tables", see
        `shared.evaluation.group_figures`. {} where nobody answered, or noise hides all users.
    """
    noise_std = request.noise_multiplier * request.clip_norm * math.sqrt(len(replies))
    sums = np.zeros(request.numbers) + sum(reply.astype(np.float64) for reply in replies)
    blocks = sums.reshape(-1, len(SUMS))  # all users, then cell after cell
    everybody = table_figures("", ("all", ""), np.stack([blocks[0], np.zeros(3)]), noise_std)
    if not replies or everybody.groups[0].ndcg is None:
        log.warning("the measurement of groups: too few users for figures above the noise")
        return {}
    tables, start = [], 1
    for table in request.tables:
        part = blocks[start : start + table.size]
        tables.append(table_figures(table.text, table.cells, part, noise_std).as_dict())
        start += table.size
    overall = everybody.as_dict()["groups"][0]
    return {
        "k": request.k,
        "organisations": len(replies),
        "noise": noise_std,
        "all": {name: overall[name] for name in ("users", "hr", "ndcg", "low", "high")},
        "tables": tables,
    }
