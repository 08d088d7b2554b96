"""The table of `shared.secure_aggregation.partner`, row by row, and the partner's state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from shared.errors import SecureAggregationError, TooFewPartners
from shared.secure_aggregation.messages import Aggregation, Message
from shared.secure_aggregation.parameters import Parameters
from shared.secure_aggregation.partner import Partner, Step
from tests.shared.secure_aggregation.federation import (
    AGGREGATION,
    identity,
    invitation,
    name,
    names,
    roster,
    seeded,
)
from tests.shared.secure_aggregation.recorded import INDEX, OWN, SIX, recorded

STEPS = range(5)


def unchanged(partner: Partner, state: bytes) -> bool:
    """Whether a refusal left everything as it was, the secrets among it."""
    return partner.to_bytes() == state


@pytest.mark.parametrize("step", STEPS)
def test_the_same_request_gets_the_same_bytes_as_long_as_the_round_lasts(step: int) -> None:
    round_ = recorded()
    for later in range(step + 1, 6):
        if step == Step.SHARED and later == Step.FINISHED:
            continue  # the next test
        partner = round_.partner(later)
        assert round_.ask(partner, step).to_bytes() == round_.replies[step]
        assert unchanged(partner, round_.states[later])


def test_a_share_delivery_is_not_answered_again_after_the_last_step() -> None:
    partner = recorded().partner(Step.FINISHED)
    with pytest.raises(SecureAggregationError, match=r"the secrets of round 3 .* are gone"):
        recorded().ask(partner, Step.SHARED)


@pytest.mark.parametrize("later", [Step.MASKED, Step.SIGNED])
def test_another_vector_is_never_masked_with_the_same_masks(later: Step) -> None:
    round_, partner = recorded(), recorded().partner(later)
    with pytest.raises(SecureAggregationError, match="another vector was masked"):
        partner.mask(round_.delivery, round_.values + 1)
    assert unchanged(partner, round_.states[later])


def ask_changed(partner: Partner, step: int) -> Message:
    """Send another request for a step that would be right by itself."""
    round_ = recorded()
    match step:
        case Step.NEW:
            return partner.advertise(replace(round_.invitation, dropouts=1))
        case Step.ADVERTISED:
            fewer = {i: m for i, m in round_.key_list.advertisements.items() if i != 4}
            return partner.share_keys(replace(round_.key_list, advertisements=fewer))
        case Step.SHARED:
            some = {i: c for i, c in round_.delivery.ciphertexts.items() if i != 4}
            return partner.mask(replace(round_.delivery, ciphertexts=some), round_.values)
        case Step.MASKED:
            members = frozenset({0, 1, 2, 3, 5})
            return partner.sign_survivors(replace(round_.survivors, survivors=members))
        case _:
            four = {i: s for i, s in round_.proof.signatures.items() if i != 4}
            return partner.unmask(replace(round_.proof, signatures=four))


@pytest.mark.parametrize("step", STEPS)
def test_a_changed_request_is_refused_where_one_was_answered(step: int) -> None:
    assert ask_changed(recorded().partner(step), step), "by itself it is right"
    for later in range(step + 1, 6):
        partner = recorded().partner(later)
        with pytest.raises(SecureAggregationError, match="another request was answered"):
            ask_changed(partner, step)
        assert unchanged(partner, recorded().states[later])


@pytest.mark.parametrize("step", STEPS)
def test_a_request_whose_predecessor_was_not_answered_is_refused(step: int) -> None:
    for earlier in range(step):
        partner = recorded().partner(earlier)
        with pytest.raises(SecureAggregationError, match="this request is early"):
            recorded().ask(partner, step)
        assert unchanged(partner, recorded().states[earlier])


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"federation": "books"}, "federation"),
        ({"run": "r2"}, "run"),
        ({"round": 4}, "round"),
        ({"request": bytes(32)}, "request"),
        ({"length": 6}, "length"),
    ],
)
def test_another_question_than_the_partner_was_asked_is_refused(
    changes: dict[str, object], field: str
) -> None:
    partner = Partner(identity(OWN), roster(OWN, names(6)), AGGREGATION)
    other = replace(AGGREGATION, **changes)  # type: ignore[arg-type]
    with pytest.raises(SecureAggregationError, match=f"the invitation's {field} is"):
        partner.advertise(invitation(SIX, other))
    partner.advertise(invitation(SIX))


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_a_message_of_another_session_is_refused_and_the_right_one_still_answered(
    step: int,
) -> None:
    """A refusal changes nothing, so that what was wrong can be mended."""
    round_ = recorded()
    partner = round_.partner(step)
    session = replace(round_.invitation, dropouts=1).digest
    asked: dict[int, Callable[[], Message]] = {
        1: lambda: partner.share_keys(replace(round_.key_list, session=session)),
        2: lambda: partner.mask(replace(round_.delivery, session=session), round_.values),
        3: lambda: partner.sign_survivors(replace(round_.survivors, session=session)),
        4: lambda: partner.unmask(replace(round_.proof, session=session)),
    }
    with pytest.raises(SecureAggregationError, match="not of this session, round 3 of run 'r1'"):
        asked[step]()
    assert unchanged(partner, round_.states[step])
    assert round_.ask(partner, step).to_bytes()


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(5, np.int64),
        np.zeros((4, 1), np.int64),
        np.zeros(4, np.float64),
        np.zeros(4, np.int32),
    ],
    ids=["longer", "a column", "floats", "int32"],
)
def test_a_vector_of_another_form_is_refused(values: np.ndarray) -> None:
    partner = recorded().partner(Step.SHARED)
    with pytest.raises(SecureAggregationError, match=r"not int64 or uint64 \(4,\)"):
        partner.mask(recorded().delivery, values)
    assert unchanged(partner, recorded().states[Step.SHARED])


def test_a_vector_stays_as_it_was() -> None:
    values = recorded().values.copy()
    recorded().partner(Step.SHARED).mask(recorded().delivery, values)
    np.testing.assert_array_equal(values, recorded().values)


def test_too_few_are_refused_at_every_step() -> None:
    round_ = recorded()
    three = {i: m for i, m in round_.key_list.advertisements.items() if i < 3}
    with pytest.raises(TooFewPartners, match="3 partners are on the key list, and 4 must be"):
        round_.partner(1).share_keys(replace(round_.key_list, advertisements=three))
    some = {i: c for i, c in round_.delivery.ciphertexts.items() if i < 3}
    with pytest.raises(TooFewPartners, match="3 partners are sending shares"):
        round_.partner(2).mask(replace(round_.delivery, ciphertexts=some), round_.values)
    with pytest.raises(TooFewPartners, match="3 partners are listed as survivors"):
        round_.partner(3).sign_survivors(replace(round_.survivors, survivors=frozenset({0, 1, 2})))
    signatures = {i: s for i, s in round_.proof.signatures.items() if i < 3}
    with pytest.raises(TooFewPartners, match="3 signed the list of survivors, and 4 must"):
        round_.partner(4).unmask(replace(round_.proof, signatures=signatures))


def test_too_few_of_the_roster_are_refused_though_enough_take_part() -> None:
    """The coordinator keeps its own and says that the others dropped out."""
    parameters = Parameters.choose(8, 2, 1)
    own = roster("p000", names(7), colluding=1, fewest=7)
    partner = Partner(identity("p000"), own, AGGREGATION)
    others = {
        n: Partner(identity(n), roster(n, names(8)), AGGREGATION) for n in names(8) if n != "p000"
    }
    asked = invitation(parameters)
    keys = {0: partner.advertise(asked)} | {
        i: others[name(i)].advertise(asked) for i in range(2, 8)
    }
    assert partner.parameters.colluding == 2, "p007 is an outsider"
    with pytest.raises(TooFewPartners, match="6 organisations of the roster are on the key list"):
        partner.share_keys(replace(recorded().key_list, session=asked.digest, advertisements=keys))


def test_what_a_round_withstands_is_known_once_it_was_accepted() -> None:
    with pytest.raises(SecureAggregationError, match="no invitation was accepted"):
        _ = recorded().partner(0).parameters
    assert recorded().partner(1).parameters == SIX


# --- state ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
def test_a_restarted_partner_goes_on_as_the_other_would(step: int) -> None:
    """Its state comes back to the byte; answers without fresh signatures or shares are the same."""
    round_ = recorded()
    partner = round_.partner(step)
    assert partner.step == step
    assert unchanged(partner, round_.states[step])
    reply = round_.ask(partner, step).to_bytes()
    if step in (2, 4):
        assert reply == round_.replies[step]


def test_secrets_are_gone_after_the_last_step_and_vectors_are_never_stored() -> None:
    round_ = recorded()
    start = len(b"sotto-partner-state-1") + len(round_.federation.aggregation.to_bytes()) + 49 + 2
    secrets = [round_.states[0][start + 40 * i + 8 : start + 40 * i + 40] for i in range(3)]
    assert all(secret in round_.states[4] for secret in secrets)
    assert not any(secret in round_.states[5] for secret in secrets)
    number = identity(OWN).key.private_numbers().private_value.to_bytes(48, "big")
    for state in round_.states:
        assert number not in state
        assert round_.values.tobytes() not in state


def test_a_damaged_or_foreign_state_is_refused() -> None:
    state = recorded().states[3]
    for place in (0, 30, len(state) // 2, len(state) - 1):
        damaged = bytearray(state)
        damaged[place] ^= 1
        with pytest.raises(SecureAggregationError, match=r"damaged.*drops out"):
            Partner.from_bytes(bytes(damaged), identity(OWN), roster(OWN, names(6)))
    with pytest.raises(SecureAggregationError, match="damaged"):
        Partner.from_bytes(b"", identity(OWN), roster(OWN, names(6)))
    with pytest.raises(SecureAggregationError, match="another long-term key"):
        Partner.from_bytes(state, identity("p002"), roster("p002", names(6)))


def test_two_partners_draw_different_secrets() -> None:
    own: Aggregation = AGGREGATION
    one, other = (Partner(identity(OWN), roster(OWN, names(6)), own) for _ in range(2))
    asked = invitation(SIX)
    first, second = one.advertise(asked), other.advertise(asked)
    assert first.sender == second.sender == INDEX
    assert not {first.cipher_key, first.mask_key, first.commitment} & {
        second.cipher_key,
        second.mask_key,
        second.commitment,
    }
    repeated = [Partner(identity(OWN), roster(OWN, names(6)), own, seeded(1)) for _ in range(2)]
    keys = {partner.advertise(asked).mask_key for partner in repeated}
    assert len(keys) == 1
