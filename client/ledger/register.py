"""The register of user bases: which ledger holds the budget of which users on this machine.

A second ledger of the same users would forget what the first has spent. The anchor shows that only
where both ledgers use one anchor. So each user base has an entry in the state folder of the
system's user, beside the default anchors:

| the register has                   | a new ledger | a ledger that is opened         |
|------------------------------------|--------------|---------------------------------|
| no entry                           | is entered   | is entered                      |
| this path                          | is refused   | opens; id and anchor follow     |
| another path, where a file is      | is refused   | is refused: it is a copy        |
| another path, where nothing is     | is refused   | was moved: the entry follows    |

The register guards against mistakes. It does not see another machine, another container or another
system user, and nothing in it is needed to open a ledger: where the state folder cannot be written,
an open ledger is not entered.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from client.ledger.anchor import state_file
from shared.errors import LedgerError
from shared.system.files import write_atomically
from shared.system.locks import folder_lock

__all__ = ["RegisterEntry", "enter_ledger", "new_ledger_entry", "register_file"]

PATIENCE = 60.0
"""Seconds to wait for another process that changes the register."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterEntry:
    """Where the ledger of a user base is.

    Attributes:
        user_base: the users whose budget it is.
        ledger: absolute path of its file.
        anchor: absolute path of its anchor.
        id: of the ledger's chain, see `client.ledger.balance.Balance`.
    """

    user_base: str
    ledger: str
    anchor: str
    id: str

    @classmethod
    def of(cls, user_base: str, ledger: Path, anchor: Path, ledger_id: str) -> RegisterEntry:
        """Return the entry of a ledger."""
        return cls(
            user_base=user_base,
            ledger=str(ledger.resolve()),
            anchor=str(anchor.resolve()),
            id=ledger_id,
        )


def register_file(user_base: str) -> Path:
    """Return the file of the register that holds a user base's entry."""
    return state_file("user-bases", user_base)


@contextmanager
def new_ledger_entry(user_base: str, ledger: Path) -> Iterator[None]:
    """Refuse a second ledger of these users; hold the register while the block creates the first.

    Args:
        user_base: the users whose budget it will be.
        ledger: the file to be created.

    Raises:
        LedgerError: these users have a ledger, or the register cannot be written.
    """
    try:
        file = register_file(user_base)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with folder_lock(file.parent, lambda: _held(file), patience=PATIENCE):
            _refuse_second(file, ledger)
            yield
    except OSError as error:
        raise LedgerError(
            f"the register of user bases cannot be written ({error}). Make its folder writable, or "
            "set XDG_STATE_HOME to one that is."
        ) from error


def enter_ledger(user_base: str, ledger: Path, anchor: Path, ledger_id: str) -> None:
    """Enter a ledger that was opened, or check that it is the one that is entered.

    Raises:
        LedgerError: another file is entered for these users, and it exists: this one is a copy.
    """
    entry = RegisterEntry.of(user_base, ledger, anchor, ledger_id)
    try:
        file = register_file(user_base)
        entered = _load(file)
        if entered == entry:
            return
        if entered is not None and _is_other_file(Path(entered.ledger), ledger):
            raise LedgerError(
                f"{ledger}: the ledger of '{user_base}' is {entered.ledger}, so this one is a copy "
                "that forgets what that one spends. Nothing is released. Use that one (`ledger` "
                "and `anchor` in site.toml), or remove it if this one has replaced it."
            )
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(file, json.dumps(asdict(entry), indent=1).encode(), keep_owner=True)
    except OSError:
        return  # read-only for this user: see the module's docstring


def _refuse_second(file: Path, ledger: Path) -> None:
    if not file.exists():
        return
    entered = _load(file)
    if entered is None:
        raise LedgerError(
            f"{file}: cannot be read, so it is not known whether these users have a ledger. Look "
            "for one; if there is none, remove this file."
        )
    first = Path(entered.ledger)
    remedy = (
        f"Use it: move it to {ledger} and set up the site again with --anchor {entered.anchor}."
        if first.exists()
        else f"It is no longer there: put it back at {ledger}, or set up the site again with "
        f"--restore --anchor {entered.anchor}."
    )
    raise LedgerError(
        f"{first}: this user base has a ledger already, and a second one would forget what the "
        f"first has spent. {remedy} If these are other users, give them another user_base."
    )


def _load(file: Path) -> RegisterEntry | None:
    """Return the entry; None where there is none that can be read."""
    try:
        entry = RegisterEntry(**json.loads(file.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return entry if all(isinstance(value, str) for value in asdict(entry).values()) else None


def _is_other_file(entered: Path, ledger: Path) -> bool:
    return entered.exists() and not entered.samefile(ledger)


def _held(file: Path) -> LedgerError:
    return LedgerError(f"{file}: another process has held the register for {PATIENCE:g} s. End it.")
