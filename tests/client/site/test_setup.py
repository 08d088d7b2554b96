"""sotto-node init: what it makes, what it refuses, and what it never shows."""

from __future__ import annotations

import dataclasses
import io
import sqlite3
import stat
import tomllib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)

from client.site.keys import make_key, public_file, public_key
from client.site.local_port import find_free_port
from client.site.policy import Policy
from client.site.setup import make_site
from client.site.site import Site
from client.site.template import KEYS, site_toml
from shared.errors import LedgerError, SiteError
from shared.sections import flat_tables

if TYPE_CHECKING:
    from tests.client.partner import Partner


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- what it makes -----------------------------------------------------------------------------


def test_a_site_is_set_up_from_flags(partner: Partner) -> None:
    changes = {"--superlink": "sotto.example:9092", "--user": "user_id", "--device": "cpu"}
    changes["--metrics"] = "127.0.0.1:9464"
    code, out, err = partner.init(changes)
    assert code == 0
    site = partner.loaded
    assert (site.organisation, site.user_base, site.population) == (
        "Alpha Books",
        "alpha-customers",
        200,
    )
    assert site.policy == Policy(max_epsilon=8.0, delta=1e-4)
    assert site.coordinator.address == ("sotto.example", 9092)
    assert site.node.metrics == "127.0.0.1:9464"
    assert site.data.source == str(partner.events)
    assert site.open_ledger().verify() == 1
    assert site.anchor_file.is_relative_to(partner.folder / "state")
    assert "sotto-node check --site" in err

    line = public_key(site.key_file)
    assert f"public key    {line}" in out
    assert "Alpha Books" in out
    assert "200" in out
    secret = "".join(site.key_file.read_text().splitlines()[1:-1])
    assert not any(secret[at : at + 20] in out + err for at in range(0, len(secret) - 20, 10))


def test_the_site_is_its_owners_alone(partner: Partner) -> None:
    partner.init()
    site = partner.loaded
    assert mode(partner.site) == 0o700
    assert mode(site.key_file) == 0o600
    assert mode(partner.site / "aggregation_key") == 0o600
    assert mode(site.ledger_file) == 0o600
    assert mode(site.anchor_file) == 0o600
    assert not [name for name in partner.site.iterdir() if name.suffix == ".new"]


def test_the_key_is_what_flower_reads(partner: Partner) -> None:
    partner.init()
    file = partner.loaded.key_file
    private = load_ssh_private_key(file.read_bytes(), None)
    public = load_ssh_public_key(public_file(file).read_bytes())
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert private.curve.name == "secp384r1"
    form = (Encoding.OpenSSH, PublicFormat.OpenSSH)
    assert private.public_key().public_bytes(*form) == public.public_bytes(*form)


def test_a_path_is_meant_from_where_it_is_typed(partner: Partner) -> None:
    partner.patch.chdir(partner.folder)
    code, *_ = partner.types(
        "init", "site", *partner.options({"--source": "events.csv", "--anchor": "../a/../anchor"})
    )
    assert code == 0
    site = partner.loaded
    assert site.data.source == str(partner.folder / "events.csv")
    assert site.anchor_file == partner.folder.parent / "anchor"
    site.anchor_file.unlink()


def test_what_lies_in_the_folder_is_named_from_there(partner: Partner) -> None:
    partner.site.mkdir(mode=0o700)
    partner.events.rename(partner.site / "events.csv")
    partner.init({"--source": partner.site / "events.csv"})
    assert partner.loaded.data.source == "events.csv"


def test_a_url_stays(partner: Partner) -> None:
    partner.init({"--source": "sqlite:///shop.db", "--table": "purchases"})
    assert partner.loaded.data.source == "sqlite:///shop.db"


def test_a_folder_that_others_may_enter_is_reported(partner: Partner) -> None:
    partner.site.mkdir(mode=0o755)
    code, _, err = partner.init()
    assert code == 0
    assert "chmod 700" in err


# --- the file ----------------------------------------------------------------------------------


def test_the_file_explains_every_key_there_is(partner: Partner) -> None:
    partner.init()
    text = (partner.site / "site.toml").read_text()
    names = {key.name for key in KEYS}
    stated = {field.name for field in dataclasses.fields(Site)} - {"lab", "folder"}
    sections = {"data", "policy", "roster", "coordinator", "home", "node", "rerank", "serve"}
    sections |= {"wellbeing"}
    inner = {
        f"{name}.{field.name}"
        for name in sections
        for field in dataclasses.fields(type(getattr(partner.loaded, name)))
    }
    assert names == (stated - sections) | inner
    assert all(f"\n# {key.name.rpartition('.')[2]}: {key.meaning}.\n" in text for key in KEYS)


def test_the_defaults_that_it_shows_are_those_that_hold(partner: Partner) -> None:
    partner.init()
    plain = partner.loaded
    lines = (partner.site / "site.toml").read_text().splitlines()
    shown = {key.name.rpartition(".")[2] for key in KEYS if key.default is not None}
    examples = {key.name.rpartition(".")[2] for key in KEYS if key.example is not None}
    uncommented = [
        line.removeprefix("# ") if line[2:].partition(" = ")[0] in shown - examples else line
        for line in lines
    ]
    assert uncommented != lines
    (partner.site / "site.toml").write_text("\n".join(uncommented))
    assert partner.loaded == plain


def test_every_example_in_it_is_toml() -> None:
    text = site_toml({})
    lines = [
        line[2:] if line.startswith("# ") and " = " in line else line
        for line in text.splitlines()
        if "= ..." not in line
    ]
    found = flat_tables({k: v for k, v in tomllib.loads("\n".join(lines)).items() if k != "policy"})
    assert found["coordinator.superlink"] == "sotto.example:9092"


def test_what_is_no_key_is_not_written() -> None:
    with pytest.raises(KeyError, match=r"policy\.max_epsilom"):
        site_toml({"policy.max_epsilom": 8.0})


def test_infinity_and_quotes_survive(partner: Partner) -> None:
    partner.init({"--max-epsilon": "inf", "--organisation": 'Büch"er \\ & Co'})
    site = partner.loaded
    assert site.policy.max_epsilon == float("inf")
    assert site.organisation == 'Büch"er \\ & Co'


# --- what it refuses ---------------------------------------------------------------------------


FLAGS = [
    "--organisation",
    "--user-base",
    "--population",
    "--source",
    "--catalogue",
    "--max-epsilon",
    "--delta",
]


@pytest.mark.parametrize("flag", FLAGS)
def test_what_has_no_default_is_asked_for_by_its_flag(partner: Partner, flag: str) -> None:
    partner.patch.setattr("sys.stdin", io.StringIO())
    code, _, err = partner.init({flag: None})
    assert code == 2
    assert f"not stated: {flag}." in err
    assert not partner.site.exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"--delta": 0.01}, "policy.delta = 0.01: choose a number above 0 and below 1 / pop"),
        ({"--max-epsilon": 0}, "policy.max_epsilon = 0.0: choose a number above 0"),
        ({"--population": 0}, "population = 0"),
        ({"--superlink": "https://sotto.example:443"}, "coordinator.superlink"),
        ({"--superlink": "sotto.example"}, "coordinator.superlink"),
        ({"--superlink": "a..b:443"}, "coordinator.superlink"),
        ({"--source": "postgresql://u:pw@h/db", "--table": "t"}, "data.source (not shown)"),
        ({"--source": "sqlite:///shop.db"}, "a database needs one of the two"),
        ({"--query": "SELECT 1"}, "data.query"),
    ],
)
def test_nothing_is_made_of_what_makes_no_sense(
    partner: Partner, changes: dict[str, object], says: str
) -> None:
    code, _, err = partner.init(changes)
    assert code == 2
    assert says in err
    assert "pw@" not in err
    assert not partner.site.exists()
    assert not (partner.folder / "state").exists()


def test_a_site_is_never_written_over(partner: Partner) -> None:
    partner.init()
    before = {file: file.read_bytes() for file in partner.site.iterdir()}
    code, _, err = partner.init({"--max-epsilon": 80})
    assert code == 2
    assert "a site is there already" in err
    assert {file: file.read_bytes() for file in partner.site.iterdir()} == before


def test_the_same_users_get_no_second_ledger(partner: Partner) -> None:
    partner.init()
    code, _, err = partner.types("init", partner.folder / "second", *partner.options())
    assert code == 2
    assert "this user base has a ledger already" in err
    assert not (partner.folder / "second" / "site.toml").exists()


def test_a_setup_that_was_cut_off_is_taken_up(partner: Partner) -> None:
    """A key and a ledger that are there already stay."""
    partner.init()
    key, ledger = partner.loaded.key_file.read_bytes(), partner.loaded.ledger_file.read_bytes()
    (partner.site / "site.toml").rename(partner.site / "site.toml.new")
    assert partner.init()[0] == 0
    assert partner.loaded.key_file.read_bytes() == key
    assert partner.loaded.ledger_file.read_bytes() == ledger


def test_another_users_ledger_is_not_taken_up(partner: Partner) -> None:
    partner.init()
    (partner.site / "site.toml").unlink()
    code, _, err = partner.init({"--user-base": "others"})
    assert code == 2
    assert "not of 'others'" in err or "anchor is missing" in err


def test_a_folder_that_cannot_be_made_is_an_error_in_our_words(
    partner: Partner, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = partner.types("init", tmp_path / "file" / "site", *partner.options())
    assert code == 2
    assert "cannot be set up" in err


def test_values_without_a_command_line(partner: Partner) -> None:
    with pytest.raises(SiteError, match=r"'user_base' is not set"):
        make_site(partner.site, {"organisation": "a"})
    assert not partner.site.exists()


def test_the_ledgers_errors_are_its_own(partner: Partner) -> None:
    partner.init()
    (partner.site / "site.toml").unlink()
    partner.folder.joinpath("state").rename(partner.folder / "gone")
    with pytest.raises(LedgerError, match="anchor is missing"):
        make_site(
            partner.site,
            {
                "organisation": "a",
                "user_base": "alpha-customers",
                "population": 10,
                "catalogue": "c",
                "data.source": "d.csv",
                "policy.max_epsilon": 1.0,
                "policy.delta": 1e-3,
            },
        )


# --- keys --------------------------------------------------------------------------------------


def test_a_key_is_never_written_over(tmp_path: Path) -> None:
    make_key(tmp_path / "key")
    before = (tmp_path / "key").read_bytes()
    with pytest.raises(SiteError, match="cannot be written"):
        make_key(tmp_path / "key")
    assert (tmp_path / "key").read_bytes() == before


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.write_text("no key"),
        lambda file: file.write_bytes(file.read_bytes()[:200]),
        lambda file: file.write_bytes(public_file(file).read_bytes()),
    ],
)
def test_what_is_no_key_is_refused_without_repeating_it(
    tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    file = tmp_path / "key"
    make_key(file)
    spoil(file)
    with pytest.raises(SiteError, match="not a P-384 key in OpenSSH form") as refused:
        public_key(file)
    assert "PRIVATE" not in str(refused.value)
    assert refused.value.__context__ is None


# --- asked at a terminal -----------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_is_asked_what_is_missing(partner: Partner) -> None:
    partner.patch.setattr("sys.stdin", Terminal("9\nmany\n1e-5\n\n"))
    code, _, err = partner.init({"--max-epsilon": None, "--delta": None})
    assert code == 0
    assert partner.loaded.policy == Policy(max_epsilon=9.0, delta=1e-5)
    assert "ε that your users may spend" in err
    assert partner.loaded.coordinator.superlink == ""


def test_the_end_of_the_input_ends_it(partner: Partner) -> None:
    partner.patch.setattr("sys.stdin", Terminal(""))
    code, *_ = partner.init({"--max-epsilon": None})
    assert code == 130
    assert not partner.site.exists()


def test_a_wrong_answer_is_asked_for_again_and_no_other(partner: Partner) -> None:
    partner.patch.chdir(partner.folder)
    answers = ["Alpha", "alpha", "200", "none.csv", "events.csv", "catalog", "catalogue", "0", "8"]
    answers += ["0.5", "1e-4", "https://sotto.example:443", "sotto.example:443"]
    partner.patch.setattr("sys.stdin", Terminal("\n".join([*answers, ""])))
    code, _, err = partner.types("init", partner.site)
    assert code == 0, err
    assert partner.loaded.policy == Policy(max_epsilon=8.0, delta=1e-4)
    assert partner.loaded.coordinator.superlink == "sotto.example:443"
    assert err.count("Your organisation's name") == 1
    assert err.count("far below 1 / population") == 2
    for problem in ("'none.csv': the file does not exist", "holds no items.parquet"):
        assert problem in err
    for problem in ("policy.max_epsilon = 0.0", "policy.delta = 0.5", "coordinator.superlink"):
        assert problem in err


def test_columns_that_are_not_there_are_asked_for(partner: Partner) -> None:
    text = partner.events.read_text()
    partner.events.write_text(text.replace("user_id,item_id", "customer,sku", 1))
    partner.patch.setattr("sys.stdin", Terminal("1e-4\nclient\ncustomer\nsku\n\n"))
    code, _, err = partner.init({"--delta": None})
    assert code == 0, err
    assert (partner.loaded.data.user, partner.loaded.data.item) == ("customer", "sku")
    assert "there are customer, sku, timestamp" in err
    assert "There is no column 'client'" in err
    assert "Column of the time" not in err


def test_a_database_is_asked_for_its_table(partner: Partner) -> None:
    file = partner.folder / "shop.db"
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE sales (user_id, sku, timestamp)")
    partner.patch.setattr("sys.stdin", Terminal(f"sqlite:///{file}\nsales\nsku\n\n"))
    code, _, err = partner.init({"--source": None})
    assert code == 0, err
    assert (partner.loaded.data.table, partner.loaded.data.item) == ("sales", "sku")


def test_a_wrong_option_is_reported_before_anything_is_asked(partner: Partner) -> None:
    partner.patch.setattr("sys.stdin", Terminal("never read\n"))
    code, _, err = partner.init({"--organisation": None, "--max-epsilon": 0})
    assert code == 2
    assert "policy.max_epsilon" in err
    assert "Your organisation's name" not in err


def test_files_that_are_not_there_yet_are_named(partner: Partner) -> None:
    code, _, err = partner.init({"--source": "later/*.csv", "--catalogue": "later"})
    assert code == 0
    assert "warning: data.source = 'later/*.csv': no file matches" in err
    assert "warning: catalogue = 'later': it holds no items.parquet" in err


def test_the_next_step_is_to_trust_a_bundle(partner: Partner) -> None:
    _, _, err = partner.init()
    trust = err.index("Next: sotto-node trust FILE.fab --site")
    assert trust < err.index("sotto-node check --site")


def test_a_second_site_takes_another_port(partner: Partner) -> None:
    partner.patch.setattr("client.site.setup.find_free_port", find_free_port)
    partner.patch.setattr("client.site.local_port.port_is_free", lambda port: port > 9095)
    partner.init()
    assert partner.loaded.coordinator.local_port == 9096
    other = partner.folder / "other"
    options = partner.options({"--user-base": "others", "--local-port": 12345})
    assert partner.types("init", other, *options)[0] == 0
    assert Site.load(other).coordinator.local_port == 12345
