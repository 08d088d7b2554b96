"""sotto-lab accountant: solve for noise, steps or ε, and compare accountants."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from client.site.site import FILE, Site
from shared.errors import ConfigError
from shared.privacy.accounting.accountant import MAX_STEPS
from shared.privacy.release import Release, ReleaseKind, merge
from shared.system.command_line import output, write_json
from simulations.experiment.accountants import Answer, Question, answer

__all__ = ["accountant_command"]


def accountant_command(
    *,
    delta: Annotated[float, typer.Option(help="δ of the claim; below 1 / number of users.")],
    noise_multiplier: Annotated[
        float | None, typer.Option(help="Standard deviation of the noise over the clip norm, σ.")
    ] = None,
    sample_rate: Annotated[
        float | None, typer.Option(help="Probability that a user is in a step, q.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Noised steps: rounds × local steps.")] = None,
    epsilon: Annotated[float | None, typer.Option(help="ε of all steps together.")] = None,
    spent: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SITE | σ:q:STEPS",
            help="Earlier releases: a site's folder (its ledger), or a triple. Repeatable.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compute ε, the noise, or the steps that fit: give two, and the third is computed.

    For example, the ε of 60 steps:

    sotto-lab accountant --noise-multiplier 1 --sample-rate .1 --steps 60 --delta 1e-5

    The noise for 60 more steps within ε = 8, after 40 steps at another noise:

    sotto-lab accountant --epsilon 8 --steps 60 --sample-rate .1 --delta 1e-5 --spent 3:.1:40
    """
    question = Question(
        delta=delta,
        sample_rate=sample_rate,
        noise_multiplier=noise_multiplier,
        steps=steps,
        target=epsilon,
        spent=tuple(release for text in spent or [] for release in _read_spent(text)),
    )
    solution = answer(question)
    if as_json:
        write_json(_data(question, solution))
    else:
        _print_answer(question, solution)


def _read_spent(text: str) -> list[Release]:
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


def _data(question: Question, solution: Answer) -> dict[str, Any]:
    return {
        "delta": question.delta,
        "target_epsilon": question.target,
        "spent": [asdict(release) for release in merge(question.spent)],
        "release": asdict(solution.release) if solution.release else None,
        "epsilon": solution.epsilon,
    }


_TITLES = {
    "sotto": "numerical composition by Sotto's ledger, upper bound",
    "rdp": "Rényi accounting, a looser upper bound",
    "prv": "numerical composition by Opacus, upper bound",
    "pld": "numerical composition by dp-accounting",
}


def _print_answer(question: Question, solution: Answer) -> None:
    release = solution.release
    if release:
        more = " or more" if release.steps == MAX_STEPS and question.steps is None else ""
        output.print(
            f"noise multiplier {release.noise_multiplier:.6g}, sample rate "
            f"{release.sample_rate:g}, {release.steps:,} steps{more}"
        )
    elif question.target:
        output.print(f"Not one step fits into ε = {question.target:g}.")
    steps = sum(earlier.steps for earlier in question.spent)
    after = f", {steps:,} earlier steps counted" if question.spent else ""
    table = Table("accountant", "ε", "", title=f"δ = {question.delta:g}{after}")
    for name, value in solution.epsilon.items():
        shown = "-" if value is None else "∞" if value == math.inf else f"{value:.4f}"
        table.add_row(name, shown, _TITLES[name])
    output.print(table)
