"""The counters of an engine in Prometheus's text format: to be scraped from an ASGI application, or printed.

What is measured is what :class:`~fslm_core.serve.metrics.Metrics` measures, under names as OpenTelemetry's exporter for
Prometheus makes them of the instruments': ``fslm.runs`` is ``fslm_runs_total``, ``gen_ai.workflow.duration`` is
``gen_ai_workflow_duration_seconds``, and attributes are labels, their dots underscores.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtraError
from .asgi import Receive
from .metrics import Metrics

if TYPE_CHECKING:
    from prometheus_client import Metric

Send = Callable[[Mapping[str, Any]], Awaitable[None]]
"""An ASGI ``send``."""


class Prometheus:
    """Measures engines, and tells it to whoever scrapes; it is an ASGI application::

        scraped = Prometheus()
        with Engine(stacks=[triage], observers=[scraped.observer()]) as engine:
            app.mount("/metrics", scraped)  # or uvicorn.run(scraped), or print(scraped.text())

    It has a registry of its own: nothing else that the process measures is told, and nothing is told twice.

    Attributes:
        registry: for whatever else of ``prometheus_client`` takes one, such as its ``start_http_server``.

    Raises:
        MissingExtraError: the extra ``prometheus`` is not installed.
    """

    def __init__(self) -> None:
        try:
            import prometheus_client
            from opentelemetry.exporter.prometheus import PrometheusMetricReader
            from opentelemetry.sdk.metrics import MeterProvider
        except ModuleNotFoundError as error:
            raise _missing(error) from error
        self.registry = _one_at_a_time()
        reader = PrometheusMetricReader(registry=self.registry, scope_info_enabled=False)
        self._provider = MeterProvider([reader], shutdown_on_exit=False)
        self._generate = prometheus_client.generate_latest
        self._app = prometheus_client.make_asgi_app(self.registry)

    def observer(self) -> Metrics:
        """An observer for one engine; give each engine one of its own."""
        return Metrics(self._provider)

    def text(self) -> str:
        """What is known by now, in the text format."""
        return self._generate(self.registry).decode()

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request of an ASGI server, whatever its path; the format is what the scraper asks for."""
        if scope["type"] == "lifespan":
            await _lived(receive, send)
        elif scope["type"] == "http":
            await self._app(scope, receive, send)

    def close(self) -> None:
        """Measure no more. Idempotent."""
        self._provider.shutdown()


async def _lived(receive: Receive, send: Send) -> None:
    """Start and end as a server wants it: there is nothing to do."""
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


def _one_at_a_time() -> Any:
    """A registry that is read by one thread at a time, as OpenTelemetry's collector wants it."""
    from prometheus_client import CollectorRegistry

    class Registry(CollectorRegistry):
        _reading = threading.Lock()

        def collect(self) -> Iterable[Metric]:
            with self._reading:
                return list(super().collect())

    return Registry()


def _missing(error: ModuleNotFoundError) -> MissingExtraError:
    return MissingExtraError(
        "telling Prometheus needs packages that are not installed",
        where=sys.executable,
        found=f"without {error.name}",
        expected="the extra [prometheus]",
        hint="run `python -m pip install 'fslm-core[prometheus]'` with this Python",
    )


__all__ = ["Prometheus", "Send"]
