"""The table of `client.secure_aggregation.answering`, row by row, on real sites."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from flwr.app import Message
from numpy.typing import NDArray
from safetensors.numpy import load

import client.app
from client.guard import Guard
from client.ledger.balance import EntryType
from client.ledger.ledger import Ledger
from client.secure_aggregation.sessions import Session
from shared.config import Trust
from shared.messages import (
    EVALUATE,
    STATISTICS,
    TRAIN,
    EvaluateReply,
    EvaluateRequest,
    Request,
    Statistic,
    StatisticsReply,
    StatisticsRequest,
    TrainReply,
    TrainRequest,
    refusal_in,
)
from shared.models.moments import STATISTIC_CLIP_NORM
from shared.outcomes import Refusal
from shared.privacy.distributed_noise import GRID_BITS
from shared.secure_aggregation.messages import Invitation, MaskedInput, Participant
from tests.client.secure_aggregation.peers import (
    NAMES,
    Attempt,
    Peers,
    refused,
    said,
    secure_request,
)
from tests.conftest import DESCRIBED, ask, context

if TYPE_CHECKING:
    from tests.conftest import Sites

HONEST = 2
"""Of four, of which one may collude and one drop out."""


@pytest.fixture
def peers(sites: Sites) -> Peers:
    return Peers.make(sites)


def request(peers: Peers, **changes: Any) -> TrainRequest:  # noqa: ANN401
    return secure_request(peers.sites, **changes)


def rewound(peers: Peers, name: str) -> tuple[Path, bytes]:
    """A session's file, and what is in it now."""
    (file,) = (peers.folder(name) / "aggregation").glob("*.session")
    return file, file.read_bytes()


# --- the sum ------------------------------------------------------------------------------------


def direct(peers: Peers, name: str, asked: Request) -> Message:
    """What a site of the lab answers without a mask."""
    kinds = {TrainRequest: TRAIN, EvaluateRequest: EVALUATE, StatisticsRequest: STATISTICS}
    message = ask(replace(asked, run="direct").to_content(), kinds[type(asked)])
    reply = client.app.app(message, context({"site": str(peers.folder(name)), "simulated": True}))
    assert reply.has_content(), reply.error
    return reply


def test_the_total_is_the_sum_of_what_direct_answers_say(sites: Sites) -> None:
    """Of each kind; with seeded noise, so that both are of the same numbers."""
    changes = {"policy.answers": ["describe", "train", "evaluate", "statistics"]}
    peers = replace(Peers.make(sites, changes, seed=4), node_config={"simulated": True})
    train = request(peers, noise_multiplier=0.01, learning_rate=1.0)
    common: dict[str, Any] = {"run": "r", "round": 1, "catalogue": train.catalogue}
    common |= {"trust": Trust.SECURE_AGGREGATION, "noise_multiplier": 0.01}
    evaluate = EvaluateRequest(
        **common, model=train.model, weights=train.weights, sample_rate=0.5, k=3
    )
    statistic = StatisticsRequest(**common, model=DESCRIBED, statistic=Statistic.MOMENT, fade=0.0)

    def numbers(asked: Request, reply: Message, name: str) -> NDArray[np.float64]:
        if isinstance(asked, TrainRequest):
            change = TrainReply.from_content(reply.content).change
            # A step moves the weights by its rate times the mean gradient, downwards.
            batch = asked.sample_rate * peers.site(name).population
            flat = np.concatenate([change[key].ravel() for key in sorted(change)])
            return -batch * flat.astype(np.float64)
        if isinstance(asked, EvaluateRequest):
            return EvaluateReply.from_content(reply.content).sums.astype(np.float64)
        return StatisticsReply.from_content(reply.content).total.ravel().astype(np.float64)

    sums: list[tuple[Request, float, int]] = [
        (train, train.clip_norm, 0),
        (evaluate, evaluate.clip_norm, 3),
        (statistic, STATISTIC_CLIP_NORM, DESCRIBED.described**2),
    ]
    for number, (asked, clip_norm, length) in enumerate(sums, start=1):
        attempt = Attempt(peers, number, asked, length=length).until(6)
        total = attempt.machine.total().view(np.int64) * (clip_norm / 2**GRID_BITS)
        answers = [numbers(asked, direct(peers, name, asked), name) for name in NAMES]
        np.testing.assert_allclose(total, sum(answers), rtol=1e-4, atol=1e-5)
        assert np.abs(total).max() > 0.1


def test_what_leaves_is_masked_charged_and_in_the_outbox(peers: Peers) -> None:
    asked = request(peers)
    attempt = Attempt(peers, 5, asked).until(3)
    assert peers.charged("alpha") == 0
    sent = attempt.take(3)["alpha"]
    ledger = peers.site("alpha").open_ledger()
    (charge,) = ledger.releases()
    assert (charge.shares, charge.steps) == (HONEST, 1)
    assert charge.noise_multiplier == pytest.approx(0.8 * math.sqrt(HONEST), rel=1e-4)
    (answer,) = ledger.outbox()
    assert (answer.kind, answer.round, answer.run) == ("train", 5, asked.run)
    body = ledger.sent_body(answer.number)
    assert body is not None
    masked = MaskedInput.from_bytes(sent).values
    assert np.array_equal(load(body)["masked"], masked.view(np.int64))
    # A uniform number is beyond what any sum on the grid reaches, nearly always.
    assert np.mean(np.abs(masked.view(np.int64).astype(float)) > 2.0**55) > 0.9


def test_a_second_attempt_has_noise_and_a_charge_of_its_own(peers: Peers) -> None:
    asked = request(peers)
    totals = []
    for number in (1, 2):
        attempt = Attempt(peers, number, asked).until(6)
        totals.append(attempt.machine.total())
    assert not np.array_equal(totals[0], totals[1])
    assert {peers.charged(name) for name in NAMES} == {2}


# --- the table ----------------------------------------------------------------------------------


def test_every_step_that_is_repeated_gets_the_same_bytes(peers: Peers) -> None:
    attempt = Attempt(peers, 1, request(peers))
    for step in range(1, 6):
        asked = {name: attempt.step(step, name) for name in attempt.machine.expected}
        sent = attempt.take(step)
        for name, again in asked.items():
            assert said(peers.answer(name, again)) == sent[name], (step, name)
    assert {peers.charged(name) for name in NAMES} == {1}
    assert len(peers.site("alpha").open_ledger().outbox()) == 1


def test_another_request_than_in_the_invitation_is_refused_before_the_charge(
    peers: Peers,
) -> None:
    asked = request(peers)
    attempt = Attempt(peers, 1, asked).until(3)
    weights = {name: value + 1 for name, value in asked.weights.items()}
    for other in (replace(asked, weights=weights), replace(asked, learning_rate=0.2)):
        step = attempt.step(3, "alpha", request=other)
        assert refused(peers.answer("alpha", step)) is Refusal.MALFORMED
    assert peers.charged("alpha") == 0
    last = peers.site("alpha").open_ledger().history(1)[0]
    assert (last.type, last.fields["round"], last.fields["step"]) == (EntryType.REFUSAL, 1, 3)
    said(peers.answer("alpha", attempt.step(3, "alpha")))  # mended


def test_another_length_than_the_answers_is_refused_before_the_charge(peers: Peers) -> None:
    attempt = Attempt(peers, 1, request(peers), length=7).until(3)
    assert refused(peers.answer("alpha", attempt.step(3, "alpha"))) is Refusal.MALFORMED
    assert peers.charged("alpha") == 0


def test_what_the_policy_forbids_is_refused_before_the_charge(sites: Sites) -> None:
    peers = Peers.make(sites, {"policy.max_clip_norm": 0.5})
    attempt = Attempt(peers, 1, request(peers)).until(3)
    assert refused(peers.answer("alpha", attempt.step(3, "alpha"))) is Refusal.POLICY
    assert peers.charged("alpha") == 0


def test_a_kind_that_is_not_answered_is_refused_at_the_first_step(sites: Sites) -> None:
    peers = Peers.make(sites, {"policy.answers": ["describe", "statistics"]})
    attempt = Attempt(peers, 1, request(peers))
    assert refused(peers.answer("alpha", attempt.step(1, "alpha"))) is Refusal.POLICY
    assert not (peers.folder("alpha") / "aggregation").exists()


def test_local_trust_is_not_summed(peers: Peers) -> None:
    asked = replace(request(peers), trust=Trust.LOCAL)
    attempt = Attempt(peers, 1, asked).until(3)
    assert refused(peers.answer("alpha", attempt.step(3, "alpha"))) is Refusal.MALFORMED
    assert peers.charged("alpha") == 0


def test_a_real_node_answers_no_direct_request_for_a_share(peers: Peers) -> None:
    message = ask(request(peers).to_content(), TRAIN)
    reply = client.app.app(message, context({"site": str(peers.folder("alpha"))}))
    assert refusal_in(reply) is Refusal.POLICY
    assert peers.charged("alpha") == 0


def test_an_invitation_that_the_roster_does_not_bear_is_refused(peers: Peers) -> None:
    """Strangers in the place of two peers: with them, too many may collude."""
    attempt = Attempt(peers, 1, request(peers))
    invitation = attempt.machine.invitation
    strangers = tuple(
        Participant(f"zz{participant.name}", participant.key)
        for participant in invitation.participants
        if participant.name in ("beta", "gamma")
    )
    known = tuple(p for p in invitation.participants if p.name in ("alpha", "delta"))
    for participants in (known + strangers, known):
        changed = replace(
            invitation, participants=participants, dropouts=0, threshold=len(participants)
        )
        step = attempt.step(1, "alpha", message=changed.to_bytes())
        assert refused(peers.answer("alpha", step)) is Refusal.POLICY
    said(peers.answer("alpha", attempt.step(1, "alpha")))


def test_an_invitation_to_another_run_or_attempt_is_refused(peers: Peers) -> None:
    attempt = Attempt(peers, 4, request(peers))
    for changes in ({"attempt": 5}, {"run": "other"}):
        step = attempt.step(1, "alpha", **changes)
        assert refused(peers.answer("alpha", step)) is Refusal.MALFORMED
    step = attempt.step(1, "alpha", message=b"nothing of the protocol")
    assert refused(peers.answer("alpha", step)) is Refusal.MALFORMED


def test_a_step_out_of_order_or_of_other_bytes_is_refused(peers: Peers) -> None:
    attempt = Attempt(peers, 1, request(peers)).until(3)
    delivery = attempt.step(3, "alpha")
    for_beta = replace(delivery, message=attempt.step(3, "beta").message)
    assert refused(peers.answer("alpha", for_beta)) is Refusal.DROPPED
    early = Attempt(peers, 1, request(peers, run="other"))
    early.take(1)
    late = replace(delivery, run="other", request=replace(early.request, run="other"))
    assert refused(peers.answer("alpha", late)) is Refusal.DROPPED
    assert peers.charged("alpha") == 0
    attempt.take(3)
    less = Invitation.from_bytes(attempt.machine.invitation.to_bytes())
    step = attempt.step(1, "alpha", message=replace(less, dropouts=0).to_bytes())
    assert refused(peers.answer("alpha", step)) is Refusal.DROPPED


def test_an_attempt_that_is_not_the_last_is_refused(peers: Peers) -> None:
    first = Attempt(peers, 1, request(peers))
    first.take(1)
    second = Attempt(peers, 3, request(peers))
    second.take(1)
    key_list = first.step(2, "alpha")
    for step in (key_list, replace(key_list, attempt=2), first.step(1, "alpha")):
        assert refused(peers.answer("alpha", step)) is Refusal.DROPPED
    between = Attempt(peers, 2, request(peers))
    assert refused(peers.answer("alpha", between.step(1, "alpha"))) is Refusal.DROPPED
    second.take(2)


# --- sessions that are not what they were -------------------------------------------------------


def test_a_damaged_session_is_dropped_out_of_for_ever(peers: Peers) -> None:
    attempt = Attempt(peers, 2, request(peers)).until(2)
    file, whole = rewound(peers, "alpha")
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    for step in (1, 2):
        assert refused(peers.answer("alpha", attempt.step(step, "alpha"))) is Refusal.DROPPED
    said(peers.answer("alpha", Attempt(peers, 3, request(peers)).step(1, "alpha")))


@pytest.mark.parametrize("lost", ["an older copy", "the file"])
def test_no_second_vector_is_masked_after_a_session_was_lost(peers: Peers, lost: str) -> None:
    attempt = Attempt(peers, 1, request(peers)).until(3)
    file, before = rewound(peers, "alpha")
    attempt.take(3)
    if lost == "the file":
        file.unlink()
        again = Attempt(peers, 1, request(peers))
        for name in NAMES[1:]:  # the others help: they begin anew, too
            rewound(peers, name)[0].unlink()
        again.until(3)
        step = again.step(3, "alpha")
    else:
        file.write_bytes(before)
        step = attempt.step(3, "alpha")
    assert refused(peers.answer("alpha", step)) is Refusal.DROPPED
    assert peers.charged("alpha") == 1
    assert len(peers.site("alpha").open_ledger().outbox()) == 1


def test_a_session_of_another_key_is_dropped_out_of(peers: Peers) -> None:
    attempt = Attempt(peers, 1, request(peers)).until(2)
    ours, theirs = (rewound(peers, name)[0] for name in ("alpha", "beta"))
    ours.write_bytes(theirs.read_bytes())
    assert refused(peers.answer("alpha", attempt.step(2, "alpha"))) is Refusal.DROPPED


def test_a_session_lies_with_its_owner_alone_and_forgets_its_secrets(peers: Peers) -> None:
    attempt = Attempt(peers, 1, request(peers)).until(5)
    file, with_secrets = rewound(peers, "alpha")
    attempt.take(5)
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert len(file.read_bytes()) < len(with_secrets) + len(attempt.step(5, "alpha").message) + 500


# --- failures in the third step -----------------------------------------------------------------


def broken(*_: object, **__: object) -> Any:  # noqa: ANN401
    raise OSError("the disk is full")


@pytest.mark.parametrize("where", ["computation", "session", "outbox"])
def test_a_failure_after_the_charge_lets_nothing_leave(
    peers: Peers, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Nor is it repeated: the attempt is dropped out of."""
    attempt = Attempt(peers, 1, request(peers)).until(3)
    step = attempt.step(3, "alpha")
    with monkeypatch.context() as patched:
        if where == "computation":
            patched.setattr(client.app, "gradient_points", broken)
        elif where == "session":
            patched.setattr(Session, "save", broken)
        else:
            patched.setattr(Ledger, "keep_answer", broken)
        assert refused(peers.answer("alpha", step)) is Refusal.FAILED
    assert peers.charged("alpha") == 1
    assert not any(answer.arrays for answer in peers.site("alpha").open_ledger().outbox())
    assert refused(peers.answer("alpha", step)) is Refusal.DROPPED
    assert peers.charged("alpha") == 1


def test_a_kept_answer_of_another_session_does_not_leave(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = Attempt(peers, 1, request(peers)).until(3)
    step = attempt.step(3, "alpha")
    said(peers.answer("alpha", step))
    length = attempt.machine.invitation.aggregation.length
    monkeypatch.setattr(Guard, "kept_masked", lambda *_: np.zeros(length, np.int64))
    assert refused(peers.answer("alpha", step)) is Refusal.DROPPED
