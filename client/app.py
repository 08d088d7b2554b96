"""The Flower ClientApp of a partner's node: message -> guard -> computation -> reply.

After any failure the coordinator receives a code and a fixed sentence; the partner's own log has
what `client.logs` allows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
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
from client.logs import Event, cause, note
from client.secure_aggregation.answering import Mask, Points, answer_step
from client.secure_aggregation.sessions import Sessions
from client.site.aggregation_key import load_identity, protocol_roster, public_if_any
from client.site.locate import locate
from client.site.policy import Ask
from client.site.reading import (
    ledger_of,
    read_catalogue,
    read_histories,
    read_over_use,
    read_queries,
    read_training_histories,
)
from client.site.simulated import simulated_node
from client.site.site import Site
from shared.config import LocalTraining, ModelKind
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.data.queries import queries_of
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
from shared.over_use_task import OverUseTask
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
        ledger_of(site).refuse(Refusal.POLICY, {"kind": str(Ask.DESCRIBE)})
        raise Refused(Refusal.POLICY, "policy.answers does not list 'describe'")
    reply = DescribeReply(
        organisation=site.organisation,
        population=site.population,
        catalogue=read_catalogue(site).fingerprint,
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
    change = guard.answer(request, lambda: _prepare(request, site, catalogue).answer)
    reply = TrainReply(change={name: value.numpy() for name, value in change.items()})
    return Message(reply.to_content(), reply_to=message)


@app.train(STATISTICS_ACTION)
def statistics_round(message: Message, context: Context) -> Message:
    """Answer with a noised statistic, if the guard admits the request."""
    request = StatisticsRequest.from_content(message.content)
    logs.about(run=request.run, round=request.round)
    site, catalogue, guard = _guarded_site(context)
    answer = guard.answer(request, lambda: _prepare(request, site, catalogue).answer)
    reply = StatisticsReply(total=answer["total"].numpy())
    return Message(reply.to_content(), reply_to=message)


@app.evaluate()
def evaluate_round(message: Message, context: Context) -> Message:
    """Answer with noised sums of metrics, if the guard admits the request."""
    request = EvaluateRequest.from_content(message.content)
    logs.about(run=request.run, round=request.round)
    site, catalogue, guard = _guarded_site(context)
    sums = guard.answer(request, lambda: _prepare(request, site, catalogue).answer)
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
            ledger_of(summing.site).refuse(refused.code, fields)
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
            request, masking, lambda: _prepare(request, self.site, self.catalogue).points
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
    catalogue = read_catalogue(site)
    lab = site.made_by_lab and simulated_node(context.node_config)
    return site, catalogue, Guard(site, ledger_of(site), catalogue, unmasked_shares=lab)


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
        ledger_of(_site(context)).refuse(Refusal.MALFORMED, {"kind": kind})
    except Exception as error:
        note(Event.FAILED, **cause(error))
        return Refusal.FAILED
    return Refusal.MALFORMED


@dataclass(frozen=True)
class _Prepared:
    """What is left to compute once all that may fail is done: one answer, in either form.

    Attributes:
        answer: one that leaves as it is.
        points: one that is masked.
    """

    answer: Computation
    points: PointsComputation


def _prepare(request: Request, site: Site, catalogue: Catalogue) -> _Prepared:
    """Do everything that may fail before the budget is charged."""
    if isinstance(request, TrainRequest):
        return _prepare_training(request, site, catalogue)
    if isinstance(request, EvaluateRequest):
        return _prepare_evaluation(request, site, catalogue)
    return _prepare_statistic(request, site, catalogue)


def _prepare_training(request: TrainRequest, site: Site, catalogue: Catalogue) -> _Prepared:
    random = site.random(request.round)
    if request.task is not None:
        examples = _over_use(request, request.task, site, catalogue)
        return _Prepared(
            lambda: over_use.train(*examples, random),
            lambda: over_use.gradient_points(*examples, random),
        )
    model, histories, plan = _training(request, site, catalogue)
    counts = _counts(site, request, histories)
    beside = _beside(request, site, catalogue, histories)
    return _Prepared(
        lambda: train(model, histories, plan, random, counts, beside),
        lambda: gradient_points(model, histories, plan, random, counts, beside),
    )


def _prepare_evaluation(request: EvaluateRequest, site: Site, catalogue: Catalogue) -> _Prepared:
    model, histories, plan = _evaluation(request, site, catalogue)
    random, columns = site.random(request.round, _EVALUATION), _columns(site, request)
    return _Prepared(
        lambda: {"sums": evaluate(model, histories, plan, random, columns)},
        lambda: evaluation_points(model, histories, plan, random, columns),
    )


def _prepare_statistic(request: StatisticsRequest, site: Site, catalogue: Catalogue) -> _Prepared:
    table = item_descriptors(request.model, catalogue).numpy()
    histories = read_training_histories(site, catalogue)
    random, counts = site.random(request.round, _STATISTICS), _counts(site, request, histories)
    return _Prepared(
        lambda: {"total": noised_statistic(histories, table, request, random, counts)},
        lambda: statistic_points(histories, table, request, random, counts),
    )


def _training(
    request: TrainRequest, site: Site, catalogue: Catalogue
) -> tuple[AttentionRecommender, Histories, LocalPlan]:
    keep_freed_memory()
    plan, model = _plan(request, site), _model(request, site, catalogue)
    with _refused_as_policy():
        trainer.check_model(model, plan)
    return model, read_training_histories(site, catalogue), plan


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
    asked = read_queries(site, catalogue)
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
    return model, read_over_use(site, catalogue, task, request.model.max_length), plan


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
    return model, read_histories(site, catalogue), plan


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
