"""What a false coordinator or partner tries: each is refused by name, and nothing is released."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from shared.errors import SecureAggregationError, TooFewPartners
from shared.secure_aggregation.agreement import agree, derive, public_of, seal
from shared.secure_aggregation.masks import subtract_mask
from shared.secure_aggregation.messages import (
    EncryptedShares,
    KeyAdvertisement,
    KeyList,
    SurvivorList,
    SurvivorProof,
)
from shared.secure_aggregation.parameters import Parameters
from shared.secure_aggregation.partner import Partner
from shared.secure_aggregation.roster import Roster
from shared.secure_aggregation.shamir import recover
from shared.secure_aggregation.transcript import (
    advertised_content,
    keys_digest,
    own_mask_key,
    pair_mask_key,
    sealing_context,
    survivors_content,
)
from tests.shared.secure_aggregation.federation import (
    Federation,
    Values,
    identity,
    invitation,
    name,
)
from tests.shared.secure_aggregation.recorded import INDEX, SIX, recorded
from tests.shared.secure_aggregation.test_agreement import LOW_ORDER


@contextmanager
def refused(partner: Partner, suspect: str, words: str) -> Iterator[None]:
    """The partner refuses, names the suspect, and stays as it was."""
    before = partner.to_bytes()
    with pytest.raises(SecureAggregationError, match=words) as error:
        yield
    assert error.value.suspect == suspect
    assert partner.to_bytes() == before, "nothing was released, and nothing changed"


# --- keys ----------------------------------------------------------------------------------------


def forged(index: int, **changes: bytes) -> KeyAdvertisement:
    """Another partner's advertisement, changed, and signed by that partner again."""
    message = replace(recorded().key_list.advertisements[index], **changes)  # type: ignore[arg-type]
    return replace(message, signature=identity(name(index)).sign(advertised_content(message)))


def with_keys(*messages: KeyAdvertisement) -> KeyList:
    own = recorded().key_list
    changed = {message.sender: message for message in messages}
    return replace(own, advertisements={**own.advertisements, **changed})


def advertised(index: int) -> KeyAdvertisement:
    return recorded().key_list.advertisements[index]


@pytest.mark.parametrize(
    ("show", "suspect", "words"),
    [
        (
            lambda: with_keys(replace(advertised(3), mask_key=public_of(b"m" * 32))),
            "p003",
            "keys of p003 are not signed with its long-term key",
        ),
        (
            lambda: with_keys(replace(advertised(3), signature=advertised(2).signature)),
            "p003",
            "keys of p003 are not signed",
        ),
        (
            lambda: with_keys(
                replace(
                    advertised(3),
                    signature=identity("stranger").sign(advertised_content(advertised(3))),
                )
            ),
            "p003",
            "keys of p003 are not signed",
        ),
        (
            lambda: with_keys(replace(recorded(1).key_list.advertisements[INDEX])),
            "",
            "does not hold this partner's own keys",
        ),
        (
            lambda: with_keys(forged(3, cipher_key=advertised(0).cipher_key)),
            "p003",
            "p003 advertises a key that p000 has, too",
        ),
        (
            lambda: with_keys(forged(3, mask_key=advertised(INDEX).mask_key)),
            "p003",
            "p003 advertises a key that p001 has, too",
        ),
        (
            lambda: with_keys(forged(3, mask_key=advertised(3).cipher_key)),
            "p003",
            "p003 advertises a key that p003 has, too",
        ),
        (lambda: with_keys(forged(3, mask_key=LOW_ORDER[3])), "p003", "p003: .* low order"),
        (lambda: with_keys(forged(3, cipher_key=LOW_ORDER[0])), "p003", "p003: .* low order"),
        (
            lambda: with_keys(replace(advertised(3), sender=77)),
            "",
            "participant .77. is on the key list, and only 6 are invited",
        ),
    ],
    ids=[
        "keys of the coordinator's",
        "another's signature",
        "a stranger's signature",
        "keys of another session",
        "a key twice",
        "this partner's own key",
        "one key for both uses",
        "a mask key of low order",
        "a cipher key of low order",
        "somebody who is not invited",
    ],
)
def test_false_keys_are_refused(show: Callable[[], KeyList], suspect: str, words: str) -> None:
    partner = recorded().partner(1)
    with refused(partner, suspect, words):
        partner.share_keys(show())


def test_an_advertisement_of_another_round_is_not_taken() -> None:
    """A replay: signed by the right partner, for another round."""
    round_, other = recorded(), Federation(SIX)
    later = replace(round_.federation.aggregation, round=4)
    asked = invitation(SIX, later)
    replayed = Partner(
        identity("p003"),
        Roster(
            peers={n: identity(n).public for n in other.names if n != "p003"},
            colluding=1,
            fewest=3,
        ),
        later,
    ).advertise(asked)
    shown = with_keys(replace(replayed, session=round_.invitation.digest))
    partner = round_.partner(1)
    with refused(partner, "p003", "not signed .* for round 3"):
        partner.share_keys(shown)


# --- shares --------------------------------------------------------------------------------------


def own_ciphertexts() -> dict[int, bytes]:
    """What this partner encrypted for the others."""
    return dict(EncryptedShares.from_bytes(recorded().replies[1]).ciphertexts)


@pytest.mark.parametrize("case", ["swapped", "another holder's", "own, reflected", "changed"])
def test_shares_that_are_not_what_their_owner_sealed_for_this_partner_are_refused(
    case: str,
) -> None:
    round_ = recorded()
    ciphertexts = dict(round_.delivery.ciphertexts)
    match case:
        case "swapped":
            ciphertexts[2], ciphertexts[3] = ciphertexts[3], ciphertexts[2]
        case "another holder's":
            ciphertexts[2] = round_.federation.coordinator.delivery("p003").ciphertexts[2]
        case "own, reflected":
            ciphertexts[2] = own_ciphertexts()[2]
        case _:
            ciphertexts[2] = bytes([ciphertexts[2][0] ^ 1]) + ciphertexts[2][1:]
    partner = round_.partner(2)
    with refused(
        partner,
        "p002",
        "the shares from p002 are not what p002 encrypted for this partner in round 3",
    ):
        partner.mask(replace(round_.delivery, ciphertexts=ciphertexts), round_.values)


def test_another_s_delivery_or_this_partner_s_own_share_is_refused() -> None:
    round_, partner = recorded(), recorded().partner(2)
    for delivery, words in (
        (round_.federation.coordinator.delivery("p003"), "addressed to p003"),
        (
            replace(
                round_.delivery,
                ciphertexts={**round_.delivery.ciphertexts, INDEX: bytes(148)},
            ),
            "this partner's own share came back",
        ),
    ):
        with refused(partner, "", words):
            partner.mask(delivery, round_.values)


def test_shares_from_one_that_advertised_no_keys_are_refused() -> None:
    federation = Federation(SIX)
    federation.advertise(federation.names[:5]).share()
    partner, delivery = federation.partners["p000"], federation.coordinator.delivery("p000")
    more = replace(delivery, ciphertexts={**delivery.ciphertexts, 5: bytes(148)})
    with refused(partner, "", "p005 sent shares without advertising keys"):
        partner.mask(more, federation.vectors["p000"])


def test_partners_that_were_shown_different_keys_cannot_open_each_other_s_shares() -> None:
    """The coordinator leaves p004 out of the list that it shows to one partner."""
    federation = Federation(SIX).advertise()
    whole = federation.coordinator.key_list()
    fewer = {i: m for i, m in whole.advertisements.items() if i != 4}
    seen_differently = federation.partners["p002"].share_keys(replace(whole, advertisements=fewer))
    for n in ("p000", "p001", "p003", "p004", "p005"):
        federation.coordinator.receive_shares(n, federation.partners[n].share_keys(whole))
    delivery = federation.coordinator.delivery("p000")
    mixed = replace(
        delivery, ciphertexts={**delivery.ciphertexts, 2: seen_differently.ciphertexts[0]}
    )
    partner = federation.partners["p000"]
    with refused(partner, "p002", "under the keys that were shown here"):
        partner.mask(mixed, federation.vectors["p000"])


def test_a_colluding_partner_s_shares_that_are_no_numbers_are_refused() -> None:
    """Sealed with the right key, but not two shares below the prime."""
    federation = Federation(SIX)
    secret = b"c" * 32
    message = federation.partners["p003"].advertise(federation.invitation)
    false = replace(message, cipher_key=public_of(secret))
    false = replace(false, signature=identity("p003").sign(advertised_content(false)))
    for n in federation.names:
        keys = false if n == "p003" else federation.partners[n].advertise(federation.invitation)
        federation.coordinator.receive_keys(n, keys)
    shown = federation.coordinator.key_list()
    partner = federation.partners["p000"]
    sealed = partner.share_keys(shown)
    digest, context = keys_digest(shown), sealing_context(keys_digest(shown), 3, 0)
    key = derive(agree(secret, shown.advertisements[0].cipher_key), digest, context)
    for n in ("p001", "p002", "p004", "p005"):
        federation.coordinator.receive_shares(n, federation.partners[n].share_keys(shown))
    federation.coordinator.receive_shares("p000", sealed)
    delivery = federation.coordinator.delivery("p000")
    for plaintext in (b"\xff" * 132, b"short"):
        mixed = replace(
            delivery, ciphertexts={**delivery.ciphertexts, 3: seal(key, plaintext, context)}
        )
        with refused(partner, "p003", "the shares from p003 are not what"):
            partner.mask(mixed, federation.vectors["p000"])


# --- survivors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("survivors", "words"),
    [
        ({0, 2, 3, 4}, "this partner is not among those listed as survivors"),
        ({0, 1, 2, 3, 9}, "participant .9. is listed as survivors"),
        ({0, 1}, "2 partners are listed as survivors, and 4 must be"),
    ],
)
def test_a_lying_list_of_survivors_is_refused(survivors: set[int], words: str) -> None:
    round_, partner = recorded(), recorded().partner(3)
    shown = replace(round_.survivors, survivors=frozenset(survivors))
    with refused(partner, "", words):
        partner.sign_survivors(shown)


def test_a_survivor_that_sent_no_shares_is_refused() -> None:
    federation = Federation(SIX).advertise()
    federation.share(federation.names[:5]).mask()
    shown = replace(federation.coordinator.survivors(), survivors=frozenset(range(6)))
    partner = federation.partners["p000"]
    with refused(partner, "", "p005 sent no shares and cannot survive"):
        partner.sign_survivors(shown)


def test_a_survivor_whose_input_never_came_leaves_noise_alone() -> None:
    """The coordinator lists one more than it heard from: its mask stays in the sum."""
    federation = Federation(SIX).advertise().share()
    federation.mask(federation.names[:5])
    lie = SurvivorList(session=federation.invitation.digest, survivors=frozenset(range(6)))
    signatures = {i: federation.partners[name(i)].sign_survivors(lie).signature for i in range(5)}
    proof = SurvivorProof(session=federation.invitation.digest, signatures=signatures)
    for i in range(5):
        released = federation.partners[name(i)].unmask(proof)
        assert released.key_shares == {}
        assert set(released.seed_shares) == set(range(6))


def both_lists() -> tuple[Federation, SurvivorList, SurvivorList]:
    federation = Federation(SIX).advertise().share().mask()
    session = federation.invitation.digest
    one = SurvivorList(session=session, survivors=frozenset({0, 1, 2, 3, 4}))
    other = SurvivorList(session=session, survivors=frozenset({1, 2, 3, 4, 5}))
    return federation, one, other


def test_two_lists_of_survivors_cannot_both_be_signed_by_a_threshold() -> None:
    federation, one, other = both_lists()
    signed_one = {i: federation.partners[name(i)].sign_survivors(one).signature for i in (0, 1, 2)}
    signed_other = {i: federation.partners[name(i)].sign_survivors(other).signature for i in (3, 5)}
    # p004 colludes: it signs whatever is needed.
    digest = keys_digest(federation.coordinator.key_list())
    for signed, shown in ((signed_one, one), (signed_other, other)):
        content = survivors_content(digest, 4, range(6), shown.survivors)
        signed[4] = identity("p004").sign(content)
    session = federation.invitation.digest
    released = federation.partners["p000"].unmask(
        SurvivorProof(session=session, signatures=signed_one)
    )
    assert set(released.key_shares) == {5}
    for more, suspect, words in (
        ({1: signed_one[1]}, "p001", "p001 did not sign .*: the coordinator may have shown it ano"),
        ({0: signed_one[0]}, "", "p000 signed without being a survivor"),
        ({}, "", "3 signed the list of survivors, and 4 must"),
    ):
        partner = federation.partners["p003"]
        with refused(partner, suspect, words):
            partner.unmask(SurvivorProof(session=session, signatures=more | signed_other))


def test_signatures_that_are_not_for_this_list_are_refused() -> None:
    round_, partner = recorded(), recorded().partner(4)
    signatures = dict(round_.proof.signatures)
    for changed, suspect, words in (
        ({2: signatures[3]}, "p002", "p002 did not sign"),
        ({2: recorded(1).proof.signatures[2]}, "p002", "p002 did not sign"),
        ({5: identity("p005").sign(b"anything")}, "", "p005 signed without being a survivor"),
        ({2: advertised(2).signature}, "p002", "p002 did not sign"),
    ):
        proof = replace(round_.proof, signatures=signatures | changed)
        with refused(partner, suspect, words):
            partner.unmask(proof)


def test_different_views_of_who_sent_shares_are_found_before_anything_is_unmasked() -> None:
    """p002 was told that p005 sent no shares: it signs for another set of holders."""
    federation = Federation(SIX).advertise().share()
    survivors = frozenset({0, 1, 2, 3, 4})
    for index in range(5):
        delivery = federation.coordinator.delivery(name(index))
        if index == 2:
            some = {i: c for i, c in delivery.ciphertexts.items() if i != 5}
            delivery = replace(delivery, ciphertexts=some)
        federation.partners[name(index)].mask(delivery, federation.vectors[name(index)])
    shown = SurvivorList(session=federation.invitation.digest, survivors=survivors)
    signatures = {i: federation.partners[name(i)].sign_survivors(shown).signature for i in range(5)}
    partner = federation.partners["p000"]
    proof = SurvivorProof(session=shown.session, signatures=signatures)
    with refused(partner, "p002", "p002 did not sign the list of survivors that was shown here"):
        partner.unmask(proof)


# --- why the threshold ---------------------------------------------------------------------------


def attack(threshold: int) -> tuple[Values, Values]:
    """Show two lists of survivors to two partners, with one that colludes; return p000's vector.

    Four partners; p003 colludes. p001 is shown {0, 1, 3} and p002 {1, 2, 3}.
    """
    parameters = Parameters.choose(4, 1, 1)
    federation = Federation(parameters)
    federation.invitation = replace(
        invitation(parameters, federation.aggregation), threshold=threshold, dropouts=2
    )
    federation.coordinator = type(federation.coordinator)(federation.invitation)
    federation.advertise().share()
    session, key_list = federation.invitation.digest, federation.coordinator.key_list()
    masked = federation.partners["p000"].mask(
        federation.coordinator.delivery("p000"), federation.vectors["p000"]
    )
    for n in ("p001", "p002", "p003"):
        federation.partners[n].mask(federation.coordinator.delivery(n), federation.vectors[n])
    colluding = federation.partners["p003"]
    held = colluding._held_shares(federation.coordinator.delivery("p003"))[0]
    digest = keys_digest(key_list)
    released = {}
    for shown_to, survivors in ((1, {0, 1, 3}), (2, {1, 2, 3})):
        partner = federation.partners[name(shown_to)]
        shown = SurvivorList(session=session, survivors=frozenset(survivors))
        content = survivors_content(digest, 3, range(4), survivors)
        signatures = {
            shown_to: partner.sign_survivors(shown).signature,
            3: identity("p003").sign(content),
        }
        proof = SurvivorProof(session=session, signatures=signatures)
        released[shown_to] = partner.unmask(proof)
    seed = recover({1: released[1].seed_shares[0], 3: held[1]}, 2)
    key = recover({2: released[2].key_shares[0], 3: held[0]}, 2)
    values = masked.values.copy()
    subtract_mask(values, own_mask_key(seed, digest, 0))
    for other in (1, 2, 3):
        shared = agree(key, key_list.advertisements[other].mask_key)
        subtract_mask(values, pair_mask_key(shared, digest, 0, other))
    return values.view(np.int64), federation.vectors["p000"]


def test_below_the_safe_threshold_one_partner_s_vector_would_be_revealed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So the inequality is needed; a partner refuses the invitation."""
    with pytest.raises(SecureAggregationError, match="no threshold is both safe"):
        attack(threshold=2)
    monkeypatch.setattr(Roster, "accept", lambda *_: Parameters.choose(4, 1, 1))
    revealed, vector = attack(threshold=2)
    np.testing.assert_array_equal(revealed, vector)


def test_at_the_safe_threshold_the_same_attack_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Roster, "accept", lambda *_: Parameters.choose(4, 1, 1))
    with pytest.raises(TooFewPartners, match="2 signed the list of survivors, and 3 must"):
        attack(threshold=3)
