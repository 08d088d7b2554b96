"""Which organisations take part in a run: looked up again before every attempt at a round.

A new node is asked for its public constants, and takes part from the first round that begins after
its answer; no round waits for it. A node that disconnects is left out until it is back. A new run
begins with `server.organisations`; a resumed run continues with a quorum of them.

What a node declares is checked, and a node that declares something false is declined: that node and
no other. No single node can end a start, or keep another one out.

| what a node declares                                     | with a record of partners | without |
|----------------------------------------------------------|---------------------------|---------|
| the name that its key is on record with                  | takes part                | -       |
| another name                                             | declined                  | -       |
| nothing: its key is not on record                        | declined, and not asked   | -       |
| a name of its own                                        | -                         | takes   |
|                                                          |                           | part    |
| the name of a node that takes part and is connected      | declined                  | declined|
| more users than `server.max_population`, or so many that | declined                  | declined|
| δ is not below 1 / population                            |                           |         |
| another catalogue, or nothing that can be understood     | declined                  | declined|
| the aggregation key of another that takes part           | declined                  | declined|

The requests to an organisation are planned for all rounds of a run. One that joins late or is away
for a while answers fewer of them, and spends less than its planned ε.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from flwr.app import Message
from flwr.serverapp import Grid

from server.rounds.replies import reply_content
from shared.config import RunConfig
from shared.errors import QuorumError, ReplyError, WireError
from shared.messages import DESCRIBE, DescribeReply, DescribeRequest
from shared.secure_aggregation.signing import public_from_text

__all__ = ["Declined", "NamesByNode", "Participants", "Partner"]

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
NamesByNode = Callable[[], Mapping[int, str]]
"""Returns the organisation of each node on record, by Flower's id of the node."""
_MARKUP = str.maketrans("<>[]|`\\", "‹›()/'/")
"""Characters that begin markup, and what a reason shows in their place."""
MAX_REASON = 300
"""Characters of a reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Partner:
    """An organisation and its public constants.

    Attributes:
        node_id: Flower's id of its node.
        organisation: its name.
        population: its declared users.
        connected: whether its node is connected.
        aggregation_key: its public key under secure aggregation, 49 bytes; b"" where its site has
            none. What peers believe of it is their own affair.
    """

    node_id: int
    organisation: str
    population: int
    connected: bool = True
    aggregation_key: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Declined:
    """A node that does not take part.

    Attributes:
        node_id: Flower's id of it.
        organisation: the name that its key is on record with; "" where there is none.
        reason: why, in our own words.
        since: when it was declined, by the monotonic clock.
    """

    node_id: int
    organisation: str
    reason: str
    since: float

    @property
    def label(self) -> str:
        """What to call it: never by a name that it chose itself."""
        return self.organisation or f"node {self.node_id}"


class Participants:
    """The organisations that have taken part since this start of the run.

    Args:
        config: the run's parameters.
        catalogue: fingerprint that a partner's catalogue must have.
        on_change: called with a partner that joins, comes back or leaves.
        on_decline: called with a node that takes no part, once for each reason.
        names: the record of partners; None believes the names that nodes declare, where there is
            no record: in a simulation.
    """

    def __init__(
        self,
        config: RunConfig,
        catalogue: str,
        on_change: Callable[[Partner], None],
        on_decline: Callable[[Declined], None] = lambda _: None,
        names: NamesByNode | None = None,
    ) -> None:
        self._config, self._catalogue = config, catalogue
        self._on_change, self._on_decline, self._names = on_change, on_decline, names
        self._partners: dict[str, Partner] = {}
        self._asked: dict[str, tuple[int, float]] = {}  # by message id: node, when
        self._declined: dict[int, Declined] = {}
        self._last_reasons: dict[int, str] = {}

    def wait_for(self, grid: Grid, count: int) -> list[Partner]:
        """Wait for `count` organisations, and briefly for all other nodes connected by then.

        Raises:
            QuorumError: fewer can take part within `server.deadline_seconds`.
        """
        timeout = self._config.server.deadline_seconds
        now, silent_until = time.monotonic(), float("inf")
        end = now + timeout
        while now <= end:
            waiting = len(self._asked)
            partners = self.look_up(grid)
            connected = sum(partner.connected for partner in partners)
            now = time.monotonic()
            if connected < count:
                silent_until = float("inf")
            else:
                silent_until = min(silent_until, now + SILENT_SECONDS, end)
                if not self._asked or now > silent_until:
                    return partners
            if len(self._asked) >= waiting:  # nothing was heard
                time.sleep(POLL_SECONDS)
        raise QuorumError(
            f"{connected} of {count} organisations can take part after {timeout:g} s "
            f"({self._problems(grid)}): start their nodes and "
            "resume, or start a new run with fewer server.organisations."
        )

    def look_up(self, grid: Grid) -> list[Partner]:
        """Return every organisation, connected or not, by name; never wait."""
        nodes, on_record = set(grid.get_node_ids()), None
        unknown = set[int]()
        if self._names is not None:
            on_record = self._names()
            unknown = nodes - set(on_record)
            nodes -= unknown
            self._declined = {  # one that was put on record since is asked at once
                node: declined
                for node, declined in self._declined.items()
                if declined.organisation == on_record.get(node, "")
            }
        for partner in self._partners.values():
            if partner.connected != (partner.node_id in nodes):
                self._enter(replace(partner, connected=not partner.connected))
        self._ask_new(grid, nodes)
        self._take_answers(grid, on_record)
        for node in sorted(unknown):
            # It is looked up again each time: `accept` records a node after it can connect.
            self._decline(node, "", "its key is not on record: sotto-server invite and accept")
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

    def _take_answers(self, grid: Grid, on_record: Mapping[int, str] | None) -> None:
        replies = grid.pull_messages(sorted(self._asked)) if self._asked else ()
        for reply in replies:
            node, _ = self._asked.pop(reply.metadata.reply_to_message_id, (None, 0))
            if node is None:
                continue
            self._asked = {n: asked for n, asked in self._asked.items() if asked[0] != node}
            name = on_record[node] if on_record is not None else None
            try:
                described = DescribeReply.from_content(reply_content(reply))
                self._check(described, node, name)
            except (ReplyError, WireError) as error:
                self._decline(node, name or "", str(error))
                continue
            self._enter(
                Partner(
                    node_id=node,
                    organisation=described.organisation,
                    population=described.population,
                    aggregation_key=_key(described),
                )
            )

    def _check(self, described: DescribeReply, node: int, name: str | None) -> None:
        """Refuse a description that cannot be true, or does not fit the run.

        Args:
            described: what the node declares.
            node: its id.
            name: that its key is on record with; None without a record.

        Raises:
            WireError: with the reason, in our own words.
        """
        declared = described.organisation
        if name is not None and declared != name:
            raise WireError(
                f"the node of '{name}' calls itself '{declared}': its site.toml must have "
                "organisation as it is on record"
            )
        namesake = self._partners.get(declared)
        if namesake is not None and namesake.connected and namesake.node_id != node:
            raise WireError(
                f"two nodes call themselves '{declared}': the first takes part; give each its own "
                "name"
            )
        if described.catalogue != self._catalogue:
            raise WireError(f"{declared} holds another version of the catalogue")
        self._check_population(described.population, declared)
        self._check_aggregation_key(_key(described), declared)

    def _check_aggregation_key(self, key: bytes, name: str) -> None:
        for other in self._partners.values():
            if key and other.aggregation_key == key and other.organisation != name:
                raise WireError(
                    f"{name} has the aggregation key of {other.organisation}: a copy of its site's "
                    "folder? Each site makes its own: sotto-node peers key"
                )

    def _check_population(self, population: int, name: str) -> None:
        limit, privacy = self._config.server.max_population, self._config.privacy
        if population > limit:
            raise WireError(
                f"{name} declares {population:,} users; server.max_population is {limit:,}"
            )
        if privacy.private and privacy.delta >= 1 / population:
            raise WireError(
                f"privacy.delta = {privacy.delta:g} is not below 1 / {population}, the population "
                f"of {name}: at such a δ a mechanism may publish a user outright. If its "
                f"population is true, choose a δ below {1 / population:.2g}"
            )

    def _enter(self, partner: Partner) -> None:
        self._partners[partner.organisation] = partner
        self._declined.pop(partner.node_id, None)
        self._last_reasons.pop(partner.node_id, None)
        self._on_change(partner)

    def _decline(self, node: int, name: str, reason: str) -> None:
        declined = Declined(
            node_id=node, organisation=name, reason=_plain(reason), since=time.monotonic()
        )
        self._declined[node] = declined
        if self._last_reasons.get(node) != reason:  # a node is asked again and again
            self._last_reasons[node] = reason
            self._on_decline(declined)

    def _problems(self, grid: Grid) -> str:
        reasons = [declined.reason for declined in self._declined.values()]
        if self._asked:
            silent = {node for node, _ in self._asked.values()}
            reasons.append(f"{len(silent)} did not say who they are")
        return "; ".join(reasons) or f"{len(list(grid.get_node_ids()))} nodes are connected"


def _key(described: DescribeReply) -> bytes:
    text = described.aggregation_key
    return public_from_text(text) if text else b""


def _plain(text: str) -> str:
    """Return a reason without markup: a node chose a part of it, and it is shown in many places."""
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return printable.translate(_MARKUP)[:MAX_REASON]
