"""Recommendations from a published Sotto model, in one's own product.

    import sotto

    model = sotto.load("published", home="site/home.safetensors", verb="watched")
    for one in model.recommend(["1", "50", "260"], k=5, explain=True):
        print(one.rank, one.title, one.explanation.sentence)

`load` gives a `Recommender`, which several threads may use. Its methods:

| method                          | gives                                                          |
|---------------------------------|----------------------------------------------------------------|
| `recommend(history, k)`         | the k items that are most likely next after a history          |
| `recommend_each(histories, k)`  | the same for many histories, in batches                        |
| `similar(items, k)`             | items like these                                               |
| `catalogue`                     | what it ranks: `item_ids`, `titles`, `genres`, `years`         |

Both `recommend` methods take `rerank`: another order of what is shown, by the name of a method
("calibrated", "diverse", "exposure") or its settings, `RerankConfig(method=..., strength=...)`.

Ids are the catalogue's own, as texts. Everything that a caller can do wrong raises a `SottoError`
with a sentence that says what to do: `RequestError` for a request that cannot be
(`UnknownItemError` for an item that is not there), `ConfigError` for a `rerank` that cannot be,
`DataError` for a folder that is damaged.

Nothing is read or sent after `load`. torch is imported by `load`, not by `import sotto`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from client.serving.explanation import Explanation, PastEvent
    from client.serving.named_items import Filters
    from client.serving.recommender import Recommended, Recommender
    from shared.errors import ConfigError, DataError, RequestError, SottoError, UnknownItemError
    from shared.rerank.settings import RerankConfig
else:

    def __getattr__(name: str) -> object:
        """Import what is asked for."""
        if name in _PLACES:
            return getattr(import_module(_PLACES[name]), name)
        raise AttributeError(f"module 'sotto' has no attribute {name!r}")


__all__ = [
    "ConfigError",
    "DataError",
    "Explanation",
    "Filters",
    "PastEvent",
    "Recommended",
    "Recommender",
    "RequestError",
    "RerankConfig",
    "SottoError",
    "UnknownItemError",
    "load",
]

_PLACES = {
    **dict.fromkeys(("Explanation", "PastEvent"), "client.serving.explanation"),
    **dict.fromkeys(("Filters", "Recommended", "Recommender"), "client.serving.recommender"),
    **dict.fromkeys(
        ("ConfigError", "DataError", "RequestError", "SottoError", "UnknownItemError"),
        "shared.errors",
    ),
    "RerankConfig": "shared.rerank.settings",
}


def load(
    folder: Path | str,
    home: Path | str | None = None,
    *,
    device: str = "cpu",
    verb: str = "chose",
    domains: Sequence[str] = (),
) -> Recommender:
    """Load a published model, and the home model that `sotto-node adapt` wrote.

    Args:
        folder: what the coordinator published; it holds `catalogue/` and `model/`.
        home: the home model's file; None takes the published model alone.
        device: where scores are computed, such as "cuda".
        verb: what users do with items, in the past tense, for explanations: "watched", "bought".
        domains: of the catalogue, whose items are ranked; none takes those that the home model was
            made for, and without one the whole catalogue.

    Raises:
        ConfigError: the catalogue has no such domain.
        DataError: a file is missing, damaged, or belongs to another catalogue.
    """
    from client.serving.recommender import Recommender as Loaded  # noqa: PLC0415 with torch

    return Loaded.load(folder, home, device=device, verb=verb, domains=domains)
