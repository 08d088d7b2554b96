"""Every kind of model end to end on this machine, in real processes: trained, adapted, served.

    python -m simulations.faults.kinds FOLDER [--only lstm query]

One coordinator and two partners over TLS. For each kind in turn: a run with noise, published; then,
at one partner, `adapt`, `recommend --explain`, and `serve`, which is asked once over HTTP. The kind
"query" has a table of queries and is asked with one, "social" one of friends; "domains" is the kind
"attention" once more, with partners that have half of the catalogue each. One line of JSON for each
is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w
import torch

from server.runs.run import find_run
from server.settings import Settings
from server.state.status import RunState
from shared.config import ModelKind
from shared.data.catalogue import Catalogue
from shared.data.feature_blocks import FeatureBlock
from shared.item_features.adaptable import adaptable_text
from shared.item_features.encoder import TextEncoder, encoded_features
from shared.item_features.encoder_source import find_encoder
from shared.models.registry import Examples, examples_of
from shared.sections import Value
from simulations.faults.deployment import DELTA, ITEMS, Deployment
from simulations.faults.injection import PATIENCE
from simulations.faults.processes import free_port, wait_for

__all__ = ["CASES", "Case", "catalogue_of", "main"]

PARTNERS = ("alpha", "beta")
EPSILON, MAX_EPSILON = 8.0, 1000.0
"""Of a run; of all runs of a partner."""
ROUNDS, LISTED = 2, 3
FRIENDS = 2
"""Others whose friend a user is."""
SIZE, WIDTH = 6, 16
"""Features of an item; width of the encoder, which is made on the spot."""
_LOST = (RunState.PAUSED, RunState.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One kind of model, as it is run.

    Attributes:
        model: settings of the run, in the section `model`.
        query: that recommendations are asked with; "" for none.
        domains: of each partner; "" for the whole catalogue.
        encoder: whether the catalogue has the last blocks of one.
        sample_rate: of the users in a step.
    """

    model: dict[str, Value] = field(default_factory=dict)
    query: str = ""
    domains: Sequence[str] = ("", "")
    encoder: bool = False
    sample_rate: float = 0.5


CASES: Mapping[str, Case] = {
    "attention": Case(),
    "lstm": Case(model={"kind": "lstm", "trained": "all", "recurrent_size": 4}),
    "query": Case(model={"kind": "query", "query_size": 4}, query="red i7"),
    "modalities": Case(model={"kind": "modalities"}),
    "text": Case(
        model={"kind": "text", "text_width": WIDTH, "text_blocks": 1, "lora_rank": 2}, encoder=True
    ),
    "social": Case(model={"kind": "social", "friends": FRIENDS}, sample_rate=1.0),
    "domains": Case(domains=("a", "b")),
}
"""By the name of the run."""


def catalogue_of(case: Case) -> Catalogue:
    """Return items in two domains, with features in two blocks or of an encoder to adapt."""
    names = tuple(f"i{number}" for number in range(1, ITEMS + 1))
    titles = tuple(f"{name} {('red', 'green', 'blue')[n % 3]}" for n, name in enumerate(names))
    domains = tuple("ab"[n % 2] for n in range(ITEMS))
    bare = Catalogue(names, titles, ((),) * ITEMS, (None,) * ITEMS, domains=domains)
    if case.encoder:
        with TemporaryDirectory() as folder:
            encoder = TextEncoder(find_encoder(str(_save_encoder(Path(folder) / "tiny", titles))))
            text = adaptable_text(bare, encoder, SIZE, blocks=1)
            return bare.with_features(encoded_features(bare, encoder, SIZE), text=text)
    features = torch.randn(ITEMS, SIZE, generator=torch.Generator().manual_seed(0))
    blocks = [FeatureBlock(name="text", size=SIZE - 2), FeatureBlock(name="picture", size=2)]
    return bare.with_features(features, blocks=blocks)


def _save_encoder(folder: Path, texts: Sequence[str]) -> Path:
    """Write a BERT of two small layers, and a tokenizer of the words of some texts."""
    from transformers import BertConfig, BertModel, BertTokenizer  # noqa: PLC0415 takes seconds

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += dict.fromkeys(word for text in texts for word in text.lower().split())
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    shape = BertConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=WIDTH,
        max_position_embeddings=24,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(shape).save_pretrained(folder)
    return folder


class _Federation(Deployment):
    """A deployment whose partners take part in runs of every kind."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for case in (CASES["attention"], CASES["text"]):
            catalogue_of(case).save(self.place(case))
        self.catalogue = Catalogue.load(self.folder / "catalogue")

    def place(self, case: Case) -> Path:
        """Return the folder of a case's catalogue."""
        return self.folder / ("catalogue-of-text" if case.encoder else "catalogue")

    def start(self) -> None:
        """Start the coordinator and the nodes."""
        self.init_server()
        self.up_server()
        for name in self.partners:
            self.init_node(name, MAX_EPSILON)
            kinds = [str(kind) for kind in ModelKind if examples_of(kind) is Examples.HISTORIES]
            self.change_site(name, kinds=kinds, queries=str(self._write_queries(name)))
            friends = str(self._write_friends(name))
            self.change_site(name, friends=friends, bounded_friends=friends, friends_most=FRIENDS)
            self.join(name)
            self.up_node(name)

    def _write_queries(self, name: str) -> Path:
        """Write what the partner's users asked for: for their first items, by their titles."""
        events = pq.read_table(self.folder / f"{name}.parquet").slice(0, 60).to_pylist()
        titles = dict(zip(self.catalogue.item_ids, self.catalogue.titles, strict=True))
        file = self.folder / f"{name}-queries.parquet"
        rows = [row | {"query": titles[row["item_id"]]} for row in events]
        pq.write_table(pa.Table.from_pylist(rows), file)
        return file

    def _write_friends(self, name: str) -> Path:
        """Make each of the partner's users the friend of the one before and the one after."""
        users = list(
            dict.fromkeys(pq.read_table(self.folder / f"{name}.parquet")["user_id"].to_pylist())
        )
        ring = [{"user": one, "friend": other} for one, other in pairwise([*users, users[0]])]
        file = self.folder / f"{name}-friends.parquet"
        pq.write_table(pa.Table.from_pylist(ring), file)
        return file

    def change_site(self, name: str, **values: Value | list[str]) -> None:
        """Set keys of a partner's site.toml that the template shows, commented or not."""
        file = self.folder / name / "site.toml"
        text = file.read_text()
        for key, value in values.items():
            line = tomli_w.dumps({key: value}).strip()
            escaped = line.replace("\\", r"\\")
            text, found = re.subn(rf"(?m)^(# )?{key} = .*$", escaped, text)
            assert found == 1, f"{key} stands {found} times in {file}"
        file.write_text(text)

    def train(self, name: str, case: Case) -> Path:
        """Run a case, and return the published folder."""
        shape: dict[str, Value] = {"feature_size": SIZE, "max_length": 5}
        values: dict[str, dict[str, Any]] = {
            "privacy": {"epsilon": EPSILON, "delta": DELTA},
            "model": shape | case.model,
            "training": {"rounds": ROUNDS, "sample_rate": case.sample_rate},
            "server": {"organisations": len(self.partners), "retry_seconds": 1.0},
            "paths": {"catalogue": str(self.place(case))},
        }
        file = self.folder / f"{name}.toml"
        file.write_text(tomli_w.dumps(values))
        self.call("server", "run", file, "--server", self.server, "--detach")
        wait_for(f"the run {name}", lambda: self._is_finished(name), PATIENCE)
        out = self.folder / f"published-{name}"
        self.call("server", "publish", name, "--server", self.server, "--out", out)
        return out

    def _is_finished(self, name: str) -> bool:
        for partner in self.partners:
            log = (self.folder / f"{partner}.log").read_text
            assert self.processes[partner].is_alive(), log()
        run = find_run(Settings.load(self.server), name)
        assert run.state not in _LOST, f"the run {name} is {run.state}"
        return run.state is RunState.FINISHED

    def ask_service(self, partner: str, published: Path, request: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """Start a partner's service, ask it once, and stop it."""
        address, name = f"127.0.0.1:{free_port()}", f"{partner}-serve"
        self.change_site(partner, http=address, grpc="")
        self.start_process(name, "client", "serve", published, "--site", self.folder / partner)

        def answer() -> Any:  # noqa: ANN401
            with suppress(httpx.TransportError):
                return httpx.post(f"http://{address}/v1/recommend", json=request, timeout=30)
            return None

        try:
            response = wait_for("the service", answer, 120)
        finally:
            self.down(name)
        assert response.status_code == 200, response.text
        return response.json()


def _play(federation: _Federation, name: str) -> dict[str, Any]:
    """Run a case to its end, and return what was seen."""
    case, began = CASES[name], time.monotonic()
    for partner, domains in zip(PARTNERS, case.domains, strict=True):
        place = str(federation.place(case))
        federation.change_site(partner, domains=domains, catalogue=place)
    published = federation.train(name, case)
    trained = time.monotonic() - began
    partner = PARTNERS[0]
    site = ("--site", federation.folder / partner)
    adapted = json.loads(federation.call("client", "adapt", published, *site, "--json"))
    history = ["i1", "i3", "i5"]
    words = ("--history", ",".join(history), "--k", LISTED, "--explain", "--json")
    query = ("--query", case.query) if case.query else ()
    listed = json.loads(
        federation.call("client", "recommend", "--model", published, *site, *words, *query)
    )
    request: dict[str, Any] = {"history": {"items": history}, "k": LISTED, "explain": True}
    served = federation.ask_service(
        partner, published, request | ({"query": case.query} if case.query else {})
    )
    items = [one["item"] for one in listed]
    assert [one["item"] for one in served["items"]] == items, (served, listed)
    assert all(one["because"] for one in listed)
    if case.domains[0]:
        known = dict(zip(federation.catalogue.item_ids, federation.catalogue.domains, strict=True))
        assert {known[item] for item in items} == {case.domains[0]}
    return {
        "case": name,
        "seconds_trained": round(trained, 1),
        "seconds": round(time.monotonic() - began, 1),
        "epsilon_so_far": round(federation.spent(partner)[0], 2),
        "adapted_users": adapted["users"],
        "befriended_users": adapted["friends"]["users"],
        "items": items,
        "because": listed[0]["because"],
    }


def main() -> None:
    """Run the chosen cases in turn, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    arguments = parser.parse_args()
    # Commands run in forks, which no threads of the encoder may precede.
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    federation = _Federation(arguments.folder, PARTNERS)
    try:
        federation.start()
        for name in arguments.only:
            sys.stdout.write(json.dumps(_play(federation, name)) + "\n")
            sys.stdout.flush()
    finally:
        federation.close()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # the link's threads still wait for connections
