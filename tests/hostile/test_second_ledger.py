"""Two ledgers of the same users: each would forget what the other has spent."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client.ledger.ledger import Ledger
from client.ledger.register import register_file
from client.site.site import Site
from shared.errors import LedgerError, SottoError
from shared.privacy.accounting.accountant import epsilon
from tests.client.ledger.entries import DELTA, body, charge, cost, entry
from tests.client.partner import Partner

# --- copies of a ledger that share an anchor ------------------------------------------------------


def test_two_copies_with_one_anchor_never_both_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The budget is enough for one of them; B's accountant takes longer than all that A does."""
    anchor, places = tmp_path / "anchor" / "a", {n: tmp_path / n / "ledger.sqlite" for n in "AB"}
    for place in places.values():
        place.parent.mkdir()
    Ledger.create(places["A"], "users", anchor)
    shutil.copy2(places["A"], places["B"])
    is_computing, go = threading.Event(), threading.Event()

    def slow_epsilon(*arguments: Any) -> float:  # noqa: ANN401
        if threading.current_thread().name == "B":
            is_computing.set()
            go.wait(10)
        return epsilon(*arguments)

    monkeypatch.setattr("client.ledger.limits.epsilon", slow_epsilon)
    outcomes: dict[str, bytes | SottoError] = {}

    def answer(name: str) -> None:
        try:
            ledger = Ledger(places[name], "users", anchor)
            charge(ledger, entry(1), cost(1))
            outcomes[name] = ledger.keep_answer(entry(1), body(ord(name)))
        except SottoError as error:
            outcomes[name] = error

    nodes = [threading.Thread(target=answer, args=(name,), name=name) for name in "BA"]
    nodes[0].start()
    assert is_computing.wait(10)
    nodes[1].start()
    nodes[1].join(0.5)
    go.set()
    for node in nodes:
        node.join(30)
    answered = [name for name, outcome in outcomes.items() if isinstance(outcome, bytes)]
    assert len(outcomes) == 2
    assert len(answered) == 1
    [refused] = [outcome for outcome in outcomes.values() if not isinstance(outcome, bytes)]
    assert "one of the two is an older copy" in str(refused)


def test_ledger_and_anchor_in_one_folder_do_not_wait_for_each_other(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path / "ledger", "users", tmp_path / "anchor")
    (tmp_path / "link").symlink_to(tmp_path)
    for anchor in (tmp_path / "anchor", tmp_path / "link" / "anchor"):
        charge(Ledger(ledger.path, "users", anchor), entry(1))


def test_two_sites_whose_folders_cross_do_not_lock_each_other_out(tmp_path: Path) -> None:
    """The first's ledger is where the second's anchor is, and the other way round."""
    one, two = tmp_path / "1", tmp_path / "2"
    one.mkdir()
    two.mkdir()
    ledgers = [
        Ledger.create(one / "ledger", "a", two / "anchor"),
        Ledger.create(two / "ledger", "b", one / "anchor"),
    ]

    def charge_often(ledger: Ledger) -> None:
        for number in range(1, 20):
            charge(ledger, entry(number))

    nodes = [threading.Thread(target=charge_often, args=(ledger,)) for ledger in ledgers]
    for node in nodes:
        node.start()
    for node in nodes:
        node.join(30)
    assert [sum(r.steps for r in ledger.releases()) for ledger in ledgers] == [19, 19]


# --- the register of user bases -------------------------------------------------------------------


def second_site(partner: Partner, **changes: object) -> tuple[int, str, str]:
    flags = {"--anchor": partner.folder / "other" / "anchor"} | {
        f"--{name.replace('_', '-')}": value for name, value in changes.items()
    }
    return partner.types("init", partner.folder / "second", *partner.options(flags))


def test_init_with_another_anchor_makes_no_second_ledger(partner: Partner) -> None:
    assert partner.init()[0] == 0
    code, _, err = second_site(partner)
    assert code == 2
    assert f"{partner.loaded.ledger_file}: this user base has a ledger already" in err
    assert f"--anchor {partner.loaded.anchor_file}" in err
    assert not (partner.folder / "second" / "site.toml").exists()
    assert not (partner.folder / "second" / "ledger.sqlite").exists()


def test_other_users_get_a_ledger_of_their_own(partner: Partner) -> None:
    assert partner.init()[0] == 0
    assert second_site(partner, user_base="others")[0] == 0


def test_a_ledger_that_was_removed_with_its_anchor_is_not_forgotten(partner: Partner) -> None:
    partner.init()
    partner.loaded.anchor_file.unlink()
    shutil.rmtree(partner.site)
    code, _, err = partner.init()
    assert code == 2
    assert "It is no longer there" in err


def test_a_lost_ledger_is_restored_where_the_register_says(partner: Partner) -> None:
    partner.init()
    anchor = partner.loaded.anchor_file
    charge(partner.loaded.open_ledger(), entry(1))
    shutil.rmtree(partner.site)
    code, _, err = second_site(partner, anchor=anchor)
    assert code == 2
    assert f"--restore --anchor {anchor}" in err
    second = partner.folder / "second"
    code, _, _ = partner.types("init", second, *partner.options({"--anchor": anchor}), "--restore")
    assert code == 0
    assert Site.load(second).open_ledger().spent(DELTA) == cost(1)


def test_a_first_ledger_is_moved_to_the_second_site(partner: Partner) -> None:
    """What the message says to do."""
    partner.init()
    first = partner.loaded
    charge(first.open_ledger(), entry(1))
    second_site(partner)
    second = partner.folder / "second"
    second.mkdir(exist_ok=True)
    for file in first.ledger_file.parent.glob("ledger.sqlite*"):
        file.rename(second / file.name)
    assert second_site(partner, anchor=first.anchor_file)[0] == 0
    assert Site.load(second).open_ledger().spent(DELTA) == cost(1)
    code, _, err = partner.types("budget", "--site", partner.site)
    assert (code, "is missing" in err) == (2, True)


def test_a_copied_site_with_its_own_anchor_does_not_open(partner: Partner) -> None:
    partner.init({"--anchor": partner.site / "anchor"})
    partner.loaded.open_ledger()
    shutil.copytree(partner.site, partner.folder / "copy")
    copy = Site.load(partner.folder / "copy")
    with pytest.raises(LedgerError, match="is a copy that forgets what that one spends"):
        copy.open_ledger()
    shutil.rmtree(partner.site)
    copy.open_ledger()


def test_a_site_from_before_the_register_is_entered_when_it_is_opened(partner: Partner) -> None:
    partner.init()
    register_file("alpha-customers").unlink()
    partner.loaded.open_ledger()
    assert second_site(partner)[0] == 2


@pytest.mark.parametrize(
    "damage", ["", "{}", '{"user_base": 1, "ledger": 2, "anchor": 3, "id": 4}']
)
def test_a_damaged_entry_stops_a_second_ledger_and_not_the_first(
    partner: Partner, damage: str
) -> None:
    partner.init()
    file = register_file("alpha-customers")
    file.write_text(damage)
    code, _, err = second_site(partner)
    assert (code, "cannot be read" in err) == (2, True)
    partner.loaded.open_ledger()
    assert str(partner.loaded.ledger_file) in file.read_text()


def test_a_node_without_a_state_folder_opens_its_ledger(
    partner: Partner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the executor's user without a home folder does."""
    partner.init({"--anchor": partner.folder / "anchor"})
    site = partner.loaded
    (partner.folder / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(partner.folder / "file"))
    site.open_ledger()
    with pytest.raises(LedgerError, match="register of user bases cannot be written"):
        replace(site, ledger="other.sqlite", anchor="other").create_ledger()


def test_sites_of_the_lab_are_not_entered(partner: Partner) -> None:
    partner.init()
    site = partner.loaded
    lab = replace(site.lab, simulated=True)
    simulated = replace(site, lab=lab, ledger="lab.sqlite", anchor="lab anchor")
    simulated.create_ledger()
    assert simulated.open_ledger().releases() == []
