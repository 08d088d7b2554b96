"""result.json: every run's outcome as data, in the form that docs/results.md describes."""

from __future__ import annotations

import json
import os
import platform
import resource
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from server.checkpoint import Progress
from shared.config import PrivacyConfig
from shared.metrics import Metrics
from shared.privacy.release import Release
from simulations.datasets import Dataset

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


def evaluation_section(models: Mapping[str, Metrics], split: str) -> dict[str, Any]:
    """Each model's figures over the same users, on the events that `split` names."""
    users = {metrics.users for metrics in models.values()}
    if len(users) != 1:
        raise ValueError(f"the models were measured over different users: {users}")
    return {
        "protocol": _PROTOCOL,
        "split": split,
        "users": users.pop(),
        "models": {name: metrics.as_dict() for name, metrics in models.items()},
    }


def cost(progress: Progress, *, total: float, evaluate: float) -> dict[str, Any]:
    """Seconds, bytes and memory; `train` is the federated run alone, over all its starts."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": {
            "total": round(total, 1),
            "train": round(progress.seconds, 1),
            "evaluate": round(evaluate, 1),
        },
        "bytes_up_per_round": progress.bytes_up,
        "bytes_down_per_round": progress.bytes_down,
        "peak_rss_bytes": peak * (1 if platform.system() == "Darwin" else 1024),
    }


def versions() -> dict[str, str]:
    """The packages that decide a result."""
    return {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}


def write(folder: Path, result: Mapping[str, Any]) -> Path:
    """Writes result.json, whole or not at all."""
    file, temporary = folder / FILE, folder / f".{FILE}.{os.getpid()}"
    temporary.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return temporary.replace(file)
