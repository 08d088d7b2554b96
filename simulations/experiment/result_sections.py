"""The sections of result.json, each filled from what a simulation did.

A new column is a field in `simulations.experiment.result_json` and a value here.
"""

from __future__ import annotations

import platform
import resource
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from server.state.audit_log import AuditEvent
from server.state.status import RunStatus
from server.training_plan import TrainingPlan
from shared.config import PrivacyConfig
from shared.data.friends import FriendTable, bounded
from shared.data.splits import HeldOut
from shared.evaluation.exposure import arp, exposure, gini
from shared.evaluation.ranking import Ranking
from shared.rerank.price import Price
from shared.rerank.settings import RerankConfig
from simulations.datasets.load import Dataset
from simulations.experiment.federation import LedgerCost
from simulations.experiment.result_json import (
    BeforeAfter,
    Cost,
    Data,
    DataOrganisation,
    Evaluation,
    Exposure,
    Friends,
    Plan,
    Privacy,
    PrivacyOrganisation,
    Reranking,
    Round,
    Seconds,
    Timing,
)

__all__ = [
    "cost_section",
    "data_section",
    "evaluation_section",
    "friends_section",
    "plan_section",
    "privacy_section",
    "reranking_section",
    "rounds_section",
]

_PROTOCOL = "leave-one-out, full ranking, seen items removed"
_TEMPORAL_PROTOCOL = "one cut in time, full ranking, seen items removed"
_TIES = "equal scores in the order of the catalogue, the target behind all that tie with it"


def plan_section(plan: TrainingPlan) -> Plan:
    """Return what a plan chose."""
    return Plan(
        noise=plan.noise,
        statistics_share=plan.share,
        rounds=plan.rounds,
        learning_rate=plan.learning_rate,
        drowned=plan.drowned,
        sentence=str(plan),
    )


def data_section(dataset: Dataset, populations: Mapping[str, int]) -> Data:
    """Return what was trained on; `populations` is by organisation."""
    summary = dataset.histories.summary.without_private_ids()
    return Data(
        name=dataset.name,
        users=len(dataset.histories),
        items=len(dataset.catalogue),
        interactions=dataset.histories.events,
        organisations=tuple(
            DataOrganisation(name=name, population=population)
            for name, population in populations.items()
        ),
        rows=summary.rows,
        dropped=dict(summary.dropped),
        rewritten=dict(summary.rewritten),
        merged=dict(summary.merged),
        ties=summary.ties,
        examples=dict(summary.examples),
        warnings=(*summary.warnings(), *map(str, dataset.catalogue.ignored)),
    )


def friends_section(
    alpha: float, beta: float, friends: FriendTable, own: Sequence[FriendTable], most: int
) -> Friends:
    """Return what was learned of friends.

    Args:
        alpha: of the model.
        beta: likewise.
        friends: of the data set.
        own: of each organisation.
        most: others whose friend a user is at most, in what training reads.
    """
    return Friends(
        alpha=alpha,
        beta=beta,
        given=len(friends.friends),
        within=sum(len(table.friends) for table in own),
        bounded=sum(len(bounded(table, most).friends) for table in own),
    )


def privacy_section(
    privacy: PrivacyConfig, spent: Mapping[str, LedgerCost], home_epsilon: float | None = None
) -> Privacy:
    """Return the claim, and what the sites' own ledgers say was released and what it cost."""
    secure = privacy.secure
    home: dict[str, Any] = {} if home_epsilon is None else {"home_epsilon": home_epsilon}
    return Privacy(
        private=privacy.private,
        unit="user",
        adjacency="add-or-remove-one",
        delta=privacy.delta,
        trust=str(privacy.trust_asked),
        organisations=tuple(
            PrivacyOrganisation(
                name=name,
                epsilon=cost.epsilon if privacy.private else None,
                releases=cost.releases,
                **({"epsilon_if_all_collude": cost.epsilon_if_all_collude} if secure else {}),
            )
            for name, cost in spent.items()
        ),
        **(_secure_aggregation(privacy, len(spent)) if secure else {}),
        **home,
    )


def _secure_aggregation(privacy: PrivacyConfig, organisations: int) -> dict[str, Any]:
    return {
        "colluding": privacy.colluding_of(organisations),
        "dropouts": privacy.dropouts,
        "masking": str(privacy.masking),
    }


def evaluation_section(
    rankings: Mapping[str, Ranking], asked: HeldOut, split: str, time: Timing
) -> Evaluation:
    """Return each model's metrics over the same users, and the exposure of its recommendations.

    Args:
        rankings: by model, each of all M users who are asked, in the order of the split.
        asked: whose test is ranked; popularity is that of its training events.
        split: the name of the events that are asked for.
        time: how they lie in time.
    """
    users = {len(ranking.ranks) for ranking in rankings.values()}
    if len(users) != 1:
        raise ValueError(f"the models were measured over different users: {users}")
    items = next(iter(rankings.values())).items
    counts = np.bincount(asked.train.items, minlength=items + 1)[1:]  # [V]
    chosen = torch.from_numpy(asked.test_targets)[:, None]
    return Evaluation(
        protocol=_PROTOCOL if time.cut is None else _TEMPORAL_PROTOCOL,
        split=split,
        users=users.pop(),
        ties=_TIES,
        time=time,
        models={
            name: _figures(ranking, counts, len(asked.train)) for name, ranking in rankings.items()
        },
        exposure=Exposure(
            deciles="of the catalogue by training events, most popular first",
            chosen=_rounded(exposure(chosen, counts)),
            models={name: _rounded(exposure(r.top, counts)) for name, r in rankings.items()},
        ),
    )


def reranking_section(
    settings: RerankConfig, prices: Mapping[str, tuple[Price, Price]]
) -> Reranking:
    """Return the price of another order of lists.

    Args:
        settings: by which they were chosen.
        prices: by model, figures before and after.
    """
    return Reranking(
        method=str(settings.method),
        strength=settings.weight,
        by=str(settings.by),
        rare_places=settings.rare_places or None,
        rare=settings.rare,
        candidates=settings.candidates,
        models={
            name: BeforeAfter(before=before.as_dict(), after=after.as_dict())
            for name, (before, after) in prices.items()
        },
    )


def _figures(ranking: Ranking, counts: NDArray[np.int64], users: int) -> dict[str, float]:
    return ranking.metrics().as_dict() | {
        f"arp@{ranking.k}": arp(ranking.top, counts, users),
        f"gini@{ranking.k}": gini(ranking.top, ranking.items),
    }


def _rounded(shares: list[float]) -> tuple[float, ...]:
    return tuple(round(share, 6) for share in shares)


def rounds_section(
    entries: Iterable[Mapping[str, Any]], epsilons: Mapping[int, float]
) -> tuple[Round, ...]:
    """Return every finished round, once.

    Args:
        entries: of the coordinator's audit log.
        epsilons: the highest ε of an organisation, after each round.
    """
    finished = {
        entry["round"]: entry for entry in entries if entry["event"] == AuditEvent.ROUND_FINISHED
    }
    return tuple(
        Round(
            number=number,
            epsilon=epsilons.get(number),
            seconds=round(float(entry["seconds"]), 3),
            bytes_up=entry["bytes_up"],
            bytes_down=entry["bytes_down"],
            outcomes=dict(entry["outcomes"]),
        )
        for number, entry in sorted(finished.items())
        if "seconds" in entry  # an earlier version started the run
    )


def cost_section(status: RunStatus, *, total: float, evaluate: float) -> Cost:
    """Return time, traffic and memory.

    Args:
        status: of the federated run; its seconds are those of all its starts.
        total: seconds of the whole simulation.
        evaluate: seconds of the evaluation.
    """
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Cost(
        seconds=Seconds(
            total=round(total, 1),
            train=round(status.warm_start_seconds + status.seconds, 1),
            evaluate=round(evaluate, 1),
        ),
        bytes_up_per_round=status.round_bytes_up,
        bytes_down_per_round=status.round_bytes_down,
        peak_rss_bytes=peak * (1 if platform.system() == "Darwin" else 1024),
    )
