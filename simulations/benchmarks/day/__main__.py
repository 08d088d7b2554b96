"""The command."""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import simulations.benchmarks.day as package
from client.compute.memory import keep_freed_memory
from shared.system.command_line import messages, output, table_of
from simulations.benchmarks.day.clicks import ClickModel
from simulations.benchmarks.day.day import ADAPTED, REFRESHED, Plan, live_through
from simulations.benchmarks.day.partners import prepare
from simulations.experiment.config import read_settings

__all__ = ["main"]


def main() -> None:
    """Live through a day, print a table, and write day.json."""
    parser = argparse.ArgumentParser(
        prog="python -m simulations.benchmarks.day",
        description=(package.__doc__ or "").partition("\n")[0],
    )
    parser.add_argument("--data", default="", help="as of sotto-lab simulate --data")
    parser.add_argument("--users", type=int, default=1000, help="of each organisation")
    parser.add_argument("--first", type=int, default=5, help="events of each that the data have")
    parser.add_argument("--fewest", type=int, default=30, help="later events of each, at least")
    parser.add_argument("--visits", type=int, default=10, help="of each user, in one phase")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--eta", type=float, default=1.0, help="of the click model")
    parser.add_argument("--epsilon", type=float, default=4.0, help="of each of the two runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder to keep, which is not there yet")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    given = parser.parse_args()
    # As for sotto-lab: Flower's own lines are left out.
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("flwr").addFilter(lambda record: record.levelno >= logging.WARNING)
    keep_freed_memory()
    options = {"privacy.epsilon": given.epsilon, "privacy.delta": 1e-5, "lab.data": given.data}
    config = read_settings(None, options | {"seed": given.seed}, given.set)
    plan = Plan(
        clicks=ClickModel(eta=given.eta),
        visits=given.visits,
        kills=given.kills,
        seed=given.seed,
        refresh_seed=given.seed + 1,
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.out or Path(temporary, "day")
        federation = prepare(
            folder, config, users=given.users, first=given.first, fewest=given.fewest
        )
        result = live_through(federation, plan, lambda text: messages.print(text, soft_wrap=True))
        result["load"] = os.getloadavg()[0]
        (folder / "day.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        show(result)


def show(result: dict[str, Any]) -> None:
    """Print what `live_through` returned."""
    table = table_of(
        *("phase", "before it", "learned", "chosen", "CTR"),
        *("first model's", "rise", "expected", "gain"),
    )
    for phase in result["phases"]:
        number = phase["phase"]
        new = "adapt" if number in ADAPTED else "federated run" if number == REFRESHED else ""
        table.add_row(
            str(number),
            new,
            f"{phase['learned']:,}",
            f"{phase['chosen']:,}",
            f"{phase['ctr']:.4f} ± {phase['ctr_half_width']:.4f}",
            f"{phase['ctr_with_first_model']:.4f}",
            f"{phase['rise']['mean']:+.4f} ± {phase['rise']['half_width']:.4f}",
            f"{phase['expected']:.4f}",
            f"{phase['gain']:+.4f} ± {phase['gain_half_width']:.4f}",
        )
    output.print(table)
    for name in ("rise", "service", "feedback", "refresh"):
        output.print(f"{name}: {json.dumps(result[name])}", soft_wrap=True)


if __name__ == "__main__":
    main()
