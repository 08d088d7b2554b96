"""Each message has one encoding; other bytes are refused, in words."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import SecureAggregationError
from shared.secure_aggregation.encoding import Reader, indices, number, table, text
from shared.secure_aggregation.messages import (
    EncryptedShares,
    Invitation,
    KeyAdvertisement,
    KeyList,
    MaskedInput,
    ShareDelivery,
    SurvivorList,
    SurvivorProof,
    SurvivorSignature,
    UnmaskingShares,
)
from shared.secure_aggregation.parameters import Parameters
from shared.secure_aggregation.shamir import PRIME
from tests.shared.secure_aggregation.federation import AGGREGATION, Federation, invitation

SMALL = Parameters.choose(5, 1, 1)
KINDS = (
    Invitation,
    KeyAdvertisement,
    KeyList,
    EncryptedShares,
    ShareDelivery,
    MaskedInput,
    SurvivorList,
    SurvivorSignature,
    SurvivorProof,
    UnmaskingShares,
)
Kind = type[
    Invitation
    | KeyAdvertisement
    | KeyList
    | EncryptedShares
    | ShareDelivery
    | MaskedInput
    | SurvivorList
    | SurvivorSignature
    | SurvivorProof
    | UnmaskingShares
]


@functools.cache
def encoded() -> dict[Kind, bytes]:
    """One message of each kind, from a round in which p004 dropped out."""
    federation = Federation(SMALL).advertise().share()
    federation.mask(federation.names[:4]).sign().unmask()
    coordinator, partner = federation.coordinator, federation.partners["p001"]
    key_list, delivery = coordinator.key_list(), coordinator.delivery("p001")
    survivors, proof = coordinator.survivors(), coordinator.proof()
    other = Federation(SMALL).advertise().share()
    masked = other.partners["p001"].mask(other.coordinator.delivery("p001"), other.vectors["p001"])
    messages = (
        federation.invitation,
        partner.advertise(federation.invitation),
        key_list,
        partner.share_keys(key_list),
        delivery,
        masked,
        survivors,
        partner.sign_survivors(survivors),
        proof,
        partner.unmask(proof),
    )
    return {type(message): message.to_bytes() for message in messages}


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_written_is_read(kind: Kind) -> None:
    data = encoded()[kind]
    read = kind.from_bytes(data)
    assert read.to_bytes() == data
    if not isinstance(read, MaskedInput):
        assert read == kind.from_bytes(data)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(KINDS), st.data())
def test_other_bytes_are_refused_or_are_another_record(kind: Kind, data: st.DataObject) -> None:
    """Nothing but SecureAggregationError; and what is read is written as it was."""
    raw = bytearray(encoded()[kind])
    place = data.draw(st.integers(0, len(raw) - 1))
    match data.draw(st.sampled_from(["change", "cut", "insert", "append", "anything"])):
        case "change":
            raw[place] ^= data.draw(st.integers(1, 255))
        case "cut":
            del raw[place:]
        case "insert":
            raw[place:place] = data.draw(st.binary(min_size=1, max_size=40))
        case "append":
            raw += data.draw(st.binary(min_size=1, max_size=9))
        case _:
            raw[20:] = data.draw(st.binary(max_size=400))
    try:
        read = kind.from_bytes(bytes(raw))
    except SecureAggregationError:
        return
    assert read.to_bytes() == bytes(raw)


def test_a_refusal_is_a_value_error_in_words() -> None:
    with pytest.raises(ValueError, match=r"the key list ends early: 19 bytes are due.*left\."):
        KeyList.from_bytes(b"\xff")


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_of_one_kind_is_none_of_another(kind: Kind) -> None:
    for other in KINDS:
        if other is not kind:
            with pytest.raises(SecureAggregationError, match=r"the .* is the "):
                kind.from_bytes(encoded()[other])


def test_an_error_says_what_is_wrong() -> None:
    survivors = encoded()[SurvivorList]
    head = survivors[:52]
    for raw, words in (
        (b"", "the survivor list ends early: 19 bytes are due and 0 are left"),
        (b"x" * 60, "is no message of sotto-aggregation-1"),
        (head[:19] + b"\x77" + head[20:], "is of kind 119"),
        (head, "2 bytes are due and 0 are left"),
        (head + number(9, 2), "ends early"),
        (head + number(2, 2) + number(1, 2) * 2, "do not ascend: 1 after 1"),
        (head + number(2, 2) + number(2, 2) + number(1, 2), "do not ascend: 1 after 2"),
        (survivors + b"\0", "has 1 bytes after its end"),
    ):
        with pytest.raises(SecureAggregationError, match=words):
            SurvivorList.from_bytes(raw)
    unmasking = encoded()[UnmaskingShares]
    share = PRIME.to_bytes(66, "big")
    with pytest.raises(SecureAggregationError, match="a share that is not below"):
        UnmaskingShares.from_bytes(unmasking[:54] + number(1, 2) + number(0, 2) + share)
    with pytest.raises(SecureAggregationError, match="has 7 bytes of values"):
        MaskedInput.from_bytes(encoded()[MaskedInput][:54] + bytes(7))
    with pytest.raises(SecureAggregationError, match="has 0 bytes of values"):
        MaskedInput.from_bytes(encoded()[MaskedInput][:54])
    keys = encoded()[KeyAdvertisement]
    with pytest.raises(SecureAggregationError, match="no X25519 key in its short form"):
        KeyAdvertisement.from_bytes(keys[:54] + b"\xff" * 32 + keys[86:])


def test_texts_can_be_shown() -> None:
    assert Reader(text("Bücher & Co"), "a text").text() == "Bücher & Co"
    for raw in (text(" "), text("two\nlines"), text("x" * 101), number(1, 2) + b"\xff"):
        with pytest.raises(SecureAggregationError, match="a text holds a text that is"):
            Reader(raw, "a text").text()


def test_tables_and_sets_ascend() -> None:
    assert table({2: b"b", 1: b"a"}) == bytes([0, 2, 0, 1, 97, 0, 2, 98])
    assert indices({300, 2}) == bytes([0, 2, 0, 2, 1, 44])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"run": ""}, "the run '' is blank"),
        ({"federation": "a\x1b[2J"}, "not printable"),
        ({"round": 2**32}, "the round 4294967296"),
        ({"round": -1}, "the round -1"),
        ({"length": 0}, "no numbers"),
        ({"request": b"short"}, "not SHA-256"),
    ],
)
def test_an_aggregation_is_checked(changes: dict[str, object], words: str) -> None:
    with pytest.raises(SecureAggregationError, match=words):
        replace(AGGREGATION, **changes)  # type: ignore[arg-type]


def test_participants_are_sorted_and_all_different() -> None:
    made = invitation(SMALL)
    one, two, *rest = made.participants
    for participants, words in (
        ((two, one, *rest), "names do not ascend"),
        ((one, one, *rest), "names do not ascend"),
        ((one, replace(two, key=one.key), *rest), "p000 and p001 are invited with one long-term"),
        ((replace(one, name=" "), two, *rest), "name is ' '"),
        ((replace(one, key=bytes(49)), two, *rest), "compressed point"),
        ((one,), "1 participants"),
    ):
        with pytest.raises(SecureAggregationError, match=words):
            replace(made, participants=participants)
    with pytest.raises(SecureAggregationError, match="a threshold of 6 for 5"):
        replace(made, threshold=6)


def test_another_modulus_is_refused() -> None:
    raw = invitation(SMALL).to_bytes()
    prefix = 20 + len(AGGREGATION.to_bytes())
    with pytest.raises(SecureAggregationError, match=r"modulo 2.32, not 2.64"):
        Invitation.from_bytes(raw[: prefix - 1] + b"\x20" + raw[prefix:])
