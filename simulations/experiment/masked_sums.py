"""The lab's rounds through the real protocol of secure aggregation, in this process.

Organisations and coordinator are the state machines of `shared.secure_aggregation`; every message
goes through its bytes. What the coordinator's app gets as each organisation's answer is an equal
part of the sum over all, since it adds answers up: it sees no single one.

An organisation's answer is put on the grid of its noise, in steps of C / 2^30, as the change of a
training step times its population, which makes it a sum over users again. Its numbers were rounded
to float32 before: they are off by less than a step, or a 2^24th.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message
from numpy.typing import NDArray

from client.site.site import Site
from shared.config import PrivacyConfig
from shared.messages import (
    EVALUATE,
    STATISTICS,
    TRAIN,
    EvaluateReply,
    EvaluateRequest,
    Request,
    StatisticsReply,
    StatisticsRequest,
    TrainReply,
    TrainRequest,
    Weights,
)
from shared.models.moments import STATISTIC_CLIP_NORM
from shared.privacy.distributed_noise import GRID_BITS
from shared.secure_aggregation.coordinator import Coordinator
from shared.secure_aggregation.messages import (
    Aggregation,
    EncryptedShares,
    Invitation,
    KeyAdvertisement,
    KeyList,
    MaskedInput,
    Participant,
    ShareDelivery,
    SurvivorList,
    SurvivorProof,
    SurvivorSignature,
    UnmaskingShares,
)
from shared.secure_aggregation.parameters import Parameters
from shared.secure_aggregation.partner import Partner
from shared.secure_aggregation.roster import Roster
from shared.secure_aggregation.signing import Identity

__all__ = ["SUMMED", "MaskedSums", "masked_sum"]

SUMMED = frozenset({TRAIN, STATISTICS, EVALUATE})
"""Types of the messages whose answers are added up."""
Points = NDArray[np.int64]


class MaskedSums:
    """Replaces organisations' answers by equal parts of their sum.

    Args:
        sites: folders of all that take part, node 1 first.
        privacy: the run's.
    """

    def __init__(self, sites: Sequence[Path], privacy: PrivacyConfig) -> None:
        loaded = [Site.load(site) for site in sites]
        self._populations = {node: site.population for node, site in enumerate(loaded, start=1)}
        self._identities = {
            node: Identity(name=site.organisation, key=ec.generate_private_key(ec.SECP384R1()))
            for node, site in enumerate(loaded, start=1)
        }
        self._parameters = Parameters.choose(
            len(sites), privacy.colluding_of(len(sites)), privacy.dropouts
        )
        self._rounds = 0

    def __call__(self, requests: Sequence[Message], replies: Sequence[Message]) -> list[Message]:
        """Return the replies as the coordinator's app gets them.

        Args:
            requests: of one kind, to different nodes.
            replies: to these requests, in their order; errors stay as they are.

        Raises:
            TooFewPartners: fewer answered than may be in a sum.
        """
        asked = {message.metadata.dst_node_id: message for message in requests}
        answered = {
            node: _arrays(message, reply)
            for (node, message), reply in zip(asked.items(), replies, strict=True)
            if reply.has_content()
        }
        if not answered:
            return list(replies)
        question = _request(requests[0])
        weights = {
            node: self._populations[node] if isinstance(question, TrainRequest) else 1
            for node in answered
        }
        step = _clip_norm(question) / 2.0**GRID_BITS
        vectors = {
            node: np.rint(_vector(arrays) * (weights[node] / step)).astype(np.int64)
            for node, arrays in answered.items()
        }
        self._rounds += 1
        total = masked_sum(
            self._identities,
            self._parameters,
            self._aggregation(question, len(next(iter(vectors.values())))),
            present=list(asked),
            vectors=vectors,
        )
        part = total.astype(np.float64) * (step / sum(weights.values()))
        parts = _like(part, next(iter(answered.values())))
        return [
            _reply(message, parts) if node in answered else reply
            for (node, message), reply in zip(asked.items(), replies, strict=True)
        ]

    def _aggregation(self, question: Request, length: int) -> Aggregation:
        digest = hashlib.sha256(f"{type(question).__name__} {question.round}".encode()).digest()
        return Aggregation(
            federation="lab", run=question.run, round=self._rounds, request=digest, length=length
        )


def masked_sum(
    identities: Mapping[int, Identity],
    parameters: Parameters,
    aggregation: Aggregation,
    *,
    present: Sequence[int],
    vectors: Mapping[int, Points],
) -> Points:
    """Run the whole protocol, and return the sum of the vectors.

    Args:
        identities: of all that are invited.
        parameters: of the round.
        aggregation: what is summed.
        present: those that take part at all.
        vectors: int64 [m] of those that do not drop out before their masked input.

    Raises:
        TooFewPartners: too few take part.
    """
    names = {node: identity.name for node, identity in identities.items()}
    keys = {identity.name: identity.public for identity in identities.values()}
    coordinator = Coordinator(
        Invitation(
            aggregation=aggregation,
            participants=tuple(Participant(name, keys[name]) for name in sorted(keys)),
            threshold=parameters.threshold,
            dropouts=parameters.dropouts,
        )
    )
    partners = {
        node: Partner(identities[node], _roster(names[node], keys, parameters), aggregation)
        for node in present
    }
    asked = coordinator.invitation.to_bytes()
    for node, partner in partners.items():
        keys_sent = partner.advertise(Invitation.from_bytes(asked)).to_bytes()
        coordinator.receive_keys(names[node], KeyAdvertisement.from_bytes(keys_sent))
    asked = coordinator.key_list().to_bytes()
    for node, partner in partners.items():
        shares = partner.share_keys(KeyList.from_bytes(asked)).to_bytes()
        coordinator.receive_shares(names[node], EncryptedShares.from_bytes(shares))
    for node, vector in vectors.items():
        asked = coordinator.delivery(names[node]).to_bytes()
        masked = partners[node].mask(ShareDelivery.from_bytes(asked), vector).to_bytes()
        coordinator.receive_masked(names[node], MaskedInput.from_bytes(masked))
    asked = coordinator.survivors().to_bytes()
    for node in vectors:
        signature = partners[node].sign_survivors(SurvivorList.from_bytes(asked)).to_bytes()
        coordinator.receive_signature(names[node], SurvivorSignature.from_bytes(signature))
    asked = coordinator.proof().to_bytes()
    for node in vectors:
        opened = partners[node].unmask(SurvivorProof.from_bytes(asked)).to_bytes()
        coordinator.receive_unmasking(names[node], UnmaskingShares.from_bytes(opened))
    return coordinator.total().view(np.int64)


def _roster(own: str, keys: Mapping[str, bytes], parameters: Parameters) -> Roster:
    return Roster(
        peers={name: key for name, key in keys.items() if name != own},
        colluding=parameters.colluding,
        fewest=parameters.fewest_survivors,
    )


def _request(message: Message) -> Request:
    kind = message.metadata.message_type
    if kind == TRAIN:
        return TrainRequest.from_content(message.content)
    if kind == EVALUATE:
        return EvaluateRequest.from_content(message.content)
    return StatisticsRequest.from_content(message.content)


def _clip_norm(request: Request) -> float:
    return STATISTIC_CLIP_NORM if isinstance(request, StatisticsRequest) else request.clip_norm


def _arrays(request: Message, reply: Message) -> Weights:
    """Return the arrays of an answer by name."""
    kind = request.metadata.message_type
    if kind == TRAIN:
        return TrainReply.from_content(reply.content).change
    if kind == EVALUATE:
        return {"sums": EvaluateReply.from_content(reply.content).sums}
    return {"total": StatisticsReply.from_content(reply.content).total}


def _reply(request: Message, arrays: Weights) -> Message:
    kind = request.metadata.message_type
    if kind == TRAIN:
        return Message(TrainReply(change=arrays).to_content(), reply_to=request)
    if kind == EVALUATE:
        return Message(EvaluateReply(sums=arrays["sums"]).to_content(), reply_to=request)
    return Message(StatisticsReply(total=arrays["total"]).to_content(), reply_to=request)


def _vector(arrays: Weights) -> NDArray[np.float64]:
    """Return all arrays one after the other, by name."""
    return np.concatenate([arrays[name].ravel() for name in sorted(arrays)]).astype(np.float64)


def _like(vector: NDArray[np.float64], arrays: Weights) -> Weights:
    """Return the inverse of `_vector`, in float32 and the shapes of `arrays`."""
    parts, start = {}, 0
    for name in sorted(arrays):
        value = arrays[name]
        part = vector[start : start + value.size]
        parts[name] = part.reshape(value.shape).astype(np.float32)
        start += value.size
    return {name: parts[name] for name in arrays}
