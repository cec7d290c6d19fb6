"""What the inventory adds to an event, what it does not, and what the record says of their differences."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quell.inventory.enrichment import SKEW, Enriched, Enricher, merged, missing
from quell.inventory.images import differ, same_id
from quell.inventory.inventory import Inventory
from quell.model.event import Category, Event, Level
from quell.model.sighting import ContainerSeen, Gone, NamespaceSeen, NodeSeen, PodSeen, Sighting, Sightings
from quell.model.subject import Container, Pod, Process, Subject
from quell.response.facts import Workload

NOW = 1_790_000_000.0
ID = "c" * 12 + "0" * 52
PODLESS = "d" * 64
POD = PodSeen(
    uid="uid-1",
    name="web-1",
    namespace="shop",
    node="n1",
    labels={"app": "web"},
    owner_name="web",
    containers=(ContainerSeen(id=ID, name="web", image="nginx:1.27", image_id="sha256:" + "1" * 64),),
)
FULL = Subject(
    cluster="prod",
    node="n1",
    namespace="shop",
    namespace_labels={"env": "prod"},
    pod=Pod(name="web-1", uid="uid-1", labels={"app": "web"}),
    container=Container(id=ID, name="web", image_id="sha256:" + "1" * 64, host_network=False),
    image="nginx:1.27",
    service="web",
)


def event(subject: Subject, **fields: Any) -> Event:
    told: dict[str, Any] = {"time": NOW, "source": "falco", **fields}
    return Event(
        id="e",
        received=NOW,
        category=Category.SECURITY_EVENT,
        name="x",
        level=Level.WARNING,
        subject=subject,
        raw=b"{}",
        **told,
    )


class World:
    def __init__(self) -> None:
        self.inventory = Inventory()
        self.unknown: list[Event] = []
        self.enrich = Enricher(self.inventory, self.unknown.append).enrich
        self.told("kubernetes/prod", NodeSeen(name="n1"), NamespaceSeen(name="shop", labels={"env": "prod"}), POD)
        container = ContainerSeen(id=PODLESS, name="db", node="n1", labels={"app": "db"}, sandbox="s" * 64)
        self.told("agent/a1", NodeSeen(name="n1", machine_id="m1"), container)

    def told(self, source: str, *seen: Sighting, **more: Any) -> None:
        self.inventory.take(Sightings(source=source, seen=seen, **more), NOW)

    def adds(self, subject: Subject, **fields: Any) -> Enriched:
        made = event(subject, **fields)
        first, again = self.enrich(made), self.enrich(made)
        assert first == again
        return first or Enriched(made, None, ())


def test_an_event_that_names_a_container_gets_all_that_is_known_of_it() -> None:
    process = Process(pid=7, name="sh")
    found = World().adds(Subject(node="n1", container=Container(id=ID), process=process, user="root"))
    assert found.event.subject == msgspec.structs.replace(FULL, process=process, user="root")
    assert found.added == msgspec.structs.replace(FULL, node=None)
    assert found.conflicts == ()


def test_a_short_id_becomes_the_whole_one_and_an_ambiguous_one_stays() -> None:
    world = World()
    found = world.adds(Subject(container=Container(id=ID[:12], name="web")))
    assert found.event.subject == FULL
    assert found.added is not None
    assert found.added.container == Container(id=ID, image_id="sha256:" + "1" * 64, host_network=False)
    world.told("agent/a1", ContainerSeen(id=ID[:12] + "1" * 52, node="n1"))
    assert world.adds(Subject(container=Container(id=ID[:12]))).added is None


def test_a_container_in_no_pod_gets_its_own_labels_and_sandbox_and_no_pod() -> None:
    subject = World().adds(Subject(node="n1", container=Container(id=PODLESS))).event.subject
    assert subject.pod is None
    assert subject.container == Container(id=PODLESS, name="db", labels={"app": "db"}, sandbox="s" * 64)
    assert subject.service == "db"


def test_an_event_that_has_all_and_one_about_no_workload_are_left_alone() -> None:
    world = World()
    for subject in (FULL, Subject(node="n1", process=Process(pid=1)), Subject(image="nginx:1.27", namespace="shop")):
        assert world.enrich(event(subject)) is None
    assert world.unknown == []


def test_what_the_event_says_wins_and_the_difference_is_told() -> None:
    said = Subject(
        node="n1",
        image="redis",
        service="cache",
        pod=Pod(labels={"app": "db", "own": "x"}),
        container=Container(id=ID, name="other", image_id="2" * 12, host_network=True),
    )
    found = World().adds(said)
    subject = found.event.subject
    assert (subject.image, subject.service, subject.container) == ("redis", "cache", said.container)
    assert subject.pod == Pod(name="web-1", uid="uid-1", labels={"app": "db", "own": "x"})
    assert subject.namespace == "shop"
    assert found.conflicts == (
        "image: the event says redis, the inventory nginx:1.27",
        "service: the event says cache, the inventory web",
        "container name: the event says other, the inventory web",
        f"image id: the event says {'2' * 12}, the inventory sha256:{'1' * 64}",
        "host network: the event says True, the inventory False",
        "label app: the event says db, the inventory web",
    )


@pytest.mark.parametrize(
    "said",
    [
        {"image": "docker.io/library/nginx:1.27"},
        {"container": Container(id=ID, name="k8s_web_web-1_shop_uid-1_0", image_id="1" * 12)},
        {"service": "web.shop"},
        {"pod": Pod(labels={"app": "web"})},
    ],
)
def test_another_way_to_write_the_same_is_no_difference(said: dict[str, Any]) -> None:
    subject = Subject(**{"node": "n1", "container": Container(id=ID), **said})
    assert World().adds(subject).conflicts == ()


@pytest.mark.parametrize(
    ("said", "conflict"),
    [
        ({"node": "n2"}, "node: the event says n2, the inventory n1: nothing was filled in"),
        ({"machine_id": "m2"}, "machine: the event says m2, the inventory m1: nothing was filled in"),
        ({"namespace": "dev"}, "namespace: the event says dev, the inventory shop: nothing was filled in"),
        ({"pod": Pod(uid="uid-2")}, "pod uid: the event says uid-2, the inventory uid-1: nothing was filled in"),
        ({"pod": Pod(name="web-2")}, "pod: the event says web-2, the inventory web-1: nothing was filled in"),
    ],
)
def test_where_it_could_be_another_workload_nothing_is_added(said: dict[str, Any], conflict: str) -> None:
    subject = Subject(**{"container": Container(id=ID), **said})
    found = World().adds(subject)
    assert (found.event.subject, found.added, found.conflicts) == (subject, None, (conflict,))


def test_a_container_that_two_agents_claim_adds_nothing() -> None:
    world = World()
    world.told("agent/a2", ContainerSeen(id=PODLESS, node="n2", labels={"app": "forged"}))
    found = world.adds(Subject(node="n1", container=Container(id=PODLESS)))
    assert found.added is None
    assert found.conflicts == ("node: sources disagree whether it is on n1 or n2: nothing was filled in",)


def test_a_pod_is_filled_in_by_uid_and_by_name() -> None:
    world = World()
    wanted = msgspec.structs.replace(FULL, container=None, image=None)
    assert world.adds(Subject(pod=Pod(uid="uid-1"))).event.subject == wanted
    assert world.adds(Subject(namespace="shop", pod=Pod(name="web-1"))).event.subject == wanted
    assert world.adds(Subject(namespace="dev", pod=Pod(name="web-1"))).added is None
    other = world.adds(Subject(cluster="dev", namespace="shop", pod=Pod(name="web-1")))
    assert other.added is None
    assert other.conflicts == ("cluster: the event says dev, the inventory prod: nothing was filled in",)


def test_an_unknown_container_of_a_known_pod_gets_the_pods_facts() -> None:
    world = World()
    subject = world.adds(Subject(container=Container(id="f" * 64), pod=Pod(uid="uid-1"))).event.subject
    assert subject.pod == FULL.pod
    assert (subject.container, subject.image) == (Container(id="f" * 64), None)
    assert len(world.unknown) == 2


def test_what_changes_counts_from_the_next_event_on() -> None:
    world, asked = World(), Subject(node="n1", container=Container(id=ID))
    assert world.adds(asked).event.subject == FULL
    changed = msgspec.structs.replace(POD, labels={"app": "db"})
    world.told("kubernetes/prod", changed)
    pod = world.adds(asked).event.subject.pod
    assert pod is not None
    assert pod.labels == {"app": "db"}


def test_a_workload_that_is_gone_still_adds_and_a_later_event_is_told_as_such() -> None:
    world, asked = World(), Subject(node="n1", container=Container(id=ID))
    world.told("kubernetes/prod", gone=(Gone(kind="pod", key="uid-1"),))
    just_after = world.adds(asked, time=NOW + SKEW)
    assert (just_after.event.subject, just_after.conflicts) == (FULL, ())
    late = world.adds(asked, time=NOW + 90)
    assert late.event.subject == FULL
    (told,) = late.conflicts
    assert told.startswith("time: the event says that it happened 90 s after the workload ended")
    assert world.adds(asked, time=None).conflicts == ()


def test_what_an_event_taught_is_for_events_of_its_detector_on_its_node_only() -> None:
    world = World()
    world.told("event/falco", ContainerSeen(id="e" * 64, node="n1", image="nginx", namespace="shop"))
    asked = Subject(node="n1", container=Container(id="e" * 64))
    found = world.adds(asked)
    assert (found.event.subject.image, found.event.subject.namespace) == ("nginx", "shop")
    assert world.adds(asked, source="native").added is None
    for node in ("n2", None):
        elsewhere = world.adds(Subject(node=node, container=Container(id="e" * 64)))
        assert (elsewhere.added, elsewhere.conflicts) == (None, ())


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("nginx", "docker.io/library/nginx:latest", False),
        ("reg.example.com:5000/nginx", "reg.example.com:5000/nginx:latest", False),
        ("reg.example.com:5000/nginx", "reg.example.com:5001/nginx", True),
        ("nginx:1", "nginx:2", True),
        ("nginx:1", "nginx@sha256:" + "a" * 64, False),
        ("nginx@sha256:" + "a" * 64, "nginx@sha256:" + "b" * 64, True),
        ("nginx", "evil/nginx", True),
        ("sha256:" + "a" * 64, "nginx", False),
    ],
)
def test_images_written_in_two_ways(one: str, other: str, expected: bool) -> None:
    assert differ(one, other) is differ(other, one) is expected


def test_image_ids_are_shortened_but_not_to_anything() -> None:
    assert same_id("a" * 12, "sha256:" + "a" * 64)
    assert not same_id("b" * 12, "sha256:" + "a" * 64)
    assert not same_id("a", "sha256:" + "a" * 64)


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


text = st.sampled_from(("a", "b"))
labels = maybe(st.dictionaries(text, text))
subjects = st.builds(
    Subject,
    node=maybe(text),
    namespace=maybe(text),
    namespace_labels=labels,
    pod=maybe(st.builds(Pod, name=maybe(text), uid=maybe(text), labels=labels)),
    container=st.builds(Container, id=st.just(ID[:12]), name=maybe(text), host_network=maybe(st.booleans())),
    image=maybe(text),
    service=maybe(text),
    process=maybe(st.just(Process(pid=1))),
)
workloads = st.builds(
    Workload,
    id=st.just(ID),
    name=maybe(text),
    image=maybe(text),
    node=maybe(text),
    namespace=maybe(text),
    labels=labels,
    namespace_labels=labels,
    pod_uid=maybe(text),
    pod_name=maybe(text),
    service=maybe(text),
    host_network=maybe(st.booleans()),
    sandbox=maybe(text),
)


@given(subjects, workloads)
def test_adding_fills_gaps_and_changes_nothing_that_was_said(subject: Subject, known: Workload) -> None:
    added = missing(subject, known)
    assert added is not None
    after = merged(subject, added)
    assert missing(after, known) is None
    assert merged(after, added) == after
    said, now = msgspec.to_builtins(subject), msgspec.to_builtins(after)
    said["container"].pop("id")
    assert _within(said, now)


def _within(said: Any, now: Any) -> bool:
    if isinstance(said, dict) and isinstance(now, dict):
        return all(key in now and _within(value, now[key]) for key, value in said.items())
    return bool(said == now)
