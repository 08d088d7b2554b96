"""Latency and throughput of `sotto-node serve` on one core, against a plain numpy scorer.

    python -m simulations.benchmarks.serving [--items 100000] [--width 64] [--own-items 0]
        [--events 50] [--rate 100] [--seconds 20] [--json]

Makes a model of random weights with one attention layer (features of size `--width`, as the default
recipe has them, and `--own-items` with a direction of their own) and 5,000 users, and serves it in
a process that is bound to one core. Clients are in this process, on the other cores.

| line        | what it is                                                                         |
|-------------|------------------------------------------------------------------------------------|
| `grpc`      | seconds from asking for 10 items of a user to the answer, at `--rate` a second     |
| `http`      | the same over HTTP, one connection                                                 |
| `batch`     | users a second through one `RecommendBatch` stream                                 |
| `inside`    | the same ranking as a function call, without a service                             |
| `numpy`     | `table @ state` and `argpartition` alone: no model, no history, no transport       |

Requests are sent at fixed times, whether or not earlier ones were answered, so that a pause counts
for all requests that it holds up. One that is refused counts as infinite. `load` is the machine's
load before it begins.
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
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import torch

from client.serving.recommender import Recommender
from client.serving.service import recommender_pb2 as pb
from client.site.setup import make_site
from shared.config import ModelConfig
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.data.reading import write_interactions
from shared.models.attention import build
from shared.sections import Value

__all__ = ["main"]

_USERS, _SEED, _K, _WARM = 5000, 7, 10, 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What is served.

    Attributes:
        items: V.
        width: size of the items' features.
        own_items: items that have a direction of their own besides.
        events: of each user.
    """

    items: int
    width: int
    own_items: int
    events: int


def make(shape: Shape, folder: Path) -> Path:
    """Write a published folder and a site; return the site's folder."""
    draw = torch.Generator().manual_seed(_SEED)
    names = tuple(f"i{number}" for number in range(1, shape.items + 1))
    blank: tuple[tuple[str, ...], ...] = ((),) * shape.items
    features = torch.randn(shape.items, shape.width, generator=draw)
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
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),  # noqa: PLW1509 no threads yet
    )
    assert process.stdout is not None
    line = next(line for line in process.stdout if line.startswith("{"))
    return process, json.loads(line)


class _Refused(Exception):
    """The service had too much to do, and said so."""


async def paced(ask: Callable[[str], Any], rate: float, seconds: float) -> list[float]:
    """Ask at fixed times; return the seconds from each of these times to its answer."""
    taken: list[float] = []
    random = np.random.default_rng(_SEED)

    async def one(at: float, user: str) -> None:
        await asyncio.sleep(max(0.0, at - time.perf_counter()))
        try:
            await ask(user)
        except (grpc.RpcError, httpx.TransportError, _Refused):
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


async def over_grpc(address: str, rate: float, seconds: float) -> tuple[list[float], float]:
    """Return latencies of `Recommend`, and users a second of `RecommendBatch`."""
    types = {
        "request_serializer": pb.RecommendRequest.SerializeToString,
        "response_deserializer": pb.RecommendResponse.FromString,
    }
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary("/sotto.v1.Recommender/Recommend", **types)
        stream = channel.stream_stream("/sotto.v1.Recommender/RecommendBatch", **types)

        async def ask(user: str) -> None:
            response = await call(pb.RecommendRequest(user=user, k=_K), timeout=30)
            assert len(response.items) == _K

        taken = await paced(ask, rate, seconds)
        requests = [pb.RecommendRequest(user=f"u{n}", k=_K) for n in range(_USERS)]
        begin, answered = time.perf_counter(), 0
        async for response in stream(iter(requests), timeout=300):
            answered += len(response.items) == _K
        assert answered == _USERS
        return taken, _USERS / (time.perf_counter() - begin)


async def over_http(address: str, rate: float, seconds: float) -> list[float]:
    """Return latencies of POST /v1/recommend."""
    async with httpx.AsyncClient(base_url=f"http://{address}", timeout=30) as client:

        async def ask(user: str) -> None:
            answer = await client.post("/v1/recommend", json={"user": user, "k": _K})
            if answer.status_code != 200:
                raise _Refused
            assert len(answer.json()["items"]) == _K

        return await paced(ask, rate, seconds)


def repeated(work: Callable[[], object], seconds: float) -> list[float]:
    """Return the seconds of calls one after the other."""
    taken, end = [], time.perf_counter() + seconds
    work()
    while time.perf_counter() < end:
        begin = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begin)
    return taken


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
        process, line = start(site, cores[0])
        try:
            os.sched_setaffinity(0, set(cores[1:]) or set(cores))
            taken, users = asyncio.run(over_grpc(line["grpc"], rate, seconds))
            result["grpc"] = summary(taken)
            result["batch_users_per_second"] = round(users)
            result["http"] = summary(asyncio.run(over_http(line["http"], rate, seconds)))
        finally:
            process.terminate()
            process.wait(30)
        os.sched_setaffinity(0, {cores[0]})
        torch.set_num_threads(1)
        recommender = Recommender.load(folder / "published")
        history = [f"i{number}" for number in range(1, shape.events + 1)]
        calls = repeated(lambda: recommender.recommend(history, _K), seconds / 4)
        result["inside"] = summary(calls)
        features = recommender.catalogue.features
        assert features is not None
        table = features.numpy()
        state = table[0].copy()

        def plain() -> np.ndarray:
            scores = table @ state
            best = np.argpartition(scores, -_K)[-_K:]
            ordered: np.ndarray = best[np.argsort(-scores[best])]
            return ordered

        result["numpy"] = summary(repeated(plain, seconds / 4))
        os.sched_setaffinity(0, set(cores))
    return result


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--own-items", type=int, default=0)
    parser.add_argument("--events", type=int, default=50)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    shape = Shape(
        items=given.items, width=given.width, own_items=given.own_items, events=given.events
    )
    result = measure(shape, given.rate, given.seconds)
    if given.json:
        print(json.dumps(result))  # noqa: T201
        return
    print(f"load before: {result['load']:.2f}; {asdict(shape)}")  # noqa: T201
    for name in ("grpc", "http", "inside", "numpy"):
        shown = ", ".join(f"{key} {value:.2f} ms" for key, value in result[name].items())
        print(f"{name:<7} {shown}")  # noqa: T201
    print(f"batch   {result['batch_users_per_second']:,} users/s")  # noqa: T201


if __name__ == "__main__":
    main()
