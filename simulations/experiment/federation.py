"""Run a federation on one machine: one folder a site, and the real ServerApp and ClientApp.

A simulated organisation has what a partner has: site.toml, data and ledger in a folder. Only the
transport is replaced, by an in-process grid or by Flower's Ray engine.
"""

from __future__ import annotations

import math
import os
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w
import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

import client.app
from client.ledger.ledger import Ledger
from client.site.aggregation_key import make_aggregation_key
from client.site.roster import PEERS
from client.site.simulated import SIMULATED
from client.site.site import FILE, Site
from server.app import Observer, make_app
from server.flower_internals import Run, TaskIdentity
from server.rounds.grid import PatientGrid
from shared.config import ModelKind, PrivacyConfig, RunConfig
from shared.data.catalogue import Catalogue
from shared.data.columns import Columns
from shared.data.friends import FriendTable, bounded, write_friends
from shared.data.histories import Histories
from shared.data.queries import Asked
from shared.data.reading import read_histories, write_interactions
from shared.privacy.release import Release
from shared.secure_aggregation.signing import public_to_text
from shared.system.command_line import INTERRUPTED, messages
from shared.system.files import UMASK, write_atomically
from simulations.experiment.config import Engine

__all__ = [
    "InProcessGrid",
    "LedgerCost",
    "SimulatedSite",
    "WrappedApp",
    "introduce_sites",
    "ledger_costs",
    "make_site",
    "run_federation",
    "site_histories",
    "sites_in",
]

_HEADING = "# A simulated site: its noise repeats itself and protects nobody.\n"
_DATA, _USERS, _ANCHOR = "interactions.parquet", "users.parquet", "ledger.anchor"
_QUERIES = "queries.parquet"
_FRIENDS, _BOUNDED = "friends.csv", "bounded-friends.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedSite:
    """A simulated organisation, before it is written to disk.

    Attributes:
        organisation: its name, and the name of its folder.
        histories: its users' events.
        stream: number of its random stream; distinct among the sites of one seed.
        evaluates: whether it answers requests for noised metrics; it then keeps each user's last
            event out of training.
        population: declared number of users; None takes the number of histories.
        organisations: how many take part in its run, itself included.
        groups: by column, the public group of each user, in the order of `histories`.
        timed: whether the data have the events' times, and not their positions alone.
        queries: what its users asked for in words.
        friends: who is whose friend among its users; None has no table. The site has all of them
            for home models, and those within the bound for runs of the kind "social".
        friends_most: how many others' friend a user is at most in the second one.
        domain: of the catalogue, of which its items are; "" for all of it.
    """

    organisation: str
    histories: Histories
    stream: int
    evaluates: bool = False
    population: int | None = None
    organisations: int = 1
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    timed: bool = False
    queries: Sequence[Asked] = ()
    friends: FriendTable | None = None
    friends_most: int = 0
    domain: str = ""


_NO_LIMITS = ("max_per_minute", "max_per_day", "repeat_seconds")
_UNLIMITED = (
    *("max_length", "max_layers", "max_heads", "max_width", "max_own_items", "max_candidates"),
    *("max_events", "max_answers"),
)
_UNLIMITED_NUMBERS = (
    *("max_noise_multiplier", "max_weight", "max_memory_gb", "max_answer_mb", "max_stored_mb"),
)
"""Limits of the policy that only the app's own bounds apply to in the lab."""


def make_site(
    folder: Path,
    site: SimulatedSite,
    catalogue: Catalogue,
    *,
    catalogue_folder: Path,
    privacy: PrivacyConfig,
    seed: int,
    device: str,
) -> None:
    """Write site.toml, data and an empty ledger into `folder`.

    The site allows exactly the run's ε, so a ledger that counts too much stops the simulation.
    Under secure aggregation its roster counts on all of the run's organisations.
    """
    folder.mkdir(parents=True)
    write_interactions(site.histories, catalogue, folder / _DATA, timed=site.timed)
    if site.groups:
        columns = {"user_id": site.histories.users} | dict(site.groups)
        pq.write_table(pa.table({k: list(v) for k, v in columns.items()}), folder / _USERS)
    if site.queries:
        pq.write_table(_query_table(site.queries, catalogue), folder / _QUERIES)
    if site.friends is not None:
        write_friends(folder / _FRIENDS, site.friends)
        write_friends(folder / _BOUNDED, bounded(site.friends, site.friends_most))
    answers = ["describe", "statistics", "train"] + ["evaluate"] * site.evaluates
    # site.toml comes last, so that a folder with one is complete.
    Ledger.create(folder / "ledger.sqlite", site.organisation, folder / _ANCHOR)
    settings = {
        "organisation": site.organisation,
        "user_base": site.organisation,
        "population": len(site.histories) if site.population is None else site.population,
        "catalogue": os.path.relpath(catalogue_folder, folder),
        "device": device,
        "anchor": _ANCHOR,  # beside the ledger: nothing of a simulation lies elsewhere
        # The lab has read the ids, and has applied the limits.
        "data": {
            "source": _DATA,
            "missing": "",
            "users": _USERS if site.groups else "",
            "queries": _QUERIES if site.queries else "",
            "query_attributes": list(_declared_by(site.queries)),
            **({} if site.friends is None else _friend_settings(site)),
            "domains": [site.domain] if site.domain else [],
            **dict.fromkeys(_NO_LIMITS, 0),
        },
        "policy": {
            "max_epsilon": math.inf if privacy.epsilon is None else privacy.epsilon,
            "delta": privacy.delta,
            "answers": answers,
            "kinds": list(map(str, ModelKind)),
            "group_columns": list(site.groups),
            "min_noise_multiplier": 0.0,  # the run is the lab's own: ε alone limits it
            "max_clip_norm": 1e9,
            "max_steps": 1_000_000_000,
            **dict.fromkeys(_UNLIMITED, 1_000_000_000),
            **dict.fromkeys(_UNLIMITED_NUMBERS, 1e9),
        },
        **_roster(privacy, site.organisations),
        "lab": {"seed": seed, "stream": site.stream, "simulated": True},
    }
    (folder / FILE).write_text(_HEADING + tomli_w.dumps(settings), encoding="utf-8")


def _friend_settings(site: SimulatedSite) -> dict[str, str | int]:
    files: dict[str, str | int] = {"friends": _FRIENDS, "bounded_friends": _BOUNDED}
    return files | {"friends_most": site.friends_most}


def _query_table(queries: Sequence[Asked], catalogue: Catalogue) -> pa.Table:
    """Return queries as a partner has them; those without a time have positions."""
    timed = all(one.time is not None for one in queries)
    moments = (
        pa.array([one.time for one in queries], pa.timestamp("us", "UTC"))
        if timed
        else pa.array(range(len(queries)))
    )
    return pa.table(
        {
            "user_id": [one.user for one in queries],
            "item_id": [catalogue.item_ids[one.item - 1] for one in queries],
            "query": [one.text for one in queries],
            "timestamp" if timed else "position": moments,
            **{name: list(of) for name, of in _declared_by(queries).items()},
        }
    )


def _declared_by(queries: Sequence[Asked]) -> dict[str, list[str]]:
    """Return what the users of queries have declared, by name; "" says nothing."""
    rows = [dict(text.split("=", 1) for text in one.attributes) for one in queries]
    names = sorted({name for row in rows for name in row})
    return {name: [row.get(name, "") for row in rows] for name in names}


def _roster(privacy: PrivacyConfig, organisations: int) -> dict[str, dict[str, int]]:
    """Return the table [roster]; none for an organisation that trains by itself."""
    if not privacy.secure or organisations == 1:
        return {}
    roster = {
        "organisations": organisations,
        "colluding": privacy.colluding_of(organisations),
        "fewest": organisations - privacy.dropouts,
    }
    return {"roster": roster}


def introduce_sites(sites: Sequence[Path]) -> None:
    """Give each site a key for secure aggregation, and the others' names and keys.

    Nothing happens to a site that knows its peers: a run that is resumed keeps its keys.
    """
    loaded = [Site.load(folder) for folder in sites]
    keys = {site.organisation: public_to_text(make_aggregation_key(site).public) for site in loaded}
    for site in loaded:
        if site.roster.peers:
            continue
        file = Path(site.folder, FILE)
        settings = tomllib.loads(file.read_text(encoding="utf-8"))
        others = {name: key for name, key in keys.items() if name != site.organisation}
        settings["roster"] = settings.get("roster", {}) | {PEERS: others}
        write_atomically(file, (_HEADING + tomli_w.dumps(settings)).encode(), mode=UMASK)


def sites_in(folder: Path) -> list[Path]:
    """Return the site folders below `folder`, in order of their names."""
    return sorted(file.parent for file in folder.glob(f"*/{FILE}"))


def site_histories(folder: Path, catalogue: Catalogue) -> Histories:
    """Return the histories that `make_site` wrote, without users that have no events."""
    return read_histories(folder / _DATA, catalogue, Columns(missing=()), min_events=1)


def run_federation(
    config: RunConfig,
    sites: Sequence[Path],
    *,
    engine: Engine,
    observer: Observer,
    app: ClientApp | None = None,
) -> None:
    """Run the coordinator and every site until the last round is finished.

    Args:
        config: the run's parameters.
        sites: their folders.
        engine: what runs the apps.
        observer: called after every round.
        app: runs on every node instead of the node's own ClientApp; in this process only.

    Raises:
        SottoError: the coordinator failed.
    """
    if config.privacy.masked:
        introduce_sites(sites)
    if engine is Engine.RAY:
        _run_on_ray(config, sites, observer)
        return
    grid = InProcessGrid(app or client.app.app, sites)
    context = Context(
        run_id=grid.run.run_id, node_id=0, node_config={}, state=RecordDict(), run_config={}
    )
    make_app(config, observer)(grid, context)


class InProcessGrid(Grid):
    """A grid that passes each message to a ClientApp in this process, one after the other.

    Args:
        app: the ClientApp that every node runs.
        sites: one node for each site folder, numbered from 1.
    """

    def __init__(self, app: ClientApp, sites: Sequence[Path]) -> None:
        self._app, self._run = app, Run.create_empty(run_id=1)
        self._contexts = {
            node: Context(
                run_id=1,
                node_id=node,
                node_config={"site": str(site), SIMULATED: True},
                state=RecordDict(),
                run_config={},
            )
            for node, site in enumerate(sites, start=1)
        }
        self._messages: dict[str, Message] = {}
        self._count = 0
        # A Message takes its run and source from here; Flower sets it in every process it starts.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 0

    def set_run(self, run: Run) -> None:
        """Set the run; Flower calls it."""
        self._run = run

    @property
    def run(self) -> Run:
        """Return the run of the messages."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a message to one node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return all nodes: they are always connected."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Store the messages; a node answers when its reply is pulled."""
        return [self._accept(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the reply to the first of these messages that has none yet.

        One reply at a time, so that the coordinator can stop at its deadline.
        """
        asked = set(message_ids)
        first = next((number for number in self._messages if number in asked), None)
        return [] if first is None else [self._answer(self._messages.pop(first))]

    def _answer(self, message: Message) -> Message:
        return self._app(message, self._contexts[message.metadata.dst_node_id])

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send, and wait for the replies as `PatientGrid` does."""
        return PatientGrid(self).send_and_receive(messages, timeout=timeout)

    def _accept(self, message: Message) -> str:
        self._count += 1
        number = f"message-{self._count}"
        message.metadata.__dict__["_message_id"] = number
        self._messages[number] = message
        return number


def _run_on_ray(config: RunConfig, sites: Sequence[Path], observer: Observer) -> None:
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    from flwr.simulation import run_simulation  # noqa: PLC0415 Ray takes seconds to import

    try:
        run_simulation(
            server_app=make_app(config, observer),
            client_app=_app_for(sites[0].parent),
            num_supernodes=len(sites),
            backend_config={"client_resources": {**_resources()}},
        )
    except KeyboardInterrupt:
        _end_at_once()


def _end_at_once() -> NoReturn:
    """End this process after Ctrl-C; Ray's own processes end with it.

    Threads of Flower's engine and Ray's would otherwise keep it for more than half a minute.
    """
    messages.print("\ninterrupted")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INTERRUPTED)


def _resources() -> dict[str, float]:
    """Give a client as many threads as this process has, for the same order of summation."""
    gpus = 1.0 if torch.cuda.is_available() else 0.0
    return {"num_cpus": float(torch.get_num_threads()), "num_gpus": gpus}


class WrappedApp(ClientApp):
    """A ClientApp that hands every message, of whatever kind, to a function.

    Args:
        answer: what it does in the place of the node's app, and mostly with its help.
    """

    def __init__(self, answer: Callable[[Message, Context], Message]) -> None:
        super().__init__()
        self._answer = answer

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer a message."""
        return self._answer(message, context)


def _app_for(sites: Path) -> ClientApp:
    """Return the node's app with the folder of the simulated sites in its run config."""
    run_config = {"paths.sites": str(sites.resolve())}

    def answer(message: Message, context: Context) -> Message:
        # A copy: Flower refuses a context whose run config has changed.
        return client.app.app(message, replace(context, run_config=dict(run_config)))

    return WrappedApp(answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerCost:
    """What an organisation's own ledger says.

    Attributes:
        epsilon: of all releases.
        epsilon_if_all_collude: where only the organisation's own noise counts.
        releases: equal ones merged.
    """

    epsilon: float
    epsilon_if_all_collude: float
    releases: tuple[Release, ...]


def ledger_costs(sites: Iterable[Path]) -> dict[str, LedgerCost]:
    """Return the cost of each organisation, by name, from its own ledger."""
    costs = {}
    for folder in sites:
        site = Site.load(folder)
        ledger, delta = site.open_ledger(), site.policy.delta
        costs[site.organisation] = LedgerCost(
            epsilon=ledger.spent(delta),
            epsilon_if_all_collude=ledger.spent_if_all_collude(delta),
            releases=tuple(ledger.releases()),
        )
    return costs
