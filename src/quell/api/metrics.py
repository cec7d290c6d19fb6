"""GET /metrics: what this process counts, and how the store is doing, in Prometheus's text form."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import REGISTRY, CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from quell.storage.store import Store

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class StoreCollector(Collector):
    """Asks the store when it is asked."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        told = self._store.statistics()
        yield GaugeMetricFamily("quell_store_queued_entries", "Writes that wait.", told.queued_entries)
        yield GaugeMetricFamily("quell_store_queued_bytes", "Bytes of writes that wait.", told.queued_bytes)
        yield CounterMetricFamily("quell_store_events", "Events written.", told.events)
        yield CounterMetricFamily("quell_store_commits", "Transactions.", told.commits)
        yield CounterMetricFamily("quell_store_failures", "Writes that failed.", told.failures)
        yield GaugeMetricFamily("quell_store_commit_seconds", "How long the last commit took.", told.commit_seconds)
        yield GaugeMetricFamily("quell_store_wal_bytes", "Size of the write-ahead log.", told.wal_bytes)
        yield GaugeMetricFamily("quell_store_file_bytes", "Size of the database.", told.file_bytes)


class Metrics:
    def __init__(self, store: Store) -> None:
        self._of_store = CollectorRegistry()
        self._of_store.register(StoreCollector(store))

    def text(self) -> bytes:
        return generate_latest(REGISTRY) + generate_latest(self._of_store)
