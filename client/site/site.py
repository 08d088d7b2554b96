"""A partner's own file, site.toml: who it is, where its data lies, what it allows.

Nothing that a coordinator sends can change what stands here.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import torch

from client.data.credentials import refuse_secrets
from client.data.sources import DataConfig, open_source, read_source
from client.ledger.anchor import default_anchor
from client.ledger.ledger import Ledger
from client.site.coordinator import CoordinatorConfig
from client.site.node import NodeConfig
from shared.config import Value, flat_tables, parse_sections
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.errors import ConfigError, SiteError
from shared.messages import is_name
from shared.privacy.noise import RandomSource, SeededRandom, SystemRandom

__all__ = ["FILE", "SIMULATED", "Ask", "LabSeed", "Policy", "Site", "locate", "simulated_node"]

FILE = "site.toml"
SIMULATED = "simulated"
"""Key of the node config, the partner's own, with which the lab marks its nodes."""
LEAST_NOISE = 0.3
"""Noise multiplier that a site with a budget insists on, unless its file says otherwise."""


class Ask(StrEnum):
    """What a coordinator may ask of a site."""

    DESCRIBE = "describe"
    TRAIN = "train"
    STATISTICS = "statistics"
    EVALUATE = "evaluate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the partner allows, whatever a coordinator asks. Every limit holds for each request.

    Attributes:
        max_epsilon: ε that its users may spend in all, > 0; `inf` allows training without
            privacy, for public data.
        delta: the δ that goes with it, in (0, 1) and below 1 / population.
        answers: which requests are answered at all. "evaluate" lets noised metrics leave, and
            keeps each user's last event out of training: see `client.compute.evaluation`.
        min_noise_multiplier: least noise over clip norm, >= 0; None, the default, is 0.3, or 0
            where `max_epsilon` is `inf`.
        max_sample_rate: largest chance of a user to be in a sum, in (0, 1].
        max_clip_norm: largest bound on one user's part of a sum, > 0.
        max_steps: most noised sums, >= 1.
    """

    max_epsilon: float
    delta: float
    answers: tuple[Ask, ...] = (Ask.DESCRIBE, Ask.STATISTICS, Ask.TRAIN)
    min_noise_multiplier: float | None = None
    max_sample_rate: float = 1.0
    max_clip_norm: float = 100.0
    max_steps: int = 1000

    @property
    def least_noise(self) -> float:
        """The minimum that holds."""
        if self.min_noise_multiplier is not None:
            return self.min_noise_multiplier
        return 0.0 if self.max_epsilon == math.inf else LEAST_NOISE

    def problems(self, population: int) -> Iterator[tuple[str, object, str]]:
        """Each limit that makes no sense: key, value and remedy."""
        below, noise = 1 / max(population, 1), self.min_noise_multiplier
        # NaN fails every comparison: each range is stated as what must hold.
        if not self.max_epsilon > 0:
            yield "max_epsilon", self.max_epsilon, "choose a number above 0"
        if not 0 < self.delta < below:
            remedy = f"choose a number above 0 and below 1 / population = {below:.3g}"
            yield "delta", self.delta, remedy
        if noise is not None and not 0 <= noise < math.inf:
            yield "min_noise_multiplier", noise, "choose a number >= 0"
        if not 0 < self.max_sample_rate <= 1:
            yield "max_sample_rate", self.max_sample_rate, "choose a number in (0, 1]"
        if not 0 < self.max_clip_norm < math.inf:
            yield "max_clip_norm", self.max_clip_norm, "choose a number above 0"
        if not self.max_steps >= 1:
            yield "max_steps", self.max_steps, "choose a whole number >= 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabSeed:
    """Marks a simulated site: its noise repeats itself, so it protects nobody.

    Attributes:
        seed: the run's seed, or -1 for noise from the operating system.
        stream: tells this site's stream from the others', >= 0.
    """

    seed: int = -1
    stream: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """All of site.toml; paths are relative to the file.

    Attributes:
        organisation: the name the partner goes by; public, printable, short.
        user_base: whose budget is spent: the same name for ever, whatever the data file.
        population: declared users, public, >= 1.
        data: where the interactions are, see `client.data.sources`.
        catalogue: folder of the public item list.
        policy: the partner's limits.
        device: "auto", "cpu", "cuda" or "cuda:N".
        ledger: the privacy ledger's file.
        anchor: the file that knows how far the ledger had come; on another disk or at least in
            another folder. "" takes one in the user's state folder: see `default_anchor`.
        coordinator: where the coordinator is, see `client.site.coordinator`.
        node: how the node runs on its machine, see `client.site.node`.
        lab: for simulated sites alone.
        folder: where site.toml lies; not a key of the file.
    """

    organisation: str
    user_base: str
    population: int
    data: DataConfig
    catalogue: str
    policy: Policy
    device: str = "auto"
    ledger: str = "ledger.sqlite"
    anchor: str = ""
    coordinator: CoordinatorConfig = field(default_factory=CoordinatorConfig)
    node: NodeConfig = field(default_factory=NodeConfig)
    lab: LabSeed = field(default_factory=LabSeed)
    folder: str = ""

    def __post_init__(self) -> None:
        name, population, policy = self.organisation, self.population, self.policy
        checks = (
            ("organisation", name, is_name(name), "give a name that can be shown"),
            ("user_base", self.user_base, bool(self.user_base.strip()), "name your users"),
            ("population", population, population >= 1, "declare how many users you have"),
            *((f"policy.{key}", at, False, why) for key, at, why in policy.problems(population)),
            ("lab.stream", self.lab.stream, self.lab.stream >= 0, "choose a whole number >= 0"),
        )
        for key, value, holds, remedy in checks:
            if not holds:
                raise SiteError(f"{self.folder}/{FILE}: {key} = {value!r}: {remedy}.")

    @classmethod
    def load(cls, path: Path) -> Site:
        """Reads a site.toml, or the one in a folder.

        Raises:
            SiteError: it is missing, is not TOML, or a key is unknown, missing or out of range.
        """
        file = path / FILE if path.is_dir() else path
        try:
            tables = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise SiteError(f"{file}: not readable ({error.strerror}). Check the path.") from error
        except ValueError as error:
            raise SiteError(f"{file}: not valid TOML ({error}). Mend that line.") from error
        if "folder" in tables:
            raise SiteError(f"{file}: 'folder' is where this file lies, no key of it: remove it.")
        try:
            refuse_secrets(tables)
            _join_list(tables.get("policy"), "answers")
            return parse_sections(cls, flat_tables(tables) | {"folder": str(file.parent.resolve())})
        except ConfigError as error:
            raise SiteError(f"{file}: {error}") from error

    @property
    def simulated(self) -> bool:
        """Whether the lab made this site: only then may its noise be seeded."""
        return self.lab.seed >= 0

    def check_seed(self, node_config: Mapping[str, Value]) -> None:
        """Refuses seeded noise on a node that is not the lab's.

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
        """Where the privacy ledger lies."""
        return Path(self.folder, self.ledger)

    @property
    def anchor_file(self) -> Path:
        """Where the ledger's anchor lies."""
        return Path(self.folder, self.anchor) if self.anchor else default_anchor(self.user_base)

    @property
    def key_file(self) -> Path:
        """Where the node's private key lies."""
        return Path(self.folder, self.coordinator.key)

    @property
    def root_certificates_file(self) -> Path | None:
        """The authority that signed the coordinator's certificate; None for the system's."""
        name = self.coordinator.root_certificates
        return Path(self.folder, name) if name else None

    @property
    def flower_home(self) -> Path:
        """What Flower keeps on this node."""
        return Path(self.folder, self.coordinator.flower)

    def open_ledger(self) -> Ledger:
        """The privacy ledger, checked; raises LedgerError."""
        return Ledger(self.ledger_file, self.user_base, self.anchor_file)

    def create_ledger(self) -> Ledger:
        """An empty ledger for a new site; raises LedgerError where there is one."""
        return Ledger.create(self.ledger_file, self.user_base, self.anchor_file)

    def load_histories(self, catalogue: Catalogue, max_length: int) -> Histories:
        """The site's private histories, each cut to its last `max_length` events."""
        return read_source(self.data, Path(self.folder), catalogue, max_length=max_length)

    def data_version(self) -> Hashable | None:
        """Differs when the private data do; None where only reading can tell."""
        return open_source(self.data, Path(self.folder)).version()

    def random(self, round_number: int, *purpose: int) -> RandomSource:
        """Where this site's noise comes from in one round; each purpose >= 0 has its own."""
        if self.simulated:
            return SeededRandom(self.lab.seed, self.lab.stream, round_number, *purpose)
        return SystemRandom()

    def torch_device(self) -> torch.device:
        """The device to train on; "auto" takes a GPU where there is one.

        Raises:
            SiteError: the device is not one that torch knows, or is not there.
        """
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


def simulated_node(node_config: Mapping[str, Value]) -> bool:
    """Whether Flower's simulation or the lab started this node: the node config says so."""
    return bool({"partition-id", SIMULATED} & set(node_config))


def _join_list(table: object, key: str) -> None:
    """Turns a list of texts into one, which is the form that a run config has for it."""
    if isinstance(table, dict) and isinstance(table.get(key), list):
        table[key] = ",".join(map(str, table[key]))


def locate(node_config: Mapping[str, Value], run_config: Mapping[str, Value]) -> Path:
    """Which site a node serves.

    A partner's node says so itself (`--node-config 'site="..."'`). A simulated node only has a
    number; it takes the folder of that rank below the run's `paths.sites`. The run config is the
    coordinator's, so it counts for simulated nodes alone.

    Raises:
        SiteError: neither is given, or there is no folder of that rank.
    """
    if "site" in node_config:
        return Path(str(node_config["site"]))
    rank, sites = node_config.get("partition-id"), str(run_config.get("paths.sites", ""))
    if rank is None or not sites:
        raise SiteError(
            "this node does not know its site: start it with --node-config 'site=\"PATH\"'; "
            "for a simulation, set paths.sites in the run config."
        )
    folders = sorted(file.parent for file in Path(sites).expanduser().glob(f"*/{FILE}"))
    if int(rank) >= len(folders):
        raise SiteError(
            f"{sites} holds {len(folders)} sites, but a simulated node has number {rank}: "
            "simulate as many nodes as there are sites."
        )
    return folders[int(rank)]
