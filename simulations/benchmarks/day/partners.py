"""The organisations of the day on disk, their two runs, and what their ledgers say."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from client.ledger.balance import EntryType
from client.site.site import FILE, Site
from server.app import MODEL
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.privacy.accounting.accountant import epsilon
from shared.privacy.release import Release
from shared.system.files import UMASK, write_atomically
from simulations.datasets.load import load
from simulations.experiment.config import Engine, SimulationConfig
from simulations.experiment.federation import SimulatedSite, make_site, run_federation, sites_in
from simulations.experiment.public_knowledge import add_features

__all__ = ["OWN", "Federation", "LedgerState", "ledger_state", "prepare", "publish"]

OWN = "org-1"
"""The partner that serves."""
_SITES, _CATALOGUE, _ORGANISATIONS = "sites", "catalogue", 3
_SEED = "seed = "


@dataclass(frozen=True, slots=True)
class Federation:
    """Organisations on disk.

    Attributes:
        folder: holds all of it.
        config: of both runs.
        catalogue: the items.
        given: what the serving partner's data have, by user.
        truth: items of the same users that nobody was given, by user.
    """

    folder: Path
    config: SimulationConfig
    catalogue: Catalogue
    given: dict[str, list[str]]
    truth: dict[str, set[str]]

    @property
    def site(self) -> Path:
        """Folder of the serving partner."""
        return self.folder / _SITES / OWN

    def train(self, run: str, *, sites: Path | None = None) -> Path:
        """Run the federation, and return the folder of its model.

        Args:
            run: name of the folder for what the coordinator keeps.
            sites: of the organisations; None takes their own.
        """
        out = self.folder / run
        folders = sites_in(sites or self.folder / _SITES)
        config = self.config.run(
            organisations=len(folders), catalogue=self.folder / _CATALOGUE, out=out, resume=False
        )
        run_federation(config, folders, engine=Engine.INPROCESS, observer=lambda _: None)
        return out / MODEL

    def copy_without_feedback(self, name: str) -> Path:
        """Copy all sites as they are, with `serve.federate` off; return their folder."""
        copy = self.folder / name / _SITES
        shutil.copytree(self.folder / _SITES, copy)
        shutil.copytree(self.folder / _CATALOGUE, copy.parent / _CATALOGUE)
        file = copy / OWN / FILE
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace("federate = true", "federate = false"), encoding="utf-8")
        return copy

    def reseed(self, seed: int) -> None:
        """Give all sites noise that is independent of what they released before."""
        for folder in sites_in(self.folder / _SITES):
            file = folder / FILE
            text = file.read_text(encoding="utf-8")
            assert text.count(f"{_SEED}{self.config.seed}\n") == 1
            file.write_text(
                text.replace(f"{_SEED}{self.config.seed}\n", f"{_SEED}{seed}\n"), encoding="utf-8"
            )


def prepare(
    folder: Path, config: SimulationConfig, *, users: int, first: int, fewest: int
) -> Federation:
    """Write three organisations' sites.

    Args:
        folder: for all files; empty, or absent.
        config: of the runs; `lab.data` names the data.
        users: of each organisation.
        first: events of each user that the organisations' data have; what the serving partner's
            users do later is the truth.
        fewest: later events that a user has at least.

    Raises:
        ValueError: there are not so many users with so many events.
    """
    dataset = load(Path(config.lab.data) if config.lab.data else None)
    catalogue, _ = add_features(dataset.catalogue, config)
    catalogue.save(folder / _CATALOGUE)
    histories = dataset.histories
    order = np.random.default_rng(config.seed).permutation(len(histories))
    able = order[histories.lengths[order] >= first + fewest]
    if len(able) < _ORGANISATIONS * users:
        raise ValueError(f"{len(able)} users have {first + fewest} events: choose fewer users")
    whole = histories.select(able[: _ORGANISATIONS * users])
    young = whole.first(np.full(len(whole), first))
    parts = [young.select(rows) for rows in np.arange(len(whole)).reshape(_ORGANISATIONS, users)]
    # Both runs must fit: each site allows twice what one run costs.
    assert config.privacy.epsilon is not None
    allowed = replace(config.privacy, epsilon=2 * config.privacy.epsilon)
    for number, part in enumerate(parts):
        name = f"org-{number + 1}"
        make_site(
            folder / _SITES / name,
            SimulatedSite(
                organisation=name, histories=part, stream=number, organisations=len(parts)
            ),
            catalogue,
            catalogue_folder=folder / _CATALOGUE,
            privacy=allowed,
            seed=config.seed,
            device="cpu",
        )
    return Federation(
        folder,
        config,
        catalogue,
        _named(parts[0], catalogue),
        {
            user: set(items[first:]) - set(items[:first])
            for user, items in _named(whole.select(np.arange(users)), catalogue).items()
        },
    )


def _named(histories: Histories, catalogue: Catalogue) -> dict[str, list[str]]:
    names = catalogue.item_ids
    return {
        user: [names[item - 1] for item in items.tolist()]
        for user, items in zip(histories.users, histories, strict=True)
    }


@dataclass(frozen=True, slots=True)
class LedgerState:
    """What a ledger says.

    Attributes:
        charges: how many entries are charges.
        releases: equal ones merged.
        epsilon: spent.
    """

    charges: int
    releases: tuple[Release, ...]
    epsilon: float

    def twice(self, delta: float) -> LedgerState:
        """Return what it must say after as many, equal releases once more."""
        releases = tuple(replace(one, steps=2 * one.steps) for one in self.releases)
        return LedgerState(2 * self.charges, releases, epsilon(releases, delta))


def ledger_state(site: Path) -> LedgerState:
    """Read a site's ledger, and check its chain."""
    loaded = Site.load(site)
    ledger, delta = loaded.open_ledger(), loaded.policy.delta
    ledger.verify()
    charges = sum(record.type is EntryType.CHARGE for record in ledger.history())
    return LedgerState(charges, tuple(ledger.releases()), ledger.spent(delta))


def publish(model: Path, catalogue: Path, folder: Path) -> None:
    """Put a model and its catalogue into a folder that may be being served."""
    for source in (model, catalogue):
        target = folder / source.name
        target.mkdir(parents=True, exist_ok=True)
        for file in sorted(source.iterdir()):
            write_atomically(target / file.name, file.read_bytes(), mode=UMASK)
