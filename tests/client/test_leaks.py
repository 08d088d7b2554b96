"""Whole federations of real nodes, searched for what must not leave: byte by byte."""

from __future__ import annotations

import base64
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import sqlalchemy as sa
from flwr.app import Array, RecordDict
from torch import Tensor

import client.app
from client.compute import trainer
from client.logs import FORMAT_VARIABLE, Event, note
from client.site.site import Site
from server.app import coordinate
from shared.config import (
    ModelConfig,
    PathsConfig,
    PrivacyConfig,
    RunConfig,
    ServerConfig,
    WarmStartConfig,
)
from shared.config import TrainingConfig as Training
from shared.data.histories import Histories
from shared.errors import QuorumError, SiteError
from shared.messages import DESCRIBE, EVALUATE, PLAN, STATISTICS, TRAIN, TrainReply, refusal_in
from shared.outcomes import Refusal
from simulations import cli as lab
from tests.client.canaries import Parcel, encodings, files_below, leaks, recorded
from tests.client.conftest import CANARY, private
from tests.conftest import DESCRIBED
from tests.simulations.conftest import TINY_SETTINGS

if TYPE_CHECKING:
    from simulations.datasets.temporary_postgresql import Server
    from tests.conftest import FakeGrid, Sites

    Connect = Callable[[Iterable[Path]], FakeGrid]
    Command = Callable[..., int]

DELTA = 1e-3
DATA = "interactions.csv"
PRIVATE_FILES = (DATA, "interactions.parquet", "site.toml")
"""The site's own; all else is searched."""
FIRST_TIME = 1_597_531_246


@dataclass
class Federation:
    """Real sites, a coordinator, and everything that left either of them."""

    sites: Sites
    connect: Connect
    model: ModelConfig
    own_items: int = 3
    folders: list[Path] = field(default_factory=list)
    parcels: list[Parcel] = field(default_factory=list)

    def join(self, name: str, rows: list[str], **changes: object) -> Path:
        """A site whose data file holds these rows, and a title that is in no catalogue."""
        keys: dict[str, object] = {
            "data.source": DATA,
            "policy.max_epsilon": 50.0,
            "policy.delta": DELTA,
            "policy.answers": ["describe", "statistics", "train", "evaluate"],
            "population": 100,
        }
        site = self.sites.make(name, keys | changes)
        lines = ["user_id,item_id,timestamp,title", *(f"{row},{title(name)}" for row in rows)]
        (site / DATA).write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.folders.append(site)
        return site

    def run(self) -> None:
        """Two rounds, each with metrics."""
        grid = self.connect([])
        nodes = {n: recorded(site, self.parcels) for n, site in enumerate(self.folders, start=1)}
        grid.nodes.update(nodes)
        config = RunConfig(
            privacy=PrivacyConfig(epsilon=20.0, delta=DELTA),
            model=self.model,
            warm_start=WarmStartConfig(share=0.5, own_items=self.own_items),
            training=Training(rounds=2, sample_rate=0.5),
            server=ServerConfig(
                organisations=len(nodes), quorum=0.3, retry_seconds=0.0, evaluate_every=1
            ),
            paths=PathsConfig(
                catalogue=str(self.sites.catalogue_folder), out=str(self.sites.folder / "run")
            ),
        )
        coordinate(grid, config, lambda _: None)

    def places(self, **more: str) -> dict[str, bytes]:
        """Everything that was written, sent, or said in `more`."""
        found = files_below(self.sites.folder, without=PRIVATE_FILES)
        for number, parcel in enumerate(self.parcels):
            found[f"message {number}"] = parcel.raw
        for site in self.folders:
            # In the file, a long text may lie in pieces.
            ledger = Site.load(site).open_ledger()
            texts = [json.dumps(dict(record.fields)) for record in ledger.history()]
            found[f"ledger of {site.name}"] = "\n".join(texts).encode()
            bodies = [ledger.sent_body(sent.number) or b"" for sent in ledger.outbox()]
            found[f"outbox of {site.name}"] = b"\0".join(bodies)
        return found | {place: text.encode() for place, text in more.items()}


def user(site: str, number: int) -> str:
    return f"cnry-{site}-{number:03}-anna@example.org"


def unknown_item(site: str) -> str:
    return f"cnry-only-at-{site}"


def title(site: str) -> str:
    return f"Cnry of the unreleased {site}"


def time(number: int) -> int:
    return FIRST_TIME + 86_413 * number


def rows_of(site: str, users: int) -> list[str]:
    """Some events of each user, one of them with an item that no catalogue has."""
    draw = np.random.default_rng(users)
    rows = []
    for number in range(users):
        items = [f"i{n}" for n in draw.integers(1, 21, size=draw.integers(3, 7))]
        events = enumerate([*items, unknown_item(site)], start=8 * number)
        rows += [f"{user(site, number)},{item},{time(at)}" for at, item in events]
    return rows


def doubtful_rows_of(site: str, users: int) -> list[str]:
    """The same, with everything that reading doubts and names on a terminal."""
    rows = rows_of(site, users)
    giant = [f"{user(site, 0)},i{n % 20 + 1},{time(n % (8 * users))}" for n in range(12 * users)]
    written_otherwise = [f"{user(site, 1)} ,i1,{time(2)}", f"{user(site, 2).upper()},i2,{time(3)}"]
    return [*rows, *giant, *giant[:5], *written_otherwise, f"{user(site, 3).upper()},i4,{time(4)}"]


def canaries(sites: Iterable[str], users: int = 12) -> list[str | int]:
    names = list(sites)
    texts = [user(site, n) for site in names for n in range(users)]
    texts += [f"cnry-{site}" for site in names]  # a piece of an id is a leak too
    texts += [unknown_item(site) for site in names] + [title(site) for site in names]
    return [*texts, *(time(number) for number in range(8 * users))]


@pytest.fixture
def federation(sites: Sites, connect: Connect) -> Federation:
    return Federation(sites, connect, DESCRIBED)


@pytest.fixture
def three(federation: Federation) -> Federation:
    """The third site has a row that cannot be read: a check names the user's own value."""
    federation.join("alpha", doubtful_rows_of("alpha", 12))
    federation.join("beta", rows_of("beta", 12))
    federation.join("gamma", [*rows_of("gamma", 12), f"{user('gamma', 0)},i1,cnry-gamma-when"])
    return federation


@pytest.fixture(autouse=True)
def server_log(tmp_path: Path) -> Iterator[None]:
    """What the coordinator and Flower say, in a file that is searched too."""
    (tmp_path / "sites").mkdir(exist_ok=True)
    handler = logging.FileHandler(tmp_path / "sites" / "server.log")
    loggers = [logging.getLogger(name) for name in ("sotto.server", "flwr")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.removeHandler(handler)
        logger.setLevel(level)
    handler.close()


# --- the search itself -------------------------------------------------------------------------


@pytest.mark.parametrize("canary", ["cnry-alpha-000", 1_597_531_246])
def test_every_encoding_is_found_wherever_it_stands(canary: str | int) -> None:
    for before in range(3):
        for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
            raw = b"xyz"[:before] + str(canary).encode(encoding) + b"more"
            for form in (raw, raw.hex().encode(), base64.b64encode(raw)):
                assert leaks({"here": b"text " + form + b" text"}, [canary])
    assert not leaks({"here": b"nothing of the kind"}, [canary])


def test_numbers_are_found_in_binary() -> None:
    assert leaks({"here": np.array([1, FIRST_TIME]).tobytes()}, [FIRST_TIME])
    assert leaks({"here": np.array([1, FIRST_TIME], dtype=float).tobytes()}, [FIRST_TIME])
    assert len(encodings(FIRST_TIME)) > len(encodings("text"))


# --- a whole run -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["lines", "json"])
def test_nothing_of_the_data_is_sent_written_or_said(
    three: Federation,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    sotto_node: Command,
    form: str,
) -> None:
    monkeypatch.setenv(FORMAT_VARIABLE, form)
    logging.getLogger("any.library").warning("before the node is up")
    three.run()
    site = three.folders[0]
    for command in (["budget"], ["budget", "--json"], ["budget", "verify"], ["outbox", "--json"]):
        assert sotto_node(*command, "--site", site) == 0
    assert sotto_node("outbox", "--site", site) == 0
    picture = site / "budget.svg"
    assert sotto_node("budget", "--plot", picture, "--site", site) == 0
    printed = capfd.readouterr()

    # That there was something to find, and that the run was whole.
    held = {str(file): file.read_bytes() for file in three.sites.folder.rglob(DATA)}
    assert leaks(held, [user("gamma", 0)])
    refused = [refusal_in(parcel.message) for parcel in three.parcels]
    assert refused.count(Refusal.FAILED) == 0
    assert "unreadable" in printed.err, "gamma has a row that cannot be read"
    if form == "json":
        lines = [json.loads(line) for line in printed.err.splitlines() if line.startswith("{")]
        assert {"answered", "unreadable"} <= {line["event"] for line in lines}

    places = three.places(stdout=printed.out, stderr=printed.err)
    for needed in ("ledger.sqlite", "server.log", "budget.svg", "checkpoint", "message 0"):
        assert any(needed in place for place in places)
    assert leaks(places, canaries(["alpha", "beta", "gamma"])) == set()


def leak_to_the_log(federation: Federation, secret: str) -> None:
    note(Event.ANSWERED, organisation=secret)


def leak_to_stdout(federation: Federation, secret: str) -> None:
    sys.stdout.write(base64.b64encode(secret.encode()).decode())


def leak_to_the_ledger(federation: Federation, secret: str) -> None:
    ledger = Site.load(federation.folders[0]).open_ledger()
    ledger.refuse(Refusal.FAILED, {"detail": secret.encode("utf-16-be").hex()})


def leak_to_a_file(federation: Federation, secret: str) -> None:
    (federation.sites.folder / "run" / "cache").write_text(secret, encoding="utf-16")


@pytest.mark.parametrize(
    ("plant", "place"),
    [
        (leak_to_the_log, "stderr"),
        (leak_to_stdout, "stdout"),
        (leak_to_the_ledger, "ledger of alpha"),
        (leak_to_a_file, "cache"),
    ],
)
def test_a_leak_on_this_side_is_found(
    three: Federation,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    plant: Callable[[Federation, str], None],
    place: str,
) -> None:
    honest = trainer.train

    def leaking(*arguments: Any) -> dict[str, Tensor]:  # noqa: ANN401
        plant(three, user("alpha", 3))
        return honest(*arguments)

    monkeypatch.setattr(client.app, "train", leaking)
    three.run()
    printed = capfd.readouterr()
    places = three.places(stdout=printed.out, stderr=printed.err)
    found = {where for where, _ in leaks(places, canaries(["alpha"]))}
    assert any(place in where for where in found)


def test_a_leak_in_an_answer_is_found(three: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = TrainReply.to_content

    def leaking(reply: TrainReply) -> RecordDict:
        content = honest(reply)
        hidden = np.frombuffer(user("alpha", 3).encode("utf-16-le").ljust(128), dtype=np.float32)
        content.array_records["weights"]["item_bias"] = Array(hidden.copy())
        return content

    monkeypatch.setattr(TrainReply, "to_content", leaking)
    with pytest.raises(QuorumError):
        three.run()
    found = leaks(three.places(), canaries(["alpha"]))
    assert any("message" in place and encoding == "utf-16-le" for place, encoding in found)


def test_a_password_and_what_a_database_says_stay_where_they_are(
    federation: Federation,
    postgresql: Server,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    sotto_node: Command,
) -> None:
    credentials = private(tmp_path / "db.toml", f'user = "sotto"\npassword = "{CANARY}"\n')
    rows = [row.split(",") for row in rows_of("delta", 12)]
    fill(postgresql, rows)
    query = "SELECT user_id, item_id, timestamp FROM leaks"
    source = {"data.source": postgresql.url, "data.credentials": credentials}
    federation.join("delta", [], **source | {"data.query": query})
    # The server's own words repeat the value that is no number: a user's id.
    broken = query.replace("user_id", "user_id::integer AS user_id")
    federation.join("omega", [], **source | {"data.query": broken})
    federation.run()
    for site in federation.folders:
        assert sotto_node("budget", "--site", site) == 0
        assert sotto_node("outbox", "--site", site) == 0
    printed = capfd.readouterr()

    assert printed.err.count("answered") == 6 + 2 * 2
    assert printed.err.count("SiteError") == 6
    with pytest.raises(SiteError, match="cnry-delta-000"):
        load(federation.folders[1], federation)
    places = federation.places(stdout=printed.out, stderr=printed.err)
    assert leaks(places, [*canaries(["delta"]), CANARY]) == set()


def fill(server: Server, rows: list[list[str]]) -> None:
    url = sa.make_url(server.url).set(drivername="postgresql+psycopg", password=server.password)
    with sa.create_engine(url, poolclass=sa.NullPool).begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS leaks")
        connection.exec_driver_sql(
            "CREATE TABLE leaks (user_id text, item_id text, timestamp bigint)"
        )
        values = ", ".join(f"('{u}', '{i}', {t})" for u, i, t in rows)
        connection.exec_driver_sql(f"INSERT INTO leaks VALUES {values}")


def load(site: Path, federation: Federation) -> Histories:
    return Site.load(site).load_histories(federation.sites.catalogue, 5)


def test_the_labs_own_files_hold_items_and_figures_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    rows = doubtful_rows_of("lab", 30)
    (data / "interactions.csv").write_text(
        "\n".join(["user_id,item_id,timestamp", *rows]) + "\n", encoding="utf-8"
    )
    items = [f"i{n},Story {n} (1999),Drama" for n in range(1, 21)]
    (data / "items.csv").write_text("\n".join(["item_id,title,genres", *items]) + "\n")
    command = ["simulate", "--data", data, "--out", out, "--epsilon", 8, "--delta", 1e-2]
    for setting in ("lab.organisations=2", *TINY_SETTINGS):
        command += ["--set", setting]
    monkeypatch.setattr(sys, "argv", ["sotto-lab", *map(str, command)])
    with pytest.raises(SystemExit) as left:
        lab.main()
    assert left.value.code == 0
    printed = capfd.readouterr()
    for doubt in (f"the user '{user('lab', 0)}' has", "is read as", "equal another one but for"):
        assert doubt in " ".join(printed.err.split())  # told on the terminal alone
    places = files_below(out, without=PRIVATE_FILES)
    assert any(place.endswith("result.json") for place in places)
    places |= {"stdout": printed.out.encode()}
    assert leaks(places, canaries(["lab"], 30)) == set()


# --- what a message holds ----------------------------------------------------------------------

MODEL_FIELDS = {
    *("model.items", "model.tied", "model.item_bias", "model.feature_size", "model.hidden_size"),
    *("model.layers", "model.heads", "model.max_length", "model.dropout", "model.recency"),
    *("model.own_items", "model.trained"),
}
ASKED = {"protocol", "run", "round", "catalogue", "noise_multiplier", "sample_rate"}
TRAINING = {"clip_norm", "local_steps", "optimiser", "learning_rate", "weight_decay"}
TRAINING |= {"candidates"}
FIELDS = {
    ("to", TRAIN): ASKED | TRAINING | {"frozen"} | MODEL_FIELDS,
    ("to", EVALUATE): ASKED | {"k", "frozen"} | MODEL_FIELDS,
    ("to", STATISTICS): ASKED - {"sample_rate"} | {"statistic", "fade"} | MODEL_FIELDS,
    ("to", DESCRIBE): {"protocol"},
    ("from", DESCRIBE): {"organisation", "population", "catalogue"},
    ("to", PLAN): {"protocol", "run", "catalogue", "statistics", "popularity_noise"}
    | {"moment_noise", "training_noise", "sample_rate", "rounds", "evaluations", "largest_weight"}
    | TRAINING
    | MODEL_FIELDS,
    ("from", PLAN): {"protocol"},
}


def test_a_message_holds_what_is_listed_here_and_nothing_else(federation: Federation) -> None:
    for name in ("alpha", "beta"):
        federation.join(name, rows_of(name, 12))
    federation.run()
    query = [f"blocks.0.attention.query.{part}" for part in ("bias", "weight")]
    weights = [*query, "feature_out.weight", "item_scores.offset"]
    expected = {place: {"fields": sorted(names)} for place, names in FIELDS.items()}
    expected["to", TRAIN]["weights"] = expected["to", EVALUATE]["weights"] = weights
    expected["from", TRAIN] = {"weights": weights}
    expected["from", EVALUATE] = {"weights": ["sums"]}
    expected["from", STATISTICS] = {"weights": ["total"]}
    found = [(p.direction, p.message.metadata.message_type) for p in federation.parcels]
    assert {place: found.count(place) for place in expected} == {
        place: 2 if place[1] in (DESCRIBE, PLAN) else 4 for place in expected
    }
    for parcel, place in zip(federation.parcels, found, strict=True):
        assert parcel.keys == expected[place]
        described = b"".join((parcel.head, *parcel.objects))
        assert b"num-examples" not in described
        assert b"loss" not in described


def test_no_length_depends_on_the_data(
    make_sites: Callable[[Path], Sites],
    connect: Connect,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same public constants, other users, and more of them: what an eavesdropper sees.

    Which items get a direction of their own, and so the length of what follows, is what noised
    popularity said.
    """
    seen = []
    for users in (3, 40):
        # Each federation on machines of its own: a machine knows one ledger of a user base.
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / f"state-{users}"))
        made = Federation(make_sites(tmp_path / f"{users:02}"), connect, DESCRIBED, own_items=0)
        made.join("alpha", rows_of("alpha", users))
        made.join("beta", rows_of("beta", 2 * users))
        made.run()
        seen.append([(p.direction, p.keys, p.sizes) for p in made.parcels])
    assert len(seen[0]) == 2 * (2 + 2 + 4 + 4 + 4)
    assert seen[0] == seen[1]
