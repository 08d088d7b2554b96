"""sotto-node bound-friends: what it writes is what a run reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from client.site.site import Site
from shared.data.friends import read_friends
from shared.errors import SiteError

if TYPE_CHECKING:
    from tests.conftest import Sites

    Command = Callable[..., int]


def test_a_table_within_the_bound_is_written(
    sites: Sites,
    tmp_path: Path,
    sotto_node: Command,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site, out = sites.make("alpha", {"data.friends": "friends.csv"}, users=12), tmp_path / "b.csv"
    users = Site.load(site).load_histories(sites.catalogue, 99, strict=False).users
    pairs = [(one, other) for one in users for other in users if one < other]
    rows = ["user,friend", *map(",".join, pairs), f"{users[0]},nobody"]
    (site / "friends.csv").write_text("\n".join(rows) + "\n")
    assert sotto_node("bound-friends", "--most", 3, "--out", out, "--site", site) == 0
    assert f"of {2 * len(pairs)} friends" in " ".join(capsys.readouterr().out.split())
    monkeypatch.chdir(site.parent)  # site.toml names paths from its own folder
    near = Path(site.name, "near.csv")
    assert sotto_node("bound-friends", "--most", 3, "--out", near, "--site", site) == 0
    assert 'bounded_friends = "near.csv"' in capsys.readouterr().out
    table = read_friends(out, frozenset(users))
    assert table.entered.max() == 3
    assert sotto_node("bound-friends", "--most", 0, "--out", out, "--site", site) == 2
    other = sites.make("beta")
    assert sotto_node("bound-friends", "--most", 3, "--out", out, "--site", other) == 2
    assert "--friends" in capsys.readouterr().err


@pytest.mark.parametrize("keys", [{"data.friends_most": 4}, {"data.bounded_friends": "b.csv"}])
def test_a_bound_and_its_table_are_stated_together(sites: Sites, keys: dict[str, object]) -> None:
    site = sites.make("alpha", keys)
    with pytest.raises(SiteError, match="State both or none"):
        Site.load(site)
