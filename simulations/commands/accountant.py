"""sotto-lab accountant: what noise costs, what a budget buys, and whether accountants agree.

Of noise, steps and ε two are given and the third is found, on top of what is spent already. The
Gaussian central limit ("GDP") understates ε, so it is not among the accountants.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from opacus.accountants import PRVAccountant
from rich.table import Table

from client.site.site import FILE, Site
from shared.errors import ConfigError
from shared.privacy.accounting.accountant import (
    MOST_STEPS,
    epsilon,
    noise_multiplier_for,
    renyi_epsilon,
    steps_for,
)
from shared.privacy.release import Release, ReleaseKind, merge
from shared.system.command_line import output, write_json

__all__ = ["Answer", "Question", "accountant_command", "answer", "opacus_epsilon"]

OTHERS_EPSILON, OTHERS_STEPS, OTHERS_FORMS = 100.0, 100_000, 10
"""Beyond this ε, these steps or these distinct releases others take minutes: left out."""
OTHERS_GRID = 4e6
"""Points that Opacus may take: its error is set by them where ε is small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Two of three, or none: then the question is what `spent` costs.

    Attributes:
        delta: in (0, 1).
        sample_rate: chance of a user to be in a step, in (0, 1].
        noise_multiplier: > 0.
        steps: >= 1.
        target: ε that `spent` and the steps may cost together, > 0.
        spent: what was released before.
    """

    delta: float
    sample_rate: float | None = None
    noise_multiplier: float | None = None
    steps: int | None = None
    target: float | None = None
    spent: tuple[Release, ...] = ()

    def __post_init__(self) -> None:
        noise, rate, steps = self.noise_multiplier, self.sample_rate, self.steps
        checks = (
            ("--noise-multiplier", noise, noise is None or 0 < noise < math.inf, "above 0"),
            ("--sample-rate", rate, rate is None or 0 < rate <= 1, "above 0, at most 1"),
            ("--steps", steps, steps is None or steps >= 1, "of 1 or more"),
        )
        for name, value, holds, wanted in checks:
            if not holds:
                raise ConfigError(f"{name} {value}: give a number {wanted}.")
        given = sum(value is not None for value in (noise, steps, self.target))
        if given != 2 and not (given == 0 and self.spent):
            raise ConfigError(
                "give two of --noise-multiplier, --steps and --epsilon, and the third is found; "
                "or --spent alone, to learn what it cost."
            )
        if given and rate is None:
            raise ConfigError("--sample-rate is not set: state the chance of a user to be drawn.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was found.

    Attributes:
        release: the new steps; None if only the past was asked for, or not one step fits.
        epsilon: of past and new steps together, by each accountant; None where it was not asked
            or gave up.
    """

    release: Release | None
    epsilon: dict[str, float | None]


def answer(question: Question) -> Answer:
    """Finds what is missing, and what all costs.

    Raises:
        AccountingError: delta or the target is out of range, or no noise meets the target.
    """
    release = _release(question)
    together = [*question.spent, *([release] if release else [])]
    return Answer(release=release, epsilon=_by_each(together, question.delta))


def _release(question: Question) -> Release | None:
    noise, rate, steps = question.noise_multiplier, question.sample_rate, question.steps
    if rate is None:
        return None
    spent, target, delta = question.spent, question.target, question.delta
    if noise is None and steps is not None and target is not None:
        noise = noise_multiplier_for(target, delta, sample_rate=rate, steps=steps, spent=spent)
    elif steps is None and noise is not None and target is not None:
        steps = steps_for(target, delta, noise_multiplier=noise, sample_rate=rate, spent=spent)
    if noise is None or not steps:
        return None
    return Release(kind=ReleaseKind.TRAIN, noise_multiplier=noise, sample_rate=rate, steps=steps)


def _by_each(releases: Sequence[Release], delta: float) -> dict[str, float | None]:
    ours, merged = epsilon(releases, delta), merge(list(releases))
    found: dict[str, float | None] = {
        "sotto": ours,
        "rdp": renyi_epsilon(releases, delta),
        "prv": None,
    }
    others = {"prv": opacus_epsilon}
    if importlib.util.find_spec("dp_accounting"):
        others["pld"] = _google
        found["pld"] = None
    few = len(merged) <= OTHERS_FORMS and sum(r.steps for r in merged) <= OTHERS_STEPS
    if few and 0 < ours < OTHERS_EPSILON:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found |= {name: accountant(merged, delta, ours) for name, accountant in others.items()}
    return found


def opacus_epsilon(releases: Sequence[Release], delta: float, scale: float) -> float | None:
    """Upper bound of Gopi, Lee & Wutschitz 2021 (arXiv:2106.02848), as Opacus has it.

    Args:
        releases: merged; many distinct ones take minutes.
        delta: in (0, 1).
        scale: about what ε is, for the grid's width.

    Returns:
        None where it gave up.
    """
    accountant = PRVAccountant()
    accountant.history = [(r.noise_multiplier, r.sample_rate, r.steps) for r in releases]
    total = sum(release.steps for release in releases)
    width = 2 * (scale + 4) * math.sqrt(total * math.log(12e3 / delta) / 2)
    error = max(scale / 1000, width / OTHERS_GRID)
    try:
        return float(accountant.get_epsilon(delta, eps_error=error, delta_error=delta / 1000))
    except (ArithmeticError, MemoryError, RuntimeError, ValueError):
        return None


def _google(releases: Sequence[Release], delta: float, scale: float) -> float | None:
    """Doroshenko et al. 2022 (arXiv:2207.04380), as dp-accounting has it."""
    import dp_accounting  # noqa: PLC0415 only where it is installed
    from dp_accounting.pld import PLDAccountant  # noqa: PLC0415

    total = sum(release.steps for release in releases)
    accountant = PLDAccountant(
        dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
        value_discretization_interval=min(1e-3, max(1e-6, 5e-3 * scale / math.sqrt(total))),
    )
    for release in releases:
        event = dp_accounting.GaussianDpEvent(release.noise_multiplier)
        sampled = dp_accounting.PoissonSampledDpEvent(release.sample_rate, event)
        accountant.compose(sampled, release.steps)
    return float(accountant.get_epsilon(delta))


# --- the command -------------------------------------------------------------------------------


def accountant_command(
    *,
    delta: Annotated[float, typer.Option(help="δ of the claim; below 1 / users.")],
    noise_multiplier: Annotated[
        float | None, typer.Option(help="Noise's standard deviation over the clip norm, σ.")
    ] = None,
    sample_rate: Annotated[
        float | None, typer.Option(help="Chance of a user to be in a step, q.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Noised steps: rounds × local steps.")] = None,
    epsilon: Annotated[float | None, typer.Option(help="ε that all may cost together.")] = None,
    spent: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SITE | σ:q:STEPS",
            help="Released before: a site's folder, for its ledger, or a triple. May be repeated.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As data.")] = False,
) -> None:
    """Find ε, the noise, or the steps that fit: give two, and the third is found.

    For example, what 60 steps cost:

    sotto-lab accountant --noise-multiplier 1 --sample-rate .1 --steps 60 --delta 1e-5

    The noise for 60 steps up to ε = 8, where 40 are spent:

    sotto-lab accountant --epsilon 8 --steps 60 --sample-rate .1 --delta 1e-5 --spent 3:.1:40
    """
    question = Question(
        delta=delta,
        sample_rate=sample_rate,
        noise_multiplier=noise_multiplier,
        steps=steps,
        target=epsilon,
        spent=tuple(release for text in spent or [] for release in _spent(text)),
    )
    found = answer(question)
    if as_json:
        write_json(_data(question, found))
    else:
        _tell(question, found)


def _spent(text: str) -> list[Release]:
    if Path(text).exists():
        site = Site.load(Path(text))
        return site.open_ledger().releases()
    try:
        noise, rate, steps = text.split(":")
        return [
            Release(
                kind=ReleaseKind.TRAIN,
                noise_multiplier=float(noise),
                sample_rate=float(rate),
                steps=int(steps),
            )
        ]
    except ValueError as error:
        raise ConfigError(
            f"--spent {text}: give a folder with a {FILE}, or noise multiplier, sample rate and "
            "steps as in 1.2:0.1:60."
        ) from error


def _data(question: Question, found: Answer) -> dict[str, Any]:
    return {
        "delta": question.delta,
        "target_epsilon": question.target,
        "spent": [asdict(release) for release in merge(question.spent)],
        "release": asdict(found.release) if found.release else None,
        "epsilon": found.epsilon,
    }


_TITLES = {
    "sotto": "what a site's ledger counts, an upper bound",
    "rdp": "Rényi bound, looser",
    "prv": "numerical composition by Opacus, upper bound",
    "pld": "numerical composition by dp-accounting",
}


def _tell(question: Question, found: Answer) -> None:
    release = found.release
    if release:
        more = " or more" if release.steps == MOST_STEPS and question.steps is None else ""
        output.print(
            f"noise multiplier {release.noise_multiplier:.6g}, sample rate "
            f"{release.sample_rate:g}, {release.steps:,} steps{more}"
        )
    elif question.target:
        output.print(f"Not one step fits into ε = {question.target:g}.")
    steps = sum(earlier.steps for earlier in question.spent)
    after = f", {steps:,} earlier steps counted" if question.spent else ""
    table = Table("accountant", "ε", "", title=f"δ = {question.delta:g}{after}")
    for name, value in found.epsilon.items():
        shown = "-" if value is None else "∞" if value == math.inf else f"{value:.4f}"
        table.add_row(name, shown, _TITLES[name])
    output.print(table)
