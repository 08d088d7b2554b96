"""Latency and throughput of `sotto-node serve` on one core, beside plain numpy and an index alone.

    python -m simulations.benchmarks.serving [--items 100000] [--width 64] [--own-items 0]
        [--events 50] [--index-above 0] [--rate 100] [--seconds 20] [--json]

A large catalogue by an index, and exactly, which does not keep up with 100 requests a second:

    python -m simulations.benchmarks.serving --items 1000000 --index-above 999999 --seconds 60
    python -m simulations.benchmarks.serving --items 1000000 --rate 10 --seconds 60

Makes a model of random weights with one attention layer, items around 1,000 centres (features of
size `--width`, as the default recipe has them, and `--own-items` with a direction of their own) and
5,000 users, and serves it in a process that is bound to one core. Clients are in this process, on
the other cores.

| line        | what it is                                                                         |
|-------------|------------------------------------------------------------------------------------|
| `grpc`      | seconds from asking for 10 items of a user to the answer, at `--rate` a second     |
| `http`      | the same over HTTP, over connections that stay open                                |
| `batch`     | users a second through one `RecommendBatch` stream                                 |
| `inside`    | the same ranking as a function call, without a service, by an exact search         |
| `indexed`   | the same by the index, where `--index-above` asks for it                           |
| `numpy`     | `table @ state` and `argpartition` alone: no model, no history, no transport       |
| `index`     | a search of the approximate index alone; where faiss is there                      |
| `built`     | building that index: recall@10 as it states it, and that of the lists of           |
|             | users (`lists`), error of the normaliser, lists searched, seconds, memory          |
| `service`   | seconds until the service answers, and its largest memory so far, in MB            |

Requests are sent at fixed times, whether or not earlier ones were answered, so that a pause counts
for all requests that it holds up. One that is refused counts as infinite. Functions are called at
the same rate, one after the other. `cpu` is the time of a processor that one call takes, by all
threads of the process: it changes less than `p99` with what else the machine does. `load` is the
machine's load before it begins.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import torch

from client.serving.item_index import ItemIndex
from client.serving.item_vectors import ItemVectors
from client.serving.published import load_published, scorer_of
from client.serving.quick_scores import ModelSearch
from client.serving.recommender import Recommender
from client.serving.service import recommender_pb2 as pb
from client.site.setup import make_site
from shared.config import ModelConfig
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.data.reading import write_interactions
from shared.models.attention import build
from shared.sections import Value
from shared.system.address import Address

__all__ = ["main"]

_USERS, _SEED, _K, _WARM, _CENTRES, _COMPARED = 5000, 7, 10, 50, 1000, 200
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What is served.

    Attributes:
        items: V.
        width: size of the items' features.
        own_items: items that have a direction of their own besides.
        events: of each user.
        index_above: items above which an index is searched; 0: never.
    """

    items: int
    width: int
    own_items: int
    events: int
    index_above: int = 0


def make(shape: Shape, folder: Path) -> Path:
    """Write a published folder and a site; return the site's folder."""
    draw = torch.Generator().manual_seed(_SEED)
    names = tuple(f"i{number}" for number in range(1, shape.items + 1))
    blank: tuple[tuple[str, ...], ...] = ((),) * shape.items
    centres = torch.randn(_CENTRES, shape.width, generator=draw)
    features = centres[torch.randint(0, _CENTRES, (shape.items,), generator=draw)]
    features += 0.5 * torch.randn(shape.items, shape.width, generator=draw)
    catalogue = Catalogue(names, names, blank, (None,) * shape.items, features)
    model = ModelConfig(
        feature_size=shape.width,
        max_length=shape.events,
        own_items=tuple(range(1, shape.own_items + 1)),
    )
    recommender = build(model, catalogue)
    with torch.no_grad():
        recommender.feature_out.weight.normal_(std=0.1, generator=draw)
        assert recommender.item_scores.offset is not None
        recommender.item_scores.offset.normal_(std=0.05, generator=draw)
    recommender.save_pretrained(folder / "published" / "model")
    catalogue.save(folder / "published" / "catalogue")
    random = np.random.default_rng(_SEED)
    items = random.integers(1, shape.items + 1, size=(_USERS, shape.events))
    users = [f"u{number}" for number in range(_USERS)]
    write_interactions(
        Histories.from_lists(items.tolist(), users), catalogue, folder / "events.parquet"
    )
    os.environ["XDG_STATE_HOME"] = str(folder / "state")
    values: dict[str, Value] = {
        "organisation": "benchmark",
        "user_base": "benchmark",
        "population": _USERS,
        "data.source": str(folder / "events.parquet"),
        "catalogue": str(folder / "published" / "catalogue"),
        "policy.max_epsilon": 1.0,
        "policy.delta": 1e-6,
        "serve.workers": 1,
        "serve.index_above": shape.index_above,
    }
    make_site(folder / "site", values)
    return folder / "site"


def start(site: Path, core: int) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    """Serve on one core; return the process and its first line."""
    command = [sys.executable, "-c", "from client.cli import main; main()"]
    words = ["serve", str(site.parent / "published"), "--site", str(site), "--json"]
    for transport in ("grpc", "http"):
        with socket.create_server(("127.0.0.1", 0)) as free:
            words += [f"--{transport}", f"127.0.0.1:{free.getsockname()[1]}"]
    process = subprocess.Popen(
        [*command, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | _ONE_THREAD,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),  # noqa: PLW1509 no threads yet
    )
    assert process.stdout is not None
    line = next(line for line in process.stdout if line.startswith("{"))
    return process, json.loads(line)


def memory_of(process: int | str, field: str = "VmHWM") -> float:
    """Return a process's memory in MB: its largest so far, or now (`VmRSS`)."""
    for line in Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ValueError(f"no {field} in the status of process {process}")


class _Refused(Exception):
    """The service had too much to do, and said so."""


async def paced(ask: Callable[[str], Awaitable[None]], rate: float, seconds: float) -> list[float]:
    """Ask at fixed times; return the seconds from each of these times to its answer."""
    taken: list[float] = []
    random = np.random.default_rng(_SEED)

    async def one(at: float, user: str) -> None:
        await asyncio.sleep(max(0.0, at - time.perf_counter()))
        try:
            await ask(user)
        except (grpc.RpcError, OSError, asyncio.IncompleteReadError, _Refused):
            taken.append(math.inf)
            return
        taken.append(time.perf_counter() - at)

    for _ in range(_WARM):
        await ask("u0")
    begin = time.perf_counter() + 0.1
    users = random.integers(0, _USERS, size=int(rate * seconds))
    await asyncio.gather(
        *(one(begin + place / rate, f"u{user}") for place, user in enumerate(users))
    )
    return taken


_TYPES = {
    "request_serializer": pb.RecommendRequest.SerializeToString,
    "response_deserializer": pb.RecommendResponse.FromString,
}


async def over_grpc(address: str, rate: float, seconds: float) -> list[float]:
    """Return latencies of `Recommend`."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary("/sotto.v1.Recommender/Recommend", **_TYPES)

        async def ask(user: str) -> None:
            response = await call(pb.RecommendRequest(user=user, k=_K), timeout=30)
            assert len(response.items) == _K

        return await paced(ask, rate, seconds)


async def in_batches(address: str) -> float:
    """Return users a second of `RecommendBatch`."""
    async with grpc.aio.insecure_channel(address) as channel:
        stream = channel.stream_stream("/sotto.v1.Recommender/RecommendBatch", **_TYPES)
        requests = [pb.RecommendRequest(user=f"u{n}", k=_K) for n in range(_USERS)]
        begin, answered = time.perf_counter(), 0
        async for response in stream(iter(requests), timeout=300):
            answered += len(response.items) == _K
        assert answered == _USERS
        return _USERS / (time.perf_counter() - begin)


class _Connections:
    """HTTP/1.1 over connections that stay open; a client library takes longer than the service."""

    def __init__(self, address: str) -> None:
        self._address = Address.parse(address)
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, path: str, content: bytes) -> tuple[int, bytes]:
        """Return status and body."""
        assert self._address is not None
        if self._free:
            pair = self._free.pop()
        else:
            pair = await asyncio.open_connection(self._address.host, self._address.port)
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\n\r\n"
        )
        pair[1].write(head.encode() + content)
        lines = (await pair[0].readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        [length] = [line[15:] for line in lines if line.startswith(b"content-length:")]
        body = await pair[0].readexactly(int(length))
        self._free.append(pair)
        return int(lines[0].split()[1]), body

    def close(self) -> None:
        """Close all."""
        for _, writer in self._free:
            writer.close()


async def over_http(address: str, rate: float, seconds: float) -> list[float]:
    """Return latencies of POST /v1/recommend."""
    connections = _Connections(address)

    async def ask(user: str) -> None:
        content = json.dumps({"user": user, "k": _K}).encode()
        status, body = await connections.post("/v1/recommend", content)
        if status != 200:
            raise _Refused
        assert len(json.loads(body)["items"]) == _K

    try:
        return await paced(ask, rate, seconds)
    finally:
        connections.close()


def called(work: Callable[[], object], rate: float, seconds: float) -> dict[str, float]:
    """Call at a rate, one after the other; return percentiles and the processor's time a call."""
    taken, used = list[float](), 0.0
    work()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        time.sleep(1 / rate)
        begin, before = time.perf_counter(), time.process_time()
        work()
        taken.append(time.perf_counter() - begin)
        used += time.process_time() - before
    return summary(taken) | {"cpu": round(used / len(taken) * 1e3, 2)}


def processor_seconds(process: int) -> float:
    """Return the processor time of all threads of a process."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def summary(taken: list[float]) -> dict[str, float]:
    """Return percentiles in milliseconds; infinite where requests were refused."""
    ordered = sorted(taken)
    places = {p: ordered[min(len(ordered) - 1, len(ordered) * p // 100)] for p in (50, 95, 99)}
    return {f"p{p}": round(seconds * 1e3, 2) for p, seconds in places.items()}


def measure(shape: Shape, rate: float, seconds: float) -> dict[str, Any]:
    """Return all lines."""
    cores = sorted(os.sched_getaffinity(0))
    result: dict[str, Any] = {"shape": asdict(shape), "rate": rate, "load": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        site = make(shape, folder)
        begin = time.perf_counter()
        process, line = start(site, cores[0])
        ready = time.perf_counter() - begin
        try:
            os.sched_setaffinity(0, set(cores[1:]) or set(cores))
            requests = rate * seconds + _WARM
            before = processor_seconds(process.pid)
            taken = asyncio.run(over_grpc(line["grpc"], rate, seconds))
            used = processor_seconds(process.pid) - before
            result["grpc"] = summary(taken) | {"cpu": round(used / requests * 1e3, 2)}
            before = processor_seconds(process.pid)
            users, used = asyncio.run(in_batches(line["grpc"])), processor_seconds(process.pid)
            cpu = round((used - before) / _USERS * 1e3, 2)
            result["batch"] = {"users_per_second": round(users), "cpu": cpu}
            taken = asyncio.run(over_http(line["http"], rate, seconds))
            used = processor_seconds(process.pid) - used
            result["http"] = summary(taken) | {"cpu": round(used / requests * 1e3, 2)}
            result["service"] = {"ready": round(ready, 1), "peak": round(memory_of(process.pid))}
        finally:
            process.terminate()
            process.wait(30)
        given = ["--alone", str(folder), "--events", str(shape.events), "--rate", str(rate)]
        given += ["--seconds", str(seconds / 2)]
        if 0 < shape.index_above < shape.items:
            given += ["--index-above", str(shape.index_above)]
        alone = subprocess.run(
            [
                *(sys.executable, "-m", "simulations.benchmarks.serving", "--alone", str(folder)),
                *given,
            ],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env=os.environ | _ONE_THREAD,
            preexec_fn=lambda: os.sched_setaffinity(0, {cores[0]}),
        )
        os.sched_setaffinity(0, set(cores))
        result.update(json.loads(alone.stdout))
        return result


def measure_alone(
    folder: Path, events: int, rate: float, seconds: float, *, indexed: bool
) -> dict[str, Any]:
    """Return the lines of calls without a service, on the core of this process."""
    torch.set_num_threads(1)
    catalogue, model = load_published(folder / "published")
    search = ModelSearch(model)
    recommender = Recommender(catalogue, scorer_of(model), model.config.max_length, search=search)
    history = [f"i{number}" for number in range(1, events + 1)]
    assert catalogue.features is not None
    table = catalogue.features.numpy()
    state = table[0].copy()

    def plain() -> np.ndarray:
        scores = table @ state
        best = np.argpartition(scores, -_K)[-_K:]
        ordered: np.ndarray = best[np.argsort(-scores[best])]
        return ordered

    result: dict[str, Any] = {
        "inside": called(lambda: recommender.recommend(history, _K), rate, seconds),
        "numpy": called(plain, rate, seconds),
    }
    if not find_spec("faiss"):
        return result
    draw = np.random.default_rng(_SEED + 1)
    drawn = draw.integers(1, len(table) + 1, size=(_COMPARED, events))
    histories = Histories.from_lists(drawn.tolist())
    exact = recommender.rank_many(histories, _K).ids
    before, begin, used = memory_of("self", "VmRSS"), time.perf_counter(), time.process_time()
    index: ItemIndex | None
    if indexed:
        search.build_index()
        index = search.index
    else:
        index = ItemIndex(ItemVectors(model))
    built = {
        "seconds": round(time.perf_counter() - begin, 1),
        "cpu": round(time.process_time() - used, 1),
        "memory": round(memory_of("self", "VmRSS") - before),
    }
    if index is None:  # the search stayed exact
        return result | {"built": built}
    built |= {"recall": round(index.recall, 4), "error": round(index.error, 4)}
    result["built"] = built | {"searched": index.searched, "of": index.lists}
    [query] = ItemVectors(model).queries(torch.arange(1, events + 1)[None])
    result["index"] = called(lambda: index.search(query, _K), rate, seconds)
    if indexed:
        found = recommender.rank_many(histories, _K).ids
        shares = [np.isin(own, other).mean() for own, other in zip(found, exact, strict=True)]
        result["built"]["lists"] = round(float(np.mean(shares)), 4)
        result["indexed"] = called(lambda: recommender.recommend(history, _K), rate, seconds)
    return result


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--own-items", type=int, default=0)
    parser.add_argument("--events", type=int, default=50)
    parser.add_argument("--index-above", type=int, default=0)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone is not None:
        alone = measure_alone(
            *(given.alone, given.events, given.rate, given.seconds), indexed=given.index_above > 0
        )
        print(json.dumps(alone))  # noqa: T201
        return
    shape = Shape(
        items=given.items,
        width=given.width,
        own_items=given.own_items,
        events=given.events,
        index_above=given.index_above,
    )
    result = measure(shape, given.rate, given.seconds)
    if given.json:
        print(json.dumps(result))  # noqa: T201
        return
    print("p50, p95, p99 and cpu in ms; of built and service in seconds and MB")  # noqa: T201
    print(f"load before: {result['load']:.2f}; {asdict(shape)}")  # noqa: T201
    for name in ("grpc", "http", "service", "inside", "numpy", "index", "built", "indexed"):
        if line := result.get(name):
            shown = ", ".join(f"{key} {value:g}" for key, value in line.items())
            print(f"{name:<7} {shown}")  # noqa: T201
    batch = result["batch"]
    print(f"batch   {batch['users_per_second']:,} users/s, cpu {batch['cpu']:.2f}")  # noqa: T201


if __name__ == "__main__":
    main()
