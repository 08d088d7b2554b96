"""Evaluate the federated model and its baselines on the held-out event of every user."""

from __future__ import annotations

import numpy as np

from server.runs.recommender import build_recommender
from server.state.checkpoint import Checkpoint
from shared.evaluation.ranking import Ranking, Scorer
from shared.models.attention import AttentionRecommender
from shared.rerank.price import Price, price_of
from shared.rerank.reranker import ItemTraits, Reranker
from simulations.experiment import baselines, result_sections
from simulations.experiment.cold import cold_section, treat_as_new
from simulations.experiment.home import RERANKED, joining_section, rank_home
from simulations.experiment.kept_rankings import KeptRankings
from simulations.experiment.result_json import Evaluation, Reranking
from simulations.experiment.simulation import Simulation
from simulations.experiment.user_ranks import TestUsers

__all__ = ["evaluated_users", "evaluation_section", "rank_models", "reranking_section"]

EXACT = "exact"


def evaluation_section(simulation: Simulation, rankings: dict[str, Ranking]) -> Evaluation:
    """Return the section "evaluation" of result.json."""
    section = result_sections.evaluation_section(
        rankings,
        simulation.evaluation_split,
        str(simulation.config.lab.split),
        simulation.timing,
    )
    if simulation.item_sets is not None:
        own = f"{section.protocol}, each organisation's own items alone"
        section = section.model_copy(update={"protocol": own})
    if skipped := baselines.skipped_baselines(simulation.split.train):
        section = section.model_copy(update={"skipped": skipped})
    joining = joining_section(simulation, _cases(simulation), rankings)
    section = section.model_copy(update={"joining": joining})
    if len(simulation.cold):
        cold = cold_section(simulation.evaluation_split, simulation.cold, rankings)
        return section.model_copy(update={"cold": cold})
    return section


def evaluated_users(simulation: Simulation) -> TestUsers:
    """Return the properties of the evaluated users."""
    histories = simulation.dataset.histories
    row = {user: number for number, user in enumerate(histories.users)}
    return TestUsers.of(
        np.array([row[user] for user in simulation.evaluation_split.test_inputs.users], np.int64),
        organisations=dict(zip(simulation.names, simulation.parts, strict=True)),
        events=simulation.split.train.lengths,
        groups=simulation.dataset.groups,
    )


def rank_models(
    simulation: Simulation,
    final: Checkpoint,
    local_baselines: list[Checkpoint] | None,
    kept: KeptRankings | None = None,
) -> dict[str, Ranking]:
    """Rank the test item of every user with every model, in the order of the split.

    Args:
        simulation: whose users are evaluated.
        final: the federation's last checkpoint.
        local_baselines: the last checkpoint of each organisation that was trained by itself.
        kept: of earlier runs on the same data.
    """
    config, catalogue = simulation.config, simulation.dataset.catalogue
    items, train, cases = len(catalogue), simulation.split.train, _cases(simulation)
    run = simulation.run_config(simulation.folder)

    def load_model(checkpoint: Checkpoint) -> AttentionRecommender:
        return build_recommender(checkpoint, run, catalogue)

    exact = kept.get(EXACT) if kept else None
    if exact is None:
        exact = {"popularity": cases.rank(baselines.popularity(train, items))}
        exact |= baselines.rank_exact_counts(cases, train, simulation.parts)
        if kept:
            kept.put(EXACT, exact)
    models = {"popularity": exact.pop("popularity")}
    if config.privacy.private:
        histories = [simulation.site(number).histories for number in range(len(simulation.parts))]
        scorer = baselines.private_popularity(histories, items, config.privacy, config.seed)
        models["popularity_private"] = cases.rank(scorer)
    models |= exact
    if local_baselines is not None:
        scorers: list[list[Scorer]] = [
            [baselines.recommender(load_model(own))] for own in local_baselines
        ]
        if cases.sets is not None:
            pairs = zip(cases.sets, scorers, strict=True)
            scorers = [[own.mask(scorer) for scorer in each] for own, each in pairs]
        [models["local"]] = cases.rank_each(scorers)
    scorer = baselines.recommender(load_model(final))
    models |= rank_home(simulation, cases, scorer, kept, _reranker(simulation, scorer))
    if len(simulation.cold):
        new = treat_as_new(load_model(final), simulation.cold)
        models["federated_new"] = cases.rank(baselines.recommender(new))
    return models


def reranking_section(
    simulation: Simulation, rankings: dict[str, Ranking]
) -> tuple[dict[str, Ranking], Reranking | None]:
    """Take the reranked lists out of the rankings, and return the others and what they cost."""
    plain = {name: one for name, one in rankings.items() if not name.endswith(RERANKED)}
    changed = {
        name.removesuffix(RERANKED): one
        for name, one in rankings.items()
        if name.endswith(RERANKED)
    }
    if not changed:
        return plain, None
    asked, catalogue = simulation.evaluation_split, simulation.dataset.catalogue
    counts = np.bincount(asked.train.items, minlength=len(catalogue) + 1)[1:]

    def price(ranking: Ranking) -> Price:
        return price_of(ranking, asked.test_inputs, counts, catalogue.genres)

    prices = {name: (price(plain[name]), price(one)) for name, one in changed.items()}
    return plain, result_sections.reranking_section(simulation.config.rerank, prices)


def _reranker(simulation: Simulation, federated: Scorer) -> Reranker | None:
    """Return what chooses lists; None where none are chosen."""
    settings = simulation.config.rerank
    if not settings.changes:
        return None
    return Reranker(settings, ItemTraits.of(simulation.dataset.catalogue, federated))


def _cases(simulation: Simulation) -> baselines.Cases:
    return baselines.Cases(
        simulation.evaluation_split,
        simulation.parts,
        items=len(simulation.dataset.catalogue),
        window=simulation.config.model.max_length,
        sets=simulation.item_sets,
    )
