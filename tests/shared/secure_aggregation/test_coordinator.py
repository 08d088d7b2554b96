"""The table of `shared.secure_aggregation.coordinator`, row by row, and the coordinator's state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from shared.errors import SecureAggregationError, TooFewPartners
from shared.secure_aggregation.coordinator import Coordinator, Phase
from shared.secure_aggregation.messages import EncryptedShares, KeyAdvertisement
from shared.secure_aggregation.parameters import Parameters
from shared.secure_aggregation.transcript import advertised_content
from tests.shared.secure_aggregation.federation import Federation, identity
from tests.shared.secure_aggregation.test_agreement import LOW_ORDER

SIX = Parameters.choose(6, 1, 1)


def at(phase: int) -> Federation:
    """A round in which the phases before are closed, and all but p005 have answered this one."""
    federation = Federation(SIX)
    steps = (
        federation.advertise,
        federation.share,
        federation.mask,
        federation.sign,
        federation.unmask,
    )
    for step in steps[:phase]:
        step()
    steps[phase](federation.names[:5])
    return federation


def send(
    federation: Federation, phase: int, sender: str, of: str = "", to: Federation | None = None
) -> None:
    """Send the answer that partner `of` gives in its own federation, in the name of `sender`.

    It goes to the coordinator of `to`, another federation with the same invitation.
    """
    of, asked = of or sender, federation.coordinator
    partner, coordinator = federation.partners[of], (to or federation).coordinator
    match phase:
        case Phase.KEYS:
            coordinator.receive_keys(sender, partner.advertise(federation.invitation))
        case Phase.SHARES:
            coordinator.receive_shares(sender, partner.share_keys(asked.key_list()))
        case Phase.INPUTS:
            masked = partner.mask(asked.delivery(of), federation.vectors[of])
            coordinator.receive_masked(sender, masked)
        case Phase.SIGNATURES:
            coordinator.receive_signature(sender, partner.sign_survivors(asked.survivors()))
        case _:
            coordinator.receive_unmasking(sender, partner.unmask(asked.proof()))


def close(federation: Federation, phase: int) -> object:
    coordinator = federation.coordinator
    closing: tuple[Callable[[], object], ...] = (
        coordinator.key_list,
        lambda: coordinator.delivery("p000"),
        coordinator.survivors,
        coordinator.proof,
        lambda: coordinator.total().tolist(),
    )
    return closing[phase]()


PHASES = range(5)


@pytest.mark.parametrize("phase", PHASES)
def test_the_same_message_again_is_ignored(phase: int) -> None:
    federation = at(phase)
    before = federation.coordinator.to_bytes()
    send(federation, phase, "p000")
    assert federation.coordinator.to_bytes() == before
    close(federation, phase)
    before = federation.coordinator.to_bytes()
    if phase != Phase.UNMASKING:
        send(federation, phase, "p000")
        assert federation.coordinator.to_bytes() == before


@pytest.mark.parametrize("phase", PHASES)
def test_another_message_of_the_same_partner_is_refused(phase: int) -> None:
    federation, twin = at(phase), Federation(SIX, seed=5)
    before = federation.coordinator.to_bytes()
    for step in (twin.advertise, twin.share, twin.mask, twin.sign, twin.unmask)[: phase + 1]:
        step()
    with pytest.raises(SecureAggregationError, match="p000 sent two different messages") as refused:
        send(twin, phase, "p000", to=federation)
    assert refused.value.suspect == "p000"
    assert federation.coordinator.to_bytes() == before


@pytest.mark.parametrize("phase", PHASES)
def test_a_message_after_its_step_closed_is_refused(phase: int) -> None:
    federation = at(phase)
    close(federation, phase)
    with pytest.raises(SecureAggregationError, match="p005 is late"):
        send(federation, phase, "p005")


def test_a_message_before_its_step_is_refused() -> None:
    federation, ahead = at(Phase.KEYS), at(Phase.INPUTS)
    masked = ahead.partners["p000"].mask(ahead.coordinator.delivery("p000"), ahead.vectors["p000"])
    with pytest.raises(SecureAggregationError, match="p000 is early"):
        federation.coordinator.receive_masked("p000", masked)
    with pytest.raises(SecureAggregationError, match="not closed yet"):
        federation.coordinator.survivors()


@pytest.mark.parametrize("phase", range(1, 5))
def test_one_that_dropped_out_stays_out(phase: int) -> None:
    federation = at(phase - 1)
    close(federation, phase - 1)
    assert federation.coordinator.expected == tuple(federation.names[:5])
    twin = at(phase - 1)
    send(twin, phase - 1, "p005")
    with pytest.raises(SecureAggregationError, match="p005 dropped out at an earlier step"):
        send(twin, phase, "p005", to=federation)


@pytest.mark.parametrize("phase", PHASES)
def test_a_message_in_another_name_is_refused(phase: int) -> None:
    federation = at(phase)
    with pytest.raises(SecureAggregationError, match="p005 sent a message in the name of p000"):
        send(federation, phase, "p005", of="p000")
    with pytest.raises(SecureAggregationError, match="stranger is not among the participants"):
        send(federation, phase, "stranger", of="p000")


def test_a_message_of_another_session_is_refused() -> None:
    federation = at(Phase.KEYS)
    message = federation.partners["p005"].advertise(federation.invitation)
    with pytest.raises(SecureAggregationError, match="p005 sent a message of another session"):
        federation.coordinator.receive_keys("p005", replace(message, session=bytes(32)))


@pytest.mark.parametrize("phase", PHASES)
def test_a_step_that_is_closed_again_gives_the_same(phase: int) -> None:
    federation = at(phase)
    first = close(federation, phase)
    assert close(federation, phase) == first
    federation.resume()
    assert close(federation, phase) == first


@pytest.mark.parametrize("phase", PHASES)
def test_a_step_stays_open_while_too_few_answered(phase: int) -> None:
    federation = at(phase)
    received = federation.coordinator._received[Phase(phase)]
    for index in list(received)[:2]:
        del received[index]
    with pytest.raises(TooFewPartners, match=r"3 of 6 partners answered, and [45] must"):
        close(federation, phase)
    assert federation.coordinator.phase == phase


def test_false_keys_are_refused() -> None:
    federation = at(Phase.KEYS)
    message = federation.partners["p005"].advertise(federation.invitation)
    taken = federation.partners["p000"].advertise(federation.invitation)

    def signed(**changes: bytes) -> KeyAdvertisement:
        changed = replace(message, **changes)  # type: ignore[arg-type]
        return replace(changed, signature=identity("p005").sign(advertised_content(changed)))

    for wrong, words in (
        (replace(message, commitment=bytes(32)), "p005's keys are not signed"),
        (replace(message, signature=identity("p000").sign(b"")), "p005's keys are not signed"),
        (signed(mask_key=message.cipher_key), "p005 advertises a key that is there already"),
        (signed(cipher_key=taken.mask_key), "p005 advertises a key that is there already"),
        (signed(mask_key=LOW_ORDER[2]), "p005: the X25519 public key is of low order"),
        (signed(cipher_key=LOW_ORDER[0]), "p005: the X25519 public key is of low order"),
    ):
        with pytest.raises(SecureAggregationError, match=words) as refused:
            federation.coordinator.receive_keys("p005", wrong)
        assert refused.value.suspect == "p005"
    federation.coordinator.receive_keys("p005", message)


def test_wrong_sets_signatures_and_lengths_are_refused() -> None:
    shares = at(Phase.SHARES)
    reply = shares.partners["p005"].share_keys(shares.coordinator.key_list())
    fewer = {i: c for i, c in reply.ciphertexts.items() if i != 2}
    to_itself = {**reply.ciphertexts, 5: bytes(148)}
    for ciphertexts in (fewer, to_itself):
        wrong: EncryptedShares = replace(reply, ciphertexts=ciphertexts)
        with pytest.raises(SecureAggregationError, match="exactly the others on the key list"):
            shares.coordinator.receive_shares("p005", wrong)
    inputs = at(Phase.INPUTS)
    masked = inputs.partners["p005"].mask(
        inputs.coordinator.delivery("p005"), inputs.vectors["p005"]
    )
    with pytest.raises(SecureAggregationError, match="p005 sent 4 numbers, not 5"):
        inputs.coordinator.receive_masked("p005", replace(masked, values=masked.values[:4]))
    signing = at(Phase.SIGNATURES)
    signature = signing.partners["p005"].sign_survivors(signing.coordinator.survivors())
    with pytest.raises(SecureAggregationError, match="p005 did not sign this list"):
        signing.coordinator.receive_signature("p005", replace(signature, signature=bytes(96)))
    unmasking = at(Phase.UNMASKING)
    shares_of = unmasking.partners["p005"].unmask(unmasking.coordinator.proof())
    for changed in (
        replace(shares_of, seed_shares={}),
        replace(shares_of, key_shares={0: 1}),
    ):
        with pytest.raises(SecureAggregationError, match="p005 did not send a seed share of each"):
            unmasking.coordinator.receive_unmasking("p005", changed)


def test_a_partner_that_sent_no_shares_gets_none() -> None:
    with pytest.raises(SecureAggregationError, match="p005 sent no shares"):
        at(Phase.SHARES).coordinator.delivery("p005")


def test_who_is_waited_for_is_told() -> None:
    coordinator = at(Phase.SHARES).coordinator
    assert set(coordinator.expected) - set(coordinator.present) == {"p005"}
    finished = at(Phase.UNMASKING).coordinator
    finished.total()
    assert finished.phase is Phase.FINISHED
    assert finished.present == finished.expected == ("p000", "p001", "p002", "p003", "p004")


def test_a_damaged_state_is_refused() -> None:
    state = at(Phase.INPUTS).coordinator.to_bytes()
    for place in (0, 100, len(state) - 1):
        damaged = bytearray(state)
        damaged[place] ^= 1
        with pytest.raises(SecureAggregationError, match="damaged: the round is lost"):
            Coordinator.from_bytes(bytes(damaged))


def test_no_masked_input_is_kept() -> None:
    federation = Federation(SIX, length=1000).advertise().share()
    masked = federation.partners["p000"].mask(
        federation.coordinator.delivery("p000"), federation.vectors["p000"]
    )
    federation.coordinator.receive_masked("p000", masked)
    alone = federation.coordinator.to_bytes()
    federation.mask(federation.names[1:])
    together = federation.coordinator.to_bytes()
    assert len(together) - len(alone) == 5 * (2 + 8 + 32)
    assert np.asarray(masked.values, "<u8").tobytes() not in together
