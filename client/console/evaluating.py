"""The evaluation that a page starts: how good the model is on the partner's own held-out events."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from client.console.drawings import Bar, bars
from client.console.jobs import Job
from client.site.site import Site

if TYPE_CHECKING:
    from markupsafe import Markup

    from client.home.evaluate import Evaluation

__all__ = ["FIGURES", "draw_figures", "evaluation_job"]

FIGURES = {
    "ndcg": "NDCG: how near to the top",
    "hr": "Hit rate: how often in the list",
    "mrr": "MRR: mean of 1 / rank",
    "coverage": "Coverage: share of items shown",
}


def evaluation_job(site: Site, model: Path | None, before: Path | None) -> Job[Evaluation]:
    """Return the job that evaluates, which has not begun.

    Args:
        site: whose data are held out.
        model: the published folder; None refuses to evaluate.
        before: an earlier one.
    """

    def work(say: Callable[[str, float], None]) -> Evaluation:
        from client.serving.quality import evaluate_published  # noqa: PLC0415 with torch
        from client.site.own_data import OwnData  # noqa: PLC0415
        from shared.errors import ConfigError  # noqa: PLC0415

        if model is None:
            raise ConfigError("there is no model: name the published folder.")
        data, device = OwnData.of_site(site), site.torch_device()
        return evaluate_published(model, before, data, device=device, say=say)

    return Job("evaluate", work)


def draw_figures(measured: Evaluation) -> dict[str, Markup]:
    """Return a picture of each figure, by its name in `FIGURES`."""
    from client.home.evaluate import NAMES  # noqa: PLC0415 with torch

    return {
        figure: bars(
            f"quality-{figure}",
            title,
            [
                Bar(
                    NAMES[name],
                    getattr(one.metrics, figure),
                    one.half_width if figure == "ndcg" else None,
                    name == "federated_home",
                )
                for name, one in measured.models.items()
            ],
        )
        for figure, title in FIGURES.items()
    }
