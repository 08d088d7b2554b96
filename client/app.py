"""The Flower ClientApp of a partner's node: message -> guard -> computation -> reply.

After any failure the coordinator receives a code and a fixed sentence; the partner's own log has
what `client.logs` allows.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from numpy.typing import NDArray
from torch import nn

from client import logs
from client.compute import evaluation, over_use, trainer
from client.compute.batches import Beside
from client.compute.evaluation import EvaluationPlan, evaluate, evaluation_points
from client.compute.friends import friends_beside
from client.compute.groups import user_counts
from client.compute.memory import keep_freed_memory
from client.compute.queries import AskedBeside
from client.compute.statistics import noised_statistic, statistic_points
from client.compute.steps import LocalPlan
from client.compute.trainer import gradient_points, train
from client.guard import Computation, Guard, Masking, PointsComputation
from client.ledger.ledger import Ledger
from client.logs import Event, cause, note
from client.secure_aggregation.answering import Mask, Points, answer_step
from client.secure_aggregation.sessions import Sessions
from client.site.aggregation_key import load_identity, protocol_roster, public_if_any
from client.site.locate import locate
from client.site.over_use import load_examples, users_stamp
from client.site.policy import Ask
from client.site.simulated import simulated_node
from client.site.site import Site
from client.site.user_count import keep_user_count
from shared.config import LocalTraining, ModelKind
from shared.data.catalogue import Catalogue
from shared.data.domains import within
from shared.data.histories import Histories
from shared.data.queries import Asked, queries_of
from shared.errors import ClippingError, ConfigError, Refused, WireError
from shared.groups import columns_of
from shared.message_records import step_asked
from shared.messages import (
    AGGREGATE,
    AGGREGATE_ACTION,
    DESCRIBE,
    DESCRIBE_ACTION,
    EVALUATE,
    MASKED_STEP,
    PLAN,
    PLAN_ACTION,
    STATISTICS,
    STATISTICS_ACTION,
    TRAIN,
    AggregateRequest,
    DescribeReply,
    DescribeRequest,
    EvaluateReply,
    EvaluateRequest,
    PlanReply,
    PlanRequest,
    Request,
    StatisticsReply,
    StatisticsRequest,
    TrainReply,
    TrainRequest,
    refusal_reply,
    traffic,
)
from shared.models.attention import AttentionRecommender, item_descriptors, trainable
from shared.models.frozen import fingerprint
from shared.models.query_text import index_of
from shared.models.registry import build_recommender
from shared.outcomes import Refusal
from shared.over_use.examples import Examples as OverUseExamples
from shared.over_use.model import OverUseModel
from shared.over_use_task import OverUseTask, task_of
from shared.sections import LONGEST_NAME, values_of

__all__ = ["app", "load_weights"]

_EVALUATION, _STATISTICS = 1, 2
"""Tell the random numbers of an evaluation, and of a statistic, from its round's training."""
_SESSIONS = "aggregation"
"""Folder of the sessions of secure aggregation, beside the ledger."""


class NodeApp(ClientApp):
    """A ClientApp that turns every failure into a reply without private information."""

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer a message. Raises nothing."""
        if not simulated_node(context.node_config):
            logs.set_up()
        started = time.monotonic()
        with logs.request(kind=message.metadata.message_type[:LONGEST_NAME]):
            reply = self._answer(message, context, started)
            if _reads_data(message):
                _hold_back(context, started)
            return reply

    def _answer(self, message: Message, context: Context, started: float) -> Message:
        try:
            _check_kind(message.metadata.message_type)
            reply = super().__call__(message, context)
        except Refused as refused:
            return _refuse(refused, refused.code, message)
        except WireError as error:
            return _refuse(error, _record_malformed(message, context), message)
        except Exception as error:
            note(Event.FAILED, **cause(error))
            return refusal_reply(Refusal.FAILED, message)
        note(Event.ANSWERED, seconds=time.monotonic() - started, bytes=traffic(reply))
        return reply


app = NodeApp()


@app.query(DESCRIBE_ACTION)
def describe(message: Message, context: Context) -> Message:
    """Answer with the site's public constants."""
    DescribeRequest.from_content(message.content)
    site = _site(context)
    if Ask.DESCRIBE not in site.policy.answers:
        _ledger(site).refuse(Refusal.POLICY, {"kind": str(Ask.DESCRIBE)})
        raise Refused(Refusal.POLICY, "policy.answers does not list 'describe'")
    reply = DescribeReply(
        organisation=site.organisation,
        population=site.population,
        catalogue=_catalogue(site).fingerprint,
        aggregation_key=public_if_any(site),
    )
    return Message(reply.to_content(), reply_to=message)


@app.query(PLAN_ACTION)
def check_plan(message: Message, context: Context) -> Message:
    """Answer yes if the guard would admit every request of a run; charge nothing."""
    request = PlanRequest.from_content(message.content)
    logs.about(run=request.run, round=0)
    _, _, guard = _guarded_site(context)
    guard.check_plan(request)
    return Message(PlanReply().to_content(), reply_to=message)


@app.train()
def train_round(message: Message, context: Context) -> Message:
    """Answer with the noised change of the weights, if the guard admits the request."""
    request = TrainRequest.from_content(message.content)
    logs.about(run=request.run, round=request.round)
    site, catalogue, guard = _guarded_site(context)
    change = guard.train(request, lambda: _prepare(request, site, catalogue))
    reply = TrainReply(change={name: value.numpy() for name, value in change.items()})
    return Message(reply.to_content(), reply_to=message)


@app.train(STATISTICS_ACTION)
def statistics_round(message: Message, context: Context) -> Message:
    """Answer with a noised statistic, if the guard admits the request."""
    request = StatisticsRequest.from_content(message.content)
    logs.about(run=request.run, round=request.round)
    site, catalogue, guard = _guarded_site(context)
    answer = guard.statistics(request, lambda: _prepare_statistic(request, site, catalogue))
    reply = StatisticsReply(total=answer["total"].numpy())
    return Message(reply.to_content(), reply_to=message)


@app.evaluate()
def evaluate_round(message: Message, context: Context) -> Message:
    """Answer with noised sums of metrics, if the guard admits the request."""
    request = EvaluateRequest.from_content(message.content)
    logs.about(run=request.run, round=request.round)
    site, catalogue, guard = _guarded_site(context)
    sums = guard.evaluate(request, lambda: _prepare_evaluation(request, site, catalogue))
    return Message(EvaluateReply(sums=sums["sums"].numpy()).to_content(), reply_to=message)


@app.query(AGGREGATE_ACTION)
def aggregate_step(message: Message, context: Context) -> Message:
    """Answer a step of secure aggregation; the masked input if the guard admits the request."""
    request = AggregateRequest.from_content(message.content)
    logs.about(run=request.run, round=request.attempt)
    summing = _Summing(*_guarded_site(context))
    try:
        summing.guard.admit(request.kind)
        reply = answer_step(request, _sessions(summing.site), summing)
    except Refused as refused:
        if not summing.is_recorded:
            asked: dict[str, str | int] = {"round": request.attempt, "step": request.step}
            run = request.run[:LONGEST_NAME]
            fields = {"kind": AGGREGATE_ACTION, "run": run} | asked
            _ledger(summing.site).refuse(refused.code, fields)
        raise
    return Message(reply.to_content(), reply_to=message)


@dataclass
class _Summing:
    """Computes a request's masked answer.

    Attributes:
        site: whose data.
        catalogue: that it holds.
        guard: its own.
        is_recorded: whether the guard records what it refuses.
    """

    site: Site
    catalogue: Catalogue
    guard: Guard
    is_recorded: bool = False

    def masked(self, request: Request, attempt: int, length: int, mask: Mask) -> Points:
        """Return the masked answer, if the guard admits the request."""
        self.is_recorded = True
        masking = Masking(attempt=attempt, length=length, mask=mask)
        return self.guard.masked(
            request, masking, lambda: _prepare_points(request, self.site, self.catalogue)
        )

    def kept(self, request: Request, attempt: int) -> Points:
        """Return the masked answer that was kept."""
        return self.guard.kept_masked(request, attempt)


def _sessions(site: Site) -> Sessions:
    try:
        roster = protocol_roster(site)
    except ConfigError as error:
        raise Refused(Refusal.POLICY, str(error)) from error
    return Sessions(site.ledger_file.parent / _SESSIONS, load_identity(site), roster)


def _guarded_site(context: Context) -> tuple[Site, Catalogue, Guard]:
    site = _site(context)
    catalogue = _catalogue(site)
    lab = site.made_by_lab and simulated_node(context.node_config)
    return site, catalogue, Guard(site, _ledger(site), catalogue, unmasked_shares=lab)


def _check_kind(kind: str) -> None:
    if kind not in (DESCRIBE, PLAN, STATISTICS, TRAIN, EVALUATE, AGGREGATE):
        raise WireError(f"there is no request of the kind {kind[:LONGEST_NAME]!r}")


def _reads_data(message: Message) -> bool:
    """Return whether the time of an answer could tell of data: a step without any is answered."""
    kind = message.metadata.message_type
    if kind == AGGREGATE and message.has_content():
        return step_asked(message.content) in (0, MASKED_STEP)
    return kind != DESCRIBE


def _hold_back(context: Context, started: float) -> None:
    """Wait until `policy.answer_seconds` after the request, so that a reply's time tells nothing.

    Refusals wait, too: whether one comes before or after the data were read would show.
    """
    try:
        latency = _site(context).policy.answer_seconds
    except Exception:  # site.toml does not load: the request has failed for that reason, at once
        return
    left = started + latency - time.monotonic()
    if left > 0:
        time.sleep(left)
    elif latency:
        note(Event.OVERRAN, seconds=latency - left)


def _refuse(error: Refused | WireError, code: Refusal, message: Message) -> Message:
    fields = cause(error)
    fields["code"] = str(code)
    note(Event.DECLINED, **fields)
    return refusal_reply(code, message)


def _record_malformed(message: Message, context: Context) -> Refusal:
    """Record a message that could not be read; return the code to answer with."""
    try:
        kind = message.metadata.message_type[:LONGEST_NAME]
        _ledger(_site(context)).refuse(Refusal.MALFORMED, {"kind": kind})
    except Exception as error:
        note(Event.FAILED, **cause(error))
        return Refusal.FAILED
    return Refusal.MALFORMED


def _prepare(request: TrainRequest, site: Site, catalogue: Catalogue) -> Computation:
    """Do everything that may fail before the budget is charged."""
    if request.task is not None:
        watched, examples, own_plan = _over_use(request, request.task, site, catalogue)
        return lambda: over_use.train(watched, examples, own_plan, site.random(request.round))
    model, histories, plan = _training(request, site, catalogue)
    counts = _counts(site, request, histories)
    beside = _beside(request, site, catalogue, histories)
    return lambda: train(model, histories, plan, site.random(request.round), counts, beside)


def _prepare_evaluation(request: EvaluateRequest, site: Site, catalogue: Catalogue) -> Computation:
    model, histories, plan = _evaluation(request, site, catalogue)
    random, columns = site.random(request.round, _EVALUATION), _columns(site, request)
    return lambda: {"sums": evaluate(model, histories, plan, random, columns)}


def _prepare_statistic(request: StatisticsRequest, site: Site, catalogue: Catalogue) -> Computation:
    table = item_descriptors(request.model, catalogue).numpy()
    histories = _histories(site, catalogue)
    random, counts = site.random(request.round, _STATISTICS), _counts(site, request, histories)
    return lambda: {"total": noised_statistic(histories, table, request, random, counts)}


def _prepare_points(request: Request, site: Site, catalogue: Catalogue) -> PointsComputation:
    """Do for a masked answer what the functions above do for one that leaves as it is."""
    if isinstance(request, TrainRequest) and request.task is not None:
        watched, examples, terms = _over_use(request, request.task, site, catalogue)
        noise = site.random(request.round)
        return lambda: over_use.gradient_points(watched, examples, terms, noise)
    if isinstance(request, TrainRequest):
        model, histories, plan = _training(request, site, catalogue)
        own = _counts(site, request, histories)
        beside = _beside(request, site, catalogue, histories)
        chance = site.random(request.round)
        return lambda: gradient_points(model, histories, plan, chance, own, beside)
    if isinstance(request, EvaluateRequest):
        ranker, whole, measured = _evaluation(request, site, catalogue)
        random, columns = site.random(request.round, _EVALUATION), _columns(site, request)
        return lambda: evaluation_points(ranker, whole, measured, random, columns)
    table = item_descriptors(request.model, catalogue).numpy()
    read, source = _histories(site, catalogue), site.random(request.round, _STATISTICS)
    counts = _counts(site, request, read)
    return lambda: statistic_points(read, table, request, source, counts)


def _training(
    request: TrainRequest, site: Site, catalogue: Catalogue
) -> tuple[AttentionRecommender, Histories, LocalPlan]:
    keep_freed_memory()
    plan, model = _plan(request, site), _model(request, site, catalogue)
    with _refused_as_policy():
        trainer.check_model(model, plan)
    return model, _histories(site, catalogue), plan


def _beside(
    request: TrainRequest, site: Site, catalogue: Catalogue, histories: Histories
) -> Beside | None:
    """Return what the kind of model reads of users beside their histories; None for nothing."""
    data, folder = site.data, Path(site.folder)
    if request.model.kind is ModelKind.SOCIAL and data.bounded_friends:
        bounds = {"bound": data.friends_most, "most": request.model.friends}
        return friends_beside(folder / data.bounded_friends, histories, **bounds)
    if request.model.kind is not ModelKind.QUERY or not data.queries:
        return None
    table = folder / data.queries
    stamp = _stamp(table) if table.is_file() else None
    asked = _load_asked(site, catalogue) if stamp is None else _read_asked(site, catalogue, stamp)
    return AskedBeside(histories, queries_of(histories, asked), index_of(catalogue))


def _plan(request: TrainRequest, site: Site) -> LocalPlan:
    return LocalPlan(
        population=site.population,
        noise_multiplier=request.noise_multiplier,
        max_events=site.policy.max_events,
        trust=request.trust,
        **values_of(LocalTraining, request),
    )


def _over_use(
    request: TrainRequest, task: OverUseTask, site: Site, catalogue: Catalogue
) -> tuple[OverUseModel, OverUseExamples, LocalPlan]:
    """Prepare the model of over-use, its examples and the plan, as `_training` does."""
    model, plan = over_use.build_model(request.model), _plan(request, site)
    load_weights(model, request)
    model.to(site.torch_device())
    with _refused_as_policy():
        over_use.check_model(model, plan)
    return model, _examples(site, catalogue, task, request.model.max_length), plan


def _evaluation(
    request: EvaluateRequest, site: Site, catalogue: Catalogue
) -> tuple[AttentionRecommender, Histories, EvaluationPlan]:
    plan = EvaluationPlan(
        sample_rate=request.sample_rate,
        clip_norm=request.clip_norm,
        noise_multiplier=request.noise_multiplier,
        trust=request.trust,
        k=request.k,
        tables=request.tables,
    )
    model = _model(request, site, catalogue)
    with _refused_as_policy():
        evaluation.check_model(model)
    return model, _all_histories(site, catalogue), plan


def _columns(site: Site, request: EvaluateRequest) -> Mapping[str, Mapping[str, str]]:
    """Return what the site's table of users says of each user, where the request has groups."""
    return site.user_columns(columns_of(request.tables))


def _counts(
    site: Site, request: TrainRequest | StatisticsRequest, histories: Histories
) -> NDArray[np.float64] | None:
    """Return what each user counts; None where the request weighs no groups."""
    weighted = request.weighted
    if weighted is None:
        return None
    return user_counts(weighted, histories, site.user_columns(columns_of([weighted.table])))


@contextmanager
def _refused_as_policy() -> Iterator[None]:
    """Refuse a model whose clipping cannot be proven: a retry would fail in the same way."""
    try:
        yield
    except ClippingError as error:
        raise Refused(Refusal.POLICY, str(error)) from error


def _model(
    request: TrainRequest | EvaluateRequest, site: Site, catalogue: Catalogue
) -> AttentionRecommender:
    model = build_recommender(request.model, catalogue)
    load_weights(model, request)
    model.to(site.torch_device())
    return model


def load_weights(model: nn.Module, request: TrainRequest | EvaluateRequest) -> None:
    """Load the request's global weights into the model.

    Raises:
        WireError: names or shapes differ from the model's, or the frozen weights do.
    """
    if request.frozen not in ("", fingerprint(model)):
        raise WireError("the frozen weights differ: both sides must run the same release.")
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


def _site(context: Context) -> Site:
    site = Site.load(locate(context.node_config, context.run_config))
    logs.about(organisation=site.organisation)
    site.check_seed(context.node_config)
    return site


# A simulated node answers many rounds in one process: files are read again when they change.


def _catalogue(site: Site) -> Catalogue:
    folder = Path(site.folder, site.catalogue).resolve()  # simulated sites share one folder
    return _read_catalogue(folder, _stamp(folder / "items.parquet"), site.data.domains)


def _histories(site: Site, catalogue: Catalogue) -> Histories:
    """Return the training events, without each user's last event if evaluations are answered."""
    held_out = int(Ask.EVALUATE in site.policy.answers)
    read = _all_histories(site, catalogue)
    if not site.simulated and keep_user_count(site, len(read)):
        note(Event.USERS)
    return read.without_last(held_out) if held_out else read


def _all_histories(site: Site, catalogue: Catalogue) -> Histories:
    """Read as much as the policy says, whatever is asked: a request does not decide what is read.

    A model that reads fewer events gets each user's last ones from `Histories.padded`.
    """
    version = site.data_version()
    if version is None:
        return _load_histories(site, catalogue)
    return _read_histories(site, catalogue, version)


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=8)
def _read_catalogue(folder: Path, stamp: tuple[int, int], domains: tuple[str, ...]) -> Catalogue:
    """Return the catalogue; sites of several domains share its items and features."""
    if domains:
        return within(_read_catalogue(folder, stamp, ()), domains)
    return Catalogue.load(folder)


@lru_cache(maxsize=64)
def _read_histories(site: Site, catalogue: Catalogue, _: Hashable) -> Histories:
    return _load_histories(site, catalogue)


def _load_histories(site: Site, catalogue: Catalogue) -> Histories:
    histories = site.load_histories(catalogue, site.policy.max_events, strict=False)
    if histories.dropped["unreadable_user"] or histories.dropped["unreadable_row"]:
        note(Event.UNREADABLE)
    if histories.dropped["limited_user"]:
        note(Event.LIMITED)
    return histories


@lru_cache(maxsize=64)
def _read_asked(site: Site, catalogue: Catalogue, _: tuple[int, int]) -> list[Asked]:
    return _load_asked(site, catalogue)


def _load_asked(site: Site, catalogue: Catalogue) -> list[Asked]:
    return site.load_queries(catalogue, strict=False)


def _examples(
    site: Site, catalogue: Catalogue, task: OverUseTask, sessions: int
) -> OverUseExamples:
    version = site.data_version()
    if version is None:
        return load_examples(site, catalogue, task, sessions)
    return _read_examples(site, catalogue, task.text, sessions, (version, users_stamp(site)))


@lru_cache(maxsize=64)
def _read_examples(
    site: Site, catalogue: Catalogue, task: str, sessions: int, _: Hashable
) -> OverUseExamples:
    return load_examples(site, catalogue, task_of(task), sessions)


@lru_cache(maxsize=64)
def _ledger(site: Site) -> Ledger:
    """Open the ledger, and check its whole chain, once in a process; then only what was added."""
    return site.open_ledger()
