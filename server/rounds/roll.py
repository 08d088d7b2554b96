"""Who takes part: looked up again before every attempt at a round.

A node that is new is asked for its public constants, and takes part from the first round that
begins after its answer: nobody waits for it. A node that is gone is left out until it is back. A
new run begins with `server.organisations`; one that is resumed goes on with a quorum of them.
What a run asks of an organisation is planned for all its rounds, so one that joins late, or is
away for a while, answers fewer requests than its ε was planned for, and spends less than that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from flwr.app import Message
from flwr.serverapp import Grid

from server.rounds.replies import checked_content
from shared.config import RunConfig
from shared.errors import ConfigError, QuorumError, ReplyError, WireError
from shared.messages import DESCRIBE, DescribeReply, DescribeRequest

__all__ = ["Partner", "Roll"]

log = logging.getLogger("sotto.server")
ASK_AGAIN = 60.0
"""Seconds until a node that could not take part is asked again."""
REMIND = 20.0
"""Seconds until a node that has said nothing is asked again; either answer will do."""
LOOK_AGAIN = 0.2
"""Seconds between two looks for nodes before the first round."""
LAST_CALL = 30.0
"""Seconds that a start with enough organisations waits for nodes that have said nothing: one that
was killed counts as connected until its lease ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Partner:
    """An organisation and its public constants.

    Attributes:
        node_id: Flower's id of its node.
        organisation: its name.
        population: its declared users.
        connected: whether its node is there.
    """

    node_id: int
    organisation: str
    population: int
    connected: bool = True


@dataclass(frozen=True, slots=True)
class _Declined:
    """Why a node does not take part, and since when (of the monotonic clock)."""

    reason: str
    at: float


class Roll:
    """The organisations that have ever taken part in this start of the run.

    Args:
        config: the run's parameters.
        catalogue: fingerprint that a partner's catalogue must have.
        on_change: told of a partner that joins, comes back or leaves.
    """

    def __init__(
        self, config: RunConfig, catalogue: str, on_change: Callable[[Partner], None]
    ) -> None:
        self._config, self._catalogue, self._on_change = config, catalogue, on_change
        self._known: dict[str, Partner] = {}
        self._asked: dict[str, tuple[int, float]] = {}
        self._declined: dict[int, _Declined] = {}

    def gather(self, grid: Grid, wanted: int) -> list[Partner]:
        """Waits for so many organisations, and a little for all others that are connected by then.

        Raises:
            ConfigError: two nodes go by one name, or δ is not below 1 / population at some partner.
            QuorumError: too few can take part before `server.deadline_seconds` are over.
        """
        deadline = self._config.server.deadline_seconds
        now, last_call = time.monotonic(), float("inf")
        end = now + deadline
        while now <= end:
            partners = self._look_up(grid, strictly=True)
            here = sum(partner.connected for partner in partners)
            now = time.monotonic()
            last_call = min(last_call, now + LAST_CALL, end) if here >= wanted else float("inf")
            if here >= wanted and (not self._asked or now > last_call):
                return partners
            time.sleep(LOOK_AGAIN)
        raise QuorumError(
            f"{here} of {wanted} organisations can take part after {deadline:g} s "
            f"({self._problems(grid)}): start their nodes, or lower server.organisations."
        )

    def look_up(self, grid: Grid) -> list[Partner]:
        """Every organisation, whether it is connected now or not, by name; never waits."""
        return self._look_up(grid, strictly=False)

    def _look_up(self, grid: Grid, *, strictly: bool) -> list[Partner]:
        nodes = set(grid.get_node_ids())
        for name, partner in self._known.items():
            if partner.connected != (partner.node_id in nodes):
                self._enter(replace(partner, connected=not partner.connected), name)
        self._greet(grid, nodes)
        self._hear(grid, strictly=strictly)
        # A fixed order: floating-point sums depend on it, arrival does not repeat itself.
        return [self._known[name] for name in sorted(self._known)]

    def _greet(self, grid: Grid, nodes: set[int]) -> None:
        now = time.monotonic()
        self._asked = {n: asked for n, asked in self._asked.items() if asked[0] in nodes}
        self._declined = {
            node: declined
            for node, declined in self._declined.items()
            if node in nodes and now - declined.at < ASK_AGAIN
        }
        met = {partner.node_id for partner in self._known.values()}
        lately = {node for node, at in self._asked.values() if now - at < REMIND}
        new = nodes - met - set(self._declined) - lately
        content = DescribeRequest().to_content()
        messages = [Message(content, node, DESCRIBE) for node in sorted(new)]
        for message, number in zip(messages, grid.push_messages(messages), strict=False):
            if number:
                self._asked[number] = (message.metadata.dst_node_id, now)

    def _hear(self, grid: Grid, *, strictly: bool) -> None:
        replies = grid.pull_messages(sorted(self._asked)) if self._asked else ()
        for reply in replies:
            node, _ = self._asked.pop(reply.metadata.reply_to_message_id, (None, 0))
            if node is None:
                continue
            self._asked = {n: asked for n, asked in self._asked.items() if asked[0] != node}
            try:
                self._admit(_described(reply, node, self._catalogue))
            except (ReplyError, WireError) as error:
                self._decline(node, str(error))
            except ConfigError as error:
                if strictly:
                    raise
                self._decline(node, str(error))

    def _admit(self, partner: Partner) -> None:
        name, same = partner.organisation, self._known.get(partner.organisation)
        if same is not None and same.connected:
            raise ConfigError(f"two nodes call themselves '{name}': give each its own name.")
        privacy = self._config.privacy
        if privacy.private and privacy.delta >= 1 / partner.population:
            raise ConfigError(
                f"privacy.delta = {privacy.delta:g} is not below 1 / {partner.population}, "
                f"the population of {name}: at such a δ a mechanism may publish a user outright. "
                f"Choose one below {1 / partner.population:.2g}."
            )
        self._enter(partner, name)

    def _enter(self, partner: Partner, name: str) -> None:
        self._known[name] = partner
        self._on_change(partner)

    def _decline(self, node: int, reason: str) -> None:
        self._declined[node] = _Declined(reason, time.monotonic())
        log.warning("an organisation cannot take part: %s", reason)

    def _problems(self, grid: Grid) -> str:
        reasons = [declined.reason for declined in self._declined.values()]
        if self._asked:
            silent = {node for node, _ in self._asked.values()}
            reasons.append(f"{len(silent)} did not say who they are")
        return "; ".join(reasons) or f"{len(list(grid.get_node_ids()))} nodes are connected"


def _described(reply: Message, node: int, catalogue: str) -> Partner:
    described = DescribeReply.from_content(checked_content(reply))
    if described.catalogue != catalogue:
        raise WireError(f"{described.organisation} holds another version of the catalogue")
    return Partner(
        node_id=node, organisation=described.organisation, population=described.population
    )
