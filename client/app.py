"""The Flower ClientApp of a partner's node: message -> guard -> trainer -> reply.

Whatever goes wrong, the coordinator is told a code and a fixed sentence; the reason stays in the
partner's own log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from functools import lru_cache
from pathlib import Path

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.allocator import keep_freed_memory
from client.guard import Computation, Guard
from client.ledger import Ledger
from client.site import Site, locate
from client.trainer import LocalPlan, train
from shared.catalogue import Catalogue
from shared.errors import Refusal, Refused, WireError
from shared.histories import Histories
from shared.models.attention import AttentionRecommender, build, trainable
from shared.wire import (
    DESCRIBE_ACTION,
    DescribeReply,
    DescribeRequest,
    TrainReply,
    TrainRequest,
    refusal_reply,
)

__all__ = ["app"]

log = logging.getLogger("sotto.node")
Handler = Callable[[Message, Context], Message]


def guarded(handler: Handler) -> Handler:
    """Turns every failure of `handler` into a reply that tells nothing private."""

    def handle(message: Message, context: Context) -> Message:
        try:
            return handler(message, context)
        except Refused as refused:
            log.warning("declined: %s", refused)
            return refusal_reply(refused.code, message)
        except WireError as error:
            log.warning("not understood: %s", error)
            return refusal_reply(Refusal.MALFORMED, message)
        except Exception:
            log.exception("the request failed")
            return refusal_reply(Refusal.FAILED, message)

    return handle


app = ClientApp()


@app.query(DESCRIBE_ACTION)
@guarded
def describe(message: Message, context: Context) -> Message:
    """Answers with the site's public constants."""
    DescribeRequest.from_content(message.content)
    site, catalogue = _open(context)
    reply = DescribeReply(
        organisation=site.organisation,
        population=site.population,
        catalogue=catalogue.fingerprint,
    )
    return Message(reply.to_content(), reply_to=message)


@app.train()
@guarded
def train_round(message: Message, context: Context) -> Message:
    """Answers with the noised change of the weights, if the guard admits the request."""
    request = TrainRequest.from_content(message.content)
    site, catalogue = _open(context)
    guard = Guard(site, Ledger(site.ledger_file, site.user_base), catalogue.fingerprint)
    change = guard.train(request, lambda: _prepare(request, site, catalogue))
    reply = TrainReply(change={name: value.numpy() for name, value in change.items()})
    return Message(reply.to_content(), reply_to=message)


def _prepare(request: TrainRequest, site: Site, catalogue: Catalogue) -> Computation:
    """All that may fail, before it is paid for."""
    keep_freed_memory()
    plan = LocalPlan(
        steps=request.local_steps,
        sample_rate=request.sample_rate,
        population=site.population,
        clip_norm=request.clip_norm,
        noise_multiplier=request.noise_multiplier,
        optimiser=request.optimiser,
        learning_rate=request.learning_rate,
        weight_decay=request.weight_decay,
        candidates=request.candidates,
    )
    model = build(request.model, catalogue)
    load_weights(model, request)
    histories = _histories(site, catalogue, request.model.max_length)
    model.to(site.torch_device())  # type: ignore[arg-type]  # transformers' stub of Module.to
    return lambda: train(model, histories, plan, site.random(request.round))


def load_weights(model: AttentionRecommender, request: TrainRequest) -> None:
    """Puts the request's global weights into the model.

    Raises:
        WireError: names or shapes differ from the model's.
    """
    weights = trainable(model)
    if set(weights) != set(request.weights):
        odd = sorted(set(weights) ^ set(request.weights))
        raise WireError(f"the request's weights differ from the model's in {odd}.")
    with torch.no_grad():
        for name, parameter in weights.items():
            value = torch.tensor(request.weights[name])
            if value.shape != parameter.shape:
                shapes = f"{tuple(value.shape)}, not {tuple(parameter.shape)}"
                raise WireError(f"weight '{name}' has shape {shapes}.")
            parameter.copy_(value)


def _open(context: Context) -> tuple[Site, Catalogue]:
    site = Site.load(locate(context.node_config, context.run_config))
    site.check_seed(context.node_config)
    return site, _catalogue(site)


# A simulated node answers many rounds in one process: files are read again when they change.


def _catalogue(site: Site) -> Catalogue:
    folder = Path(site.folder, site.catalogue)
    return _read_catalogue(folder, _stamp(folder / "items.parquet"))


def _histories(site: Site, catalogue: Catalogue, max_length: int) -> Histories:
    # One event more than the model reads: the last one is the last target.
    version = site.data_version()
    if version is None:
        return site.load_histories(catalogue, max_length + 1)
    return _read_histories(site, catalogue, max_length + 1, version)


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=8)
def _read_catalogue(folder: Path, _: tuple[int, int]) -> Catalogue:
    return Catalogue.load(folder)


@lru_cache(maxsize=64)
def _read_histories(site: Site, catalogue: Catalogue, events: int, _: Hashable) -> Histories:
    return site.load_histories(catalogue, events)
