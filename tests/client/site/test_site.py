from __future__ import annotations

import math
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from client.data.config import DataConfig
from client.ledger.anchor import default_anchor
from client.site.locate import locate
from client.site.policy import Ask, Policy
from client.site.simulated import LabSeed
from client.site.site import Site
from shared.errors import LedgerError, SiteError
from shared.privacy.noise import SeededRandom, SystemRandom
from shared.sections import Value

if TYPE_CHECKING:
    from tests.conftest import Sites

GOOD = """
organisation = "Alpha"
user_base = "alpha-customers"
population = 100
catalogue = "../catalogue"
data.source = "events.csv"
[policy]
max_epsilon = 8
delta = 1e-3
"""


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "site.toml").write_text(text, encoding="utf-8")
    return folder


# --- a good file -------------------------------------------------------------------------------


def test_a_site_is_read_from_its_folder_or_its_file(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", GOOD)
    site = Site.load(folder)
    assert site == Site(
        organisation="Alpha",
        user_base="alpha-customers",
        population=100,
        data=DataConfig(source="events.csv"),
        catalogue="../catalogue",
        policy=Policy(max_epsilon=8.0, delta=1e-3),
        folder=str(folder),
    )
    assert Site.load(folder / "site.toml") == site


def test_every_key_may_be_stated(tmp_path: Path) -> None:
    more = 'device = "cpu"\nledger = "l"\ndata.user = "u"\ndata.item = "i"\ndata.time = "t"\n'
    site = Site.load(write(tmp_path, more + GOOD + "[lab]\nseed = 3\nstream = 2\n"))
    assert (site.device, site.ledger, site.data.user, site.data.item, site.data.time) == (
        "cpu",
        "l",
        "u",
        "i",
        "t",
    )
    assert site.lab == LabSeed(seed=3, stream=2)


def test_paths_are_relative_to_the_file(
    tmp_path: Path, sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sites.make("alpha")
    monkeypatch.chdir(folder.parent)
    site = Site.load(Path("alpha"))
    monkeypatch.chdir(tmp_path)
    assert site.ledger_file == folder / "ledger.sqlite"
    assert len(site.load_histories(sites.catalogue, max_length=3)) == 12


def test_the_limits_that_need_not_be_stated(tmp_path: Path) -> None:
    """As docs/node-reference.md says."""
    policy = Site.load(write(tmp_path, GOOD)).policy
    assert policy.answers == (Ask.DESCRIBE, Ask.STATISTICS, Ask.TRAIN)
    assert policy.least_noise == 0.3
    assert (policy.max_sample_rate, policy.max_clip_norm, policy.max_steps) == (1.0, 100.0, 1000)
    public = Site.load(write(tmp_path / "b", GOOD.replace("max_epsilon = 8", "max_epsilon = inf")))
    assert public.policy.least_noise == 0


def test_the_policy_may_be_stated(tmp_path: Path) -> None:
    more = (
        'answers = ["train", "evaluate"]\nmin_noise_multiplier = 0.7\nmax_sample_rate = 0.2\n'
        "max_clip_norm = 3\nmax_steps = 10\n"
    )
    assert Site.load(write(tmp_path, GOOD + more)).policy == Policy(
        max_epsilon=8.0,
        delta=1e-3,
        answers=(Ask.TRAIN, Ask.EVALUATE),
        min_noise_multiplier=0.7,
        max_sample_rate=0.2,
        max_clip_norm=3.0,
        max_steps=10,
    )


@pytest.mark.parametrize("answers", ["[]", '""'])
def test_a_site_may_answer_nothing(tmp_path: Path, answers: str) -> None:
    assert Site.load(write(tmp_path, GOOD + f"answers = {answers}\n")).policy.answers == ()


def test_a_minimum_of_no_noise_is_a_choice(tmp_path: Path) -> None:
    site = Site.load(write(tmp_path, GOOD + "min_noise_multiplier = 0.0\n"))
    assert site.policy.least_noise == 0


def test_the_anchor_lies_where_the_file_says_or_in_the_state_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    site = Site.load(write(tmp_path / "a", GOOD))
    assert site.anchor_file == default_anchor("alpha-customers")
    assert site.anchor_file.parent == tmp_path / "state" / "sotto" / "anchors"
    stated = Site.load(write(tmp_path / "b", 'anchor = "../anchors/b"\n' + GOOD))
    assert stated.anchor_file.resolve() == tmp_path / "anchors" / "b"


def test_a_site_makes_and_opens_its_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    site = Site.load(write(tmp_path / "a", GOOD))
    site.create_ledger()
    ledger = site.open_ledger()
    assert (ledger.path, ledger.user_base) == (site.ledger_file, "alpha-customers")
    again = Site.load(write(tmp_path / "installed-anew", GOOD))
    with pytest.raises(LedgerError, match="a second one would forget"):
        again.create_ledger()


def test_absolute_paths_stay(tmp_path: Path) -> None:
    text = 'ledger = "/var/lib/sotto/ledger.sqlite"\n' + GOOD
    assert Site.load(write(tmp_path, text)).ledger_file == Path("/var/lib/sotto/ledger.sqlite")


def test_histories_come_from_the_stated_columns_cut_to_length(sites: Sites) -> None:
    folder = sites.make(
        "alpha",
        {
            "data.source": "events.csv",
            "data.user": "who",
            "data.item": "what",
            "data.time": "when",
        },
    )
    (folder / "events.csv").write_text("who,what,when\nx,i1,3\nx,i2,2\nx,i3,1\nx,i4,4\n")
    histories = Site.load(folder).load_histories(sites.catalogue, max_length=3)
    assert [history.tolist() for history in histories] == [[2, 1, 4]]


def test_missing_data_is_an_error(sites: Sites) -> None:
    site = Site.load(sites.make("alpha", {"data.source": "nowhere.csv"}))
    with pytest.raises(SiteError, match=r"data\.source = 'nowhere\.csv': the file does not exist"):
        site.load_histories(sites.catalogue, max_length=3)


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "nowhere", "nowhere/site.toml"])
def test_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SiteError, match=r"not readable .*Check the path"):
        Site.load(tmp_path / name)


@pytest.mark.parametrize("content", [b"organisation =", b"a = 1\na = 2", b"\xff\xfe", b"[policy"])
def test_what_is_not_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "site.toml").write_bytes(content)
    with pytest.raises(SiteError, match=r"site\.toml: not valid TOML \(.+\)\. Mend that line"):
        Site.load(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        (
            "max_epsilon",
            3.0,
            r"unknown .*'max_epsilon' = 3\.0: did you mean 'policy\.max_epsilon' or '",
        ),
        ("policy.minimum_noise", 1.0, r"unknown .*'policy\.minimum_noise'"),
        ("lab.sead", 1, r"did you mean 'lab\.seed'"),
        ("folder", "/", "'folder' is where this file lies"),
        ("organisation", 3, "organisation = 3 does not fit: it takes a text"),
        ("population", 100.0, r"population = 100\.0 does not fit: it takes a whole number"),
        ("population", True, "population = True does not fit"),
        ("population", 0, "population = 0: declare how many users"),
        ("population", -5, "population = -5: declare how many users"),
        ("policy.max_epsilon", "8", "policy.max_epsilon = '8' does not fit: it takes a number"),
        ("policy.max_epsilon", True, "policy.max_epsilon = True does not fit"),
        ("policy.max_epsilon", 0, r"policy\.max_epsilon = 0\.0: choose a number above 0"),
        ("policy.max_epsilon", -1.0, r"policy\.max_epsilon = -1\.0: choose"),
        ("policy.max_epsilon", math.nan, r"policy\.max_epsilon = nan: choose"),
        ("policy.max_epsilon", -math.inf, r"policy\.max_epsilon = -inf: choose"),
        ("policy.delta", 0.0, r"policy\.delta = 0\.0: .*below 1 / population = 0\.0833"),
        ("policy.delta", -1e-9, r"policy\.delta = -1e-09: choose"),
        ("policy.delta", 1 / 12, r"policy\.delta = 0\.0833.*: .*below 1 / population = 0\.0833"),
        ("policy.delta", math.nan, r"policy\.delta = nan: choose"),
        ("policy.delta", math.inf, r"policy\.delta = inf: choose"),
        ("policy.min_noise_multiplier", -0.1, r"policy\.min_noise_multiplier = -0\.1: choose"),
        ("policy.min_noise_multiplier", math.nan, r"min_noise_multiplier = nan: choose"),
        ("policy.min_noise_multiplier", math.inf, r"min_noise_multiplier = inf: choose"),
        ("policy.max_sample_rate", 0.0, r"policy\.max_sample_rate = 0\.0: choose"),
        ("policy.max_sample_rate", 1.1, r"max_sample_rate = 1\.1: choose .* \(0, 1\]"),
        ("policy.max_sample_rate", math.nan, r"max_sample_rate = nan: choose"),
        ("policy.max_clip_norm", 0.0, r"policy\.max_clip_norm = 0\.0: choose"),
        ("policy.max_clip_norm", math.inf, r"max_clip_norm = inf: choose"),
        ("policy.max_steps", 0, r"policy\.max_steps = 0: choose"),
        ("policy.max_steps", 1.5, r"max_steps = 1\.5 does not fit"),
        ("policy.answers", ["train", "steal"], r"policy\.answers = 'steal' does not fit"),
        ("policy.answers", "everything", r"policy\.answers = 'everything' does not fit"),
        ("policy.answers", 3, r"policy\.answers = 3 does not fit: it takes a list of 'describe'"),
        ("organisation", "", "organisation = '': give a name"),
        ("organisation", "a\tb", r"organisation = 'a\\tb': give a name"),
        ("user_base", " ", "user_base = ' ': name your users"),
        ("lab.stream", -1, r"lab\.stream = -1: choose"),
    ],
)
def test_a_key_that_does_not_fit_is_refused(
    sites: Sites, key: str, value: object, problem: str
) -> None:
    folder = sites.make("alpha", {"policy.max_epsilon": 8, key: value})
    with pytest.raises(SiteError, match=rf"site\.toml: .*{problem}"):
        Site.load(folder)


@pytest.mark.parametrize(
    "key",
    [
        "organisation",
        "population",
        "data.source",
        "catalogue",
        "policy.max_epsilon",
        "policy.delta",
        "user_base",
    ],
)
def test_what_has_no_default_must_be_stated(sites: Sites, key: str) -> None:
    with pytest.raises(SiteError, match=f"'{key}' is not set, .* no default"):
        Site.load(sites.make("alpha", {key: None}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.source", "postgresql://user:c4nary@host/db"),
        ("data.password", "c4nary"),
        ("password", "c4nary"),
        ("data.secret_access_key", "c4nary"),
        ("data.endpoint", "https://user:c4nary@host"),
    ],
)
def test_a_secret_is_refused_with_the_remedy_and_not_repeated(
    sites: Sites, key: str, value: str
) -> None:
    remedy = r"data\.credentials, or set an environment variable"
    with pytest.raises(SiteError, match=rf"site\.toml: {key} \(not shown\).*{remedy}") as caught:
        Site.load(sites.make("alpha", {key: value}))
    assert "c4nary" not in "".join(traceback.format_exception(caught.value))


def test_the_data_keys_must_fit_together(sites: Sites) -> None:
    changes = {"data.source": "sqlite:///x.db", "data.query": "q", "data.table": "t"}
    with pytest.raises(SiteError, match=r"site\.toml: data\.query = 'q', .* one of the two"):
        Site.load(sites.make("alpha", changes))


@pytest.mark.parametrize("value", ["[1, 2]", "2024-05-01", "{ a = [] }"])
def test_a_value_that_is_not_plain_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(SiteError, match=r"'device.*: a plain value is wanted"):
        Site.load(write(tmp_path, f"device = {value}\n" + GOOD))


def test_an_infinite_epsilon_is_a_choice(sites: Sites) -> None:
    site = Site.load(sites.make("alpha", {"policy.max_epsilon": math.inf}))
    assert site.policy.max_epsilon == math.inf


def test_delta_may_come_close_to_one_over_population(sites: Sites) -> None:
    delta = math.nextafter(1 / 12, 0)
    assert Site.load(sites.make("alpha", {"policy.delta": delta})).policy.delta == delta


# --- device ------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize(
    ("name", "without", "with_cuda"),
    [
        ("cpu", "cpu", "cpu"),
        ("auto", "cpu", "cuda"),
        ("cuda", None, "cuda"),
        ("cuda:1", None, "cuda:1"),
        ("gpu", None, None),
        ("", None, None),
    ],
)
def test_a_device_is_one_that_is_there(
    sites: Sites,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    without: str | None,
    with_cuda: str | None,
    there: bool,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    site = Site.load(sites.make("alpha", {"device": name}))
    expected = with_cuda if there else without
    if expected is None:
        with pytest.raises(SiteError, match=rf"device = '{name}'.*choose"):
            site.torch_device()
    else:
        assert site.torch_device() == torch.device(expected)


# --- where noise comes from --------------------------------------------------------------------


@pytest.mark.parametrize("lab", [{}, {"lab.stream": 3}, {"lab.seed": -1}])
def test_without_a_seed_noise_comes_from_the_system(sites: Sites, lab: dict[str, object]) -> None:
    site = Site.load(sites.make("alpha", lab))
    assert not site.simulated
    first, again = site.random(1), site.random(1)
    assert isinstance(first, SystemRandom)
    assert (first.uniform(8) != again.uniform(8)).all()


def test_a_seeded_site_repeats_itself_alone(sites: Sites) -> None:
    alpha = Site.load(sites.make("alpha", seed=0))
    assert alpha.simulated
    assert isinstance(alpha.random(1), SeededRandom)
    draws = alpha.random(1).uniform(8)
    assert (alpha.random(1).uniform(8) == draws).all()
    others = [
        alpha.random(2),
        Site.load(sites.make("beta", seed=0, stream=1)).random(1),
        Site.load(sites.make("gamma", seed=1)).random(1),
        alpha.random(1, 1),
    ]
    for other in others:
        assert (other.uniform(8) != draws).all()


# --- which site --------------------------------------------------------------------------------


def test_the_node_says_which_site_it_serves() -> None:
    assert locate({"site": "/etc/sotto"}, {}) == Path("/etc/sotto")


def test_the_run_cannot_redirect_a_node_that_knows_its_site(sites: Sites) -> None:
    sites.make("evil")
    run: dict[str, Value] = {"paths.sites": str(sites.folder), "site": "/evil", "partition-id": 0}
    assert locate({"site": "/etc/sotto", "partition-id": 0}, run) == Path("/etc/sotto")


def test_a_simulated_node_takes_the_folder_of_its_rank(sites: Sites) -> None:
    for name in ("b", "a", "c"):
        sites.make(name)
    run = {"paths.sites": str(sites.folder)}
    found = [locate({"partition-id": rank, "num-partitions": 3}, run) for rank in range(3)]
    assert found == [sites.folder / name for name in ("a", "b", "c")]


def test_a_node_without_a_number_is_not_led_anywhere_by_the_run(sites: Sites) -> None:
    sites.make("evil")
    run: dict[str, Value] = {
        "paths.sites": str(sites.folder),
        "site": str(sites.folder / "evil"),
        "partition-id": 0,
    }
    with pytest.raises(SiteError, match=r"does not know its site: start it with --node-config"):
        locate({}, run)


def test_a_number_alone_leads_nowhere() -> None:
    with pytest.raises(SiteError, match=r"for a simulation, set paths\.sites"):
        locate({"partition-id": 0}, {})


@pytest.mark.parametrize("rank", [2, 99])
def test_too_few_folders_are_refused(sites: Sites, rank: int) -> None:
    sites.make("a")
    sites.make("b")
    with pytest.raises(SiteError, match=rf"holds 2 sites, but .* number {rank}: simulate as many"):
        locate({"partition-id": rank}, {"paths.sites": str(sites.folder)})
