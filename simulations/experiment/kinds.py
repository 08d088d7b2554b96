"""kinds.json: kinds of model side by side, what each needs, and which to take at each ε.

`sotto-lab compare` writes it, and `sotto-lab report` shows it; see docs/lab.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from shared.data.catalogue import Catalogue
from shared.errors import ConfigError
from shared.sections import Value
from simulations.experiment.result_json import Count, Document

__all__ = ["FILE", "WHEN", "Compared", "Kinds", "check_files", "what_is_missing"]

FILE = "kinds.json"
WHEN = {
    "attention": "takes only histories, and is the default: the fewest weights under the noise.",
    "lstm": "takes only histories: where order matters beyond recency, noise is weak, and lists "
    "are to say which events count for each item.",
    "text": "takes a catalogue with an encoder's last blocks: where items are known by their "
    "texts, and many are new.",
    "query": "takes queries of users, and is worth its weights where users search; here it is "
    "compared on next items, without a query.",
    "modalities": "takes a catalogue of several blocks of features: to learn what each weighs.",
    "social": "takes a table of friends: where friends choose alike.",
}
"""What each kind takes, and where it is worth it."""
_FILES = {
    "query": ("lab.queries", "FILE", "a table of what users asked for"),
    "social": ("lab.friends", "FILE", "a table of who is whose friend"),
    "text": (
        "lab.catalogue",
        "FOLDER",
        "a catalogue that `sotto-lab items encode --adaptable BLOCKS` wrote",
    ),
    "modalities": (
        "lab.catalogue",
        "FOLDER",
        "a catalogue of several blocks of features, which `sotto-lab items encode` wrote",
    ),
}
"""By kind: the setting, what its value is, and what that holds."""


class Compared(Document):
    """One kind at one ε, means over its seeds.

    Attributes:
        kind: of model.
        epsilon: of the settings; None without privacy.
        seeds: finished runs.
        ndcg: NDCG@10 of the federated model.
        home: the same, adapted at home; None where it was not measured.
        hr: HR@10, which is recall@10 of one relevant item a user.
        f1: F1@10.
        coverage: share of the catalogue that is in some list.
        spent: the highest ε of an organisation's ledger; None without privacy.
        seconds: of training.
        megabytes: sent and received by all organisations in a round; None without rounds.
    """

    kind: str
    epsilon: float | None
    seeds: Count
    ndcg: float
    home: float | None
    hr: float
    f1: float
    coverage: float
    spent: float | None
    seconds: float
    megabytes: float | None

    @property
    def used(self) -> float:
        """What a partner gets: NDCG@10 at home where it was measured."""
        return self.ndcg if self.home is None else self.home


class Kinds(Document):
    """A comparison: its rows by ε and kind, and a sentence for each ε."""

    schema_: Annotated[Literal[1], Field(alias="schema")] = 1
    kinds: tuple[Compared, ...]
    advice: tuple[str, ...]


def check_files(settings: Mapping[str, Mapping[str, Value]]) -> None:
    """Refuse a comparison of kinds where a kind lacks the file that it reads.

    Args:
        settings: all settings of each kind, by its name.

    Raises:
        ConfigError: a file is not named, or a catalogue is not one that the kind reads.
        DataError: a catalogue cannot be read.
    """
    for kind, flat in settings.items():
        if kind not in _FILES:
            continue
        key, form, what = _FILES[kind]
        value = str(flat.get(key) or "")
        if not value or not _fits(kind, Path(value)):
            found = f"{key} = '{value}' is none" if value else f"{key} is not stated"
            raise ConfigError(
                f"the kind '{kind}' takes {what}, and {found}: add --set {key}={form}, or "
                f"--set {kind}:{key}={form} for this kind only, or leave the kind out of --kinds."
            )
        if kind == "text":
            _check_encoder(flat, Path(value))


def what_is_missing(kind: str, catalogue: Catalogue, *, queries: int, friends: int) -> str | None:
    """Return what a kind reads beside histories that is not there, with the remedy; else None.

    Args:
        kind: of model.
        catalogue: the items.
        queries: rows of users in the data.
        friends: friends in the table.
    """
    there = {"query": queries > 0, "social": friends > 0, "modalities": len(catalogue.blocks) > 1}
    if there.get(kind, True):
        return None
    key, form, what = _FILES[kind]
    return (
        f"the kind '{kind}' reads {what}, and this run has none (or an empty one): what the kind "
        f"has beside 'attention' learns nothing. Add --set {key}={form}."
    )


def _check_encoder(flat: Mapping[str, Value], folder: Path) -> None:
    """Refuse settings of the kind "text" that are not those of the catalogue's encoder."""
    text = Catalogue.load(folder).text
    if text is None:
        return
    for key, has in (("model.text_width", text.width), ("model.text_blocks", len(text.weights))):
        if flat[key] != has:
            raise ConfigError(
                f"{key} = {flat[key]} for the kind 'text', but that of the encoder of {folder} is "
                f"{has}: add --set text:{key}={has}, or make the catalogue anew."
            )


def _fits(kind: str, path: Path) -> bool:
    """Return whether a path holds what a kind reads; of tables, the run itself reads the rows."""
    if kind == "text":
        return Catalogue.load(path).text is not None
    if kind == "modalities":
        return len(Catalogue.load(path).blocks) > 1
    return path.exists()
