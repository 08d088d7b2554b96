"""Prometheus metrics of the service. No label names a user or an item."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

__all__ = ["BUCKETS", "ServiceMetrics"]

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
"""Seconds from request to answer."""


class ServiceMetrics:
    """Counts since the service started.

    Args:
        waiting: returns how many requests wait or are computed.
    """

    def __init__(self, waiting: Callable[[], float] = lambda: 0) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "sotto_serve_requests",
            "Requests by operation, transport and code; OK is an answer.",
            ["operation", "transport", "code"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "sotto_serve_seconds",
            "From request to answer.",
            ["operation"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.empty = Counter(
            "sotto_serve_empty_lists", "Lists without any item.", registry=self.registry
        )
        self.measures = Counter(
            "sotto_serve_wellbeing_measures",
            "Lists that a measure of the wellbeing guard changed or left empty, by measure.",
            ["measure"],
            registry=self.registry,
        )
        self.popularity = Histogram(
            "sotto_serve_recommended_popularity",
            "Mean popularity of a list's items: the share of items that are at most as popular.",
            buckets=tuple(tenth / 10 for tenth in range(1, 11)),
            registry=self.registry,
        )
        self.feedback = Counter(
            "sotto_serve_feedback_events",
            "Events that were stored, by kind.",
            ["kind"],
            registry=self.registry,
        )
        self.unlogged = Counter(
            "sotto_serve_unlogged_lists",
            "Recommended lists that were not written, since too much waited for the disk.",
            registry=self.registry,
        )
        self.reloads = Counter(
            "sotto_serve_reloads",
            "Replacements of the model and of the histories, by what and outcome.",
            ["what", "outcome"],
            registry=self.registry,
        )
        self.model = Gauge(
            "sotto_serve_model_info", "The model in use.", ["model"], registry=self.registry
        )
        self.loaded = Gauge(
            "sotto_serve_loaded_timestamp_seconds",
            "When the model or the histories in use were loaded.",
            registry=self.registry,
        )
        Gauge(
            "sotto_serve_waiting", "Requests that wait or are computed.", registry=self.registry
        ).set_function(waiting)
