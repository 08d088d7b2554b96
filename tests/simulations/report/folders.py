"""Folders of runs, audits and sweeps as the lab writes them, from drawn ranks: quick, and known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shared.privacy.accounting.accountant import epsilon as epsilon_of
from shared.privacy.accounting.accountant import noise_multiplier_for
from shared.privacy.release import Release, ReleaseKind
from shared.sections import Value
from simulations.experiment.config import read_settings

DELTA = 1e-5
HIT_RATES = {
    "popularity": 0.04,
    "popularity_private": 0.04,
    "markov": 0.21,
    "counts3": 0.2,
    "home": 0.1,
    "federated": 0.15,
    "federated_home": 0.18,
}


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """What a fabricated run is like."""

    data: str = "films"
    epsilon: float | None = 4.0
    seed: int = 0
    steps: int = 2
    organisations: Sequence[str] = ("north", "south", "west")
    users: int = 600
    groups: Mapping[str, Sequence[str]] = field(
        default_factory=lambda: {"gender": ("F", "M"), "age": ("under 18", "18-24", "56 or more")}
    )
    rates: Mapping[str, float] = field(default_factory=lambda: HIT_RATES)
    settings: Mapping[str, Value] = field(default_factory=dict)


def write_run(folder: Path, spec: RunSpec) -> dict[str, Any]:
    """Writes result.json, config.toml and evaluation.parquet; returns the result."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(spec.seed)
    owners = np.array(spec.organisations)[np.arange(spec.users) % len(spec.organisations)]
    ranks = {name: _ranks(rng, rate, spec.users) for name, rate in _rates(spec).items()}
    columns: dict[str, Any] = {
        "user": [str(user) for user in range(spec.users)],
        "organisation": owners.tolist(),
        "events": rng.integers(3, 300, size=spec.users),
    }
    for name, values in spec.groups.items():
        columns[name] = rng.choice(np.array(values), size=spec.users).tolist()
    table = pa.concat_tables(
        [
            pa.table({**columns, "model": [name] * spec.users, "rank": found})
            for name, found in ranks.items()
        ]
    )
    pq.write_table(table, folder / "evaluation.parquet")
    result = _result(spec, ranks, owners)
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    given = {"privacy.epsilon": spec.epsilon or "none", "privacy.delta": DELTA, **spec.settings}
    config = read_settings(None, given, [])
    (folder / "config.toml").write_text(config.to_toml(), encoding="utf-8")
    return result


def _rates(spec: RunSpec) -> dict[str, float]:
    private = spec.epsilon is not None
    return {k: v for k, v in spec.rates.items() if private or k != "popularity_private"}


def _ranks(rng: np.random.Generator, rate: float, users: int) -> NDArray[np.int64]:
    near, far = rng.integers(1, 11, size=users), rng.integers(11, 500, size=users)
    return np.where(rng.random(users) < rate, near, far)


def _result(
    spec: RunSpec, ranks: Mapping[str, NDArray[np.int64]], owners: NDArray[np.str_]
) -> dict[str, Any]:
    private = spec.epsilon is not None
    noise = (
        noise_multiplier_for(spec.epsilon, DELTA, sample_rate=1.0, steps=spec.steps)
        if spec.epsilon
        else 0.0
    )
    release = Release(
        kind=ReleaseKind.TRAIN, noise_multiplier=noise, sample_rate=1.0, steps=spec.steps
    )
    return {
        "schema": 2,
        "data": {
            "name": spec.data,
            "users": spec.users,
            "items": 500,
            "interactions": 40_000,
            "organisations": [
                {"name": name, "population": int((owners == name).sum())}
                for name in spec.organisations
            ],
        },
        "privacy": {
            "private": private,
            "unit": "user",
            "adjacency": "add-or-remove-one",
            "delta": DELTA,
            "trust": "local",
            "organisations": [
                {
                    "name": name,
                    "epsilon": epsilon_of([release], DELTA) if private else None,
                    "releases": [release.fields],
                }
                for name in spec.organisations
            ],
        },
        "evaluation": {
            "protocol": "leave-one-out, full ranking, seen items removed",
            "split": "test",
            "users": spec.users,
            "models": {name: figures(found) for name, found in ranks.items()},
            "exposure": {
                "deciles": "of the catalogue by training events, most popular first",
                "chosen": [0.4, 0.2, 0.1, 0.1, 0.05, 0.05, 0.03, 0.03, 0.02, 0.02],
                "models": {
                    name: [0.9 - 0.05 * place, 0.05 * place, *[0.0] * 7, 0.1]
                    for place, name in enumerate(ranks)
                },
            },
            **({"joining": _joining(ranks, owners)} if "home" in ranks else {}),
        },
        "cost": {"seconds": {"total": 12.3, "train": 4.5, "evaluate": 1.0}},
        "seed": spec.seed,
        "versions": {"python": "3.11.7", "sotto": "0.1.0"},
    }


def _joining(
    ranks: Mapping[str, NDArray[np.int64]], owners: NDArray[np.str_]
) -> list[dict[str, Any]]:
    def of(name: str | None) -> dict[str, Any]:
        own = np.ones(len(owners), bool) if name is None else owners == name
        both = {
            model: figures(ranks[model][own])["ndcg@10"] for model in ("home", "federated_home")
        }
        return {"name": name, "users": int(own.sum()), **both, "p": 0.5}

    return [of(name) for name in (None, *dict.fromkeys(owners.tolist()))]


def figures(ranks: NDArray[np.int64]) -> dict[str, float]:
    """By the formulas, one user at a time."""
    gains = [1 / np.log2(1 + rank) if rank <= 10 else 0.0 for rank in ranks.tolist()]
    return {
        "hr@10": sum(rank <= 10 for rank in ranks.tolist()) / len(ranks),
        "ndcg@10": float(sum(gains) / len(ranks)),
        "mrr@10": float(sum(1 / rank for rank in ranks.tolist() if rank <= 10) / len(ranks)),
        "coverage@10": 0.25,
        "arp@10": 0.1,
        "gini@10": 0.9,
    }


def audit_of(epsilon: float | None = 4.0, **changes: Any) -> dict[str, Any]:  # noqa: ANN401
    """An audit.json that finds nothing."""
    fpr = [0.0, 0.001, 0.01, 0.05, 0.2, 0.5, 1.0]
    return {
        "schema": 1,
        "claim": {"epsilon": epsilon, "delta": DELTA, "organisation": "north"},
        "verdict": "consistent",
        "reasons": ["No bound is above the claim, and the books agree."],
        "confidence": 0.95,
        "observers": [
            {
                "name": "white-box",
                "sees": "every update that the coordinator receives, and all canaries.",
                "canaries": 1000,
                "guesses": 200,
                "correct": 160,
                "epsilon_lower_bound": 1.07,
                "largest_provable": 4.2,
                "estimate": {"epsilon": 2.9, "low": 2.2, "high": 3.6},
                "violated": False,
            },
            {
                "name": "black-box",
                "sees": "the scores of the published model.",
                "canaries": 1000,
                "guesses": 100,
                "correct": 55,
                "epsilon_lower_bound": 0.0,
                "largest_provable": 3.5,
                "estimate": None,
                "violated": False,
            },
        ],
        "books": {
            "seen": 24,
            "epsilon_recomputed": 3.998,
            "epsilon_ledger": 3.999,
            "accountant": "dp-accounting's PLD",
            "violated": False,
        },
        "membership": {
            "members": 3000,
            "non_members": 3000,
            "auc": 0.512,
            "auc_low": 0.497,
            "auc_high": 0.527,
            "tpr_at_fpr": {
                "0.001": {"tpr": 0.0013, "low": 0.0004, "high": 0.0034},
                "0.01": {"tpr": 0.0123, "low": 0.0087, "high": 0.0169},
            },
            "roc": {"fpr": fpr, "tpr": [0.0, 0.0013, 0.0123, 0.058, 0.21, 0.51, 1.0]},
        },
        "blind_spots": ["An attacker who joins with many made-up organisations."],
    } | changes


def write_audit(folder: Path, spec: RunSpec, audit: Mapping[str, Any]) -> None:
    """A run's folder that holds an audit."""
    write_run(folder, spec)
    (folder / "audit.json").write_text(json.dumps(audit), encoding="utf-8")


def write_sweep(folder: Path, specs: Sequence[RunSpec], unfinished: Sequence[str] = ()) -> None:
    """Runs below runs/, and their table."""
    rows: list[dict[str, Any]] = []
    for spec in specs:
        others = dict(spec.settings)
        epsilon = float("inf") if spec.epsilon is None else spec.epsilon
        varied = {"epsilon": spec.epsilon or "none", "seed": spec.seed, **others}
        name = ",".join(f"{key}={value}" for key, value in varied.items())
        result = write_run(folder / "runs" / name, spec)
        for model, found in result["evaluation"]["models"].items():
            keys = {"privacy.epsilon": epsilon, "privacy.delta": DELTA, "seed": spec.seed, **others}
            start = {"run": name, "status": "finished", **keys, "split": "test", "model": model}
            rows.append(start | found | {"epsilon_spent": epsilon, "seconds_total": 1.0})
    rows += [
        {"run": name, "status": "failed", "privacy.epsilon": 1.0, "seed": 9} for name in unfinished
    ]
    names = list(dict.fromkeys(key for row in rows for key in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    pq.write_table(pa.table(columns), folder / "sweep.parquet")
    (folder / "sweep.toml").write_text("seeds = [0, 1]\n", encoding="utf-8")
