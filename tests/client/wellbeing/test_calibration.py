"""A published model is calibrated at home, on the partner's own users with a label."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from client.site.site import Site
from client.wellbeing.protection import Protection
from shared.over_use.model import OverUseModel
from shared.over_use_task import LabelSource, OverUseTask
from tests.client.wellbeing.sites import BEGIN, guarded_site

if TYPE_CHECKING:
    from tests.conftest import Sites

DAY, USERS = 86_400, 40
TASK = OverUseTask(until="2026-03-01", label=LabelSource.COLUMN, weeks=1.0, history_weeks=52.0)


class Seen(Protection):
    """Shows the model that the guard scores by."""

    def __init__(self, policy: Any, model: Any, *others: Any, **more: Any) -> None:  # noqa: ANN401
        super().__init__(policy, model, *others, **more)
        self.model: OverUseModel = model


def made(sites: Sites, labels: list[str] | None, name: str = "alpha") -> Path:
    """A site with a published run's folder; every second user is there a lot."""
    folder = guarded_site(sites, name, cap=3)
    with (folder / "interactions.csv").open("a") as file:
        for user in range(USERS):
            file.writelines(
                f"u{user},i{1 + n % 5},{BEGIN + 60 * n}\n" for n in range(30 if user % 2 else 2)
            )
    if labels is not None:
        rows = [f"u{user},{label}" for user, label in enumerate(labels)]
        (folder / "users.csv").write_text("\n".join(["user_id,over_use", *rows]) + "\n")
        file_ = folder / "site.toml"
        file_.write_text('data.users = "users.csv"\n' + file_.read_text())
    model = OverUseModel.from_pretrained(folder / "over-use")
    model.config = replace(model.config, task=TASK.text)
    (folder / "over-use" / "model").mkdir()
    model.save_pretrained(folder / "over-use" / "model")
    return folder


def loaded(sites: Sites, folder: Path) -> Seen:
    protection = Seen.load(Site.load(folder), sites.catalogue)
    assert isinstance(protection, Seen)
    return protection


def test_risks_are_then_the_shares_that_are_seen(sites: Sites) -> None:
    labels = ["1" if user % 2 and user % 10 != 1 else "0" for user in range(USERS)]
    assert labels.count("1") == 16
    model = loaded(sites, made(sites, labels)).model
    busy = np.array([BEGIN + 60.0 * n for n in range(30)])
    often, seldom = model.risk([busy, busy[:2]])
    assert often == pytest.approx(0.8, abs=0.06)  # 16 of 20, drawn in a little
    assert seldom < 0.1
    assert (model.config.slope, model.config.offset) != (1.0, 0.0)


@pytest.mark.parametrize(
    "labels",
    [None, ["1"] * 5 + ["0"] * 30, ["perhaps"] * USERS],
    ids=["no table", "few", "no values"],
)
def test_without_labels_enough_the_model_stays_as_it_came(
    sites: Sites, labels: list[str] | None
) -> None:
    model = loaded(sites, made(sites, labels)).model
    assert (model.config.slope, model.config.offset) == (1.0, 0.0)


def test_a_model_that_was_calibrated_stays_so(sites: Sites) -> None:
    folder = made(sites, [str(user % 2) for user in range(USERS)])
    model = OverUseModel.from_pretrained(folder / "over-use" / "model")
    model.config = replace(model.config, slope=0.5, offset=-1.0)
    model.save_pretrained(folder / "over-use" / "model")
    found = loaded(sites, folder).model.config
    assert (found.slope, found.offset) == (0.5, -1.0)
