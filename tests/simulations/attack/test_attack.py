"""Crafted histories move what others are shown without the defence, and little with it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from client.home.home_model import FixedPrior, HomeModel, Memory, TransitionCounts
from client.home.home_model import popularity_shares as shares
from shared.data.event_limits import LIMITS, NO_LIMITS
from shared.data.histories import Histories
from shared.models.influence import CAPS, NO_CAPS, InfluenceCaps
from simulations.attack.attack import mark_strongest
from simulations.attack.crafted import craft, limit
from simulations.attack.plan import Attack, AttackPlan, Direction
from simulations.attack.targets import Scene, choose_targets
from simulations.attack.victims import Shown, how_shown
from simulations.cli import main
from simulations.report.command import report
from tests.conftest import some_catalogue
from tests.simulations.report.folders import RunSpec, write_run

ITEMS, USERS, MEMORY = 20, 60, Memory(3, 0.5)


def walks(users: int = USERS) -> Histories:
    """Users who step through 15 items, the first ones more often; five items are hardly chosen."""
    rng = np.random.default_rng(1)
    lists = [list(dict.fromkeys((rng.geometric(0.2, 12) - 1) % 15 + 1)) for _ in range(users)]
    lists[0] += [16, 17, 18, 19, 20]
    days = [[86_400_000_000 * n for n in range(len(own))] for own in lists]
    return Histories.from_lists([[int(item) for item in own] for own in lists], times=days)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene.of(walks(), some_catalogue())


def home(crafted: Histories, caps: InfluenceCaps) -> HomeModel:
    users = Histories.joined([walks(), crafted])
    counts = TransitionCounts.of(users, ITEMS, MEMORY, caps)
    return HomeModel(counts, FixedPrior(shares(users, ITEMS, caps)), 8.0)


def shown(crafted: Histories, caps: InfluenceCaps, target: int) -> Shown:
    return how_shown(home(crafted, caps), walks(), target, items=ITEMS, window=5, k=3)


# --- the attacks ----------------------------------------------------------------------------------


def test_one_user_moves_every_list_without_the_defence_and_few_with_it(scene: Scene) -> None:
    target, nobody = 20, walks().select([])
    assert shown(nobody, CAPS, target) == shown(nobody, NO_CAPS, target)
    before = shown(nobody, CAPS, target)
    assert before.share == 0
    made = {
        kind: craft(kind, Direction.PUSH, target, scene, users=1, seed=0)
        for kind in (Attack.FLOOD, Attack.PATIENT)
    }
    for crafted in made.values():
        attacked = shown(crafted, NO_CAPS, target)
        assert attacked.share == 1.0
        assert attacked.rank == 1.0
    left, dropped = limit(made[Attack.FLOOD], LIMITS)
    assert dropped["repeat"] > 900
    assert left.events < 100
    assert shown(left, CAPS, target).share < 0.3
    slow, dropped = limit(made[Attack.PATIENT], LIMITS)
    assert sum(dropped.values()) == 0  # the limits are known to who writes it: the caps remain
    assert shown(slow, CAPS, target).share < 0.3


def test_a_nuke_buries_a_popular_item_less_with_caps(scene: Scene) -> None:
    target = int(scene.ranked[3])
    crafted = craft(Attack.PATIENT, Direction.NUKE, target, scene, users=1, seed=0)
    assert target not in crafted.items
    before = shown(walks().select([]), CAPS, target)
    free, capped = (shown(crafted, caps, target) for caps in (NO_CAPS, CAPS))
    assert free.share < before.share / 2
    assert before.share - capped.share < (before.share - free.share) / 2


@pytest.mark.parametrize("kind", Attack)
@pytest.mark.parametrize("direction", Direction)
def test_crafted_users_look_like_others_and_are_as_the_table_says(
    scene: Scene, kind: Attack, direction: Direction
) -> None:
    crafted = craft(kind, direction, 16, scene, users=5, seed=3)
    assert len(crafted) == (5 if kind.grouped else 1)
    assert not set(crafted.users) & scene.taken
    assert all(user.isdigit() for user in crafted.users)
    assert crafted.times is not None
    kept, dropped = limit(crafted, LIMITS)
    assert (sum(dropped.values()) > 0) is (kind is Attack.FLOOD)
    assert len(kept) == len(crafted)
    assert limit(crafted, NO_LIMITS)[0].events == crafted.events
    ends = {int(own[-1]) for own in crafted}
    assert (ends == {16}) is (direction is Direction.PUSH)
    again = craft(kind, direction, 16, scene, users=5, seed=3)
    assert (again.items == crafted.items).all()
    assert again.users == crafted.users


def test_targets_are_drawn_by_seed_from_each_part(scene: Scene) -> None:
    drawn = [choose_targets(scene, seed) for seed in range(8)]
    assert choose_targets(scene, 0) == drawn[0]
    assert len({target.item for one in drawn for target in one}) > 3
    for rare, middle, popular in drawn:
        assert rare.events <= middle.events <= popular.events


def test_the_strongest_of_each_kind_is_marked() -> None:
    def row(attack: str, direction: str, share: float, rank: float) -> dict[str, object]:
        return {
            **{"part": "home", "target": "rare", "defended": True},
            **{"direction": direction, "attack": attack},
            **{"before": {"share": 0.5, "rank": 9.0}, "after": {"share": share, "rank": rank}},
        }

    rows = [
        row("flood", "push", 0.5, 5.0),
        row("patient", "push", 0.5, 4.0),
        row("pairs", "push", 0.4, 1.0),
        row("flood", "nuke", 0.3, 20.0),
        row("pair", "nuke", 0.2, 12.0),
    ]
    marked = [found["attack"] for found in mark_strongest(rows) if found["strongest"]]
    assert marked == ["patient", "pairs", "pair"]


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def attacked(
    tmp_path_factory: pytest.TempPathFactory, tiny_data: Path
) -> tuple[Path, dict[str, object]]:
    out = tmp_path_factory.mktemp("attacked") / "out"
    words = [
        *("attack", "--data", str(tiny_data), "--out", str(out), "--epsilon", "none"),
        *("--rounds", "0", "--organisations", "2", "--evasion", "2", "--share", "0.2", "--json"),
        *("--targets", "middle"),
        *("--set", "model.feature_size=4", "--set", "warm_start.own_items=3"),
        *("--set", "model.max_length=5"),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sotto-lab", *words])
        with pytest.raises(SystemExit) as left:
            main()
    assert not left.value.code
    return out, json.loads((out / "attack.json").read_text())


def test_the_command_measures_every_part_and_leaves_no_run_behind(
    attacked: tuple[Path, dict[str, object]],
) -> None:
    out, record = attacked
    rows: list[dict[str, object]] = record["attacks"]  # type: ignore[assignment]
    assert {row["part"] for row in rows} == {"federated", "home", "federated_home"}
    assert {row["attack"] for row in rows} == set(map(str, Attack))
    assert "push" in {row["direction"] for row in rows}
    assert not list((out / "attacked").iterdir())
    pushed = [row for row in rows if row["part"] == "home" and row["direction"] == "push"]
    moved = {
        defended: max(
            row["before"]["rank"] - row["after"]["rank"]  # type: ignore[index]
            for row in pushed
            if row["defended"] is defended and row["attack"] in ("flood", "patient")
        )
        for defended in (False, True)
    }
    assert moved[False] > 0
    assert moved[True] <= moved[False]
    evasion: list[dict[str, object]] = record["evasion"]  # type: ignore[assignment]
    assert {(row["model"], bool(row["samples"])) for row in evasion} == {
        (model, smooth) for model in ("federated", "federated_home") for smooth in (False, True)
    }


def test_a_report_shows_the_attacks(
    attacked: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    write_run(tmp_path / "run", RunSpec())
    report(tmp_path / "run", tmp_path / "page.html", audits=[], attacks=[attacked[0]])
    page = (tmp_path / "page.html").read_text()
    assert "How far do crafted histories come?" in page
    assert "Does one event flip a list?" in page
    assert "share after" in page


def test_a_plan_out_of_range_is_refused() -> None:
    for wrong in ({"share": 0.0}, {"evasion": -1}, {"seed": -1}, {"targets": ("no",)}):
        with pytest.raises(Exception, match="give"):
            AttackPlan(**wrong)
