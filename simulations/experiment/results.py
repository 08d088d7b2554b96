"""result.json: every run's outcome as data, in the form that docs/formats.md describes."""

from __future__ import annotations

import json
import platform
import resource
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from server.state.status import RunStatus
from shared.config import PrivacyConfig
from shared.data.histories import LeaveOneOut
from shared.evaluation.exposure import arp, exposure, gini
from shared.evaluation.ranking import Ranking
from shared.privacy.release import Release
from shared.system.files import UMASK, write_atomically
from simulations.datasets.load import Dataset

__all__ = [
    "FILE",
    "cost",
    "data_section",
    "evaluation_section",
    "privacy_section",
    "versions",
    "write",
]

FILE = "result.json"
_PROTOCOL = "leave-one-out, full ranking, seen items removed"
_PACKAGES = ("sotto", "flwr", "torch", "opacus", "transformers", "numpy")


def data_section(dataset: Dataset, populations: Mapping[str, int]) -> dict[str, Any]:
    """What was trained on."""
    return {
        "name": dataset.name,
        "users": len(dataset.histories),
        "items": len(dataset.catalogue),
        "interactions": dataset.histories.events,
        "organisations": [
            {"name": name, "population": population} for name, population in populations.items()
        ],
    }


def privacy_section(
    privacy: PrivacyConfig, spent: Mapping[str, tuple[float, list[Release]]]
) -> dict[str, Any]:
    """What was claimed and, from the sites' own ledgers, what was released and what it cost."""
    return {
        "private": privacy.private,
        "unit": "user",
        "adjacency": "add-or-remove-one",
        "delta": privacy.delta,
        "trust": "local",
        "organisations": [
            {
                "name": name,
                "epsilon": epsilon if privacy.private else None,
                "releases": [asdict(r) | {"kind": str(r.kind)} for r in releases],
            }
            for name, (epsilon, releases) in spent.items()
        ],
    }


def evaluation_section(
    rankings: Mapping[str, Ranking], asked: LeaveOneOut, split: str
) -> dict[str, Any]:
    """Each model's figures over the same users, and where its recommendations went.

    Args:
        rankings: by model, each of all M users who are asked, in the order of the split.
        asked: whose test is ranked; popularity is that of its training events.
        split: the name of the events that are asked for.
    """
    users = {len(ranking.ranks) for ranking in rankings.values()}
    if len(users) != 1:
        raise ValueError(f"the models were measured over different users: {users}")
    items = next(iter(rankings.values())).items
    counts = np.bincount(asked.train.items, minlength=items + 1)[1:]  # [V]
    chosen = torch.from_numpy(asked.test_targets)[:, None]
    return {
        "protocol": _PROTOCOL,
        "split": split,
        "users": users.pop(),
        "models": {
            name: _figures(ranking, counts, len(asked.train)) for name, ranking in rankings.items()
        },
        "exposure": {
            "deciles": "of the catalogue by training events, most popular first",
            "chosen": _rounded(exposure(chosen, counts)),
            "models": {name: _rounded(exposure(r.top, counts)) for name, r in rankings.items()},
        },
    }


def _figures(ranking: Ranking, counts: NDArray[np.int64], users: int) -> dict[str, float]:
    return ranking.metrics().as_dict() | {
        f"arp@{ranking.k}": arp(ranking.top, counts, users),
        f"gini@{ranking.k}": gini(ranking.top, ranking.items),
    }


def _rounded(shares: list[float]) -> list[float]:
    return [round(share, 6) for share in shares]


def cost(status: RunStatus, *, total: float, evaluate: float) -> dict[str, Any]:
    """Seconds, bytes and memory; `train` is the federated run alone, over all its starts."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": {
            "total": round(total, 1),
            "train": round(status.warm_start_seconds + status.seconds, 1),
            "evaluate": round(evaluate, 1),
        },
        "bytes_up_per_round": status.round_bytes_up,
        "bytes_down_per_round": status.round_bytes_down,
        "peak_rss_bytes": peak * (1 if platform.system() == "Darwin" else 1024),
    }


def versions() -> dict[str, str]:
    """The packages that decide a result."""
    return {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}


def write(folder: Path, result: Mapping[str, Any], name: str = FILE) -> Path:
    """Writes result.json, or a file of another name, whole or not at all."""
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    write_atomically(folder / name, text.encode(), mode=UMASK)
    return folder / name
