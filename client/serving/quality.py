"""How good a published folder is on the partner's own held-out events, read and measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from client.home.evaluate import Evaluation, evaluate
from client.home.friends import Friends
from client.serving.published import load_published, scorer_of
from client.site.own_data import OwnData
from shared.data.catalogue import Catalogue
from shared.data.friends import read_friends
from shared.errors import ConfigError, DataError
from shared.evaluation.ranking import Scorer
from shared.models.attention import AttentionRecommender
from shared.rerank.reranker import ItemTraits, Reranker
from shared.rerank.settings import RerankConfig

if TYPE_CHECKING:
    import torch

__all__ = ["evaluate_published", "load_compared"]


def load_compared(
    model: Path,
    before: Path | None,
    *,
    device: torch.device | str,
    k: int,
    domains: Sequence[str] = (),
) -> tuple[Catalogue, dict[str, Scorer], int, AttentionRecommender]:
    """Load a published folder, and an earlier one to compare with.

    Args:
        model: the published folder.
        before: an earlier one, of the same catalogue; None compares with none.
        device: where scores are computed.
        k: length of the lists.
        domains: of the organisation, whose items are ranked; none for the whole catalogue.

    Returns:
        The catalogue; logits of "federated", and of "before" if there is one; how many events a
        model reads, the most of both; and the published model.

    Raises:
        ConfigError: k is out of range.
        DataError: a folder cannot be used.
    """
    catalogue, recommender = load_published(model, device, domains)
    if k > len(catalogue):
        raise ConfigError(f"--k {k}: from 1 to {len(catalogue)}, the size of the catalogue.")
    federated, window = {"federated": scorer_of(recommender)}, recommender.config.max_length
    if before is not None:
        earlier_catalogue, earlier = load_published(before, device, domains)
        _check_items(earlier_catalogue, catalogue, before)
        federated["before"] = scorer_of(earlier)
        window = max(window, earlier.config.max_length)
    return catalogue, federated, window, recommender


def evaluate_published(  # noqa: PLR0913 what is measured, and how
    model: Path,
    before: Path | None,
    data: OwnData,
    *,
    device: torch.device | str = "cpu",
    k: int = 10,
    most: int = 10_000,
    attention: bool = False,
    say: Callable[[str, float], None] = lambda *_: None,
    rerank: RerankConfig | None = None,
) -> Evaluation:
    """Rank the held-out events of the partner's users; see `client.home.evaluate`.

    Args:
        model: the published folder.
        before: an earlier one, of the same catalogue; None compares with none.
        data: the partner's own interactions.
        device: where scores are computed.
        k: length of the lists, in 1..V.
        most: users whose events are ranked, >= 1.
        attention: whether an attention model of the own data is trained, too, for "home".
        say: is told what is done now, and which share in [0, 1] of all is done.
        rerank: another order of lists, whose price is measured; None for none.

    Raises:
        ConfigError: k is out of range, or `rerank` does not fit the catalogue.
        DataError: a folder or the data cannot be used.
        SiteError: the source cannot be reached or read.
    """
    say("reading the model", 0.0)
    catalogue, federated, window, recommender = load_compared(
        model, before, device=device, k=k, domains=data.data.domains
    )
    reranker = None
    if rerank is not None and rerank.changes:
        reranker = Reranker(rerank, ItemTraits.of(catalogue, federated["federated"]))
    say("reading your data", 0.0)
    histories = data.histories(catalogue)
    if not (histories.lengths >= 2).any():
        raise DataError(
            "no user has two events with items of the catalogue",
            file=data.data.source,
            remedy="Bring more data: the last event of a user is asked for after the others.",
        )
    friends = None
    if data.data.friends:
        table = read_friends(data.folder / data.data.friends, frozenset(histories.users))
        friends = Friends.of(table, recommender)
    return evaluate(
        histories,
        federated,
        items=len(catalogue),
        window=window,
        k=k,
        most=most,
        attention=attention,
        say=say,
        reranker=reranker,
        caps=data.data.caps,
        friends=friends,
    )


def _check_items(earlier: Catalogue, catalogue: Catalogue, folder: Path) -> None:
    if earlier.item_ids != catalogue.item_ids:
        raise DataError(
            f"its catalogue has other items ({len(earlier):,}, not {len(catalogue):,}, or in "
            "another order)",
            file=folder,
            remedy="Compare models of the same catalogue, or evaluate each alone.",
        )
