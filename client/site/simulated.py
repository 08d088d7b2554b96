"""How the lab marks its own sites and nodes: only there may noise be seeded."""

from __future__ import annotations

from collections.abc import Mapping

from shared.sections import NonNegativeInt, Value, section

__all__ = ["SIMULATED", "LabSeed", "simulated_node"]

SIMULATED = "simulated"
"""Key of the node config, the partner's own, with which the lab marks its nodes."""


@section("lab")
class LabSeed:
    """Marks a simulated site: its noise repeats itself, so it protects nobody.

    Attributes:
        seed: the run's seed, or -1 for noise from the operating system.
        stream: tells this site's stream from the others', >= 0.
        simulated: whether its users are simulated, also where its noise is not seeded: many runs
            simulate the same user base, each with a ledger of its own.
    """

    seed: int = -1
    stream: NonNegativeInt = 0
    simulated: bool = False


def simulated_node(node_config: Mapping[str, Value]) -> bool:
    """Return whether Flower's simulation or the lab started this node, by its node config."""
    return bool({"partition-id", SIMULATED} & set(node_config))
