"""What `sotto-node serve` refuses before it listens, and how clients are added."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from client.serving.service.clients import Clients
from tests.client.serving.service.running import publish

if TYPE_CHECKING:
    from tests.conftest import Sites


def test_what_cannot_be_served_is_said(
    sites: Sites, tmp_path: Path, sotto_node: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    site, folder = sites.make(), publish(sites, tmp_path / "published")
    broken = publish(sites, tmp_path / "broken")
    (broken / "model" / "model.safetensors").write_bytes(b"half")
    for words, expected in (
        ([], "name the published folder, or set model below [serve]"),
        (
            [tmp_path / "none"],
            "none: it is no published folder: there is no model/ and no catalogue/",
        ),
        ([broken], f"{broken}/model"),
        ([folder, "--grpc", "none", "--http", "none"], "are both off"),
        ([folder, "--http", "0.0.0.0:9471"], "beyond this machine"),
        ([folder, "--grpc", "9470"], "give host:port"),
        (["--add-client", "shop"], "serve.clients is not set"),
    ):
        assert sotto_node("serve", *words, "--site", site) == 2, words
        error = " ".join(capsys.readouterr().err.split())
        assert expected in error, (words, error)
        assert "Traceback" not in error


def test_a_client_is_added_and_its_token_shown_once(
    sites: Sites, sotto_node: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    site = sites.make(changes={"serve.clients": "clients.toml"})
    assert sotto_node("serve", "--add-client", "shop", "--site", site) == 0
    token = capsys.readouterr().out.strip()
    clients = Clients(site / "clients.toml")
    assert clients.accepts(f"Bearer {token}")
    assert not clients.accepts(f"Bearer {token[:-1]}")
    assert sotto_node("serve", "--add-client", "shop", "--site", site) == 2
    assert "has a token already" in capsys.readouterr().err
    (site / "clients.toml").chmod(0o644)
    assert sotto_node("serve", "--add-client", "app", "--site", site) == 2
    assert "others may open it" in capsys.readouterr().err
