"""The phases of the day, and what is checked at its end."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.data.feedback import FeedbackStore
from client.home.store import HOME_FILE
from client.serving.recommender import Recommended, Recommender
from client.site.site import FILE, Site
from simulations.benchmarks.day.clicks import ClickModel
from simulations.benchmarks.day.partners import (
    OWN,
    Federation,
    LedgerState,
    ledger_state,
    publish,
)
from simulations.benchmarks.day.service import KilledService, sotto_node
from simulations.benchmarks.day.traffic import Acknowledged, Traffic, Visit, visit_random

Floats = NDArray[np.float64]
__all__ = ["ADAPTED", "REFRESHED", "Plan", "live_through"]

ADAPTED, REFRESHED = (1, 2, 4), 3
"""Phases that begin with `sotto-node adapt`, and with the second run."""
_PHASES, _NORMAL, _PATIENCE = 5, 1.96, 60.0
_LONG = 10**6
_STORE = "sqlite:///feedback.sqlite"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much of it.

    Attributes:
        clicks: how users click.
        visits: of each user, in one phase.
        kills: of the service, at random requests.
        k: length of a list.
        seed: of clicks and kills.
        refresh_seed: of the second run's noise.
    """

    clicks: ClickModel = field(default_factory=ClickModel)
    visits: int = 10
    kills: int = 10
    k: int = 10
    seed: int = 0
    refresh_seed: int = 1


def live_through(
    federation: Federation,
    plan: Plan,
    say: Callable[[str], None] = lambda _: None,
    node: Callable[..., str] = sotto_node,
) -> dict[str, Any]:
    """Live through the day, and return what was measured.

    Args:
        federation: the organisations.
        plan: how much of it.
        say: gets the progress.
        node: runs a command of a partner, and returns what it prints.

    Raises:
        AssertionError: feedback was lost or doubled, did not reach the second run as interactions
            of the same users, or a ledger says another thing than the runs cost.
    """
    say("training together")
    published = federation.folder / "published"
    publish(federation.train("run-1"), federation.folder / "catalogue", published)
    first = federation.folder / "published-first"
    publish(published / "model", published / "catalogue", first)
    _set_up(federation.site)
    before = ledger_state(federation.site)
    random = np.random.default_rng([plan.seed, 7])
    users = random.permutation(sorted(federation.given)).tolist()
    groups = [users[phase::_PHASES] for phase in range(_PHASES)]
    requests = 2 * len(users) * plan.visits  # each visit: a list, and feedback
    kills = np.sort(random.choice(np.arange(1, requests), plan.kills, replace=False)).tolist()
    service = KilledService(
        federation.site,
        published,
        federation.folder / "serve.log",
        kills,
        random.random(plan.kills).tolist(),
    )
    truth = {user: set(items) for user, items in federation.truth.items()}
    traffic = Traffic(service, plan.clicks, truth, plan.k, plan.seed)
    rates = _ExpectedRates(federation, plan, sorted(groups[-1]))
    of_first = rates.of(first)
    unchanged = _FirstModel(federation, plan, Recommender.load(first))
    phases, visits, rises, refresh = [], [], [], {}
    with service:
        model = traffic.model()
        for phase in range(_PHASES):
            learned = sum(map(len, traffic.chosen.values()))
            if phase in ADAPTED:
                answer = node("adapt", published, "--site", federation.site, "--json")
                chosen = json.loads(answer[answer.index("{") :])["chosen"]
                say(f"adapted with {learned:,} chosen items: {chosen}")
            if phase == REFRESHED:
                assert ledger_state(federation.site) == before, "serving or adapting was charged"
                refresh = _refresh(federation, plan, published, traffic, before, rates)
                say("trained together again")
            if phase:
                model = _wait_for_another(traffic, model)
            begin = time.monotonic()
            expected = rates.of(published)
            done = traffic.run(phase, groups[phase], plan.visits)
            seconds = time.monotonic() - begin
            assert {visit.model for visit in done} == {model}, "a list of another model"
            users_rates, others = _by_user(done), unchanged.rates(phase, groups[phase])
            if phase == 0:
                assert (users_rates == others).all(), "the first model is another than is served"
            rises.append(users_rates - others)
            phases.append(
                _phase(phase, done, (of_first, expected), learned, seconds)
                | {"model": model, "ctr_with_first_model": float(others.mean())}
                | {"rise": _mean(rises[-1])}
            )
            visits.append(done)
            say(f"phase {phase}: CTR {phases[-1]['ctr']:.4f}, {service.killed} kills so far")
    assert service.killed == plan.kills == service.starts - 1
    return {
        "plan": asdict(plan),
        "users": len(users),
        "items": len(federation.catalogue),
        "given_events": sum(map(len, federation.given.values())),
        "phases": phases,
        "rise": _mean(np.concatenate(rises[1:])),
        "service": {
            "kills": service.killed,
            "requests": service.requests,
            "sent_again": traffic.attempts,
            "seconds_down": round(service.down_seconds, 1),
        },
        "feedback": _check_store(federation.site, traffic.acknowledged, visits)
        | {"stored_but_not_acknowledged_at_first": traffic.repeated},
        "refresh": refresh,
    }


def _set_up(site: Path) -> None:
    """Let the site serve, and let the second run read its feedback."""
    file = site / FILE
    lines = ["", "[serve]", "federate = true", 'times = "seconds"', "reload_seconds = 0.5", ""]
    file.write_text(file.read_text(encoding="utf-8") + "\n".join(lines), encoding="utf-8")


def _refresh(
    federation: Federation,
    plan: Plan,
    published: Path,
    traffic: Traffic,
    before: LedgerState,
    rates: _ExpectedRates,
) -> dict[str, Any]:
    """Run the federation again, publish its model, and check what it read and what it cost."""
    federation.reseed(plan.refresh_seed)
    # What the same run with the same noise comes to where the feedback stays at home.
    control = federation.copy_without_feedback("control")
    without = federation.train("run-2-without", sites=control)
    _check_histories(federation, traffic)
    control_folder = federation.folder / "published-without"
    publish(without, federation.folder / "catalogue", control_folder)
    model = federation.train("run-2")
    publish(model, federation.folder / "catalogue", published)
    after, control_after = ledger_state(federation.site), ledger_state(control / OWN)
    expected = before.twice(federation.config.privacy.delta)
    assert after == control_after == expected, "the second run was not charged as the first was"
    weights = [(folder / "model.safetensors").read_bytes() for folder in (model, without)]
    assert weights[0] != weights[1], "the second run read no feedback"
    return {
        "chosen_items_read": sum(map(len, traffic.chosen.values())),
        "expected": _mean(rates.of(published)),
        "expected_without_feedback": _mean(rates.of(control_folder)),
        "difference": _mean(rates.of(published) - rates.of(control_folder)),
        "ledger_before": _shown(before),
        "ledger_after": _shown(after),
        "allowed": Site.load(federation.site).policy.max_epsilon,
        "same_weights_without_feedback_as_first_run": weights[1]
        == (federation.folder / "run-1" / "model" / "model.safetensors").read_bytes(),
    }


def _shown(state: LedgerState) -> dict[str, Any]:
    return {"charges": state.charges, "epsilon": round(state.epsilon, 4)}


def _check_histories(federation: Federation, traffic: Traffic) -> None:
    """Check what a coordinator's run reads: the given events, then what was chosen, by user."""
    read = Site.load(federation.site).load_histories(federation.catalogue, _LONG, strict=False)
    names = federation.catalogue.item_ids
    found = {
        user: [names[item - 1] for item in items.tolist()]
        for user, items in zip(read.users, read, strict=True)
    }
    expected = {
        user: items + traffic.chosen.get(user, []) for user, items in federation.given.items()
    }
    assert found == expected, "the second run reads other histories"


def _wait_for_another(traffic: Traffic, model: str) -> str:
    """Wait until another model answers; return its name."""
    end = time.monotonic() + _PATIENCE
    while (now := traffic.model()) == model:
        assert time.monotonic() < end, "the service did not load what is new"
        time.sleep(0.2)
    return now


class _ExpectedRates:
    """The CTR that the click model expects, by user, before any of the users has come.

    Args:
        federation: whose users they are.
        plan: the click model, and the length of a list.
        users: of whom no model has read feedback.
    """

    def __init__(self, federation: Federation, plan: Plan, users: Sequence[str]) -> None:
        self._federation, self._plan, self._users = federation, plan, users

    def of(self, published: Path) -> Floats:
        """Return the rates of a published model, with the adapted one where there is one."""
        file = self._federation.site / HOME_FILE
        recommender = Recommender.load(published, file if file.is_file() else None)
        histories = [self._federation.given[user] for user in self._users]
        lists = recommender.recommend_each(histories, self._plan.k)
        return np.array(
            [self._rate(user, listed) for user, listed in zip(self._users, lists, strict=True)]
        )

    def _rate(self, user: str, listed: Sequence[Recommended]) -> float:
        items = [one.item for one in listed]
        truth = self._federation.truth[user]
        return float(self._plan.clicks.probabilities(items, truth).mean())


class _FirstModel:
    """What the same users would have clicked, had the first model stayed in service.

    A user comes as often, and clicks are drawn with the same random numbers: what differs is the
    lists alone. What is clicked belongs to the user's history from then on, as in the service.

    Args:
        federation: whose users they are.
        plan: the click model, and the length of a list.
        recommender: the first model.
    """

    def __init__(self, federation: Federation, plan: Plan, recommender: Recommender) -> None:
        self._federation, self._plan, self._recommender = federation, plan, recommender

    def rates(self, phase: int, users: Sequence[str]) -> Floats:
        """Return each user's clicks by items shown, in order of the users."""
        return np.array([self._rate(phase, user) for user in sorted(users)])

    def _rate(self, phase: int, user: str) -> float:
        plan, clicked = self._plan, list[bool]()
        history, truth = list(self._federation.given[user]), set(self._federation.truth[user])
        for number in range(plan.visits):
            items = [one.item for one in self._recommender.recommend(history, plan.k)]
            clicks = plan.clicks.click(items, truth, visit_random(plan.seed, phase, number, user))
            own = [item for item, click in zip(items, clicks, strict=True) if click]
            history += own
            truth.difference_update(own)
            clicked += clicks
        return float(np.mean(clicked))


def _phase(
    number: int,
    visits: Sequence[Visit],
    expected: tuple[Floats, Floats],
    learned: int,
    seconds: float,
) -> dict[str, Any]:
    rates = _by_user(visits)
    first, now = expected
    return {
        "phase": number,
        "learned": learned,
        "lists": len(visits),
        "shown": sum(len(visit.items) for visit in visits),
        "chosen": sum(sum(visit.clicked) for visit in visits),
        "ctr": float(rates.mean()),
        "ctr_half_width": _half_width(rates),
        "expected": float(now.mean()),
        "expected_of_first_model": float(first.mean()),
        "gain": float((now - first).mean()),
        "gain_half_width": _half_width(now - first),
        "seconds": round(seconds, 1),
    }


def _by_user(visits: Sequence[Visit]) -> Floats:
    """Return each user's clicks by items shown, in order of the users."""
    clicks: dict[str, list[bool]] = {}
    for visit in visits:
        clicks.setdefault(visit.user, []).extend(visit.clicked)
    return np.array([np.mean(clicks[user]) for user in sorted(clicks)])


def _mean(values: Floats) -> dict[str, float]:
    return {"mean": float(values.mean()), "half_width": _half_width(values)}


def _half_width(values: Floats) -> float:
    """Return half of the 95% interval of a mean over users."""
    if len(values) < 2:
        return math.nan
    return float(_NORMAL * values.std(ddof=1) / math.sqrt(len(values)))


def _check_store(
    site: Path, acknowledged: dict[str, Acknowledged], visits: Sequence[Sequence[Visit]]
) -> dict[str, int]:
    """Check that all that was acknowledged is there once, and nothing else; count it."""
    with closing(FeedbackStore(_STORE, folder=site, create=False)) as store:
        stored = [
            (one.id, Acknowledged(one.user, one.item, one.kind, one.position or 0, one.exposure))
            for one in store.events()
        ]
        logged = {one.id: (one.user, one.model, one.items) for one in store.exposures()}
    assert len(stored) == len(dict(stored)), "an event is there twice"
    assert dict(stored) == acknowledged, "the store holds other events"
    seen = [visit for done in visits for visit in done]
    kept = [visit for visit in seen if visit.exposure in logged]
    assert all(logged[v.exposure] == (v.user, v.model, v.items) for v in kept)
    return {
        "acknowledged": len(acknowledged),
        "stored": len(stored),
        "lists_shown": len(seen),
        "lists_logged": len(kept),
    }
