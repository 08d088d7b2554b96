"""The command."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

import simulations.benchmarks.wellbeing as package
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
from shared.system.command_line import messages, output, table_of, write_json
from simulations.benchmarks.wellbeing.month import Month, Service, live
from simulations.benchmarks.wellbeing.scores import auroc, stated_scores, train_model
from simulations.benchmarks.wellbeing.users import Users, invent_films, invent_users
from simulations.datasets.load import load

__all__ = ["main"]

_FEWEST, _CANDIDATES, _STRENGTH = 20, 600, 10.0
_EARLIER, _MONTH = 0, 1
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
    guard: WellbeingConfig | None = None,
    risks: NDArray[np.float64] | None = None,
    plain: Sequence[Month] | None = None,
) -> list[Month]:
    """Let all users live through a month; those who are not protected did as in `plain`."""
    lived = []
    for user in range(len(service.users.propensity)):
        risk = 0.0 if risks is None else float(risks[user])
        if guard is not None and plain is not None and risk < guard.least:
            lived.append(plain[user])
            continue
        random = np.random.default_rng([*seed, user])
        lived.append(live(service, user, days, random, policy=guard, risk=risk))
    return lived


def histories_of(lived: Sequence[Month]) -> Histories:
    """Return what a partner has of a month."""
    times = [[int(time * 1e6) for time in month.times] for month in lived]
    return Histories.from_lists([month.films for month in lived], times=times)


def row_of(
    name: str, lived: Sequence[Month], plain: Sequence[Month], at_risk: NDArray[np.bool_], days: int
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
        guard=name,
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


def run(
    folder: str, number: int, days: int, score: str, threshold: float, seed: int, *, alone: bool
) -> tuple[dict[str, float], list[Row]]:
    """Live through all months; return what the score is worth, and a row each."""
    service, others = prepare(folder, number, seed)
    earlier = months(service, days, (seed, 2, _EARLIER))
    films = len(service.films.engagement) - 1
    estimate = estimate_engagement(histories_of(earlier), films)
    known = np.bincount(
        np.concatenate([month.films for month in earlier]).astype(np.int64), minlength=films + 1
    )
    often = known >= 20
    pairs = estimate.values[often], service.films.engagement[often]
    agreement = np.corrcoef(*pairs)[0, 1] if often.sum() > 2 else 0.0
    service = replace(service, engagement=estimate)
    at_risk = service.users.at_risk
    if score == "model":
        learned = months(replace(service, users=others), days, (seed, 3, _EARLIER))
        model = train_model([np.array(m.times) for m in learned], others.at_risk, seed)
        risks = model.risk([np.array(month.times) for month in earlier])
    else:
        risks = stated_scores(at_risk, float(score), np.random.default_rng([seed, 4]))
    risks = risks.round(2)
    flagged = risks >= threshold
    facts = {
        "auroc": auroc(risks, at_risk),
        "recall": float(flagged[at_risk].mean()),
        "protected_others": float(flagged[~at_risk].mean()),
        "engagement_correlation": float(agreement),
        "films_with_20_events": int(often.sum()),
    }
    plain = months(service, days, (seed, 2, _MONTH))
    rows = [row_of("none", plain, plain, at_risk, days)]
    arms: dict[str, Sequence[Measure]] = {"all measures": list(Measure)}
    if alone:
        arms |= {f"{measure} alone": [measure] for measure in Measure}
    for name, measures in arms.items():
        messages.print(f"{name} ...")
        lived = months(
            service,
            days,
            (seed, 2, _MONTH),
            guard=policy(threshold, measures),
            risks=risks,
            plain=plain,
        )
        rows.append(row_of(name, lived, plain, at_risk, days))
    return facts, rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m simulations.benchmarks.wellbeing",
        description=(package.__doc__ or "").partition("\n")[0],
    )
    parser.add_argument("--data", default="", help="as of sotto-lab simulate --data")
    parser.add_argument("--users", type=int, default=600)
    parser.add_argument("--days", type=int, default=28)
    parser.add_argument("--score", default="model", help="model, or an AUROC in (.5, 1)")
    parser.add_argument("--threshold", type=float, default=0.3, help="risk from which to protect")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-alone", action="store_true", help="leave out each measure alone")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    facts, rows = run(
        given.data,
        given.users,
        given.days,
        given.score,
        given.threshold,
        given.seed,
        alone=not given.no_alone,
    )
    if given.json:
        write_json({"score": facts, "rows": [asdict(row) for row in rows]})
        return
    table = table_of(
        *("guard", "hours a day, at risk", "change", "by night", "others", "change"),
        *("NDCG, at risk", "others", "change", "empty, others"),
    )
    first = rows[0]
    for row in rows:
        table.add_row(
            row.guard,
            f"{row.hours_at_risk:.2f}",
            f"{row.hours_change:+.1%} ± {row.hours_half_width:.1%}",
            f"{row.night_at_risk:.2f}",
            f"{row.hours_others:.3f}",
            f"{row.hours_others / first.hours_others - 1:+.1%}",
            f"{row.ndcg_at_risk:.4f}",
            f"{row.ndcg_others:.4f}",
            f"{row.ndcg_change:+.4f} ± {row.ndcg_half_width:.4f}",
            f"{row.empty_others:.2%}",
        )
    output.print(table)
    output.print(f"score: {json.dumps(facts)}", soft_wrap=True)


if __name__ == "__main__":
    main()
