"""The lab's runs under masks: the drivers of real nodes and coordinators, in one process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

import client.app
from client.site.site import Site
from server.state.audit_log import AuditLog
from shared.errors import QuorumError
from shared.messages import AGGREGATE, DESCRIBE, PLAN, AggregateRequest, Summed
from shared.sections import Value
from simulations.experiment.config import SimulationConfig, read_settings
from simulations.experiment.federation import WrappedApp, sites_in
from simulations.experiment.prepare import prepare
from simulations.experiment.simulate import simulate
from tests.simulations.conftest import TINY_SETTINGS
from tests.simulations.experiment.test_simulate import Silent

ORGANISATIONS = 5
SECURE = (
    *("privacy.trust=secure-aggregation", f"lab.organisations={ORGANISATIONS}"),
    *("server.weighting=population", "lab.alone=false", "training.rounds=1"),
    *("warm_start.share=0.7", "server.evaluate_every=1", "privacy.dropouts=1"),
    *("server.retry_seconds=0", "server.retries=1"),
)


def settings(data: Path, *assignments: str) -> SimulationConfig:
    options: dict[str, Value] = {
        "privacy.epsilon": 4.0,
        "privacy.delta": 1e-2,
        "lab.data": str(data),
    }
    return read_settings(None, options, [*TINY_SETTINGS, *SECURE, *assignments])


def run(
    data: Path, folder: Path, *assignments: str, app: ClientApp | None = None
) -> dict[str, Any]:
    return simulate(prepare(settings(data, *assignments), folder), Silent(), app)


def watching(seen: list[Message], fails: Callable[[AggregateRequest, int], bool]) -> ClientApp:
    """Organisations that fail at some steps; what they are asked is kept."""

    def answer(message: Message, context: Context) -> Message:
        seen.append(message)
        if message.metadata.message_type == AGGREGATE:
            request = AggregateRequest.from_content(message.content)
            if fails(request, message.metadata.dst_node_id):
                return Message(Error(0, "failed"), reply_to=message)
        return client.app.app(message, context)

    return WrappedApp(answer)


def test_masked_and_unmasked_runs_come_to_the_same_model(tiny_data: Path, tmp_path: Path) -> None:
    """Statistics, a training round and noised metrics; the noise repeats, the masks do not."""
    seen: list[Message] = []
    masked = run(tiny_data, tmp_path / "on", app=watching(seen, lambda *_: False))
    asked = Counter(message.metadata.message_type for message in seen)
    assert set(asked) == {DESCRIBE, PLAN, AGGREGATE}, "nobody is asked for an answer of its own"
    steps = [
        AggregateRequest.from_content(m.content)
        for m in seen
        if m.has_content() and m.metadata.message_type == AGGREGATE
    ]
    assert {step.kind for step in steps} == set(Summed)
    assert sorted({step.attempt for step in steps}) == [1, 2, 3, 4]
    plain = run(tiny_data, tmp_path / "off", "privacy.masking=off")
    assert (masked["privacy"]["masking"], plain["privacy"]["masking"]) == ("on", "off")
    assert masked["privacy"]["organisations"] == plain["privacy"]["organisations"]
    for key in ("ndcg@10", "hr@10"):
        ours, theirs = (one["evaluation"]["models"]["federated"][key] for one in (masked, plain))
        assert ours == pytest.approx(theirs, abs=1e-3)


def test_who_fails_at_a_step_is_a_dropout_and_the_audit_log_says_so(
    tiny_data: Path, tmp_path: Path
) -> None:
    def fails(request: AggregateRequest, node: int) -> bool:
        return (request.kind, node, request.step) == (Summed.STATISTICS, 1, 3)

    run(tiny_data, tmp_path / "run", "training.rounds=0", app=watching([], fails))
    log = AuditLog(tmp_path / "run" / "audit.jsonl")
    collected = [e for e in log.entries() if e["event"] == "statistic-collected"]
    assert len(collected) == 2
    for number, entry in enumerate(collected, start=1):
        assert Counter(entry["outcomes"].values()) == {"valid": 4, "failed": 1}
        assert entry["sum_attempt"] == number
        assert list(entry["left_at_step"].values()) == [3]
    folders = sites_in(tmp_path / "run" / "sites")
    spent = [Site.load(folder).open_ledger().releases() for folder in folders]
    assert spent[0] == []
    assert all(spent[1:])


def test_more_that_fail_end_the_run(tiny_data: Path, tmp_path: Path) -> None:
    def fails(request: AggregateRequest, node: int) -> bool:
        return request.step == 2 and node <= 2

    with pytest.raises(QuorumError, match="no sum of 4 organisations or more, after 1 attempts"):
        run(tiny_data, tmp_path / "run", "training.rounds=0", app=watching([], fails))
    for site in sites_in(tmp_path / "run" / "sites"):
        assert Site.load(site).open_ledger().releases() == []
