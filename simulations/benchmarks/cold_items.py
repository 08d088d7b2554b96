"""How well new items are told from one another, by their text alone: finished runs, pooled.

    python -m simulations.benchmarks.cold_items RUN ... [--beside RUN ...]

Each RUN was simulated with `lab.cold` above 0. Of the users whose test item is a cold one, that
item is ranked among the cold items that the user has not chosen: without offsets, so that nothing
counts but the features, and with the offset that features let expect (`treat_as_new`). Printed are
HR@10 and NDCG@10 over the users of all runs, and their standard errors. Runs after --beside have
the same data, seeds and splits in the same order, and another model: the difference between both
and the p-value of a paired t-test over users follow.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import ttest_rel
from torch import Tensor

from client.serving.published import load_published
from shared.errors import ConfigError
from shared.evaluation.paired import ndcg_gains
from shared.evaluation.ranking import rank_users
from shared.models.attention import AttentionRecommender
from simulations.experiment.cold import treat_as_new
from simulations.experiment.prepare import reopen

__all__ = ["ranks_among_cold"]

K = 10
WAYS = ("without offsets", "expected offsets")


@torch.inference_mode()
def ranks_among_cold(run: Path) -> tuple[list[str], dict[str, NDArray[np.int64]]]:
    """Return the users who are asked for a cold item, and its rank among cold items, by way.

    Args:
        run: folder of a finished run.

    Raises:
        ConfigError: the run has no cold items, or nobody is asked for one.
    """
    simulation = reopen(run, {}, [])
    cold, asked = simulation.cold, simulation.evaluation_split
    rows = np.flatnonzero(np.isin(asked.test_targets, cold))
    if not len(rows):
        raise ConfigError(f"{run}: no user is asked for a cold item; set lab.cold.")
    _, model = load_published(run)
    others = torch.ones(model.config.items, dtype=torch.bool)
    others[torch.from_numpy(cold - 1)] = False
    expected = treat_as_new(model, cold)
    ranks = {}
    for way, one in zip(WAYS, (without_offsets(model), expected), strict=True):

        def scores(histories: Tensor, /, one: AttentionRecommender = one) -> Tensor:
            return one.next_item_scores(histories).masked_fill(others, -torch.inf)

        ranking = rank_users(
            scores,
            asked.test_inputs.select(rows),
            asked.test_targets[rows],
            items=len(others),
            window=model.config.max_length,
        )
        ranks[way] = ranking.ranks.numpy()
    return [asked.test_inputs.users[row] for row in rows], ranks


def without_offsets(model: AttentionRecommender) -> AttentionRecommender:
    """Set the offset of every item to 0, in place; return the model."""
    if model.item_scores.offset is not None:
        model.item_scores.offset.zero_()
    return model


def figures(ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return HR@10 and NDCG@10 of each user, [users, 2]."""
    return np.stack([ranks <= K, ndcg_gains(ranks, K)], axis=1)


def pooled(runs: Sequence[Path]) -> tuple[list[list[str]], dict[str, NDArray[np.float64]]]:
    """Return the users of each run, and the figures of all, [users, 2], by way."""
    parts = [ranks_among_cold(run) for run in runs]
    return [users for users, _ in parts], {
        way: np.concatenate([figures(ranks[way]) for _, ranks in parts]) for way in WAYS
    }


def main() -> None:
    """Print the figures of the runs, and what those beside them add."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--beside", type=Path, nargs="+", default=[])
    options = parser.parse_args()
    users, own = pooled(options.runs)
    beside = pooled(options.beside) if options.beside else None
    if beside and beside[0] != users:
        raise SystemExit("--beside: these runs ask other users; give the same seeds in order.")
    for way in WAYS:
        for number, metric in enumerate((f"HR@{K}", f"NDCG@{K}")):
            values = own[way][:, number]
            error = values.std(ddof=1) / len(values) ** 0.5
            line = f"{way:16} {metric:7} {values.mean():.4f} ± {error:.4f} of {len(values)} users"
            if beside:
                other = beside[1][way][:, number]
                change, p = (other - values).mean(), ttest_rel(other, values).pvalue
                line += f"; beside {other.mean():.4f} ({change:+.4f}, p = {p:.2g})"
            sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
