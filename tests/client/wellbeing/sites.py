"""A site whose users have times: one who uses it a lot, and others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from shared.over_use.model import OverUseConfig, OverUseModel
from shared.over_use.sessions import FEATURES

if TYPE_CHECKING:
    from tests.conftest import Sites

HEAVY, LIGHT, OTHER = "heavy", "light", "other"
BEGIN = 1_770_000_000
KEYS = {"wellbeing.who": "all", "wellbeing.model": "over-use"}


def events_model(folder: Path) -> Path:
    """A model by which many events a session are a risk near 1, and few near 0."""
    model = OverUseModel(OverUseConfig(hidden_size=2, heads=1))
    with torch.no_grad():
        for weights in model.parameters():
            weights.zero_()
        model.session_in.weight[0, FEATURES.index("events")] = 0.5  # of 2x - 1: the share x
        model.session_in.bias[0] = 0.5
        model.risk_out.weight[0, 0] = 40.0
        model.risk_out.bias[0] = -14.0
    model.save_pretrained(folder)
    return folder


def rows() -> list[str]:
    """Thirty events of one user in half an hour; three of each other one, with others."""
    lines = [f"{HEAVY},i{n % 5 + 1},{BEGIN + 60 * n}" for n in range(30)]
    for user in (LIGHT, OTHER):
        lines += [f"{user},i{n + 6},{BEGIN + 60 * n}" for n in range(3)]
    return lines


def guarded_site(sites: Sites, name: str = "alpha", **wellbeing: object) -> Path:
    """A site with the data, the model, and these keys of [wellbeing]."""
    keys = {f"wellbeing.{key}": value for key, value in wellbeing.items()}
    data = {"data.source": "interactions.csv", "serve.times": "seconds"}
    site = sites.make(name, data | KEYS | keys)
    text = "\n".join(["user_id,item_id,timestamp", *rows()])
    (site / "interactions.csv").write_text(text + "\n", encoding="utf-8")
    events_model(site / "over-use")
    return site
