"""Time, bytes and memory of secure aggregation, for a partner and for the coordinator.

    python -m simulations.benchmarks.secure_aggregation [--organisations 3 8 20 50 100]
        [--numbers 200000 1000000 10000000] [--dropped 0] [--partners 3] [--json]

Every organisation is in this process, and one thread does all. A partner's seconds are the mean of
the first `--partners` of them; the others' masks are left out, which changes neither the
coordinator's work nor what is sent. Where all mask, the sum is checked. Seconds are CPU seconds of
a whole round, with encoding and decoding. Memory is the most that Python and numpy allocate within
one step, without what is there before it: the vector, and the coordinator's sum of as many numbers.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from numpy.typing import NDArray

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
    }


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
        f"coordinator {row['coordinator_seconds']:6.2f} s {row['coordinator_megabytes']:7.1f} MB  "
        f"sent {row['partner_bytes_sent'] / 1e6:6.2f} MB = {row['times_float32']:.3f} x float32\n"
    )


def _federation(
    parameters: Parameters, numbers: int, measured: int
) -> tuple[Invitation, dict[str, Partner]]:
    names = [f"organisation {index:03}" for index in range(parameters.organisations)]
    identities = {
        name: Identity(name=name, key=ec.generate_private_key(ec.SECP384R1())) for name in names
    }
    aggregation = Aggregation(
        federation="benchmark", run="run", round=1, request=bytes(32), length=numbers
    )
    invitation = Invitation(
        aggregation=aggregation,
        participants=tuple(Participant(name, identities[name].public) for name in names),
        threshold=parameters.threshold,
        dropouts=parameters.dropouts,
    )
    keys = {name: identity.public for name, identity in identities.items()}
    partners = {
        name: (Partner if index < measured else WithoutMasks)(
            identity,
            Roster(
                peers={other: key for other, key in keys.items() if other != name},
                colluding=parameters.colluding,
                fewest=2 + parameters.colluding,
            ),
            aggregation,
        )
        for index, (name, identity) in enumerate(identities.items())
    }
    return invitation, partners


if __name__ == "__main__":
    main()
