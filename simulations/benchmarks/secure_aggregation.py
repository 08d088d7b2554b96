"""Time, bytes and memory of secure aggregation, for a partner and for the coordinator.

    python -m simulations.benchmarks.secure_aggregation [--organisations 3 8 20 50 100]
        [--numbers 200000 1000000 10000000] [--dropped 0] [--partners 3] [--json]

Every organisation is in this process, and one thread does all. A partner's seconds are the mean of
the first `--partners` of them; the others' masks are left out, which changes neither the
coordinator's work nor what is sent. Where all mask, the sum is checked. Seconds are CPU seconds of
a whole round, with encoding and decoding. Memory is the most that Python and numpy allocate within
one step, without what is there before it: the vector, and the coordinator's sum of as many numbers.

The coordinator's process is measured by itself: the most that it allocates in one attempt, with its
driver, its sum, and the messages that come one after the other (`server.rounds.secure_collection`).
What Flower's connection holds of a message that is under way is not in it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Context, Message, RecordDict
from numpy.typing import NDArray

from server.rounds.collection import CollectionSpec, Memory, SumSpec
from server.rounds.grid import PatientGrid
from server.rounds.participants import Partner as Known
from server.rounds.secure_collection import SecureCollection
from server.state.attempts import Attempts
from shared.config import ModelConfig, PrivacyConfig, RunConfig, ServerConfig, Trust
from shared.messages import AggregateReply, AggregateRequest, Statistic, StatisticsRequest
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
from shared.secure_aggregation.parameters import Parameters, default_colluding
from shared.secure_aggregation.partner import Partner
from shared.secure_aggregation.roster import Roster
from shared.secure_aggregation.signing import Identity
from simulations.experiment.federation import InProcessGrid, WrappedApp

P = ParamSpec("P")
T = TypeVar("T")
PLAIN = 4
"""Bytes of a number that is sent as float32."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--organisations", type=int, nargs="+", default=[3, 8, 20, 50, 100])
    parser.add_argument("--numbers", type=int, nargs="+", default=[200_000, 1_000_000, 10_000_000])
    parser.add_argument("--dropped", type=int, default=0)
    parser.add_argument("--partners", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for organisations in options.organisations:
        for numbers in options.numbers:
            row = measure(organisations, numbers, options.dropped, options.partners)
            sys.stdout.write(json.dumps(row) + "\n" if options.json else _line(row))
            sys.stdout.flush()


@dataclass
class Cost:
    """CPU seconds, bytes sent and most memory of one side."""

    seconds: float = 0.0
    sent: int = 0
    memory: int = 0

    def run(self, action: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
        """Do something and add what it took; bytes that it returns are sent."""
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        started = time.process_time()
        result = action(*given, **named)
        self.seconds += time.process_time() - started
        self.memory = max(self.memory, tracemalloc.get_traced_memory()[1] - before)
        self.sent += len(result) if isinstance(result, bytes) else 0
        return result


class WithoutMasks(Partner):
    """A partner that is not measured: it sends its vector as it is, and masks of others stay."""

    def _masked(self, delivery: ShareDelivery, values: NDArray[np.integer]) -> MaskedInput:
        return MaskedInput(session=self._session, sender=self._index, values=values.view(np.uint64))


def measure(organisations: int, numbers: int, dropped: int, measured: int) -> dict[str, float]:
    """Return what one round costs.

    Args:
        organisations: how many take part.
        numbers: how many each adds.
        dropped: how many drop out before their masked input.
        measured: how many partners are timed and really mask.
    """
    colluding = default_colluding(organisations) if organisations > 3 else 0
    parameters = Parameters.choose(organisations, colluding, dropped)
    invitation, partners = _federation(parameters, numbers, measured)
    everybody, survivors = list(partners), list(partners)[: organisations - dropped]
    vector = np.random.default_rng(0).integers(-(2**40), 2**40, numbers)
    costs = {name: Cost() for name in everybody}
    coordinator = Cost()

    tracemalloc.start()
    machine = coordinator.run(Coordinator, invitation)
    asked = coordinator.run(invitation.to_bytes)
    for name in everybody:
        answer = costs[name].run(_advertise, partners[name], asked)
        coordinator.run(_take, machine.receive_keys, KeyAdvertisement, name, answer)
    asked = coordinator.run(lambda: machine.key_list().to_bytes())
    for name in everybody:
        answer = costs[name].run(_share, partners[name], asked)
        coordinator.run(_take, machine.receive_shares, EncryptedShares, name, answer)
    for name in survivors:
        asked = coordinator.run(lambda to: machine.delivery(to).to_bytes(), name)
        answer = costs[name].run(_mask, partners[name], asked, vector)
        coordinator.run(_take, machine.receive_masked, MaskedInput, name, answer)
    asked = coordinator.run(lambda: machine.survivors().to_bytes())
    for name in survivors:
        answer = costs[name].run(_sign, partners[name], asked)
        coordinator.run(_take, machine.receive_signature, SurvivorSignature, name, answer)
    asked = coordinator.run(lambda: machine.proof().to_bytes())
    for name in survivors:
        answer = costs[name].run(_unmask, partners[name], asked)
        coordinator.run(_take, machine.receive_unmasking, UnmaskingShares, name, answer)
    total = coordinator.run(machine.total)
    tracemalloc.stop()
    if measured >= len(survivors) and not np.array_equal(
        total.view(np.int64), len(survivors) * vector
    ):
        raise SystemExit("the sum is wrong")
    real = [costs[name] for name in survivors[:measured]]
    process = measure_process(parameters, numbers)
    return {
        "organisations": organisations,
        "numbers": numbers,
        "dropped": dropped,
        "partner_seconds": sum(cost.seconds for cost in real) / len(real),
        "coordinator_seconds": coordinator.seconds,
        "partner_bytes_sent": real[0].sent,
        "times_float32": real[0].sent / (PLAIN * numbers),
        "partner_megabytes": max(cost.memory for cost in real) / 1e6,
        "coordinator_megabytes": coordinator.memory / 1e6,
        "process_megabytes": process / 1e6,
    }


def measure_process(parameters: Parameters, numbers: int) -> int:
    """Return the most bytes that the coordinator's driver allocates in one attempt at a sum.

    One partner's answer, which is made in the same process, is in it.
    """
    members, vector = _members(parameters), np.ones(numbers, np.int64)
    machines: dict[int, Partner] = {}
    known = [
        Known(node_id=number, organisation=name, population=1, aggregation_key=identity.public)
        for number, (name, (identity, _)) in enumerate(members.items(), start=1)
    ]

    def answer(message: Message, context: Context) -> Message:
        asked, node = AggregateRequest.from_content(message.content), context.node_id
        if asked.step == 1:
            aggregation = Invitation.from_bytes(asked.message).aggregation
            member = members[known[node - 1].organisation]
            machines[node] = WithoutMasks(*member, aggregation)
        steps = (_advertise, _share, partial(_mask, vector=vector), _sign, _unmask)
        reply = AggregateReply(message=steps[asked.step - 1](machines[node], asked.message))
        return Message(reply.to_content(), reply_to=message)

    request = StatisticsRequest(
        run="run",
        round=1,
        catalogue="benchmark",
        model=ModelConfig(),
        noise_multiplier=1.0,
        statistic=Statistic.MOMENT,
        fade=0.0,
        trust=Trust.SECURE_AGGREGATION,
    )
    spec: CollectionSpec[int] = CollectionSpec(
        name="the benchmark",
        round=0,
        kind="",
        content=RecordDict(),
        check=lambda *_: 0,
        sum=SumSpec(request=request, length=numbers, part=lambda points, _: int(points[0])),
    )
    config = RunConfig(
        privacy=PrivacyConfig(
            epsilon=1.0,
            delta=1e-5,
            trust=Trust.SECURE_AGGREGATION,
            colluding=parameters.colluding,
            dropouts=parameters.dropouts,
        ),
        server=ServerConfig(organisations=len(known), quorum=1.0, retries=0),
    )
    grid = PatientGrid(InProcessGrid(WrappedApp(answer), [Path()] * len(known)))
    with tempfile.TemporaryDirectory() as folder:
        collection = SecureCollection(spec, config, Memory(), Attempts(Path(folder), "run"))
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        collection.collect(grid, lambda _: known, lambda _: None)
        peak = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
    return peak


def _take(receive: Any, form: Any, sender: str, data: bytes) -> None:  # noqa: ANN401
    receive(sender, form.from_bytes(data))


def _advertise(partner: Partner, data: bytes) -> bytes:
    return partner.advertise(Invitation.from_bytes(data)).to_bytes()


def _share(partner: Partner, data: bytes) -> bytes:
    return partner.share_keys(KeyList.from_bytes(data)).to_bytes()


def _mask(partner: Partner, data: bytes, vector: NDArray[np.int64]) -> bytes:
    return partner.mask(ShareDelivery.from_bytes(data), vector).to_bytes()


def _sign(partner: Partner, data: bytes) -> bytes:
    return partner.sign_survivors(SurvivorList.from_bytes(data)).to_bytes()


def _unmask(partner: Partner, data: bytes) -> bytes:
    return partner.unmask(SurvivorProof.from_bytes(data)).to_bytes()


def _line(row: dict[str, float]) -> str:
    return (
        f"{row['organisations']:4.0f} organisations {row['numbers']:9.0f} numbers  "
        f"partner {row['partner_seconds']:6.2f} s {row['partner_megabytes']:7.1f} MB  "
        f"coordinator {row['coordinator_seconds']:6.2f} s {row['coordinator_megabytes']:7.1f} MB, "
        f"its process {row['process_megabytes']:7.1f} MB  "
        f"sent {row['partner_bytes_sent'] / 1e6:6.2f} MB = {row['times_float32']:.3f} x float32\n"
    )


def _members(parameters: Parameters) -> dict[str, tuple[Identity, Roster]]:
    """Return organisations that know each other, by name."""
    names = [f"organisation {index:03}" for index in range(parameters.organisations)]
    identities = {
        name: Identity(name=name, key=ec.generate_private_key(ec.SECP384R1())) for name in names
    }
    keys = {name: identity.public for name, identity in identities.items()}
    return {
        name: (
            identity,
            Roster(
                peers={other: key for other, key in keys.items() if other != name},
                colluding=parameters.colluding,
                fewest=2 + parameters.colluding,
            ),
        )
        for name, identity in identities.items()
    }


def _federation(
    parameters: Parameters, numbers: int, measured: int
) -> tuple[Invitation, dict[str, Partner]]:
    members = _members(parameters)
    aggregation = Aggregation(
        federation="benchmark", run="run", round=1, request=bytes(32), length=numbers
    )
    invitation = Invitation(
        aggregation=aggregation,
        participants=tuple(
            Participant(name, identity.public) for name, (identity, _) in members.items()
        ),
        threshold=parameters.threshold,
        dropouts=parameters.dropouts,
    )
    partners = {
        name: (Partner if index < measured else WithoutMasks)(*member, aggregation)
        for index, (name, member) in enumerate(members.items())
    }
    return invitation, partners


if __name__ == "__main__":
    main()
