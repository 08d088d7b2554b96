"""What many tests share: tiny sites in folders, their requests, and a grid without a network.

Test modules name these types for the type checker alone: `if TYPE_CHECKING: from tests.conftest`.
"""

from __future__ import annotations

import gc
import itertools
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import hypothesis
import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

import client.app
from client.ledger.ledger import Ledger
from shared.config import ItemRepresentation, ModelConfig, Optimiser, Trained
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.data.reading import write_interactions
from shared.messages import TRAIN, TrainRequest, Weights
from shared.models.attention import build, trainable
from tests.flower_internals import (
    ProtoMessage,
    Run,
    TaskIdentity,
    message_from_proto,
    message_to_proto,
)

# The same examples in every run: what fails, fails for everybody. To look further afield:
# python -m pytest --hypothesis-profile=explore
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.register_profile("explore", derandomize=False)
hypothesis.settings.load_profile("same")

MEMORY = Path("/dev/shm")
LEAST_MEMORY = 4 * 2**30
"""Bytes that must be free where the tests' files are kept in memory."""


def keep_files_in_memory() -> None:
    """Where programs may run from there: ledgers and checkpoints wait for each write to a disk."""
    if "PYTEST_DEBUG_TEMPROOT" in os.environ or not os.access(MEMORY, os.W_OK):
        return
    found = os.statvfs(MEMORY)
    if not found.f_flag & os.ST_NOEXEC and found.f_bavail * found.f_frsize >= LEAST_MEMORY:
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(MEMORY)


keep_files_in_memory()

# Imports make objects that stay: nothing of them can be collected.
gc.disable()

# Threads cost more than they bring at these sizes, and the test workers share the cores.
torch.set_num_threads(1)

ITEMS, FEATURES = 20, 4
MODEL = ModelConfig(
    items=ItemRepresentation.IDS,
    hidden_size=8,
    layers=1,
    heads=2,
    max_length=5,
    dropout=0.1,
    trained=Trained.ALL,
)

DESCRIBED = ModelConfig(feature_size=FEATURES, max_length=5)
"""One that reads the features of `some_catalogue`, and takes a warm start."""

LONGEST = (
    "docs/test_federation.py",
    "docs/test_tutorial.py",
    "test_secure_deployment.py",
    "hostile/test_training.py",
    "simulations/audit/test_audit.py",
    "simulations/experiment/test_simulate.py",
    "simulations/experiment/test_federation.py",
    "docs/test_recommend.py",
    "simulations/sweep/test_sweep.py",
    "client/node/test_up.py",
    "client/compute/test_trainer.py",
    "shared/privacy/accounting/test_accountant.py",
    "shared/privacy/clipping/test_clipping.py",
    "shared/privacy/test_noise.py",
    "client/ledger/test_kill.py",
    "server/test_secure_kill.py",
    "client/secure_aggregation/test_kill.py",
    "server/test_kill.py",
    "simulations/benchmarks/day/test_day.py",
)
"""Files that take longest, the longest first: one that was begun last would run on alone."""

Node = Callable[[Message], Message | None]
"""Answers a message, or stays silent."""
_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files; all others stay in their order."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(LONGEST)))


def pytest_collection_finish() -> None:
    """Leave what is imported out of every later collection, here and in forks of this process."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    """Let everything be freed at the end; a library reports what is not."""
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="session")
def flower_identity() -> None:
    """Flower sets these in every process it starts; a Message cannot be made without them."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1


@pytest.fixture(autouse=True, scope="session")
def session_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state folder for the fixtures of the whole session."""
    yield from new_state_folder(tmp_path_factory)


@pytest.fixture(autouse=True, scope="module")
def module_state(session_state: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state folder for the fixtures that a module shares, and the processes that they start."""
    yield from new_state_folder(tmp_path_factory)


@pytest.fixture(autouse=True)
def state_folder(module_state: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state folder of the test's own, for default anchors and the register of user bases."""
    yield from new_state_folder(tmp_path_factory)


def new_state_folder(factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep what Sotto remembers on this machine in a folder that no other test has."""
    folder = factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def memory_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """In memory, where there is any: it outlives a process as a disk does, and nobody waits."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path_factory.mktemp("killed")
        return
    made = Path(tempfile.mkdtemp(prefix="sotto-", dir=MEMORY))
    yield made
    shutil.rmtree(made)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """A real node takes its process's logging over, and a coordinator that of its own lines."""
    loggers = [logging.getLogger(name) for name in ("", "sotto", "sotto.node")]
    before = [([*log.handlers], log.level, log.propagate) for log in loggers]
    yield
    for log, (handlers, level, propagate) in zip(loggers, before, strict=True):
        log.handlers[:] = handlers
        log.setLevel(level)
        log.propagate = propagate
    logging.captureWarnings(capture=False)


def transported(message: Message) -> Message:
    """The message as it arrives: through Flower's own serialisation."""
    raw = message_to_proto(message).SerializeToString()
    return message_from_proto(ProtoMessage.FromString(raw))


def numbered(message: Message) -> Message:
    """Gives the message the id that a SuperLink would."""
    message.metadata.__dict__["_message_id"] = f"message-{next(_numbers)}"
    return message


def ask(content: RecordDict, kind: str, node: int = 1) -> Message:
    """A request as it arrives at a node."""
    return transported(numbered(Message(content, node, kind)))


def context(node_config: Mapping[str, Any], run_config: Mapping[str, Any] | None = None) -> Context:
    """What Flower hands to an app."""
    return Context(
        run_id=1,
        node_id=1,
        node_config=dict(node_config),
        state=RecordDict(),
        run_config=dict(run_config or {}),
    )


class FakeGrid(Grid):
    """Hands messages to functions, one a node, and remembers what went over it.

    Args:
        nodes: who answers, by node id.
    """

    def __init__(self, nodes: Mapping[int, Node]) -> None:
        self.nodes = dict(nodes)
        self.sent: list[Message] = []
        self.received: list[Message] = []
        self._replies: dict[str, Message] = {}

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        return [self._deliver(numbered(message)) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        ready = [number for number in message_ids if number in self._replies]
        replies = [self._replies.pop(number) for number in ready]
        self.received += replies
        return replies

    def _deliver(self, message: Message) -> str:
        self.sent.append(message)
        number = message.metadata.message_id
        node = self.nodes.get(message.metadata.dst_node_id)
        if node is None:  # as Flower does where there is no such node
            return cast(str, None)
        reply = node(transported(message))
        if reply is not None:
            self._replies[number] = transported(reply)
        return number


def node(app: ClientApp, site: Path) -> Node:
    """A node that serves `site` with the real ClientApp."""
    return lambda message: app(message, context({"site": str(site), "simulated": True}))


def some_catalogue(items: int = ITEMS) -> Catalogue:
    """Items "i1", "i2", ... with 4 features each."""
    names = tuple(f"i{number}" for number in range(1, items + 1))
    features = torch.randn(items, FEATURES, generator=torch.Generator().manual_seed(3))
    return Catalogue(names, names, ((),) * items, (None,) * items, features)


def some_histories(users: int, seed: int = 0) -> Histories:
    """Users called "user0", ... with 2 to 8 events each."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 9, (users,), generator=draw).tolist()
    lists = [torch.randint(1, ITEMS + 1, (n,), generator=draw).tolist() for n in lengths]
    return Histories.from_lists(lists, users=[f"user{number}" for number in range(users)])


def some_weights(seed: int = 0, model: ModelConfig = MODEL) -> Weights:
    """Initial weights of the tiny model."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        recommender = build(model, some_catalogue())
    return {name: p.detach().numpy() for name, p in trainable(recommender).items()}


@dataclass(frozen=True)
class Sites:
    """Makes site folders that share one catalogue.

    Attributes:
        folder: where they lie.
        catalogue: what they hold.
    """

    folder: Path
    catalogue: Catalogue

    def make(
        self,
        name: str = "alpha",
        changes: Mapping[str, object] | None = None,
        *,
        users: int = 12,
        seed: int | None = None,
        stream: int = 0,
    ) -> Path:
        """A whole site; `changes` replace or add keys of site.toml, `None` leaves one out.

        `seed` and `stream` go to its `lab` table; without a seed there is none.
        """
        folder = self.folder / name
        folder.mkdir(parents=True)
        data = some_histories(users, seed=len(name) + stream)
        write_interactions(data, self.catalogue, folder / "interactions.parquet")
        keys: dict[str, object] = {
            "organisation": name,
            "user_base": f"{name}'s users",
            "population": users,
            "data.source": "interactions.parquet",
            "catalogue": "../catalogue",
            "anchor": "../anchors/" + name,
            "policy.max_epsilon": float("inf"),
            "policy.delta": 1e-3,
        }
        if seed is not None:
            keys |= {"lab.seed": seed, "lab.stream": stream}
        keys |= changes or {}
        (folder / "site.toml").write_text(toml(keys), encoding="utf-8")
        Ledger.create(
            folder / "ledger.sqlite", str(keys["user_base"]), self.folder / "anchors" / name
        )
        return folder

    @property
    def catalogue_folder(self) -> Path:
        """Where the catalogue lies."""
        return self.folder / "catalogue"

    def request(self, **changes: Any) -> TrainRequest:  # noqa: ANN401
        """A request for a round with noise that the sites can answer."""
        fields: dict[str, Any] = {
            "run": "r",
            "round": 1,
            "catalogue": self.catalogue.fingerprint,
            "model": MODEL,
            "weights": some_weights(),
            "noise_multiplier": 2.0,
            "sample_rate": 0.5,
            "clip_norm": 1.0,
            "local_steps": 1,
            "optimiser": Optimiser.SGD,
            "learning_rate": 0.1,
            "weight_decay": 0.0,
            "candidates": 0,
        }
        return TrainRequest(**fields | changes)

    def message(self, **changes: Any) -> Message:  # noqa: ANN401
        """The same, as it arrives at a node."""
        return ask(self.request(**changes).to_content(), TRAIN)


def toml(keys: Mapping[str, object]) -> str:
    """Dotted keys as TOML; None leaves a key out."""

    def written(value: object) -> str:
        return repr(value) if isinstance(value, float) else json.dumps(value)

    return "".join(
        f"{key} = {written(value)}\n" for key, value in keys.items() if value is not None
    )


@pytest.fixture(scope="session")
def make_sites() -> Callable[[Path], Sites]:
    """Sites below a folder, around one catalogue."""

    def make(folder: Path) -> Sites:
        made = Sites(folder, some_catalogue())
        made.catalogue.save(made.catalogue_folder)
        return made

    return make


@pytest.fixture
def sites(tmp_path: Path, make_sites: Callable[[Path], Sites]) -> Sites:
    """Sites below a folder of the test's own."""
    return make_sites(tmp_path / "sites")


@pytest.fixture(scope="session")
def model() -> ModelConfig:
    """The shape of the tiny model."""
    return MODEL


@pytest.fixture(scope="session")
def connect() -> Callable[[Iterable[Path]], FakeGrid]:
    """A grid between the coordinator and the real ClientApp at each site, numbered from 1."""
    return lambda folders: FakeGrid(
        {number: node(client.app.app, site) for number, site in enumerate(folders, start=1)}
    )
