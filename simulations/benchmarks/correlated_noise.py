"""Noise that is correlated over rounds against independent noise, at the same ε.

    python -m simulations.benchmarks.correlated_noise [--rounds 2 4 8 16 32 64] [--json FILE]

Row t of X (K, D) is the sum of all users' clipped vectors in round t, each at most 1 long. What is
wanted is A X: with A a row of learning rates the final model, with a triangle of ones all models.
A mechanism factorises A = B C and releases C X + Z, with Z normal, so that B (C X + Z) = A X + B Z.
Independent noise is C = I. ε depends on the sensitivity of C over the deviation of Z alone, also
where X answers earlier outputs (arXiv:2202.08312). So at equal ε the error of a factorisation is
‖B‖_F times the sensitivity of C.

**Every user in every round.** One user changes X by U (K, D) with rows at most 1 long, and the
sensitivity is the largest ‖C U‖_F. Where CᵀC >= 0 it is ‖C 1‖ (arXiv:2211.06530), since
‖C U‖² = Σ (CᵀC)ₛₜ uₛ·uₜ. `least_error` bounds the error of *every* factorisation: let the rows of
U be the columns of A, each scaled to length 1. By Cauchy and Schwarz

    ‖B‖_F sensitivity >= ‖B‖_F ‖C U‖_F >= tr(B C U) = tr(A U) = Σₜ ‖A[:, t]‖.

Independent noise with σₜ ∝ 1 / √‖A[:, t]‖ (`scaled`) attains it, and with equal σ where all columns
of A are equally long, as they are in the final model with equal rates. It needs a D of at least
the number of A's rows.

**Each user in one round.** The sensitivity is the longest column of C. Correlated noise then helps,
but a batch has 1 / K of the users, and its mean K times the noise.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular, toeplitz
from scipy.optimize import minimize

__all__ = [
    "banded",
    "blt",
    "descent",
    "error",
    "every_round",
    "final",
    "least_error",
    "models",
    "momentum",
    "one_round",
    "remaining",
    "scaled",
    "square_root",
    "tree",
    "tree_remaining",
]

Matrix = npt.NDArray[np.float64]
Sensitivity = Callable[[Matrix], float]
ROUNDS = (2, 4, 8, 16, 32, 64)
PLAN_RATE, LARGEST_CURVATURE = 0.5, 1.0
"""The plan's learning rate on MovieLens-1M, ε = 8, secure aggregation (`server.training_plan`).
Gradient steps diverge above 2 / curvature, and there above a rate of 2."""


def models(rounds: int) -> Matrix:
    """Return A (K, K) of all models, with learning rate 1."""
    return np.tril(np.ones((rounds, rounds)))


def final(rates: npt.ArrayLike) -> Matrix:
    """Return A (1, K) of the final model, by its learning rates."""
    return np.atleast_2d(np.asarray(rates, dtype=np.float64))


def momentum(rounds: int, beta: float = 0.9) -> Matrix:
    """Return A (1, K) of the final model under heavy-ball momentum.

    >>> momentum(3, 0.5)
    array([[1.75, 1.5 , 1.  ]])
    """
    return final([(1 - beta ** (rounds - t)) / (1 - beta) for t in range(rounds)])


def descent(rounds: int, rate: float, curvatures: Matrix) -> Matrix:
    """Return A (D, K) with which noise enters the final model of gradient descent on a quadratic.

    A later step takes back rate times h of a deviation along a direction of curvature h. Rows are
    scaled by √h, so that ‖A Z‖² / 2 is the excess loss.
    """
    kept = 1 - rate * curvatures[:, None]
    return np.sqrt(curvatures)[:, None] * rate * kept ** np.arange(rounds)[::-1]


def every_round(strategy: Matrix) -> float:
    """Return the sensitivity of C if each user takes part in every round (a bound if CᵀC < 0).

    >>> every_round(np.eye(4))
    2.0
    """
    return float(np.sqrt(np.abs(strategy.T @ strategy).sum()))


def one_round(strategy: Matrix) -> float:
    """Return the sensitivity of C if each user takes part in one round.

    >>> one_round(np.eye(4))
    1.0
    """
    return float(np.linalg.norm(strategy, axis=0).max())


def remaining(workload: Matrix, strategy: Matrix) -> Matrix:
    """Return B = A C⁻¹ for a lower triangular C."""
    solution: Matrix = solve_triangular(strategy, workload.T, lower=True, trans=1).T
    return solution


def error(output: Matrix, strategy: Matrix, sensitivity: Sensitivity) -> float:
    """Return ‖B‖_F times the sensitivity of C."""
    return float(np.linalg.norm(output)) * sensitivity(strategy)


def least_error(workload: Matrix) -> float:
    """Return the least error of any factorisation if each user takes part in every round."""
    return float(np.linalg.norm(workload, axis=0).sum())


def scaled(workload: Matrix) -> Matrix:
    """Return the C of `least_error`: independent noise, its σ chosen for each round."""
    return np.diag(np.sqrt(np.linalg.norm(workload, axis=0)))


def square_root(rounds: int) -> Matrix:
    """Return the square root of the triangle of ones (Fichtenberger et al. 2022, 2202.11205).

    >>> square_root(3)[2].tolist()
    [0.375, 0.5, 1.0]
    """
    series = np.cumprod([1.0] + [(2 * t - 1) / (2 * t) for t in range(1, rounds)])
    return np.tril(toeplitz(series))


def tree(rounds: int) -> Matrix:
    """Return C (nodes, K) of the binary tree: sums of 1, 2, 4, … rounds, by when they are complete.

    >>> tree(2).tolist()
    [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    """
    rows = []
    for end in range(1, rounds + 1):
        length = 1
        while end % length == 0 and length <= end:
            rows.append([float(end - length <= t < end) for t in range(rounds)])
            length *= 2
    return np.array(rows)


def tree_remaining(strategy: Matrix) -> Matrix:
    """Return B of all models: least squares on the nodes that are complete (Honaker 2015)."""
    nodes, rounds = strategy.shape
    output = np.zeros((rounds, nodes))
    for t, row in enumerate(models(rounds)):
        complete = ~strategy[:, t + 1 :].any(axis=1)
        output[t, complete] = row @ np.linalg.pinv(strategy[complete])
    return output


def banded(workload: Matrix, bands: int, sensitivity: Sensitivity) -> Matrix:
    """Return the best C >= 0 with so many bands (arXiv:2306.08153), by L-BFGS.

    Args:
        workload: A (n, K).
        bands: 1 is a diagonal, K a full triangle.
        sensitivity: `every_round` or `one_round`; for the latter columns are kept at length 1.
    """
    rounds = workload.shape[1]
    rows, columns = np.nonzero(np.tril(np.triu(np.ones((rounds, rounds)), 1 - bands)))

    def loss(entries: Matrix) -> tuple[float, Matrix]:
        raw = np.zeros((rounds, rounds))
        raw[rows, columns] = entries
        lengths = np.linalg.norm(raw, axis=0) if sensitivity is one_round else np.ones(rounds)
        strategy = raw / lengths
        output = remaining(workload, strategy)
        total = float((output**2).sum())
        # d‖B‖² = -2 tr(C⁻¹ BᵀB dC), since dB = -B dC C⁻¹
        slope = -2 * solve_triangular(strategy, output.T @ output, lower=True).T / total
        value = np.log(total)
        if sensitivity is every_round:
            sums = strategy.sum(axis=1)
            slope = slope + 2 * sums[:, None] / float(sums @ sums)
            value += np.log(sums @ sums)
        else:
            slope = (slope - strategy * (strategy * slope).sum(axis=0)) / lengths
        return float(value), slope[rows, columns]

    start = np.where(rows == columns, 1.0, 0.5 / (1 + rows - columns))
    least = np.where(rows == columns, 1e-3, 0.0)
    found = minimize(
        loss,
        start,
        jac=True,
        bounds=[(low, None) for low in least],
        options={"maxiter": 2000, "maxfun": 4000, "ftol": 1e-13},
    )
    best = np.zeros((rounds, rounds))
    best[rows, columns] = found.x
    return best / np.linalg.norm(best, axis=0) if sensitivity is one_round else best


def blt(workload: Matrix, buffers: int, sensitivity: Sensitivity) -> Matrix:
    """Return the best Toeplitz C with cₜ = Σ ωᵢ λᵢ^(t-1), c₀ = 1 (arXiv:2404.16706).

    A server needs one vector a buffer instead of one a round.
    """
    rounds = workload.shape[1]

    def strategy(raw: Matrix) -> Matrix:
        weights, decays = np.exp(raw[:buffers]), 1 / (1 + np.exp(-raw[buffers:]))
        series = (weights[:, None] * decays[:, None] ** np.arange(rounds - 1)).sum(axis=0)
        return np.tril(toeplitz(np.append(1.0, series)))

    def loss(raw: Matrix) -> float:
        matrix = strategy(raw)
        return float(np.log(error(remaining(workload, matrix), matrix, sensitivity)))

    start = np.append(np.full(buffers, -1.0), np.linspace(-1.0, 3.0, buffers))
    bounds = [(-20.0, 3.0)] * buffers + [(-6.0, 8.0)] * buffers
    return strategy(minimize(loss, start, bounds=bounds, options={"ftol": 1e-12}).x)


def strategies(rounds: int, sensitivity: Sensitivity) -> dict[str, tuple[Matrix, Matrix]]:
    """Return each factorisation of all models as (B, C)."""
    workload, nodes = models(rounds), tree(rounds)
    chosen = {"independent": np.eye(rounds)}
    if sensitivity is every_round:
        chosen["independent, best sigma a round"] = scaled(workload)
    chosen["square root"] = square_root(rounds)
    for bands in (2, 4, rounds):
        name = "best triangle" if bands == rounds else f"banded, b = {bands}"
        if bands <= rounds:
            chosen[name] = banded(workload, bands, sensitivity)
    chosen["BLT, 2 buffers"] = blt(workload, 2, sensitivity)
    pairs = {name: (remaining(workload, matrix), matrix) for name, matrix in chosen.items()}
    return pairs | {"tree, Honaker": (tree_remaining(nodes), nodes)}


def errors(rounds: int, sensitivity: Sensitivity) -> dict[str, tuple[float, float]]:
    """Return the error of the final model, and of all, over that of independent noise.

    The reference has all users in every round. In one round of K, a mean has K times the noise.
    """
    batches = rounds if sensitivity is one_round else 1
    workload, plain = models(rounds), np.eye(rounds)
    references = [error(a, plain, every_round) for a in (workload[-1:], workload)]
    result = {}
    for name, (output, matrix) in strategies(rounds, sensitivity).items():
        pair = [batches * error(b, matrix, sensitivity) for b in (output[-1:], output)]
        result[name] = (pair[0] / references[0], pair[1] / references[1])
    return result


def gains(rounds: int) -> dict[str, float]:
    """Return the least error of any factorisation over that of independent noise, by workload."""
    curvatures = LARGEST_CURVATURE / np.arange(1.0, 1001.0)
    workloads = {
        "final model, equal rates": final(np.ones(rounds)),
        "all models, equal rates": models(rounds),
        "final model, rates fall linearly": final(1 - np.arange(rounds) / rounds),
        "final model, momentum .9": momentum(rounds),
        "final loss, curvature 1/i, rate .5": descent(rounds, PLAN_RATE, curvatures),
        "steepest direction alone": descent(rounds, PLAN_RATE, curvatures[:1]),
    }
    plain = np.eye(rounds)
    return {
        name: least_error(workload) / error(workload, plain, every_round)
        for name, workload in workloads.items()
    }


def main() -> None:
    """Print three tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, nargs="+", default=ROUNDS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    titles = {every_round: "every user in every round", one_round: "each user in one round"}
    measured: dict[str, dict[int, dict[str, tuple[float, float]]]] = {}
    for sensitivity, title in titles.items():
        measured[title] = {rounds: errors(rounds, sensitivity) for rounds in options.rounds}
        _print(f"{title}: final model / all models", measured[title])
    least = {rounds: gains(rounds) for rounds in options.rounds}
    _print("least error of any noise over that of independent noise", least)
    if options.json:
        text = json.dumps({"errors": measured, "least": least}, indent=2)
        options.json.write_text(text + "\n", encoding="utf-8")


def _print(title: str, table: Mapping[int, Mapping[str, float | tuple[float, float]]]) -> None:
    names = list(dict.fromkeys(name for column in table.values() for name in column))
    sys.stdout.write(f"\n{title + ', K =':<58}" + "".join(f"{k:>14}" for k in table) + "\n")
    for name in names:
        cells = (column.get(name, ()) for column in table.values())
        texts = (" / ".join(f"{v:.3f}" for v in np.atleast_1d(cell)) for cell in cells)
        sys.stdout.write(f"{name:<58}" + "".join(f"{text:>14}" for text in texts) + "\n")


if __name__ == "__main__":
    main()
