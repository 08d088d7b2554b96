"""Which organisations take part in a run: looked up again before every attempt at a round.

A new node is asked for its public constants, and takes part from the first round that begins after
its answer; no round waits for it. A node that disconnects is left out until it is back. A new run
begins with `server.organisations`; a resumed run continues with a quorum of them.

The requests to an organisation are planned for all rounds of a run. One that joins late or is away
for a while answers fewer of them, and spends less than its planned ε.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from flwr.app import Message
from flwr.serverapp import Grid

from server.rounds.replies import reply_content
from shared.config import RunConfig
from shared.errors import ConfigError, QuorumError, ReplyError, WireError
from shared.messages import DESCRIBE, DescribeReply, DescribeRequest

__all__ = ["Participants", "Partner"]

log = logging.getLogger("sotto.server")
DECLINED_SECONDS = 60.0
"""After these, a node that could not take part is asked again."""
REMINDER_SECONDS = 20.0
"""After these, a node that has not answered is asked again; either answer counts."""
POLL_SECONDS = 0.2
"""Between two looks for nodes before the first round."""
SILENT_SECONDS = 30.0
"""How long a start with enough organisations waits for nodes that have not answered: one that was
killed counts as connected until its lease ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Partner:
    """An organisation and its public constants.

    Attributes:
        node_id: Flower's id of its node.
        organisation: its name.
        population: its declared users.
        connected: whether its node is connected.
    """

    node_id: int
    organisation: str
    population: int
    connected: bool = True


@dataclass(frozen=True, slots=True)
class _Declined:
    """Why a node does not take part, and since when (monotonic clock)."""

    reason: str
    since: float


class Participants:
    """The organisations that have taken part since this start of the run.

    Args:
        config: the run's parameters.
        catalogue: fingerprint that a partner's catalogue must have.
        on_change: called with a partner that joins, comes back or leaves.
    """

    def __init__(
        self, config: RunConfig, catalogue: str, on_change: Callable[[Partner], None]
    ) -> None:
        self._config, self._catalogue, self._on_change = config, catalogue, on_change
        self._partners: dict[str, Partner] = {}
        self._asked: dict[str, tuple[int, float]] = {}  # by message id: node, when
        self._declined: dict[int, _Declined] = {}

    def wait_for(self, grid: Grid, count: int) -> list[Partner]:
        """Wait for `count` organisations, and briefly for all other nodes connected by then.

        Raises:
            ConfigError: two nodes have one name, or δ is not below 1 / population at some partner.
            QuorumError: fewer can take part within `server.deadline_seconds`.
        """
        timeout = self._config.server.deadline_seconds
        now, silent_until = time.monotonic(), float("inf")
        end = now + timeout
        while now <= end:
            partners = self._refresh(grid, strictly=True)
            connected = sum(partner.connected for partner in partners)
            now = time.monotonic()
            if connected < count:
                silent_until = float("inf")
            else:
                silent_until = min(silent_until, now + SILENT_SECONDS, end)
                if not self._asked or now > silent_until:
                    return partners
            time.sleep(POLL_SECONDS)
        raise QuorumError(
            f"{connected} of {count} organisations can take part after {timeout:g} s "
            f"({self._problems(grid)}): start their nodes, or lower server.organisations."
        )

    def look_up(self, grid: Grid) -> list[Partner]:
        """Return every organisation, connected or not, by name; never wait."""
        return self._refresh(grid, strictly=False)

    def _refresh(self, grid: Grid, *, strictly: bool) -> list[Partner]:
        nodes = set(grid.get_node_ids())
        for partner in self._partners.values():
            if partner.connected != (partner.node_id in nodes):
                self._enter(replace(partner, connected=not partner.connected))
        self._ask_new(grid, nodes)
        self._take_answers(grid, strictly=strictly)
        # A fixed order: floating-point sums depend on it, and the order of arrival varies.
        return [self._partners[name] for name in sorted(self._partners)]

    def _ask_new(self, grid: Grid, nodes: set[int]) -> None:
        now = time.monotonic()
        self._asked = {n: asked for n, asked in self._asked.items() if asked[0] in nodes}
        self._declined = {
            node: declined
            for node, declined in self._declined.items()
            if node in nodes and now - declined.since < DECLINED_SECONDS
        }
        entered = {partner.node_id for partner in self._partners.values()}
        waiting = {node for node, at in self._asked.values() if now - at < REMINDER_SECONDS}
        new = nodes - entered - set(self._declined) - waiting
        content = DescribeRequest().to_content()
        messages = [Message(content, node, DESCRIBE) for node in sorted(new)]
        for message, number in zip(messages, grid.push_messages(messages), strict=False):
            if number:
                self._asked[number] = (message.metadata.dst_node_id, now)

    def _take_answers(self, grid: Grid, *, strictly: bool) -> None:
        replies = grid.pull_messages(sorted(self._asked)) if self._asked else ()
        for reply in replies:
            node, _ = self._asked.pop(reply.metadata.reply_to_message_id, (None, 0))
            if node is None:
                continue
            self._asked = {n: asked for n, asked in self._asked.items() if asked[0] != node}
            try:
                self._admit(_partner_from(reply, node, self._catalogue))
            except (ReplyError, WireError) as error:
                self._decline(node, str(error))
            except ConfigError as error:
                if strictly:
                    raise
                self._decline(node, str(error))

    def _admit(self, partner: Partner) -> None:
        name, namesake = partner.organisation, self._partners.get(partner.organisation)
        if namesake is not None and namesake.connected:
            raise ConfigError(f"two nodes call themselves '{name}': give each its own name.")
        privacy = self._config.privacy
        if privacy.private and privacy.delta >= 1 / partner.population:
            raise ConfigError(
                f"privacy.delta = {privacy.delta:g} is not below 1 / {partner.population}, "
                f"the population of {name}: at such a δ a mechanism may publish a user outright. "
                f"Choose one below {1 / partner.population:.2g}."
            )
        self._enter(partner)

    def _enter(self, partner: Partner) -> None:
        self._partners[partner.organisation] = partner
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


def _partner_from(reply: Message, node: int, catalogue: str) -> Partner:
    described = DescribeReply.from_content(reply_content(reply))
    if described.catalogue != catalogue:
        raise WireError(f"{described.organisation} holds another version of the catalogue")
    return Partner(
        node_id=node, organisation=described.organisation, population=described.population
    )
