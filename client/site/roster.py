"""Which organisations a partner believes to be independent: the [roster] table of site.toml.

A coordinator may invent partners, and say what it likes about the others. So who the others are is
the partner's own knowledge, and stands here: from it follows how many honest shares of noise a sum
holds.

| [roster] has                 | under secure aggregation                                        |
|------------------------------|-----------------------------------------------------------------|
| nothing                      | no request is answered                                          |
| `peers`                      | they count, with this site; `organisations` follows from them   |
| too few `peers`              | no request is answered; `problem` says what would do            |
| `organisations` alone        | counts as many, whoever they are: in the lab, without masks     |
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import BeforeValidator

from shared.errors import ConfigError, SecureAggregationError
from shared.sections import NonNegativeInt, PositiveInt, Unchecked, is_name, section
from shared.secure_aggregation.parameters import default_colluding
from shared.secure_aggregation.signing import public_from_text, public_to_text

__all__ = ["PEERS", "Peers", "Roster", "is_same_name"]

PEERS = "peers"
"""Key of the table of names and keys within [roster]."""
_UNSTATED = 0


class Peers(Mapping[str, bytes]):
    """Public keys of other organisations by name; immutable.

    Args:
        keys: 49 bytes each, see `shared.secure_aggregation.signing`.

    Raises:
        ConfigError: a name cannot be one, or a name or key stands there twice.
    """

    def __init__(self, keys: Mapping[str, bytes] | None = None) -> None:
        self._keys: dict[str, bytes] = {}
        for name, key in (keys or {}).items():
            self._check_new(name, key)
            self._keys[name] = key

    def _check_new(self, name: str, key: bytes) -> None:
        if not is_name(name) or name != name.strip():
            raise ConfigError(
                f"roster.peers: {name!r} is no name of an organisation. Give the name that it "
                "states itself, in printable characters."
            )
        for other, held in self._keys.items():
            if is_same_name(name, other):
                raise ConfigError(
                    f"roster.peers: '{other}' and '{name}' are one name in two spellings. Keep "
                    "one of them."
                )
            if held == key:
                raise ConfigError(
                    f"roster.peers: '{other}' and '{name}' have the same key, so they would be "
                    "one organisation. Ask both for theirs, and compare the fingerprints."
                )

    def joined(self, name: str, key: bytes) -> Peers:
        """Return them with one more.

        Raises:
            ConfigError: the name cannot be one, or name or key is here already.
        """
        self._check_new(name, key)
        return Peers({**self, name: key})

    def __getitem__(self, name: str) -> bytes:
        """Return the key of an organisation."""
        return self._keys[name]

    def __iter__(self) -> Iterator[str]:
        """Yield the names in the order of the file."""
        return iter(self._keys)

    def __len__(self) -> int:
        """Return how many there are, without this site."""
        return len(self._keys)

    def __hash__(self) -> int:
        """Return the same for the same names and keys in any order."""
        return hash(frozenset(self._keys.items()))

    def __repr__(self) -> str:
        """Return the names with their keys as text."""
        return f"Peers({ {name: public_to_text(key) for name, key in self.items()} })"


def is_same_name(one: str, other: str) -> bool:
    """Return whether two names are the same but for case, width and spaces.

    >>> is_same_name("Alpha Books", "alpha  books")
    True
    """
    return _folded(one) == _folded(other)


def _folded(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _read_peers(value: object) -> Peers:
    """Return peers given as such, as a mapping of base64 keys, or as JSON of one."""
    if isinstance(value, Peers):
        return value
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, Mapping):
        raise ConfigError(
            "roster.peers does not fit: it takes a table of names and keys, as `sotto-node peers "
            "add` writes it."
        )
    return Peers({str(name): _read_key(str(name), key) for name, key in value.items()})


def _read_key(name: str, key: object) -> bytes:
    if isinstance(key, bytes):
        key = public_to_text(key)
    try:
        return public_from_text(key if isinstance(key, str) else "")
    except SecureAggregationError:
        raise ConfigError(
            f"roster.peers.{name} = {key!r:.80}: not an aggregation key, which is a point on P-384 "
            "as 68 characters of base64. Add it with: sotto-node peers add"
        ) from None


@section("roster")
class Roster:
    """How many organisations' noise a partner counts on under secure aggregation, and whose.

    Attributes:
        organisations: how many it knows to be independent of the coordinator, itself included; it
            follows from `peers`, and stands in the file only where these do not.
        colluding: how many of them may collude with the coordinator all the same, >= 0; where it
            is not stated a third of them, rounded down, at least 1.
        fewest: how many of them are in every sum, >= 2 + `colluding`; where it is not stated, all.
        peers: the others' aggregation keys by name. Empty in the lab, and with local trust.

    Raises:
        ConfigError: the numbers do not fit together.
    """

    organisations: PositiveInt = _UNSTATED
    colluding: NonNegativeInt = -1
    fewest: PositiveInt = _UNSTATED
    peers: Annotated[Peers, Unchecked, BeforeValidator(_read_peers)] = Peers()

    def __post_init__(self) -> None:
        named = 1 + len(self.peers)
        if self.peers and self.organisations not in (_UNSTATED, named):
            raise ConfigError(
                f"roster.organisations = {self.organisations}: [roster.peers] names "
                f"{len(self.peers)}, so with this site it is {named}. Leave it out: it follows "
                "from the names."
            )
        count = self.organisations or named
        self._derive("organisations", count)
        if self.colluding < 0:
            self._derive("colluding", default_colluding(count))
        if self.fewest == _UNSTATED:
            self._derive("fewest", count)
        if count == 1:
            return
        least = 2 + self.colluding
        # Peers are added one after the other: too few of them is a problem, and no error.
        if not self.peers and not least <= self.fewest <= count:
            raise ConfigError(
                f"roster.fewest = {self.fewest}: choose a number from 2 + roster.colluding = "
                f"{least} to roster.organisations = {count}: with fewer, "
                "a sum could hold one honest organisation's answer alone."
            )

    def _derive(self, name: str, value: int) -> None:
        object.__setattr__(self, name, value)

    @property
    def problem(self) -> str:
        """Why no request is answered under secure aggregation, with the remedy; "" if one is."""
        count, colluding, fewest = self.organisations, self.colluding, self.fewest
        if count == 1:
            return "[roster] names no other organisation: sotto-node peers add"
        if count < 3 + colluding:
            fewer = f", or state roster.colluding = {count - 3}" if count > 3 else ""
            return (
                f"[roster] has {count} organisations with this site, and roster.colluding = "
                f"{colluding} of them may collude: a sum could hold one honest organisation's "
                f"answer alone. Add peers until there are {3 + colluding}{fewer}"
            )
        if not 2 + colluding <= fewest <= count:
            return (
                f"roster.fewest = {fewest}: choose a number from 2 + roster.colluding = "
                f"{2 + colluding} to {count}, the organisations of the roster with this site"
            )
        return ""

    @property
    def honest_shares(self) -> int:
        """How many honest organisations' shares of noise are in every sum; 0 without a roster."""
        return 0 if self.problem else self.fewest - self.colluding
