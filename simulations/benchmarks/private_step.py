"""What per-user clipping costs: one step in each way there is, side by side.

    python -m simulations.benchmarks.private_step [--items 3400 50000 200000] [--candidates 0 256]
        [--length 100] [--users 64] [--modes plain ours ...] [--repeats 3] [--threads 1]
        [--device cpu] [--json FILE]

Every mode takes the same users through the same two blocks (hidden size 64, dropout 0.2), in
physical batches of the same size, up to the clipped sum (the sum, where nothing is clipped):

    plain      torch alone, its own cross-entropy; what the ratios are to
    fused      torch alone with our cross-entropy
    hooks      Opacus, per-user gradients by hooks
    functorch  Opacus, per-user gradients by functorch
    ghost      Opacus, ghost clipping in two backward passes
    ours       one backward pass, with our cross-entropy

Opacus has no tied table, so input and output tables are apart in these six. `fused tied` and
`ours tied` are the recommender as it trains. "noise" is our cryptographic noise for all weights,
"memory" the peak above what the process held before its first step. Processes take turns; each
figure is the median over them, each ratio the median of ratios taken in one turn. Seconds are the
process's own (CPU time) with one thread, and the clock's otherwise.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer
from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from client.compute.memory import keep_freed_memory
from shared.models.attention import AttentionRecommender
from shared.models.attention_config import AttentionConfig
from shared.models.losses import gather_candidate_scores, loss_per_user, next_item_pairs
from shared.privacy.clipping.clipping import PerUserClipping
from shared.privacy.noise import SystemRandom, noised
from shared.system.command_line import output

MODES = ("plain", "fused", "hooks", "functorch", "ghost", "ours", "fused tied", "ours tied")
SCORES_AT_ONCE = {"cpu": 2**25, "cuda": 2**29}
"""Scores in a physical batch, in every mode alike."""
WARM_UPS, STEPS = 1, 3
CLIP_NORM = 1.0

Batch = tuple[Tensor, Tensor, Tensor]
"""Inputs [B, T], targets [B, T], candidates [B, K]."""


class Untied(nn.Module):
    """The recommender's body with an output table of its own, in layers that Opacus knows."""

    def __init__(self, config: AttentionConfig, *, sampled: bool) -> None:
        super().__init__()
        self.body = AttentionRecommender(config)
        width = config.hidden_size
        self.out = (
            nn.Embedding(config.items, width)
            if sampled
            else nn.Linear(width, config.items, bias=False)
        )

    def forward(self, inputs: Tensor, ranked: Tensor) -> Tensor:
        """Return scores [B, T, V], or of the ranked items [B, T, K]."""
        states = self.body.states(inputs)
        scores: Tensor = states @ self.out(ranked - 1).mT if ranked.shape[1] else self.out(states)
        return scores


class Tied(nn.Module):
    """The recommender as it is."""

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__()
        self.body = AttentionRecommender(config)

    def forward(self, inputs: Tensor, ranked: Tensor) -> Tensor:
        """Return scores [B, T, V], or of the ranked items [B, T, K]."""
        return self.body.score(self.body.states(inputs), ranked if ranked.shape[1] else None)


def losses_of(model: nn.Module, batch: Batch, *, fused: bool) -> Tensor:
    """Return one loss a user, [B], by our cross-entropy or by torch's own."""
    inputs, targets, candidates = batch
    if candidates.shape[1]:
        scores = model(inputs, torch.cat([targets, candidates], dim=1))
        # The target comes first among its rivals.
        scores, targets = (
            gather_candidate_scores(scores, targets, candidates),
            torch.ones_like(targets),
        )
    else:
        scores = model(inputs, candidates)
    if fused:
        return loss_per_user(scores, targets)
    each = F.cross_entropy(scores.flatten(0, 1), targets.flatten() - 1, reduction="none")
    return each.view_as(targets).mean(1)


Step = Callable[[list[Batch]], None]


def step_of(mode: str, model: nn.Module) -> Step:
    """Return a function that computes a step's sum of gradients from its physical batches."""
    if mode == "ghost":
        return _ghost(model)
    if mode in ("hooks", "functorch"):
        return _grad_samples(model, mode)
    if mode.startswith("ours"):
        return _ours(model)
    fused = mode.startswith("fused")

    def step(batches: list[Batch]) -> None:
        model.zero_grad()
        for batch in batches:
            losses_of(model, batch, fused=fused).sum().backward()

    return step


def _ours(model: nn.Module) -> Step:
    clipping = PerUserClipping(model, CLIP_NORM).__enter__()

    def step(batches: list[Batch]) -> None:
        clipping.zero_sums()
        for batch in batches:
            clipping.backward(losses_of(model, batch, fused=True))

    return step


def _grad_samples(model: nn.Module, mode: str) -> Step:
    watched = GradSampleModule(
        model, loss_reduction="sum", force_functorch=mode == "functorch", strict=False
    )
    optimiser = DPOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.1),
        noise_multiplier=1.0,
        max_grad_norm=CLIP_NORM,
        expected_batch_size=1,
    )

    def step(batches: list[Batch]) -> None:
        optimiser.zero_grad(set_to_none=True)
        for batch in batches:
            losses_of(watched, batch, fused=False).sum().backward()
            optimiser.clip_and_accumulate()
            for p in model.parameters():
                vars(p)["grad_sample"] = None
        for p in optimiser.params:
            p.summed_grad = None

    return step


def _ghost(model: nn.Module) -> Step:
    watched = GradSampleModuleFastGradientClipping(
        model, max_grad_norm=CLIP_NORM, use_ghost_clipping=True, loss_reduction="sum"
    )
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(batches: list[Batch]) -> None:
        sums: dict[nn.Parameter, Tensor] = {}
        for batch in batches:
            losses = losses_of(watched, batch, fused=False)
            DPTensorFastGradientClipping(watched, optimiser, losses, "sum").backward()
            for p in model.parameters():
                if p.grad is not None:
                    sums[p] = sums[p] + p.grad if p in sums else p.grad
            optimiser.zero_grad()

    return step


def measure(
    mode: str, items: int, candidates: int, length: int, users: int, device: str
) -> dict[str, float]:
    """Measure the seconds of a step and of its noise, and the step's peak memory in bytes."""
    torch.manual_seed(0)
    keep_freed_memory()
    config = AttentionConfig(
        items=items, item_bias=False, hidden_size=64, layers=2, max_length=length, dropout=0.2
    )
    model = Tied(config) if mode.endswith("tied") else Untied(config, sampled=candidates > 0)
    model.train().to(device)
    step = step_of(mode, model)
    batches = _batches(items, candidates, length, users, device)
    held = _memory(device)
    for _ in range(WARM_UPS):
        step(batches)
    times = [_timed(lambda: step(batches), device) for _ in range(STEPS)]
    peak = _memory(device) - held
    return {
        "seconds": statistics.median(times),
        "noise": _timed(lambda: _noise(model), device),
        "bytes": float(peak),
    }


def _batches(items: int, candidates: int, length: int, users: int, device: str) -> list[Batch]:
    scored = length + candidates if candidates else items
    size = max(1, min(users, SCORES_AT_ONCE[device] // (length * scored)))
    inputs, targets = next_item_pairs(torch.randint(1, items + 1, (users, length + 1)))
    drawn = torch.randint(1, items + 1, (users, candidates))
    parts = (x.to(device).split(size) for x in (inputs, targets, drawn))
    return list(zip(*parts, strict=True))


def _noise(model: nn.Module) -> None:
    random = SystemRandom()
    for p in model.parameters():
        noised(p.detach(), CLIP_NORM, random)


def _timed(work: Callable[[], None], device: str) -> float:
    # One thread's own time: what else runs on the machine does not count.
    single_threaded = device == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if single_threaded else time.perf_counter
    started = clock()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - started


def _memory(device: str) -> int:
    """Return the peak memory so far."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Measure every mode in processes that take turns, or run as one of them."""
    options = _parser().parse_args()
    torch.set_num_threads(options.threads)
    if options.child:
        _child(options)
        return
    results = []
    for candidates in options.candidates:
        for items in options.items:
            figures = _compare(options, items, candidates)
            results.append({"items": items, "candidates": candidates, "modes": figures})
            output.print(_table(options, results[-1]))
    if options.json:
        setting = {key: value for key, value in vars(options).items() if key != "child"}
        document = {"setting": setting, "torch": torch.__version__, "results": results}
        Path(options.json).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--items", type=int, nargs="+", default=[3_400, 50_000, 200_000])
    parser.add_argument("--candidates", type=int, nargs="+", default=[0, 256])
    parser.add_argument("--length", type=int, default=100)
    parser.add_argument("--users", type=int, default=64)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json")
    parser.add_argument("--child", choices=MODES, help=argparse.SUPPRESS)
    return parser


def _child(options: argparse.Namespace) -> None:
    warnings.simplefilter("ignore")
    (items,), (candidates,) = options.items, options.candidates
    figures = measure(
        options.child, items, candidates, options.length, options.users, options.device
    )
    sys.stdout.write(json.dumps(figures) + "\n")


def _compare(
    options: argparse.Namespace, items: int, candidates: int
) -> dict[str, dict[str, float]]:
    """Return medians by mode, and medians of the ratios to the first mode."""
    turns: dict[str, list[dict[str, float]]] = {mode: [] for mode in options.modes}
    for _ in range(options.repeats):
        for mode, measured in turns.items():
            measured.append(_spawn(options, mode, items, candidates))
    base = turns[options.modes[0]]
    figures = {}
    for mode, measured in turns.items():
        figures[mode] = {key: statistics.median(f[key] for f in measured) for key in measured[0]}
        for key in ("seconds", "bytes"):
            ratios = [f[key] / b[key] for f, b in zip(measured, base, strict=True)]
            figures[mode][f"{key}_ratio"] = statistics.median(ratios)
        figures[mode]["users_per_second"] = options.users / figures[mode]["seconds"]
    return figures


def _spawn(options: argparse.Namespace, mode: str, items: int, candidates: int) -> dict[str, float]:
    given = {
        "child": mode,
        "items": items,
        "candidates": candidates,
        "length": options.length,
        "users": options.users,
        "threads": options.threads,
        "device": options.device,
    }
    command = [sys.executable, "-m", __spec__.name]
    command += [part for key, value in given.items() for part in (f"--{key}", str(value))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        nothing = dict.fromkeys(("seconds", "noise", "bytes"), float("nan"))
        sys.stderr.write(f"{mode}: {(done.stderr.splitlines() or ['killed'])[-1]}\n")
        return nothing
    return dict(json.loads(done.stdout))


def _table(options: argparse.Namespace, result: dict[str, object]) -> Table:
    ranked = f"{result['candidates']} candidates" if result["candidates"] else "full softmax"
    table = Table(
        title=f"{result['items']:,} items, {ranked}, {options.users} users x {options.length}, "
        f"{options.threads} thread(s), {options.device}"
    )
    for name in ("mode", "s a step", "to plain", "users/s", "noise s", "memory MB", "to plain"):
        table.add_column(name, justify="left" if name == "mode" else "right")
    modes = result["modes"]
    assert isinstance(modes, dict)
    for mode, f in modes.items():
        table.add_row(
            mode,
            f"{f['seconds']:.3f}",
            f"{f['seconds_ratio']:.2f}",
            f"{f['users_per_second']:.0f}",
            f"{f['noise']:.3f}",
            f"{f['bytes'] / 1e6:.0f}",
            f"{f['bytes_ratio']:.2f}",
        )
    return table


if __name__ == "__main__":
    main()
