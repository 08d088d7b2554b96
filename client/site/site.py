"""A partner's site.toml: who it is, where its data is, what it allows.

Nothing that a coordinator sends can change what stands here.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Collection, Hashable, Mapping, Sequence
from contextlib import closing
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from client.data.config import DataConfig
from client.data.credentials import refuse_secrets
from client.ledger.anchor import default_anchor
from client.ledger.ledger import Ledger
from client.ledger.register import enter_ledger, new_ledger_entry
from client.site.coordinator import CoordinatorConfig
from client.site.home import HomeConfig
from client.site.node import NodeConfig
from client.site.policy import Policy
from client.site.roster import PEERS, Roster, is_same_name
from client.site.serve import ServeConfig
from client.site.simulated import LabSeed, simulated_node
from client.site.wellbeing import WellbeingConfig
from shared.errors import ConfigError, SiteError
from shared.rerank.settings import RerankConfig
from shared.sections import Require, Value, flat_tables, is_name, parse_sections, section

if TYPE_CHECKING:
    import torch

    from client.data.feedback import FeedbackStore
    from client.data.interactions import Interaction
    from shared.data.catalogue import Catalogue
    from shared.data.histories import Histories
    from shared.data.queries import Asked
    from shared.privacy.noise import RandomSource

__all__ = ["FILE", "Site"]

FILE = "site.toml"


@section()
class Site:
    """All of site.toml; paths are relative to the file.

    Attributes:
        organisation: the name the partner goes by; public, printable, short.
        user_base: whose budget is spent: the same name for ever, whatever the data file.
        population: declared users, public, >= 1.
        data: where the interactions are, see `client.data.config`.
        catalogue: folder of the public item list.
        policy: the partner's limits.
        device: "auto", "cpu", "cuda" or "cuda:N".
        ledger: the privacy ledger's file.
        anchor: the file that knows how far the ledger had come; on another disk or at least in
            another folder. "" takes one in the user's state folder: see `default_anchor`.
        coordinator: where the coordinator is, see `client.site.coordinator`.
        node: how the node runs on its machine, see `client.site.node`.
        roster: whose noise it counts on under secure aggregation, see `client.site.roster`.
        serve: how recommendations are served, see `client.site.serve`.
        rerank: how lists are chosen from scores, see `shared.rerank.settings`.
        home: whether the home model is private, see `client.site.home`.
        wellbeing: how users at risk of over-use are protected, see `client.site.wellbeing`.
        lab: for simulated sites alone.
        folder: where site.toml lies; not a key of the file.
    """

    organisation: Annotated[str, Require(is_name, "give a name that can be shown")]
    user_base: Annotated[str, Require(str.strip, "name your users")]
    population: Annotated[int, Require(lambda users: users >= 1, "declare how many users you have")]
    data: DataConfig
    catalogue: str
    policy: Policy
    device: str = "auto"
    ledger: str = "ledger.sqlite"
    anchor: str = ""
    coordinator: CoordinatorConfig = field(default_factory=CoordinatorConfig)
    node: NodeConfig = field(default_factory=NodeConfig)
    roster: Roster = field(default_factory=Roster)
    serve: ServeConfig = field(default_factory=ServeConfig)
    rerank: RerankConfig = field(default_factory=RerankConfig)
    home: HomeConfig = field(default_factory=HomeConfig)
    wellbeing: WellbeingConfig = field(default_factory=WellbeingConfig)
    lab: LabSeed = field(default_factory=LabSeed)
    folder: str = ""

    def __post_init__(self) -> None:
        delta, below = self.policy.delta, 1 / self.population
        if not 0 < delta < below:
            raise ConfigError(
                f"policy.delta = {delta}: choose a number above 0 and below 1 / population = "
                f"{below:.3g}."
            )
        for name in self.roster.peers:
            if is_same_name(name, self.organisation):
                raise ConfigError(
                    f"roster.peers: '{name}' is this site's own name. Name the others alone: this "
                    "site counts by itself."
                )

    @classmethod
    def load(cls, path: Path) -> Site:
        """Read a site.toml, or the one in a folder.

        Raises:
            SiteError: it is missing, is not TOML, or a key is unknown, missing or out of range.
        """
        file = path / FILE if path.is_dir() else path
        try:
            text = file.read_text(encoding="utf-8")
        except OSError as error:
            raise SiteError(f"{file}: not readable ({error.strerror}). Check the path.") from error
        except ValueError as error:
            raise SiteError(f"{file}: not valid TOML ({error}). Mend that line.") from error
        return cls.parse(text, file)

    @classmethod
    def parse(cls, text: str, file: Path) -> Site:
        """Read the text of a site.toml.

        Args:
            text: what the file holds, or is to hold.
            file: where it lies; paths in it are relative to its folder.

        Raises:
            SiteError: it is not TOML, or a key is unknown, missing or out of range.
        """
        try:
            tables = tomllib.loads(text)
        except ValueError as error:
            raise SiteError(f"{file}: not valid TOML ({error}). Mend that line.") from error
        if "folder" in tables:
            raise SiteError(f"{file}: 'folder' is where this file lies, no key of it: remove it.")
        try:
            peers = _take_peers(tables)
            refuse_secrets(tables)
            _join_list(tables.get("policy"), "answers")
            _join_list(tables.get("policy"), "kinds")
            _join_list(tables.get("policy"), "group_columns")
            _join_list(tables.get("serve"), "interactions")
            _join_list(tables.get("data"), "domains")
            _join_list(tables.get("data"), "query_attributes")
            return parse_sections(
                cls, flat_tables(tables) | peers | {"folder": str(file.parent.resolve())}
            )
        except ConfigError as error:
            raise SiteError(f"{file}: {error}") from error

    @property
    def simulated(self) -> bool:
        """Whether the lab made this site; only then its noise may be seeded."""
        return self.lab.seed >= 0

    @property
    def made_by_lab(self) -> bool:
        """Whether its users are simulated: then it is not entered in the register of user bases."""
        return self.simulated or self.lab.simulated

    def check_seed(self, node_config: Mapping[str, Value]) -> None:
        """Refuse seeded noise on a node that is not the lab's.

        Raises:
            SiteError: the file has a [lab] seed, but the node is not marked as simulated.
        """
        if self.simulated and not simulated_node(node_config):
            raise SiteError(
                f"{self.folder}/{FILE}: lab.seed = {self.lab.seed} makes noise that repeats itself "
                "and protects nobody: remove the [lab] table from a real site."
            )

    @property
    def ledger_file(self) -> Path:
        """The file of the privacy ledger."""
        return Path(self.folder, self.ledger)

    @property
    def anchor_file(self) -> Path:
        """The file of the ledger's anchor."""
        return Path(self.folder, self.anchor) if self.anchor else default_anchor(self.user_base)

    @property
    def key_file(self) -> Path:
        """The file of the node's private key."""
        return Path(self.folder, self.coordinator.key)

    @property
    def root_certificates_file(self) -> Path | None:
        """Certificates of the coordinator's authority; None for those that the system trusts."""
        name = self.coordinator.root_certificates
        return Path(self.folder, name) if name else None

    @property
    def flower_home(self) -> Path:
        """The folder that Flower uses on this node."""
        return Path(self.folder, self.coordinator.flower)

    def open_ledger(self) -> Ledger:
        """Open and check the privacy ledger.

        Raises:
            LedgerError: it does not open, or it is a copy of the one that its users have.
        """
        ledger = Ledger(self.ledger_file, self.user_base, self.anchor_file)
        if not self.made_by_lab:
            enter_ledger(self.user_base, self.ledger_file, self.anchor_file, ledger.id)
        return ledger

    def create_ledger(self) -> Ledger:
        """Create an empty ledger for a new site.

        Raises:
            LedgerError: there is one, or these users have one elsewhere on this machine.
        """
        place = self.ledger_file, self.user_base, self.anchor_file
        if self.made_by_lab:
            return Ledger.create(*place)
        with new_ledger_entry(self.user_base, self.ledger_file):
            Ledger.create(*place)
            return self.open_ledger()

    def load_histories(
        self,
        catalogue: Catalogue,
        max_length: int,
        *,
        strict: bool = True,
        min_events: int = 2,
        feedback: Collection[Interaction] | None = None,
    ) -> Histories:
        """Return the site's private histories, each cut to its last `max_length` events.

        Args:
            catalogue: the items to keep.
            max_length: number of events to keep of each user, >= 1.
            strict: whether a row that cannot be read, or data without any user, is an error. What
                answers a coordinator is not strict: a failure would tell of that one user.
            min_events: drop users with fewer events; >= 1.
            feedback: interactions that are read beside the source; None reads those of the store
                of feedback if `serve.federate` says that a coordinator's runs do.

        Raises:
            DataError: the data cannot be read, see `shared.data.reading`.
        """
        from client.data.sources import read_source  # noqa: PLC0415 as torch

        if feedback is None:
            feedback = self.read_feedback() if self.serve.federate else ()
        return read_source(
            self.data,
            Path(self.folder),
            catalogue,
            max_length=max_length,
            strict=strict,
            min_events=min_events,
            feedback=feedback,
            feedback_times=self.serve.times,
        )

    def load_queries(self, catalogue: Catalogue, *, strict: bool = True) -> list[Asked]:
        """Return what users asked for in words.

        Args:
            catalogue: the items.
            strict: whether a row that cannot be read is an error; otherwise it is left out.

        Raises:
            SiteError: the table of queries is not there.
            DataError: it cannot be read, see `client.data.queries`.
        """
        from client.data.queries import read_queries  # noqa: PLC0415 with DuckDB

        return read_queries(self.data, Path(self.folder), catalogue, strict=strict)

    def user_columns(self, columns: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
        """Return the values of each user in those of the columns that the policy lets be used.

        Raises:
            SiteError: the table of users is not there.
            DataError: it cannot be read, or lacks a column.
        """
        from client.data.user_columns import read_user_columns  # noqa: PLC0415 as torch

        allowed = [name for name in columns if name in self.policy.group_columns]
        return read_user_columns(self.data, Path(self.folder), allowed)

    def open_feedback(self, *, create: bool = False) -> FeedbackStore | None:
        """Open the store of feedback; None where it is an SQLite file that is not there.

        Args:
            create: whether to make it where there is none.

        Raises:
            SiteError: it cannot be opened.
        """
        from client.data.feedback import FeedbackStore  # noqa: PLC0415 with SQLAlchemy

        folder, url = Path(self.folder), self.serve.feedback
        if not (create or FeedbackStore.exists(url, folder)):
            return None
        credentials = self.serve.path(folder, "feedback_credentials")
        return FeedbackStore(url, folder=folder, credentials=credentials)

    def read_feedback(self) -> list[Interaction]:
        """Return the feedback that counts as interactions, in the order of its arrival.

        Raises:
            SiteError: the store cannot be read.
        """
        store = self.open_feedback()
        if store is None:
            return []
        with closing(store):
            return list(store.interactions(self.serve.interactions))

    def data_version(self) -> Hashable | None:
        """Return a value that changes with the private data; None if only reading them can tell."""
        from client.data.sources import open_source  # noqa: PLC0415 as torch

        version = open_source(self.data, Path(self.folder)).version()
        if version is None or not self.serve.federate:
            return version
        store = self.open_feedback()
        if store is None:
            return version, 0
        with closing(store):
            return version, store.last_number()

    def random(self, round_number: int, *purpose: int) -> RandomSource:
        """Return the source of this site's noise in one round; each purpose >= 0 has its own."""
        from shared.privacy.noise import SeededRandom, SystemRandom  # noqa: PLC0415 as torch

        if self.simulated:
            return SeededRandom(self.lab.seed, self.lab.stream, round_number, *purpose)
        return SystemRandom()

    def torch_device(self) -> torch.device:
        """Return the device to train on; "auto" takes a GPU if there is one.

        Raises:
            SiteError: the device is not one that torch knows, or is not there.
        """
        import torch  # noqa: PLC0415 it takes seconds, and most commands read site.toml alone

        name = self.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise SiteError(f"device = '{name}': choose auto, cpu, cuda or cuda:N.") from error
        if device.type == "cuda" and not torch.cuda.is_available():
            raise SiteError(f"device = '{name}', but no CUDA device is visible: choose 'auto'.")
        return device


def _join_list(table: object, key: str) -> None:
    """Join a list of texts into one text, which is the form that a run config has for it."""
    if isinstance(table, dict) and isinstance(table.get(key), list):
        table[key] = ",".join(map(str, table[key]))


def _take_peers(tables: dict[str, object]) -> dict[str, Value]:
    """Take the table [roster.peers] out, as one value: names of organisations are no keys of ours.

    Its form is checked where it is read (`client.site.roster`).
    """
    roster = tables.get("roster")
    if not isinstance(roster, dict) or PEERS not in roster:
        return {}
    peers = json.dumps(roster[PEERS], default=str)
    tables["roster"] = {key: value for key, value in roster.items() if key != PEERS}
    return {f"roster.{PEERS}": peers}
