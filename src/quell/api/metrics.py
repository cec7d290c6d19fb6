"""GET /metrics: what this process counts, and what can be asked when it is asked, in Prometheus's or OpenMetrics' form.

The figures of a running controller are a literal table, FIGURES; what is counted as it happens is in quell.metrics.
page() is docs/metrics.md, written from both.
"""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from msgspec import Struct
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from quell import __version__
from quell.api.asgi import Scope, Send, header, respond
from quell.api.ingest import REFUSED, REJECTED, SKIPPED, TAKEN
from quell.api.link import AgentLinks
from quell.controller.controller import Controller
from quell.controller.delivery import CHANNEL
from quell.controller.rulebook import name_of
from quell.controller.syslog.line import ReceiverStatus, State
from quell.metrics import DECLARED, Declared
from quell.model.rule import Rule
from quell.model.trace import Priority
from quell.storage import dead_letters, outbox
from quell.storage.records import Statistics

#: Label values to figures; () where there are no labels.
Figures = Mapping[tuple[str, ...], float]


class Asked(Struct, frozen=True, kw_only=True):
    """What the figures are read from, once for all of them."""

    controller: Controller
    links: AgentLinks
    store: Statistics
    #: Items of the outbox by channel.
    waiting: Mapping[str, int]
    #: By endpoint.
    dead_letters: Mapping[str, int]
    syslog: Sequence[ReceiverStatus]
    documents: Figures
    rules: Figures


class Figure(Struct, frozen=True, kw_only=True):
    told: Declared
    read: Callable[[Asked], Figures | float]


def _gauge(name: str, text: str, read: Callable[[Asked], Figures | float], *labels: str) -> Figure:
    return Figure(told=Declared(name=name, kind="gauge", labels=labels, text=text), read=read)


def _counter(name: str, text: str, read: Callable[[Asked], Figures | float], *labels: str) -> Figure:
    return Figure(told=Declared(name=name, kind="counter", labels=labels, text=text), read=read)


_NO_TRACES: Mapping[Priority | None, int] = dict.fromkeys((*Priority, None), 0)

FIGURES = (
    _gauge(
        "quell_build_info",
        "1; the labels say what runs.",
        lambda _: {(__version__, platform.python_version()): 1},
        "version",
        "python",
    ),
    _gauge(
        "quell_suspended",
        "1 while nothing is decided because a write failed and the state is being read back.",
        lambda asked: asked.controller.pipeline.suspended,
    ),
    _gauge(
        "quell_documents",
        "Documents applied, by kind.",
        lambda asked: asked.documents,
        "kind",
    ),
    _gauge(
        "quell_rules",
        "Response rules by what they are allowed to do: enforce, audit, or nothing (disabled).",
        lambda asked: asked.rules,
        "mode",
    ),
    _counter(
        "quell_documents_revision_total",
        "How often the documents were changed, since the state folder was made.",
        lambda asked: asked.controller.pipeline.index.revision,
    ),
    _gauge("quell_agents_connected", "Agents whose link is up.", lambda asked: len(asked.links.connected())),
    _gauge(
        "quell_commands_waiting",
        "Commands without a recorded outcome.",
        lambda asked: asked.controller.dispatcher.waiting() + asked.controller.cluster_actions.waiting(),
    ),
    _gauge(
        "quell_approvals_waiting",
        "Actions that wait for a person to approve them.",
        lambda asked: len(asked.controller.pipeline.state.held),
    ),
    _gauge(
        "quell_breakers_open",
        "Rules that stopped for an owner of workloads, each owner counted.",
        lambda asked: len(asked.controller.pipeline.state.breakers),
    ),
    _gauge(
        "quell_webhook_deliveries_waiting",
        "Deliveries in the outbox.",
        lambda asked: {
            (channel.removeprefix(CHANNEL),): count
            for channel, count in asked.waiting.items()
            if channel.startswith(CHANNEL)
        },
        "endpoint",
    ),
    _gauge(
        "quell_webhook_failing_seconds",
        "How long each endpoint has been failing: since the first attempt that failed after the last delivery. 0: it is not.",
        lambda asked: {(name,): seconds for name, seconds in asked.controller.webhooks.failing().items()},
        "endpoint",
    ),
    _gauge(
        "quell_webhook_dead_letters",
        "Deliveries that were given up and can be sent again.",
        lambda asked: {(name,): count for name, count in asked.dead_letters.items()},
        "endpoint",
    ),
    _gauge(
        "quell_syslog_connected",
        "1 while there is a way to a syslog receiver; 0: it fails, or is disabled.",
        lambda asked: {(one.name,): one.state in (State.IDLE, State.SENDING) for one in asked.syslog},
        "receiver",
    ),
    _gauge(
        "quell_syslog_lag_events",
        "Events and flags of the journal that a syslog receiver has yet to be sent, or that its filter has yet to leave out.",
        lambda asked: {(one.name,): one.lag_events for one in asked.syslog},
        "receiver",
    ),
    _gauge(
        "quell_syslog_lag_seconds",
        "Age of the oldest of them.",
        lambda asked: {(one.name,): one.lag_seconds for one in asked.syslog},
        "receiver",
    ),
    _gauge(
        "quell_quarantines",
        "Workloads and processes that are isolated, or about to be.",
        lambda asked: len(asked.controller.state.quarantines),
    ),
    _gauge(
        "quell_traces_open",
        "Traces that flags may still join, by priority; suppressed: those that a policy hides.",
        lambda asked: {
            ("suppressed" if priority is None else priority.value.lower(),): count
            for priority, count in {**_NO_TRACES, **asked.controller.traces.counts()}.items()
        },
        "priority",
    ),
    _counter(
        "quell_links_refused_total",
        "Agents' links and their events that were refused.",
        lambda asked: {(reason,): count for reason, count in asked.links.refused.items()},
        "reason",
    ),
    _counter(
        "quell_reports_refused_total",
        "Agents' reports about commands that were not theirs or not there.",
        lambda asked: {(reason,): count for reason, count in asked.controller.dispatcher.refused.items()},
        "reason",
    ),
    _gauge("quell_store_queued_entries", "Writes that wait.", lambda asked: asked.store.queued_entries),
    _gauge("quell_store_queued_bytes", "Bytes of writes that wait.", lambda asked: asked.store.queued_bytes),
    _gauge(
        "quell_store_queue_limit_bytes",
        "Bytes of writes that may wait; above it events are answered 429.",
        lambda asked: asked.controller.settings.ingest.queue_bytes,
    ),
    _counter("quell_store_events_total", "Events written, of every source.", lambda asked: asked.store.events),
    _counter("quell_store_commits_total", "Transactions.", lambda asked: asked.store.commits),
    _counter("quell_store_failures_total", "Writes that failed.", lambda asked: asked.store.failures),
    _gauge("quell_store_file_bytes", "Size of the database.", lambda asked: asked.store.file_bytes),
    _gauge("quell_store_wal_bytes", "Size of its write-ahead log.", lambda asked: asked.store.wal_bytes),
    _gauge(
        "quell_store_limit_bytes",
        "Size the journal may have (journal.max_bytes); the oldest events go first.",
        lambda asked: asked.controller.settings.journal.max_bytes,
    ),
    _gauge("quell_store_disk_free_bytes", "Room on its file system.", lambda asked: _free(asked.controller)),
    _gauge(
        "quell_store_replay_bytes",
        "Bytes of state changes that a restart would read; a snapshot takes it to 0.",
        lambda asked: asked.store.replay_bytes,
    ),
)


def _made(counter: Counter, *labels: str) -> Declared:
    [family] = counter.describe()
    return Declared(name=f"{family.name}_total", kind="counter", labels=labels, text=family.documentation)


#: Counted in quell.api.ingest.
_INGEST = (_made(TAKEN, "detector"), _made(REJECTED, "detector"), _made(SKIPPED, "detector"), _made(REFUSED, "status"))


class Metrics(Collector):
    """Of one controller; what is counted as it happens is of the process."""

    def __init__(self, controller: Controller, links: AgentLinks) -> None:
        self._controller = controller
        self._links = links
        #: Documents and rules by kind and mode, at some revision: with 100,000 rules counting them takes a while.
        self._loaded: tuple[int, Figures, Figures] = (-1, {}, {})
        self._syslog: Sequence[ReceiverStatus] = ()
        self._own = CollectorRegistry()
        self._own.register(self)

    def describe(self) -> Iterable[Metric]:
        """Nothing is read when it is registered."""
        return ()

    def collect(self) -> Iterator[Metric]:
        store = self._controller.store
        revision = self._controller.pipeline.index.revision
        if self._loaded[0] != revision:
            documents = _counted(name_of(kept.thing)[0] for kept in self._controller.documents())
            rules = _counted(_mode(rule) for rule in self._controller.pipeline.index.rules)
            self._loaded = (revision, documents, rules)
        asked = Asked(
            controller=self._controller,
            links=self._links,
            store=store.statistics(),
            waiting=store.read(outbox.counts),
            dead_letters=store.read(dead_letters.counts),
            syslog=self._syslog,
            documents=self._loaded[1],
            rules=self._loaded[2],
        )
        for figure in FIGURES:
            told = figure.told
            family: CounterMetricFamily | GaugeMetricFamily
            if told.kind == "counter":
                family = CounterMetricFamily(told.name, told.text, labels=told.labels)
            else:
                family = GaugeMetricFamily(told.name, told.text, labels=told.labels)
            read = figure.read(asked)
            for labels, value in (read if isinstance(read, Mapping) else {(): read}).items():
                family.add_metric(labels, value)
            yield family

    async def __call__(self, scope: Scope, send: Send) -> None:
        """The answer to a request that was let in. OpenMetrics for who asks for it."""
        # What a receiver that was away for days has yet to get takes a while to count.
        self._syslog = await asyncio.to_thread(self._controller.syslog.status)
        accept = (header(scope, b"accept") or b"").decode("latin-1")
        encode, media_type = choose_encoder(accept)
        body = encode(_Both(REGISTRY, self._own))
        await respond(send, 200, body, [(b"content-type", media_type.encode()), (b"cache-control", b"no-store")])


class _Both(Collector):
    """Two registries as one, so that OpenMetrics' end is written once."""

    def __init__(self, *registries: CollectorRegistry) -> None:
        self._registries = registries

    def collect(self) -> Iterator[Metric]:
        for registry in self._registries:
            yield from registry.collect()


def declared() -> list[Declared]:
    """Every family of Quell's own, by name; the client adds process_ and python_."""
    return sorted([*DECLARED, *_INGEST, *(figure.told for figure in FIGURES)], key=lambda told: told.name)


def page() -> str:
    """docs/metrics.md."""
    rows = [
        f"| `{told.name}` | {told.kind} | {', '.join(f'`{label}`' for label in told.labels) or '-'} | {told.text} |"
        for told in declared()
    ]
    return "\n".join(
        (
            "<!-- Written by `make docs` from the code; edit that instead. -->",
            "",
            "# Metrics",
            "",
            "`GET /metrics` answers whoever may read (a token of role viewer will do), in Prometheus's text form or, if",
            "asked for it, OpenMetrics. Beside these there are `process_*` and `python_*` of the controller's process.",
            "Times are seconds, sizes bytes. [Operations](operations.md) says how to scrape them and what to watch.",
            "",
            "| metric | type | labels | meaning |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
        )
    )


def _mode(rule: Rule) -> str:
    return "disabled" if rule.disabled else rule.mode.value


def _counted(words: Iterable[str]) -> Figures:
    counts: dict[tuple[str, ...], float] = {}
    for word in words:
        counts[word,] = counts.get((word,), 0) + 1
    return counts


def _free(controller: Controller) -> float:
    facts = os.statvfs(controller.folder)
    return facts.f_bavail * facts.f_frsize
