"""How long it takes to choose a list from candidates, by each method, one user at a time.

    OMP_NUM_THREADS=1 python -m simulations.benchmarks.rerank [--candidates 200] [--k 10]
        [--items 20000] [--history 100] [--lists 500] [--json]

Random items with up to three of 18 genres and 256 features, and random histories; OMP_NUM_THREADS=1
is for one thread. What is timed is the choice alone: candidates and their scores are there already.
Exposure also has the k best rare items among the candidates, as in `sotto-node recommend`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import numpy as np

from shared.data.histories import Histories
from shared.rerank.reranker import ItemTraits, Reranker
from shared.rerank.settings import By, Method, RerankConfig

__all__ = ["main", "measure"]

_WAYS = (
    RerankConfig(method=Method.CALIBRATED),
    RerankConfig(method=Method.CALIBRATED, by=By.POPULARITY),
    RerankConfig(method=Method.DIVERSE),
    RerankConfig(method=Method.DIVERSE, by=By.FEATURES),
    RerankConfig(method=Method.EXPOSURE),
)


def measure(
    *, candidates: int, k: int, items: int, history: int, lists: int
) -> dict[str, dict[str, float]]:
    """Return milliseconds a list by each method: median, 99th percentile, and of processor time.

    Args:
        candidates: of each user.
        k: length of a list.
        items: V.
        history: events of each user.
        lists: how many are chosen by each method.
    """
    random = np.random.default_rng(0)
    names = [f"genre {number}" for number in range(18)]
    traits = ItemTraits(
        genres=[
            tuple(sorted(random.choice(names, random.integers(1, 4), replace=False)))
            for _ in range(items)
        ],
        popularity=random.pareto(1.0, items),
        features=random.normal(size=(items, 256)).astype(np.float32),
    )
    users = Histories.from_lists(
        [random.integers(1, items + 1, history).tolist() for _ in range(lists)]
    )
    figures = {}
    for config in _WAYS:
        reranker, seconds = Reranker(config, traits), []
        number = candidates + (k if reranker.protected is not None else 0)
        asked = [
            (
                (random.permutation(items)[:number] + 1)[None],
                -np.sort(random.exponential(size=number))[None],
                users.select([row]),
            )
            for row in range(lists)
        ]
        reranker(*asked[0], k)
        began = time.process_time()
        for one in asked:
            start = time.perf_counter()
            reranker(*one, k)
            seconds.append(time.perf_counter() - start)
        processor = (time.process_time() - began) / lists
        figures[str(config)] = {
            "median_ms": round(1000 * float(np.median(seconds)), 3),
            "p99_ms": round(1000 * float(np.quantile(seconds, 0.99)), 3),
            "processor_ms": round(1000 * processor, 3),
        }
    return figures


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    sizes = {"candidates": 200, "k": 10, "items": 20_000, "history": 100, "lists": 500}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--json", action="store_true")
    options = vars(parser.parse_args())
    as_json = options.pop("json")
    figures = measure(**options)
    if as_json:
        sys.stdout.write(json.dumps(figures, indent=2) + "\n")
        return
    for name, own in figures.items():
        sys.stdout.write(
            f"{name:40} median {own['median_ms']:.2f} ms, p99 {own['p99_ms']:.2f} ms, processor "
            f"{own['processor_ms']:.2f} ms\n"
        )


if __name__ == "__main__":
    main()
