from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client.site.site import Site
from server.state.checkpoint import Checkpoint
from shared.messages import DESCRIBE, DescribeReply, DescribeRequest
from shared.privacy.noise import SeededRandom
from shared.sections import Value
from simulations.cli import main
from simulations.experiment.config import read_settings
from simulations.experiment.federation import InProcessGrid, sites_in
from simulations.experiment.prepare import prepare
from tests.simulations.conftest import TINY_SETTINGS

MASKED = (
    *("privacy.trust=secure-aggregation", "server.weighting=population", "training.rounds=2"),
    *("lab.organisations=4", "lab.alone=false"),
)


@pytest.fixture
def slow_app() -> ClientApp:
    app = ClientApp()

    @app.query("describe")
    def describe(message: Message, context: Context) -> Message:
        time.sleep(0.05)
        content = DescribeReply(
            organisation=Path(str(context.node_config["site"])).name, population=9, catalogue="c"
        ).to_content()
        return Message(content, reply_to=message)

    return app


def ask(grid: InProcessGrid) -> Iterator[Message]:
    return (Message(DescribeRequest().to_content(), node, DESCRIBE) for node in grid.get_node_ids())


def test_every_node_answers_for_its_own_site(slow_app: ClientApp) -> None:
    grid = InProcessGrid(slow_app, [Path("a"), Path("b")])
    requests = list(ask(grid))
    replies = list(grid.send_and_receive(requests))
    names = [DescribeReply.from_content(reply.content).organisation for reply in replies]
    assert names == ["a", "b"]
    answered = [reply.metadata.reply_to_message_id for reply in replies]
    assert answered == [request.metadata.message_id for request in requests]
    assert [reply.metadata.src_node_id for reply in replies] == [1, 2]


def test_after_the_deadline_nobody_else_is_asked(slow_app: ClientApp) -> None:
    grid = InProcessGrid(slow_app, [Path(name) for name in "abcd"])
    assert len(list(grid.send_and_receive(ask(grid), timeout=0.12))) in (1, 2, 3)
    assert len(list(grid.send_and_receive(ask(grid), timeout=10))) == 4


def test_messages_can_be_pushed_and_pulled(slow_app: ClientApp) -> None:
    grid = InProcessGrid(slow_app, [Path("a")])
    numbers = list(grid.push_messages(ask(grid)))
    assert len(list(grid.pull_messages(numbers))) == 1
    assert list(grid.pull_messages(numbers)) == []


def test_a_simulated_site_is_what_a_partner_has(tiny_data: Path, tmp_path: Path) -> None:
    options: dict[str, Value | None] = {
        "privacy.epsilon": 2.5,
        "privacy.delta": 1e-3,
        "lab.data": str(tiny_data),
    }
    prepare(read_settings(None, options, [*TINY_SETTINGS, "seed=3"]), tmp_path / "run")

    folders = sites_in(tmp_path / "run" / "sites")
    sites = [Site.load(folder) for folder in folders]
    assert [site.organisation for site in sites] == ["org-1", "org-2", "org-3", "org-4"]
    for site in sites:
        assert (site.policy.max_epsilon, site.policy.delta) == (2.5, 1e-3)
        assert site.population == 6
        assert site.simulated
        assert isinstance(site.random(1), SeededRandom)
        assert sorted(p.name for p in Path(site.folder).iterdir()) == [
            *("interactions.parquet", "ledger.anchor", "ledger.sqlite", "site.toml"),
        ]


def test_both_engines_give_the_same_result(
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With masks, in every step of a sum. Ray's in a process of its own, which it changes."""

    def words(engine: str) -> list[str]:
        options = ["simulate", "--data", str(tiny_data), "--epsilon", "8", "--delta", "1e-2"]
        options += ["--engine", engine, "--out", str(tmp_path / engine), "--json"]
        for assignment in (*TINY_SETTINGS, *MASKED):
            options += ["--set", assignment]
        return options

    command = [sys.executable, "-c", "from simulations.cli import main; main()", *words("ray")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr(sys, "argv", ["sotto-lab", *words("inprocess")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    for printed in (done.stdout, capsys.readouterr().out):
        assert json.loads(printed)["evaluation"]["users"] == 24

    inprocess, ray = (Checkpoint.load(tmp_path / engine) for engine in ("inprocess", "ray"))
    assert inprocess.round == ray.round == 2
    for name, value in inprocess.weights.items():
        np.testing.assert_array_equal(ray.weights[name], value)
    results = [json.loads((tmp_path / e / "result.json").read_text()) for e in ("inprocess", "ray")]
    assert results[0]["evaluation"] == results[1]["evaluation"]
    assert results[0]["privacy"] == results[1]["privacy"]
    assert results[0]["privacy"]["masking"] == "on"


def test_a_context_needs_no_state_of_flowers() -> None:
    # Node-side state is memory only in Flower: nothing of ours may depend on it.
    grid = InProcessGrid(ClientApp(), [Path("a")])
    assert all(context.state == RecordDict() for context in grid._contexts.values())
