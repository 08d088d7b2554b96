"""What a site's private training step costs: against a plain one, and against an earlier version.

    python -m simulations.benchmarks.training_step [--items 3400 50000] [--length 50 100]
        [--histories full short bounded] [--trained all scores] [--own 0] [--users 64]
        [--repeats 5] [--before FOLDER]

Goes through the trainer, batches as it makes them and noise included; `private_step` measures
clipping alone. FOLDER is a checkout of another version, whose steps take turns with this one's.
Histories are full (T + 1 events), short (2 to 20 events, 7 on average), or bounded: short, and the
site's policy says that no more than 20 are ever read. A model that trains "all"
learns tied ids, in two blocks; one that trains "scores" scores 64 public features, in one block.
The hidden size is 64. With --own N, it scores 256 features and N own directions, at the width of
all of them, as a run does by default. Processes take turns; ratios are within a turn, figures
medians. Seconds are the process's own (CPU time), with one thread.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = ["measure"]

STEPS, SHORT = 2, 20
"""Steps that are measured, and events of the longest of the short histories."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is trained.

    Attributes:
        items: catalogue size V.
        length: events that the model reads, T.
        histories: "full", "short" or "bounded".
        trained: "all" or "scores".
        users: of the site; all of them are in every step.
        own: directions of single items beside the features; 0 for the small model.
    """

    items: int
    length: int
    histories: str
    trained: str
    users: int
    own: int = 0


def measure(case: Case, kind: str) -> float:
    """Return the users a second of a step: of a "private" or a "plain" one."""
    torch.set_num_threads(1)
    trainer = _module("client.trainer", "client.compute.trainer")
    _module("client.allocator", "client.compute.memory").keep_freed_memory()
    random, model, histories = _random(), _model(case), _histories(case)
    plan: dict[str, Any] = {
        "sample_rate": 1.0,
        "population": case.users,
        "clip_norm": 1.0,
        "noise_multiplier": float(kind == "private"),
        "optimiser": import_module("shared.config").Optimiser.SGD,
        "learning_rate": 0.1,
    }
    given = inspect.signature(trainer.LocalPlan).parameters
    if case.histories == "bounded" and "max_events" in given:
        plan["max_events"] = SHORT
    steps = "local_steps" if "local_steps" in given else "steps"

    def seconds(count: int) -> float:
        started = time.process_time()
        trainer.train(model, histories, trainer.LocalPlan(**plan, **{steps: count}), random)
        return time.process_time() - started

    seconds(1)  # what is done once for a shape
    return case.users * STEPS / seconds(STEPS)


def _module(*names: str) -> Any:  # noqa: ANN401
    """Return the first of these modules that this version has: the older names come first.

    An editable installation offers this checkout's modules to the other version, too.
    """
    for name in names:
        try:
            return import_module(name)
        except ModuleNotFoundError:
            continue
    raise ModuleNotFoundError(names[0])


def _random() -> Any:  # noqa: ANN401
    return import_module("shared.privacy.noise").SystemRandom()


def _model(case: Case) -> Any:  # noqa: ANN401
    torch.manual_seed(0)
    models, scores = import_module("shared.models.attention"), case.trained == "scores"
    size = 256 if case.own else 64
    config = models.AttentionConfig(
        items=case.items,
        item_representation="features" if scores else "ids",
        feature_size=size if scores else 0,
        own_items=tuple(range(1, case.own + 1)) if scores else (),
        hidden_size=size + case.own if scores else 64,
        layers=1 if scores else 2,
        heads=1 if scores else 2,
        max_length=case.length,
        dropout=0.0 if scores else 0.2,
        trained=case.trained,
    )
    model = models.AttentionRecommender(config)
    if scores:
        for table in model.buffers():
            table.normal_()
    return model


def _histories(case: Case) -> Any:  # noqa: ANN401
    draw = np.random.default_rng(0)
    lengths = np.full(case.users, case.length + 1)
    if case.histories != "full":
        lengths = np.minimum(draw.geometric(1 / 7, case.users) + 1, SHORT)
    lists = [draw.integers(1, case.items + 1, length).tolist() for length in lengths]
    return _module("shared.histories", "shared.data.histories").Histories.from_lists(lists)


def main() -> None:
    """Measure every case in processes that take turns, or be one of them."""
    options = _parser().parse_args()
    if options.child:
        fields, kind = json.loads(options.child)
        sys.stdout.write(f"{measure(Case(**fields), kind)}\n")
        return
    folders = {"now": Path(__file__).parents[2]}
    if options.before:
        folders["before"] = options.before.resolve()
    for items, length, histories, trained in itertools.product(
        options.items, options.length, options.histories, options.trained
    ):
        case = Case(
            items=items,
            length=length,
            histories=histories,
            trained=trained,
            users=options.users,
            own=options.own,
        )
        what = f"V = {items:,}, T = {length}, {histories} histories, trained = '{trained}'"
        sys.stdout.write(f"{what}: {_compare(case, folders, options.repeats)}\n")
        sys.stdout.flush()


def _compare(case: Case, folders: dict[str, Path], repeats: int) -> str:
    """Return users a second of this version's private step, and ratios of users a second."""
    turns: dict[tuple[str, str], list[float]] = {
        (version, kind): [] for version in folders for kind in ("private", "plain")
    }
    for _ in range(repeats):
        for (version, kind), rates in turns.items():
            rates.append(_spawn(case, kind, folders[version]))

    def ratio(one: tuple[str, str], other: tuple[str, str]) -> str:
        ratios = [a / b for a, b in zip(turns[one], turns[other], strict=True)]
        return f"{statistics.median(ratios):.3f}"

    figures = [f"{statistics.median(turns['now', 'private']):.0f} users a second"]
    for version in folders:
        figures.append(
            f"private / plain {ratio((version, 'private'), (version, 'plain'))} {version}"
        )
    if "before" in folders:
        figures.append(f"private now / before {ratio(('now', 'private'), ('before', 'private'))}")
    return ", ".join(figures)


def _spawn(case: Case, kind: str, folder: Path) -> float:
    """Return the users a second that a process of its own measures with the code in a folder."""
    child = json.dumps([asdict(case), kind])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, "--child", child],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
    )
    return float(done.stdout)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--items", type=int, nargs="+", default=[3_400, 50_000])
    parser.add_argument("--length", type=int, nargs="+", default=[50, 100])
    kinds: dict[str, list[str]] = {
        "--histories": ["full", "short", "bounded"],
        "--trained": ["all", "scores"],
    }
    for flag, choices in kinds.items():
        parser.add_argument(flag, nargs="+", choices=choices, default=choices)
    parser.add_argument("--users", type=int, default=64)
    parser.add_argument("--own", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
