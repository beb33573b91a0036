"""What is counted and timed, in Prometheus' text form.

In: finished requests, the loops' own figures. Out: text. Must never happen: a label that a client invents (each value costs
memory for ever), or a name or text of anybody's in a figure.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.types import Scope

if TYPE_CHECKING:
    from puna.serve.models import Hosted, Models

CONTENT_TYPE = exposition.CONTENT_TYPE_PLAIN_1_0_0
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_FIRST = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)  # seconds
_TOKEN = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
_REQUEST = (0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)


class Meters:
    """A registry of the app's own, so that two apps in one process do not count together."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "puna_requests",
            "Requests by route, method and status.",
            ["route", "method", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "puna_request_seconds", "Duration of a request.", ["route"], buckets=_REQUEST, registry=self.registry
        )
        self.first_token = Histogram(
            "puna_time_to_first_token_seconds", "From asking for a reply to its first token.", ["model"], buckets=_FIRST,
            registry=self.registry,
        )  # fmt: skip
        self.token = Histogram(
            "puna_time_per_token_seconds", "Of a reply, after its first token.", ["model"], buckets=_TOKEN,
            registry=self.registry,
        )  # fmt: skip

    def watch(self, models: "Models") -> None:
        """Also report the models' loops."""
        self.registry.register(_Loops(models))

    def request(self, scope: Scope, status: int, seconds: float) -> None:
        """One request has ended. `status` is 0 where nothing was answered because the client had gone."""
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._requests.labels(route, method, str(status) if status else "gone").inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """Everything, in Prometheus' text form 1.0.0."""
        return exposition.generate_latest(self.registry, escaping="allow-utf-8")


class _Loops(Collector):
    """Asks the loops when somebody reads the figures."""

    def __init__(self, models: "Models") -> None:
        self._models = models

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        gauges = {
            "running": ("puna_replies_running", "Replies that are being made."),
            "waiting": ("puna_replies_waiting", "Replies that wait in the queue."),
            "blocks": ("puna_cache_blocks", "Blocks of the cache."),
            "blocks_free": ("puna_cache_blocks_free", "Blocks of the cache that nobody holds."),
        }
        counters = {
            "prompt_tokens": (
                "puna_prompt_tokens",
                "Tokens of prompts that were read: those found in the cache are not.",
            ),
            "cached_tokens": ("puna_cached_tokens", "Tokens of prompts that were found in the cache."),
            "generated_tokens": ("puna_generated_tokens", "Tokens of replies."),
            "preemptions": ("puna_preemptions", "Replies that were sent back to the queue for want of blocks."),
            "steps": ("puna_steps", "Passes of the model."),
        }
        figures = [(hosted.name, hosted.loop.stats()) for hosted in self._hosted()]
        for field, (name, told) in gauges.items():
            gauge = GaugeMetricFamily(name, told, labels=["model"])
            for model, stats in figures:
                gauge.add_metric([model], getattr(stats, field))
            yield gauge
        for field, (name, told) in counters.items():
            counter = CounterMetricFamily(name, told, labels=["model"])
            for model, stats in figures:
                counter.add_metric([model], getattr(stats, field))
            yield counter
        finished = CounterMetricFamily("puna_replies", "Replies that ended, by reason.", labels=["model", "reason"])
        for model, stats in figures:
            for reason, count in stats.finished.items():
                finished.add_metric([model, reason], count)
        yield finished

    def _hosted(self) -> "list[Hosted]":
        return self._models.all()
