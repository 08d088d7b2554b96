"""The effect of one attacker among the organisations on a warm start, by aggregation rule.

    python -m simulations.faults.poisoning FOLDER --data PATH [--public PATH] [--epsilon 8]

The attacker declares as many users as δ allows, and sends sums of the largest norm that this
allows: all users choose one unpopular item, and the moment is its own with the sign reversed.
Prints NDCG@10 without and with the attacker, and the share of users who are shown its item. One
seed.
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

import client.app
from server.runs.recommender import build_recommender
from server.state.checkpoint import Checkpoint
from shared.config import Aggregation
from shared.messages import DESCRIBE, STATISTICS, DescribeReply, StatisticsReply
from simulations.experiment import baselines
from simulations.experiment.config import read_settings
from simulations.experiment.federation import WrappedApp
from simulations.experiment.prepare import prepare
from simulations.experiment.simulate import simulate
from simulations.experiment.simulation import SITES, RoundFigures, Simulation

Sums = NDArray[np.float32]
ATTACKER = "org-1"
RECIPE = Path(__file__).parents[1] / "recipes" / "ml-1m-private.toml"


class Quiet:
    """A reporter that prints nothing."""

    def stage(self, text: str) -> None:
        """Ignore it."""

    def round(self, done: int, of: int, figures: RoundFigures) -> None:
        """Ignore it."""


def main() -> None:
    """Run every rule with and without the attacker, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--public")
    parser.add_argument("--epsilon", type=float, default=8.0)
    parser.add_argument("--config", type=Path, default=RECIPE)
    options = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.WARNING)
    changes = {"lab.data": options.data, "privacy.epsilon": options.epsilon, "lab.alone": False}
    if options.public:
        changes["lab.public"] = options.public
    say(f"{'rule':14}{'NDCG@10':>9}{'attacked':>10}{'shown its item':>16}")
    for rule in Aggregation:
        server = {
            "server.aggregation": rule,
            "server.malicious": int(rule is not Aggregation.MEAN),
        }
        config = read_settings(options.config, changes | server, [])
        ndcg = []
        for attacked in (False, True):
            simulation = prepare(config, options.folder / f"{rule}-{attacked}")
            item = unpopular(simulation)
            app = attacking(item, int(1 / config.privacy.delta) - 1) if attacked else None
            result = simulate(simulation, Quiet(), app)
            ndcg.append(result["evaluation"]["models"]["federated"]["ndcg@10"])
        say(f"{rule:14}{ndcg[0]:9.4f}{ndcg[1]:10.4f}{share_shown(simulation, item):15.1%}")


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def unpopular(simulation: Simulation) -> int:
    """Return the internal id of the item that fewest users chose."""
    counts = np.bincount(
        simulation.split.train.items, minlength=len(simulation.dataset.catalogue) + 1
    )
    return int(counts[1:].argmin()) + 1


def attacking(item: int, users: int) -> ClientApp:
    """Return a ClientApp whose attacker falsifies its own answers.

    Args:
        item: internal id that the attacker promotes.
        users: how many it declares.
    """

    def answer(message: Message, context: Context) -> Message:
        reply = client.app.app(message, context)
        if Path(str(context.node_config["site"])).name != ATTACKER or not reply.has_content():
            return reply
        if message.metadata.message_type == STATISTICS:
            total = poison(StatisticsReply.from_content(reply.content).total, item, users)
            reply.content = StatisticsReply(total=total).to_content()
        elif message.metadata.message_type == DESCRIBE:
            described = DescribeReply.from_content(reply.content)
            reply.content = replace(described, population=users).to_content()
        return reply

    return WrappedApp(answer)


def poison(total: Sums, item: int, users: int) -> Sums:
    """Return false statistics of the largest norm that so many users allow."""
    if total.ndim > 1:
        reversed_moment: Sums = (-users * total / np.linalg.norm(total)).astype(np.float32)
        return reversed_moment
    counts = np.zeros_like(total)
    counts[item - 1] = users
    return counts


def share_shown(simulation: Simulation, item: int) -> float:
    """Return the share of users whose top ten contains the item."""
    config = simulation.config.run(
        organisations=len(list((simulation.folder / SITES).iterdir())),
        catalogue=simulation.folder / "catalogue",
        out=simulation.folder,
        resume=True,
    )
    catalogue = simulation.dataset.catalogue
    model = build_recommender(Checkpoint.load(simulation.folder), config, catalogue)
    cases = baselines.Cases(
        simulation.evaluation_split,
        simulation.parts,
        items=len(catalogue),
        window=config.model.max_length,
    )
    return float((cases.rank(baselines.recommender(model)).top == item).any(dim=1).float().mean())


if __name__ == "__main__":
    main()
