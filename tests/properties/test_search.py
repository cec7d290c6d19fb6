"""A search of the journal finds what a look at every event finds, in its order, each once, however it is cut in pages."""

from __future__ import annotations

import json
import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quell.controller import notifications
from quell.controller.notifications import VERBATIM, Hit, Scope, compiled
from quell.controller.past import as_decided
from quell.detectors import DETECTORS
from quell.documents.load import load_text
from quell.evaluate import evaluate
from quell.matching.index import compile  # noqa: A004 - the word of the design
from quell.model.event import Category, Event, Level
from quell.model.notification import Filter, NotificationList, message_of
from quell.model.subject import Container, Pod, Subject
from quell.response.state import State
from quell.storage import schema
from quell.storage.records import Entry, Retention, Stored
from quell.storage.search import BEGINNING, Gap, gap
from quell.storage.store import Store

EVENTS = 400
#: The events are of a day that goes by.
FOR_EVER = Retention(max_age=1e12)
DOCUMENTS = """
apiVersion: quell.dev/v1
kind: Group
metadata: {name: shop}
spec: {criteria: [{key: namespace, op: "=", value: shop*}, {key: image, op: contains, value: cart}]}
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: quiet}
spec: {event: event, criteria: ["name:Container.*"], actions: [suppress-log]}
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: loud}
spec: {event: security-event, criteria: ["level:>=Error"], actions: [{makeRedFlag: {severity: high}}]}
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: shut}
spec: {event: security-event, criteria: ["namespace:shop"], actions: [quarantine, webhook]}
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: silent}
spec: {event: incident, criteria: ["process:sh", "image:*cart*"], actions: [suppress-log]}
"""
NAMES = {
    "event": ("Container.Start", "Container.Stop", "Controller.Start", "backup: done"),
    "security-event": ("Container.Suspicious.Process", "Host.Suspicious.Process", "Größe überschritten", "rule/8"),
    "cve-report": ("Container.Scan.Report", "ContainerScanReport"),
    "compliance": ("Compliance.Container.Violation", "Compliance.Host.Violation"),
    "admission-control": ("Admission.Control.Denied", "Admission.Control.Allowed"),
}
#: Spelled otherwise, and the catalogue's name.
SPELLED = {"ContainerScanReport": "Container.Scan.Report"}
FALCO = ("Terminal shell in container", "Read sensitive file untrusted", "made up <rule>")
PLACES = ("shop", "shop-dev", "kube-system", None)
IMAGES = ("reg.example/shop/cart:1", "reg.example/bank/äß:2", "nginx", None)
WORKLOADS = ("cart", "bank-7d9f", "c-1")
NODES = ("node-1", "node-2", None)
MESSAGES = ('it said "no"', "path /etc/shadow", "ÜBER größe", "plain", "Temp\\dir", "")
IDS = tuple(f"{random.Random(n).getrandbits(256):064x}" for n in range(4))  # noqa: S311 - the same each time


def written(told: object, chance: random.Random) -> bytes:
    """As JSON, in the ways that encoders write it."""
    text = json.dumps(told, ensure_ascii=chance.random() < 0.5)
    if chance.random() < 0.2:
        text = text.replace("<", "\\u003c").replace("/", "\\/")
    if chance.random() < 0.1:
        # Nothing need be escaped so, and some do.
        text = text.replace("shop", "\\u0073hop").replace("no", "n\\u006F").replace("St", "\\u0053t")
    return text.encode()


def native(chance: random.Random) -> bytes:
    category = chance.choice(list(NAMES))
    container: dict[str, Any] | None = {"id": chance.choice(IDS)[: chance.choice((12, 64))]}
    if chance.random() < 0.3:
        container = None
    elif chance.random() < 0.7:
        container["name"] = chance.choice(WORKLOADS)  # type: ignore[index]
    subject = {
        "namespace": chance.choice(PLACES),
        "image": chance.choice(IMAGES),
        "node": chance.choice(NODES),
        "container": container,
        "pod": {"name": chance.choice(WORKLOADS)} if chance.random() < 0.3 else None,
        "process": {"name": chance.choice(("sh", "nc"))},
    }
    details: dict[str, Any] = {"message": chance.choice(MESSAGES)}
    if category == "cve-report":
        details = {"vulnerabilities": [{"name": "CVE-2024-1234", "severity": "High"}]}
    if category == "compliance":
        details = {"items": [{"number": chance.choice(("D.5.4", "K.1.1")), "failed": chance.random() < 0.7}]}
    told = {
        "id": f"given-{chance.getrandbits(60)}" if chance.random() < 0.4 else None,
        "time": 1_790_000_000 + chance.random(),
        "name": chance.choice(NAMES[category]),
        "category": category,
        "level": chance.choice(list(Level)),
        "subject": {key: value for key, value in subject.items() if value is not None},
        "details": details,
    }
    return written({key: value for key, value in told.items() if value is not None}, chance)


def falco(chance: random.Random) -> bytes:
    fields = {
        "container.id": chance.choice((IDS[0][:12], IDS[1][:12], "host")),
        "container.image.repository": "reg.example/shop/cart",
        "container.image.tag": "1",
        "container.name": chance.choice(WORKLOADS),
        "k8s.ns.name": chance.choice(("shop", None)),
        "k8s.pod.name": chance.choice(WORKLOADS),
        "proc.name": "sh",
    }
    told = {
        "hostname": "node-1",
        "output": chance.choice(MESSAGES),
        "output_fields": fields,
        "priority": chance.choice(("Critical", "Error", "Warning", "Notice", "Informational")),
        "rule": chance.choice(FALCO),
        "source": "syscall",
        "time": "2026-11-22T15:40:11.204Z",
    }
    return written(told, chance)


def entries() -> list[Entry]:
    """What a controller would write, with parts that the inventory added."""
    chance, made = random.Random(4), []  # noqa: S311 - the same each time
    index = compile(load_text(DOCUMENTS), revision=1)
    for serial in range(EVENTS):
        source = "native" if chance.random() < 0.6 else "falco"
        raw = native(chance) if source == "native" else falco(chance)
        event = DETECTORS[source].decode(raw, id=None, received=1_790_000_000.0 + serial / 10 + chance.random())
        added = None
        subject = event.subject
        if subject.container is not None and chance.random() < 0.3:
            added = Subject(
                container=Container(id=subject.container.id, name=None if subject.container.name else "cart"),
                service="checkout",
                pod=None if subject.pod else Pod(name="bank-7d9f"),
                namespace=None if subject.namespace else "shop",
            )
        decision = evaluate(
            event if added is None else as_decided(stored_as(event, added)), index, State(), event.received
        )
        decision = msgspec.structs.replace(decision, added=added)
        made.append(Entry(event=event, decision=decision, own_id=not event.id_given))
    return made


def stored_as(event: Event, added: Subject) -> Stored:
    from quell.model.decision import Decision

    decision = Decision(event_id=event.id, time=event.received, revision=1, added=added)
    return Stored(id=event.id, received=event.received, source=event.source, raw=event.raw, decision=decision)


class Place:
    """A journal with rows of every size, some of which nobody summed up."""

    def __init__(self, store: Store) -> None:
        self.store = store
        documents = load_text(DOCUMENTS)
        self.scope = Scope(index=compile(documents, revision=1), world=State())
        self.all = [(stored, as_decided(stored)) for stored in store.recent(10 * EVENTS)]

    def naive(self, wanted: Filter, which: NotificationList) -> list[str]:
        """Newest first."""
        return [stored.id for stored, event in self.all if self._holds(wanted, which, stored, event)]

    def _holds(self, wanted: Filter, which: NotificationList, stored: Stored, event: Event) -> bool:
        decision, subject = stored.decision, event.subject
        container, pod = subject.container, subject.pod
        workloads = [
            None if container is None else container.name,
            None if pod is None else pod.name,
            subject.service,
        ]
        text = stored.raw.lower() + b"\n" + message_of(event.details()).encode().lower()
        matches = {word for match in decision.matches for word in (match.ref, match.name, match.ref[5:])}
        return all(
            (
                event.category in which.categories,
                wanted.since is None or event.received >= wanted.since,
                wanted.until is None or event.received < wanted.until,
                not wanted.level or any(is_level(event.level, level) for level in wanted.level),
                not wanted.name or any(self._named(event, name) for name in wanted.name),
                not wanted.category or event.category in wanted.category,
                not wanted.kind or (event.kind is not None and event.kind in wanted.kind),
                not wanted.group or any(self._in(event, group) for group in wanted.group),
                not wanted.namespace or any(fits(subject.namespace, one) for one in wanted.namespace),
                not wanted.node or any(fits(subject.node, one) for one in wanted.node),
                not wanted.image or any(fits(subject.image, one) for one in wanted.image),
                not wanted.source or event.source in wanted.source,
                not wanted.workload
                or any(fits(name, one) for name in workloads for one in wanted.workload)
                or any(container is not None and is_prefix(container.id, one) for one in wanted.workload),
                not wanted.rule or not matches.isdisjoint(wanted.rule),
                not (wanted.action or wanted.status)
                or any(
                    (not wanted.action or word(record) in wanted.action)
                    and (not wanted.status or record.status in wanted.status)
                    for record in decision.actions
                ),
                all(part.encode().lower() in text for one in wanted.text for part in one.split()),
                not wanted.decided or bool(decision.matches),
                wanted.include_suppressed or not decision.suppressed,
            )
        )

    def _named(self, event: Event, name: str) -> bool:
        names = [event.name, event.catalogue_name or event.name]
        if event.category is Category.COMPLIANCE:
            items = getattr(event.details(), "items", ())
            names += [text for item in items if item.failed for text in (item.number, item.number[2:])]
        wanted = {name, SPELLED.get(name, name)}
        return any(fits(one.casefold(), each.casefold()) for one in names for each in wanted)

    def _in(self, event: Event, group: str) -> bool:
        return group in self.scope.index.groups_of(event, self.scope.world)


def word(record: Any) -> str:
    return str(msgspec.to_builtins(record.action)["type"])


def fits(value: str | None, pattern: str) -> bool:
    return value is not None and fnmatchcase(value, pattern)


def is_level(level: Level, wanted: str) -> bool:
    return level.rank >= Level(wanted[2:]).rank if wanted.startswith(">=") else level == wanted


def is_prefix(identifier: str, wanted: str) -> bool:
    digits = set(wanted) <= set("0123456789abcdef") and len(wanted) >= 6
    return digits and (identifier.startswith(wanted) or (len(identifier) >= 12 and wanted.startswith(identifier)))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    path = tmp_path_factory.mktemp("search") / "quell.db"
    with Store.open(path, retention=FOR_EVER) as store:
        left, chance = entries(), random.Random(1)  # noqa: S311 - the same each time
        while left:
            size = chance.choice((1, 1, 2, 7, 40))
            part, left = left[:size], left[size:]
            ready = threading.Event()
            store.append(part, lambda _, ready=ready: ready.set())
            assert ready.wait(20)
    connection = schema.connect(path)
    connection.execute(
        "UPDATE journal_summary SET levels = NULL, categories = NULL, shown = NULL, traits = NULL, rules = NULL"
        " WHERE seq % 5 = 0"
    )
    connection.close()
    with Store.open(path, retention=FOR_EVER) as store:
        yield Place(store)


def some(*values: str) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(values), max_size=2, unique=True).map(tuple)


FILTERS = st.builds(
    Filter,
    since=st.none() | st.floats(1_790_000_000.0, 1_790_000_045.0),
    until=st.none() | st.floats(1_790_000_000.0, 1_790_000_045.0),
    level=some(*Level, ">=Warning", ">=Error"),
    name=some(
        *(name for names in NAMES.values() for name in names),
        *FALCO,
        *("container.*", "CONTAINER.START", "*", "D.5.4", "5.4", "[a-c]*", "never"),
    ),
    category=some(*Category),
    kind=some("incident", "violation"),
    group=some("shop", "containers", "nodes", "all", "external", "nv.checkout.shop"),
    workload=some(*WORKLOADS, "bank-*", "checkout", IDS[0], IDS[1][:12], IDS[2][:7], "[bc]*", "never"),
    namespace=some("shop", "shop*", "kube-system", "?hop", "[s]hop", "never"),
    node=some("node-1", "node-*", "never"),
    image=some("nginx", "*cart*", "reg.example/*", "reg.example/bank/äß:2"),
    source=some("falco", "native"),
    rule=some("quiet", "loud", "rule/shut", "silent", "never"),
    action=some("quarantine", "webhook", "suppress-log", "makeRedFlag"),
    status=some("granted", "refused"),
    text=some('"no"', "SHADOW", "größe", "plain it", "temp\\dir", "shop", "/etc/shadow", "\\", "nowhere-at-all"),
    decided=st.booleans(),
    include_suppressed=st.booleans(),
)


def sparse(wanted: Filter, kept: frozenset[str]) -> Filter:
    """Most filters at once find nothing: only some of them."""
    return Filter(**{name: getattr(wanted, name) for name in kept})


FIELDS = tuple(Filter.__struct_fields__)
SPARSE = st.builds(
    sparse, FILTERS, st.lists(st.sampled_from(FIELDS), max_size=3, unique=True).map(frozenset)
) | st.builds(sparse, FILTERS, st.sampled_from(FIELDS).map(lambda one: frozenset((one, "include_suppressed"))))


def quoted(wanted: Filter) -> Filter:
    """A quotation mark is part of the searched text here, and of the filter's own form otherwise."""
    return msgspec.structs.replace(wanted, text=tuple(one.replace('"no"', "said") for one in wanted.text))


def found(
    place: Place, wanted: Filter, which: NotificationList, limit: int, *, oldest_first: bool, seconds: float
) -> list[str]:
    """Page after page, each from the text of the last one's cursor."""
    query = compiled(wanted, place.scope, which)
    ids: list[str] = []
    at: Gap | None = None

    def page(connection: sqlite3.Connection) -> notifications.Found[Hit]:
        return notifications.find(connection, query, limit=limit, at=at, oldest_first=oldest_first, seconds=seconds)

    for _ in range(10_000):
        got = place.store.read(page)
        assert len(got.items) <= limit
        ids += [hit.event.id for hit in got.items]
        if got.next is None:
            assert got.until is None
            return ids
        assert at is None or (got.next > at if oldest_first else got.next < at), "it did not get on"
        at = gap(str(got.next))
    raise AssertionError("the search never ends")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    wanted=SPARSE.map(quoted),
    which=st.sampled_from(NotificationList),
    limit=st.sampled_from((1, 3, 50, 1000)),
    oldest_first=st.booleans(),
    seconds=st.sampled_from((0.0, 60.0)),
)
def test_a_search_finds_what_a_look_at_each_event_finds(
    place: Place, wanted: Filter, which: NotificationList, limit: int, oldest_first: bool, seconds: float
) -> None:
    expected = place.naive(wanted, which)
    if oldest_first:
        expected.reverse()
    assert found(place, wanted, which, limit, oldest_first=oldest_first, seconds=seconds) == expected


def test_each_filter_finds_something_and_not_everything(place: Place) -> None:
    """What the property is worth."""
    cases: dict[str, Filter] = {
        "spelling": Filter(name=("ContainerScanReport",), include_suppressed=True),
        "level": Filter(level=(">=Error",)),
        "name": Filter(name=("container.*",), include_suppressed=True),
        "number": Filter(name=("5.4",)),
        "group": Filter(group=("shop",)),
        "learned": Filter(group=("nv.checkout.shop",)),
        "workload": Filter(workload=(IDS[0],)),
        "added": Filter(workload=("checkout",)),
        "rule": Filter(rule=("loud",)),
        "action": Filter(action=("quarantine",), status=("refused",)),
        "text": Filter(text=("/etc/shadow",)),
        "escaped": Filter(namespace=("shop",)),
        "since": Filter(since=1_790_000_030.0, until=1_790_000_040.0),
    }
    counts = {name: len(place.naive(wanted, NotificationList.ALL)) for name, wanted in cases.items()}
    assert all(0 < count < len(place.all) for count in counts.values()), counts
    hidden = place.naive(Filter(include_suppressed=True), NotificationList.ALL)
    assert len(hidden) > len(place.naive(Filter(), NotificationList.ALL))


def test_what_verbatim_sources_say_stands_in_their_bytes() -> None:
    """The prefilter rests on it: every text of the subject, the name and the message of such an event."""
    chance = random.Random(9)  # noqa: S311 - the same each time
    makers: dict[str, Callable[[random.Random], bytes]] = {"native": native, "falco": falco}
    assert {"quell", "sensor", *makers} == VERBATIM, "a new source needs a line here"
    for source, make in makers.items():
        for _ in range(300):
            raw = make(chance)
            event = DETECTORS[source].decode(raw, id="x", received=1.0)
            plain = json.dumps(json.loads(raw), ensure_ascii=False)
            subject = event.subject
            said = [event.name, subject.namespace, subject.node, subject.service]
            said += [subject.container.id, subject.container.name] if subject.container else []
            said += [subject.pod.name] if subject.pod else []
            for text in said:
                assert text is None or json.dumps(text, ensure_ascii=False)[1:-1] in plain
            assert json.dumps(message_of(event.details()), ensure_ascii=False)[1:-1] in plain


def test_a_cursor_is_read_as_it_was_written() -> None:
    assert gap(str(Gap(12, 3))) == Gap(12, 3)
    assert gap(str(BEGINNING)) == BEGINNING
    for text in ("", "12", "12.3.4", "-1.2", "x.1", "1.1234567", "٣.1", "1" * 30 + ".1"):
        assert gap(text) is None
