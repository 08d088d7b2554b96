"""What the curves show, read from the figures."""

from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from simulations.report.figures.curves import frontier_picture
from simulations.report.figures.frontier import Frontier, Line, Point
from simulations.report.models import look


def line(model: str, values: dict[float, list[float]], variant: str = "") -> Line:
    return Line(model, variant, tuple(Point(e, tuple(values[e])) for e in values))


def drawn(data: Frontier) -> dict[str, list[float]]:
    """Return the heights of each line of the legend."""
    figure = Figure()
    frontier_picture(data, "NDCG@10").draw(figure, False)
    [axes] = figure.axes
    heights: dict[str, list[float]] = {}
    for one in axes.lines:
        heights[str(one.get_label())] = np.asarray(one.get_ydata(), float).tolist()
    return heights


OWN = line("federated", {1: [0.1, 0.2], 8: [0.3, 0.5], math.inf: [0.6]})
HOME = line("home", {1: [0.25, 0.35], 8: [0.25, 0.35], math.inf: [0.3]})


def test_what_depends_on_epsilon_has_a_point_at_each_and_what_does_not_is_level() -> None:
    adapted = line("federated_home", {1: [0.3, 0.34], 8: [0.4, 0.5], math.inf: [0.7]})
    rival = line("popularity_private", {1: [0.01], 8: [0.02]})
    heights = drawn(Frontier("ndcg@10", (OWN,), (adapted, HOME, rival)))
    # The point without privacy is apart, and not in the legend again.
    assert heights[look("federated").label] == pytest.approx([0.15, 0.4])
    assert heights[look("federated_home").label] == pytest.approx([0.32, 0.45])
    assert heights[look("popularity_private").label] == pytest.approx([0.01, 0.02])
    assert heights[look("home").label] == pytest.approx([0.3, 0.3])


def test_adapted_models_of_several_settings_are_not_drawn_as_one() -> None:
    own = [line("federated", {1: [0.1], 8: [0.3]}, name) for name in ("a = 1", "a = 2")]
    adapted = [line("federated_home", {1: [0.2], 8: [0.4]}, name) for name in ("a = 1", "a = 2")]
    heights = drawn(Frontier("ndcg@10", tuple(own), (*adapted, HOME)))
    assert look("home").label in heights
    assert look("federated_home").label not in heights
