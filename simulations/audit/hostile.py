"""Audit the sites against a coordinator that chooses weights to reveal its canaries.

Every site is asked twice by `simulations.audit.crafted`, and its whole budget is spent: two steps
over all users, whose noise multipliers differ so that a ledger that forgets one is noticed. The
site is a partner's: site.toml, data, ledger; the node's own app answers. Its users are those of an
organisation of the run (their last events, which are all that the model reads) and canaries.

Each canary's item tells one coin, so one release is a trial of thousands of coins, and there are
as many sites as it takes for all canaries. `simulations.audit.pooled_bound` says what wrong guesses
prove: the noise of different sites must be independent, and nothing else is assumed.

| observer       | sees of each canary                                      | detects             |
|----------------|----------------------------------------------------------|---------------------|
| white-box      | both answers of the site, weighted by 1 / σ²             | weak noise          |
| between rounds | the first answer minus the second, each over its noise's | noise that is       |
|                |   deviation                                              |   repeated          |

A canary who is out is replaced by nobody: data sets whose coins differ in one place are neighbours.

Letters: R sites, m canaries of each, V items.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.noise_plan import noise_for_share
from shared.config import ModelConfig, TrainingConfig, WarmStartConfig
from shared.data.histories import Histories
from shared.errors import ConfigError
from shared.messages import TRAIN, TrainReply, TrainRequest
from shared.privacy.accounting.accountant import noise_multiplier_for
from shared.privacy.release import Release
from simulations.audit.crafted import (
    SHAPE,
    canaries_with,
    choose_trigger,
    crafted_requests,
    presence,
)
from simulations.audit.epsilon_bounds import gaussian_estimate
from simulations.audit.independent_accounting import compare_with_ledgers
from simulations.audit.observers import BETWEEN_ROUNDS, WHITE_BOX
from simulations.audit.plan import AuditPlan
from simulations.audit.pooled_bound import guess_pooled, largest_pooled
from simulations.audit.recorder import RecordedAnswer, Recorder
from simulations.audit.replay import Replay
from simulations.audit.verdict import (
    SEEDED_NOISE,
    Claim,
    audit_record,
    confidence_of_each,
    limitations,
    sensitivity_section,
)
from simulations.experiment.config import SimulationConfig
from simulations.experiment.federation import (
    InProcessGrid,
    SimulatedSite,
    ledger_costs,
)
from simulations.experiment.prepare import prepare
from simulations.experiment.simulation import (
    SITES,
    Reporter,
    RoundFigures,
    Simulation,
    write_changed_site,
)

__all__ = ["audit_hostile"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Bools = NDArray[np.bool_]

SHARES = (0.6, 0.4)
"""Of 1 / σ², of the two releases."""
MOST_CANARIES = 3000
"""Canaries of one site: more cost time for each, fewer a site's own time for each."""
FEWEST_CANARIES, FEWEST_SITES = 10, 2
EXAMINED_SITES, EXAMINED_USERS = 4, 3
"""Sites at which the shares of so many canaries, and of other users, are measured."""
_RUN = "hostile"

_SEES = {
    WHITE_BOX: "both answers of every site, to weights of its own choice",
    BETWEEN_ROUNDS: "a site's first answer minus its second one",
}
_BLIND_SPOTS = (
    "Only training steps over all users were asked for, with weights crafted in one way. "
    "Statistics, metrics, smaller samples and a run's own requests were not: audit with "
    "--adversary honest, too.",
    "Canaries are synthetic users with two events, at sites with an organisation's users.",
    SEEDED_NOISE,
)


@dataclass(frozen=True, slots=True)
class _Layout:
    """The experiment, before anybody is asked.

    Attributes:
        trigger: item before a canary's own.
        own: the canaries' own items, the same at every site, [m].
        inside: the coins, [R, m].
        noise_multipliers: of the two requests.
    """

    trigger: int
    own: Ints
    inside: Bools
    noise_multipliers: tuple[float, ...]


@dataclass(slots=True)
class _Evidence:
    """What the sites' answers and ledgers showed.

    Attributes:
        presence: of every canary in each release, over the noise, [R, 2, m].
        ledgers: what each site's ledger states.
        releases: what was seen leaving each site.
        largest: share of a sum that one user had, over the clip norm.
    """

    presence: Floats32
    ledgers: dict[str, float] = field(default_factory=dict)
    releases: dict[str, list[Release]] = field(default_factory=dict)
    largest: float = 0.0


def audit_hostile(
    config: SimulationConfig, plan: AuditPlan, folder: Path, reporter: Reporter
) -> dict[str, Any]:
    """Ask sites with crafted weights until every canary was tried.

    Args:
        config: of the run whose data, organisations and budget the sites have; the coordinator
            chooses the model and what is asked.
        plan: the size of the audit.
        folder: for all files; empty, or absent.
        reporter: gets the progress.

    Returns:
        audit.json: docs/formats.md describes it.

    Raises:
        ConfigError: the run cannot be audited; nothing was asked.
        RuntimeError: a site refused a request.
    """
    catalogued = ModelConfig(feature_size=SHAPE.feature_size)
    simulation = prepare(
        replace(
            config,
            model=catalogued,
            training=TrainingConfig(rounds=0),
            warm_start=WarmStartConfig(),
        ),
        folder,
    )
    shutil.rmtree(folder / SITES)  # the organisations themselves are not asked
    layout = _lay_out(simulation, plan)
    evidence = _ask_all(simulation, layout, reporter)
    reporter.stage("looking for canaries")
    return _judge(simulation, layout, evidence, plan)


def _lay_out(simulation: Simulation, plan: AuditPlan) -> _Layout:
    epsilon, delta = simulation.config.privacy.epsilon, simulation.config.privacy.delta
    assert epsilon is not None
    items = len(simulation.dataset.catalogue)
    room = math.ceil(1 / delta) - 1 - max(simulation.populations)  # δ < 1 / population
    most = min(items - 1, room, MOST_CANARIES)
    if most < FEWEST_CANARIES:
        raise ConfigError(
            f"there are {items} items, δ = {delta:g} and up to {max(simulation.populations)} users "
            f"at an organisation: {max(most, 0)} canaries fit at a site, and "
            f"{FEWEST_CANARIES} are needed. Take more items, or a smaller --delta."
        )
    sites = max(FEWEST_SITES, math.ceil(plan.canaries / most))
    rng = np.random.default_rng([plan.seed, 0xCA4A42])
    trigger = choose_trigger(simulation.split.train, items)
    others = np.setdiff1d(np.arange(1, items + 1), [trigger])
    own = np.sort(rng.permutation(others)[: plan.canaries // sites])
    sigma = noise_multiplier_for(epsilon, delta, sample_rate=1.0, steps=1)
    noise = tuple(noise_for_share(sigma, share) for share in SHARES)
    return _Layout(trigger, own, rng.random((sites, len(own))) < 0.5, noise)


def _ask_all(simulation: Simulation, layout: _Layout, reporter: Reporter) -> _Evidence:
    catalogue = simulation.dataset.catalogue
    requests = crafted_requests(catalogue, layout.trigger, _RUN, layout.noise_multipliers)
    sites, canaries = layout.inside.shape
    evidence = _Evidence(np.zeros((sites, len(requests), canaries), np.float32))
    reporter.stage("asking sites")
    for number in range(sites):
        _ask(simulation, layout, requests, number, evidence)
        spent = max(evidence.ledgers.values())
        reporter.round(number + 1, sites, RoundFigures(epsilon=spent))
    return evidence


def _ask(
    simulation: Simulation,
    layout: _Layout,
    requests: list[TrainRequest],
    number: int,
    evidence: _Evidence,
) -> None:
    """Make one site, ask it, keep what it showed, and remove it."""
    part = number % len(simulation.parts)
    others = simulation.histories(part).last(SHAPE.max_length + 1)
    canaries = canaries_with(layout.trigger, layout.own)
    site = SimulatedSite(
        organisation=f"site-{number + 1}",
        histories=Histories.joined(
            [others, canaries.select(np.flatnonzero(layout.inside[number]))]
        ),
        stream=number,
        population=simulation.populations[part] + len(canaries),
    )
    folder = simulation.folder / SITES / site.organisation
    write_changed_site(simulation, site, folder)
    seen = _answers(folder, requests, evidence)
    for place, answer in enumerate(seen):
        reply = TrainReply(change=answer.answer)
        assert isinstance(answer.request, TrainRequest)
        assert site.population is not None
        present = presence(answer.request, reply, site.population)
        evidence.presence[number, place] = present[layout.own - 1]
    if number < EXAMINED_SITES:
        for answer in seen:
            replay = Replay(answer, simulation.dataset.catalogue, site.population or 1)
            some = (canaries.select(_spread(canaries)), others.select(_spread(others)))
            evidence.largest = max(evidence.largest, *(_largest_share(replay, h) for h in some))
    for name, cost in ledger_costs([folder]).items():
        evidence.ledgers[name] = cost.epsilon
    shutil.rmtree(folder)


def _answers(
    folder: Path, requests: list[TrainRequest], evidence: _Evidence
) -> list[RecordedAnswer]:
    """Return the site's answers to all requests, in their order."""
    recorder = Recorder([request.round for request in requests])
    grid = InProcessGrid(recorder, [folder])
    for request in requests:
        message = grid.create_message(request.to_content(), TRAIN, 1, str(request.round))
        for reply in grid.pull_messages(grid.push_messages([message])):
            if reply.has_error():
                raise RuntimeError(f"{folder.name} refused a crafted request: {reply.error.reason}")
    evidence.releases |= recorder.releases
    return recorder.seen[folder.name]


def _spread(histories: Histories) -> Ints:
    """Return some rows, evenly spread."""
    number = min(EXAMINED_USERS, len(histories))
    return np.linspace(0, len(histories) - 1, number).astype(np.int64)


def _largest_share(replay: Replay, histories: Histories) -> float:
    shares = [
        float(np.linalg.norm(replay.added(histories.select([row]))))
        for row in range(len(histories))
    ]
    return max(shares, default=0.0) / replay.clip_norm


def _judge(
    simulation: Simulation, layout: _Layout, evidence: _Evidence, plan: AuditPlan
) -> dict[str, Any]:
    worst = max(evidence.ledgers, key=lambda name: evidence.ledgers[name])
    claim = Claim(evidence.ledgers[worst], simulation.config.privacy.delta, worst)
    scores = _scores(evidence.presence, layout.noise_multipliers)
    confidences = confidence_of_each(list(scores), plan.confidence)
    observers = [
        {"name": name, "sees": _SEES[name]}
        | _figures(each, layout.inside, simulation, claim, confidences[name])
        for name, each in scores.items()
    ]
    provable = max(each["largest_provable"] for each in observers)
    return audit_record(
        plan,
        claim,
        observers=observers,
        sensitivity=sensitivity_section(evidence.largest),
        books=_compare_books(evidence, claim.delta),
        membership=None,
        blind_spots=[*limitations(observers[0], provable, claim), *_BLIND_SPOTS],
    )


def _scores(present: Floats32, noise_multipliers: tuple[float, ...]) -> Mapping[str, Floats]:
    """Return each observer's scores of all canaries, [R, m], 0 on average at each site.

    The first release has less noise, so a canary adds more to it, over the noise: higher scores
    are likelier to be in for both observers.
    """
    over = present.astype(np.float64)
    weights = 1 / np.array(noise_multipliers)[:, None]  # what a canary adds, over the noise
    scores = {WHITE_BOX: (weights * over).sum(1), BETWEEN_ROUNDS: over[:, 0] - over[:, 1]}
    return {name: each - each.mean(1, keepdims=True) for name, each in scores.items()}


def _figures(
    scores: Floats, inside: Bools, simulation: Simulation, claim: Claim, confidence: float
) -> dict[str, Any]:
    """Return what an observer's scores prove, and the ε that they suggest, as in audit.json."""
    budget = simulation.config.privacy.epsilon
    assert budget is not None
    planned: dict[str, Any] = {
        "epsilon": budget,  # and not what a ledger states: known before anything is seen
        "delta": claim.delta,
        "confidence": confidence,
    }
    best = guess_pooled(scores, inside, **planned)
    estimate = gaussian_estimate(
        scores.ravel(), inside.ravel(), delta=claim.delta, confidence=confidence
    )
    return {
        "canaries": scores.size,
        "guesses": best.guesses,
        "correct": best.correct,
        "epsilon_lower_bound": best.epsilon,
        "largest_provable": largest_pooled(*scores.shape, **planned),
        "estimate": asdict(estimate),
        "epsilon_claimed": claim.epsilon,
        "violated": best.epsilon > claim.epsilon or estimate.low > claim.epsilon,
    }


def _compare_books(evidence: _Evidence, delta: float) -> dict[str, Any]:
    """Compare each ledger with what left; sites with equal books are compared once."""
    different = {
        (epsilon, tuple(evidence.releases.get(name, []))): name
        for name, epsilon in reversed(evidence.ledgers.items())
    }
    ledgers = {name: evidence.ledgers[name] for name in different.values()}
    return compare_with_ledgers(evidence.releases, ledgers, delta)
