"""All months: without the guard, with it, with each measure alone, and by other scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from client.home.home_model import (
    MEMORIES,
    FixedPrior,
    HomeModel,
    TransitionCounts,
    popularity_shares,
)
from client.serving.recommender import Recommender
from client.site.wellbeing import Measure, WellbeingConfig, Who
from client.wellbeing.engagement import estimate_engagement
from shared.data.histories import Histories
from shared.models.counts import item_counts
from simulations.benchmarks.wellbeing.month import Month, Service, live
from simulations.benchmarks.wellbeing.scores import auroc, stated_scores, train_model
from simulations.benchmarks.wellbeing.users import Users, invent_films, invent_users
from simulations.datasets.load import load

__all__ = ["Comparison", "Row", "compare"]

_FEWEST, _CANDIDATES, _STRENGTH = 20, 600, 10.0
_EARLIER, _MONTH = 0, 1
_AREAS = (0.9, 0.8, 0.7)
"""AUROC of scores that are worse than the model's."""
_OFTEN = 20
_KEYS: Mapping[Measure, Mapping[str, object]] = {
    Measure.CAP: {"cap": 60},
    Measure.PAUSE: {"pause_after_minutes": 60.0, "pause_minutes": 15.0},
    Measure.QUIET: {"quiet_hours": "23:00-06:00"},
    Measure.DAMPING: {"damping": 0.5},
    Measure.FINITE: {"finite_worth": 2.0},
}
"""What each measure is set to."""
_NORMAL = 1.96


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What a month came to.

    Attributes:
        guard: which measures were on.
        score: of the risk: "model", or the AUROC that was stated.
        auroc: of the score, as measured.
        protected_at_risk: share of the tenth at risk at or above the threshold.
        protected_others: the same of all others.
        hours_at_risk: a user and day, of the tenth at risk.
        hours_change: of the same, in pairs of the same user, over the hours without the guard.
        hours_half_width: half of its 95% interval.
        hours_others: the same of all others.
        night_at_risk: the same of the tenth at risk, from 23 to 6 h.
        ndcg_at_risk: mean over users of the mean over their lists with a film.
        ndcg_others: the same of all others.
        ndcg_change: of all others, in pairs of the same user, against no guard.
        ndcg_half_width: half of its 95% interval.
        empty_others: share of all others' requests that got no film.
    """

    guard: str
    score: str
    auroc: float
    protected_at_risk: float
    protected_others: float
    hours_at_risk: float
    hours_change: float
    hours_half_width: float
    hours_others: float
    night_at_risk: float
    ndcg_at_risk: float
    ndcg_others: float
    ndcg_change: float
    ndcg_half_width: float
    empty_others: float


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """One way to live through the month.

    Attributes:
        name: which measures are on.
        guard: their policy.
        score: name of the risk's score.
        risks: that the guard is given, [N].
    """

    name: str
    guard: WellbeingConfig
    score: str
    risks: NDArray[np.float64]

    @property
    def protected(self) -> NDArray[np.bool_]:
        """Who is above the threshold, bool [N]."""
        return self.risks >= self.guard.least


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All months.

    Attributes:
        engagement_correlation: of estimate and truth, over films with 20 events.
        films: how many these are.
        rows: one a month.
    """

    engagement_correlation: float
    films: int
    rows: tuple[Row, ...]


def policy(threshold: float, measures: Sequence[Measure]) -> WellbeingConfig:
    """Return the guard's policy with some measures."""
    keys: dict[str, object] = {"who": Who.ALL, "model": "-", "items": "-", "threshold": threshold}
    for measure in measures:
        keys.update(_KEYS[measure])
    return WellbeingConfig(**keys)  # type: ignore[arg-type]  # they are checked


def prepare(folder: str, number: int, seed: int) -> tuple[Service, Users]:
    """Return the service with its users, and others on whom the risk is learned.

    The service ranks by counts of the first half of each user's events; the other half is what the
    user will like.

    Raises:
        ValueError: the data have too few users.
    """
    dataset = load(folder or None)
    whole, items = dataset.histories, len(dataset.catalogue)
    able = np.flatnonzero(whole.lengths >= _FEWEST)
    if len(able) < number:
        raise ValueError(f"{len(able)} users have {_FEWEST} events: choose fewer users")
    given = whole.first(whole.lengths // 2)
    prior = FixedPrior(popularity_shares(given, items))
    counts = TransitionCounts.of(given, items, MEMORIES[2])
    logs = prior.shares.log().float()
    recommender = Recommender(
        dataset.catalogue,
        lambda rows: logs.expand(len(rows), -1),
        1,
        HomeModel(counts, prior, _STRENGTH),
    )
    random = np.random.default_rng([seed, 1])
    rows = random.permutation(able)[:number]
    lists = recommender.rank_many(given.select(rows), min(_CANDIDATES, items // 2))
    own = [frozenset(whole[row].tolist()) - frozenset(given[row].tolist()) for row in rows]
    popularity = np.concatenate([[0], item_counts(given, items).numpy()]).astype(np.int64)
    service = Service(
        invent_films(popularity, random),
        invent_users(number, random),
        lists.ids,
        lists.scores.astype(np.float64),
        own,
    )
    return service, invent_users(number, random)


def months(
    service: Service,
    days: int,
    seed: Sequence[int],
    *,
    arm: Arm | None = None,
    plain: Sequence[Month] = (),
) -> list[Month]:
    """Let all users live through a month; those who are not protected did as in `plain`."""
    lived = []
    for user in range(len(service.users.propensity)):
        if arm is not None and not arm.protected[user]:
            lived.append(plain[user])
            continue
        guard, risk = (None, 0.0) if arm is None else (arm.guard, float(arm.risks[user]))
        random = np.random.default_rng([*seed, user])
        lived.append(live(service, user, days, random, policy=guard, risk=risk))
    return lived


def histories_of(lived: Sequence[Month]) -> Histories:
    """Return what a partner has of a month."""
    times = [[int(time * 1e6) for time in month.times] for month in lived]
    return Histories.from_lists([month.films for month in lived], times=times)


def row_of(
    arm: Arm, lived: Sequence[Month], plain: Sequence[Month], at_risk: NDArray[np.bool_], days: int
) -> Row:
    """Return what a month came to."""
    hours = np.array([month.minutes for month in lived]) / 60 / days
    night = np.array([month.at_night for month in lived]) / 60 / days
    hours_before = np.array([month.minutes for month in plain]) / 60 / days
    less = (hours - hours_before)[at_risk] / hours_before[at_risk].mean()
    quality = np.array([np.mean(month.ndcg) if month.ndcg else np.nan for month in lived])
    before = np.array([np.mean(month.ndcg) if month.ndcg else np.nan for month in plain])
    others = ~at_risk
    change = (quality - before)[others]
    change = change[~np.isnan(change)]
    empty = sum(month.empty for month, own in zip(lived, others, strict=True) if own)
    lists = sum(month.lists for month, own in zip(lived, others, strict=True) if own)
    return Row(
        guard=arm.name,
        score=arm.score,
        auroc=auroc(arm.risks, at_risk),
        protected_at_risk=float(arm.protected[at_risk].mean()),
        protected_others=float(arm.protected[~at_risk].mean()),
        hours_at_risk=float(hours[at_risk].mean()),
        hours_change=float(less.mean()),
        hours_half_width=float(_NORMAL * less.std(ddof=1) / np.sqrt(len(less))),
        hours_others=float(hours[others].mean()),
        night_at_risk=float(night[at_risk].mean()),
        ndcg_at_risk=float(np.nanmean(quality[at_risk])),
        ndcg_others=float(np.nanmean(quality[others])),
        ndcg_change=float(change.mean()),
        ndcg_half_width=float(_NORMAL * change.std(ddof=1) / np.sqrt(len(change))),
        empty_others=empty / (empty + lists),
    )


def compare(
    folder: str,
    number: int,
    days: int,
    threshold: float,
    seed: int,
    say: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """Live through all months.

    Args:
        folder: of the data; "" takes the embedded MovieLens.
        number: of users.
        days: of each month.
        threshold: risk from which users are protected.
        seed: of all that is drawn.
        say: is told which month it is.

    Raises:
        ValueError: the data have too few users.
    """
    service, others = prepare(folder, number, seed)
    say("an earlier month, of these users and of others ...")
    earlier = months(service, days, (seed, 2, _EARLIER))
    learned = months(replace(service, users=others), days, (seed, 3, _EARLIER))
    model = train_model([np.array(month.times) for month in learned], others.at_risk, seed)
    at_risk = service.users.at_risk
    scores = {"model": model.risk([np.array(month.times) for month in earlier])}
    for area in _AREAS:
        random = np.random.default_rng([seed, 4, round(100 * area)])
        scores[f"AUROC {area:g}"] = stated_scores(at_risk, area, random)
    service, correlation, films = with_engagement(service, earlier)
    plain = months(service, days, (seed, 2, _MONTH))
    rows = []
    for arm in arms(threshold, scores):
        say(f"{arm.name}, {arm.score} ...")
        lived = months(service, days, (seed, 2, _MONTH), arm=arm, plain=plain)
        rows.append(row_of(arm, lived, plain, at_risk, days))
    return Comparison(engagement_correlation=correlation, films=films, rows=tuple(rows))


def with_engagement(service: Service, earlier: Sequence[Month]) -> tuple[Service, float, int]:
    """Return the service with its estimate of engagement, and how that agrees with the truth."""
    films = len(service.films.engagement) - 1
    histories = histories_of(earlier)
    estimate = estimate_engagement(histories, films)
    often = np.bincount(histories.items, minlength=films + 1) >= _OFTEN
    pairs = estimate.values[often], service.films.engagement[often]
    correlation = float(np.corrcoef(*pairs)[0, 1]) if often.sum() > 2 else 0.0
    return replace(service, engagement=estimate), correlation, int(often.sum())


def arms(threshold: float, scores: Mapping[str, NDArray[np.float64]]) -> Iterator[Arm]:
    """Yield no guard, all measures, each alone, and all measures by other scores."""
    rounded = {name: risks.round(2) for name, risks in scores.items()}
    nobody = np.full_like(rounded["model"], -1.0)
    every = policy(threshold, list(Measure))
    yield Arm("none", every, "none", nobody)
    yield Arm("all measures", every, "model", rounded["model"])
    for measure in Measure:
        yield Arm(f"{measure} alone", policy(threshold, [measure]), "model", rounded["model"])
    for name, risks in rounded.items():
        if name != "model":
            yield Arm("all measures", every, name, risks)
