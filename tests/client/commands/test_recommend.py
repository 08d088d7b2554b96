"""What a partner types to get recommendations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from client.home.home_model import Memory, TransitionCounts
from client.home.store import load_home
from shared.data.histories import Histories
from shared.data.reading import write_interactions
from shared.models.attention import build
from tests.client.home.stored import save_counts
from tests.conftest import ITEMS, MODEL, some_catalogue, some_histories

if TYPE_CHECKING:
    from tests.conftest import Sites

    Command = Callable[..., int]
    Capture = pytest.CaptureFixture[str]


@pytest.fixture
def published(sites: Sites, tmp_path: Path) -> Path:
    folder = tmp_path / "published"
    torch.manual_seed(0)  # of some first weights, adapting keeps the model alone
    build(MODEL, sites.catalogue).save_pretrained(folder / "model")
    sites.catalogue.save(folder / "catalogue")
    return folder


@pytest.fixture
def site(sites: Sites) -> Path:
    return sites.make("alpha", users=60)


def lists(file: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in pq.read_table(file).to_pylist():
        found.setdefault(row["user"], []).append(row["item"])
    return found


def test_all_users_of_a_site_get_lists_from_the_adapted_model(
    site: Path, published: Path, tmp_path: Path, sotto_node: Command, capsys: Capture
) -> None:
    ledger, out = (site / "ledger.sqlite").read_bytes(), tmp_path / "lists.parquet"
    asked = ("recommend", "--model", published, "--users", "all", "--site", site)
    assert sotto_node(*asked, "--out", out) == 0
    assert "published model alone" in capsys.readouterr().out
    alone = lists(out)
    assert len(alone) == 60
    own = TransitionCounts.of(some_histories(60, seed=9), ITEMS, Memory(3, 0.5))
    fingerprint = some_catalogue().fingerprint
    save_counts(site / "home.safetensors", own, 8.0, fingerprint)
    assert sotto_node(*asked, "--out", out, "--json", "--k", 3) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["home"] == str(site / "home.safetensors")
    assert (answer["users"], answer["rows"]) == (60, 180)
    assert lists(out) != {user: items[:3] for user, items in alone.items()}
    assert sotto_node(*asked, "--out", out, "--no-home") == 0
    assert lists(out) == alone
    assert (site / "ledger.sqlite").read_bytes() == ledger


def test_the_adapted_model_is_where_the_site_says(
    sites: Sites, published: Path, tmp_path: Path, sotto_node: Command, capsys: Capture
) -> None:
    site, out = sites.make("beta", {"serve.home": "mine.st"}, users=60), tmp_path / "o.csv"
    all_users = ("recommend", "--model", published, "--users", "all", "--site", site, "--out", out)
    history = ("recommend", "--model", published, "--history", "i1", "--site", site, "--json")
    for asked in (all_users, history):
        assert sotto_node(*asked) == 2  # one that is named must be there
        assert "mine.st" in capsys.readouterr().err
    assert sotto_node("adapt", published, "--site", site, "--json") == 0
    assert json.loads(capsys.readouterr().out)["file"] == str(site / "mine.st")
    assert not (site / "home.safetensors").exists()
    assert sotto_node(*all_users, "--json") == 0
    assert json.loads(capsys.readouterr().out)["home"] == str(site / "mine.st")
    assert sotto_node(*history) == 0
    adapted = capsys.readouterr().out
    assert sotto_node(*history, "--no-home") == 0
    assert capsys.readouterr().out != adapted


def test_users_that_are_named_and_what_may_be_recommended(
    site: Path, published: Path, tmp_path: Path, sotto_node: Command, capsys: Capture
) -> None:
    (tmp_path / "ids.csv").write_text("user_id\nuser5\nnew\nuser1\nuser5\n")
    (tmp_path / "deny.csv").write_text("item_id\ni1\ni2\n")
    out = tmp_path / "lists.parquet"
    asked = ("recommend", "--model", published, "--site", site, "--out", out, "--k", 20)
    assert sotto_node(*asked, "--users", tmp_path / "ids.csv", "--deny", tmp_path / "deny.csv") == 0
    found = lists(out)
    assert list(found) == ["user5", "new", "user1"]
    assert set(found["new"]) == {f"i{number}" for number in range(3, 21)}
    printed = capsys.readouterr().out
    assert "1 of the users have no event" in printed
    assert "3 lists are shorter" in printed
    seen = ("--users", tmp_path / "ids.csv", "--allow", tmp_path / "deny.csv", "--include-seen")
    assert sotto_node(*asked, *seen) == 0
    assert {tuple(sorted(items)) for items in lists(out).values()} == {("i1", "i2")}


def test_a_file_needs_no_site_and_a_history_no_data(
    published: Path,
    tmp_path: Path,
    sotto_node: Command,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_interactions(some_histories(9), some_catalogue(), tmp_path / "mine.parquet")
    asked = ("recommend", "--model", published)
    assert sotto_node(*asked, "--users", "all", "--data", "mine.parquet", "--out", "o.csv") == 0
    assert len(Path("o.csv").read_text().splitlines()) == 1 + 90
    capsys.readouterr()
    assert sotto_node(*asked, "--history", "i1,i2", "--k", 3, "--json", "--explain") == 0
    first, *_ = listed = json.loads(capsys.readouterr().out)
    assert len(listed) == 3
    assert first["because"].startswith("because")
    events = [event["item"] for event in first["explanation"]["events"]]
    assert events == ["i1", "i2"]
    assert sotto_node(*asked, "--history", "", "--explain", "--verb", "read") == 0
    assert "because it is popular" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--k", "3"), "--users all"),
        (("--users", "all", "--history", "i1"), "either"),
        (("--users", "all"), "--out"),
        (("--users", "all", "--out", "a.xlsx"), "ends in"),
        (("--users", "all", "--out", "a.csv", "--k", "0"), "k = 0"),
        (("--users", "all", "--out", "a.csv", "--k", "21"), "1 to 20"),
        (("--users", "nothing.csv", "--out", "a.csv"), "does not exist"),
        (("--users", "items.csv", "--out", "a.csv"), "user_id"),
        (("--users", "all", "--out", "a.csv", "--deny", "items.csv"), "value 'x'"),
        (("--users", "all", "--out", "a.csv", "--category", "y"), "category 'y'"),
        (("--users", "all", "--out", "a.csv", "--home", "none"), "not readable"),
        (("--users", "all", "--out", "a.csv", "--home", "a", "--no-home"), "contradict"),
        (("--users", "all", "--out", "a.csv", "--user-column", "who"), "--data"),
        (("--history", "i1,x"), "names item 'x'"),
        (("--history", "i1", "--out", "a.csv"), "--users"),
        (("--history", "i1", "--domain", "films"), "data.domains of site.toml"),
        (("--history", "i1", "--query", "a", "--attribute", "a=1", "--attribute", "a=2"), "twice"),
        (("--history", "i1", "--deny", "items.csv"), "row 2, field 'item_id', value 'x'"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    words: tuple[str, ...],
    said: str,
    site: Path,
    published: Path,
    sotto_node: Command,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(site)
    (site / "items.csv").write_text("item_id\ni1\nx\n")
    before = sorted(site.iterdir())
    assert sotto_node("recommend", "--model", published, *words) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert sorted(site.iterdir()) == before


def test_without_a_site_it_is_said_what_to_name(
    published: Path,
    tmp_path: Path,
    sotto_node: Command,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sotto_node("recommend", "--model", published, "--users", "all", "--out", "a.csv") == 2
    assert "--data FILE" in capsys.readouterr().err
    words = ("--history", "i1", "--domain", "films")
    assert sotto_node("recommend", "--model", published, *words) == 2
    assert "the catalogue names no domain" in " ".join(capsys.readouterr().err.split())


def test_lists_are_in_the_order_that_is_asked_for_or_that_of_the_site(
    sites: Sites, published: Path, tmp_path: Path, sotto_node: Command, capsys: Capture
) -> None:
    site = sites.make("alpha", {"rerank.method": "exposure", "rerank.strength": 0.5}, users=60)
    asked = ("recommend", "--model", published, "--site", site)
    history = (*asked, "--history", "i3,i4", "--json", "--k", 6)

    def listed(*words: object) -> list[dict[str, object]]:
        assert sotto_node(*history, *words) == 0
        answer: list[dict[str, object]] = json.loads(capsys.readouterr().out)
        return answer

    plain, own = listed("--rerank", "none"), listed()
    assert "before" not in plain[0]
    assert own == listed("--rerank", "exposure")
    assert own != listed("--rerank-strength", 1)
    assert [one["item"] for one in listed("--rerank-strength", 0)] == [x["item"] for x in plain]
    assert sotto_node(*asked, "--history", "i3", "--k", 3) == 0
    assert "by score" in capsys.readouterr().out
    out = tmp_path / "lists.parquet"
    assert sotto_node(*asked, "--users", "all", "--out", out, "--k", 6) == 0
    exposed = lists(out)
    assert sotto_node(*asked, "--users", "all", "--out", out, "--k", 6, "--rerank", "none") == 0
    assert lists(out) != exposed
    capsys.readouterr()
    for words, said in (
        (("--rerank-strength", 1.5), "rerank.strength = 1.5"),
        (("--rerank", "calibrated"), "no item of the catalogue has a genre"),
        (("--rerank", "none", "--rerank-strength", 0.5), "no method has it"),
    ):
        assert sotto_node(*history, *words) == 2
        assert said in " ".join(capsys.readouterr().err.split())


def test_users_of_a_site_with_friends_get_what_friends_chose(
    sites: Sites, published: Path, tmp_path: Path, sotto_node: Command, capsys: Capture
) -> None:
    """Users in pairs who chose the same; the published model knows nothing."""
    site = sites.make("alpha", {"data.friends": "friends.csv"}, users=60)
    draw = np.random.default_rng(0)
    pairs = [draw.permutation(ITEMS)[:6] + 1 for _ in range(40)]
    rows = [draw.permutation(pair).tolist() for pair in pairs for _ in range(2)]
    data = Histories.from_lists(rows, [f"u{number}" for number in range(80)])
    write_interactions(data, sites.catalogue, site / "interactions.parquet")
    lines = [f"u{2 * pair},u{2 * pair + 1}" for pair in range(40)]
    adapt, out = ("adapt", published, "--site", site), tmp_path / "lists.parquet"
    (site / "friends.csv").write_text("\n".join(["user,friend", *lines, "u0,u99"]))
    assert sotto_node(*adapt) == 2
    assert "row 41, field 'friend', value 'u99'" in capsys.readouterr().err
    assert not (site / "home.safetensors").exists()
    (site / "friends.csv").write_text("\n".join(["user,friend", *lines[1:]]))
    assert sotto_node(*adapt, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["friends"]["ndcg"] > answer["friends"]["ndcg_without"] == answer["ndcg"]
    assert answer["friends"]["users"] == 78
    asked = ("recommend", "--model", published, "--users", "all", "--site", site, "--out", out)
    assert sotto_node(*asked, "--include-seen", "--explain", "--k", 6) == 0
    found = lists(out)
    of_friends = [
        len(set(found[f"u{user}"]) & {f"i{j}" for j in rows[user ^ 1]}) for user in range(80)
    ]
    assert np.mean(of_friends[2:]) > np.mean(of_friends[:2])
    assert sotto_node("adapt", published, "--site", site) == 0
    assert "What a user is shown may tell what a friend chose" in capsys.readouterr().out
    private = ("--private", "--epsilon", 1)
    with (site / "site.toml").open("a") as settings:
        settings.write("\n[home]\nmax_epsilon = 1.0\n")
    assert sotto_node(*adapt, *private, "--friends", site / "friends.csv") == 2
    assert "exact data" in capsys.readouterr().err
    assert sotto_node(*adapt, *private) == 0
    file = site / "home.safetensors"
    assert load_home(file, torch.Tensor.float, sites.catalogue.fingerprint).friends is None
