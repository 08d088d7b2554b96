"""When training stops before its last round: by the noised metrics that rounds release.

`training.patience` evaluations in a row without an improvement end the rounds, and the weights of
the best evaluation are the run's. What decides was released with noise, and paid for, as any
metric: the rule is post-processing. Rounds that are not run are asked of nobody and charged to
nobody; ε was planned for all of them.

| the evaluation                                        | what it does                            |
|-------------------------------------------------------|-----------------------------------------|
| the first                                             | is the best                             |
| is above the best by more than its noise's deviation  | is the best; waiting begins anew        |
| is not                                                | is one more without an improvement      |
| was not asked for in this round, or noise hides it    | changes nothing                         |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from server.state.checkpoint import Checkpoint

__all__ = ["after_metrics"]

_METRIC = "ndcg@"


def after_metrics(
    checkpoint: Checkpoint, metrics: Mapping[str, float], patience: int
) -> Checkpoint:
    """Return the checkpoint of a finished round with what its metrics say; see the table.

    Args:
        checkpoint: of the round that the metrics are of.
        metrics: as `server.rounds.evaluation.mean_metrics` returns them; empty where there are
            none.
        patience: evaluations without an improvement after which training stops; 0 never does.

    Returns:
        Where training stops, `stopped`, with the weights of the best evaluation.
    """
    found = [value for name, value in metrics.items() if name.startswith(_METRIC)]
    if not patience or not found:
        return checkpoint
    [metric], best = found, checkpoint.best_metric
    if best is None or metric > best + metrics["noise"]:
        return replace(
            checkpoint,
            best_metric=metric,
            best_round=checkpoint.round,
            waited=0,
            best_weights=checkpoint.weights,
        )
    waited = checkpoint.waited + 1
    if waited < patience:
        return replace(checkpoint, waited=waited)
    return replace(checkpoint, waited=waited, stopped=True, weights=checkpoint.best_weights)
