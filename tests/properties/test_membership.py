"""Membership that is kept up to date bit by bit is what asking from scratch gives, whatever was told in what order.

So is the joined inventory: what is left of any messages is what the last word of each source gives by itself.
"""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from quell.inventory.inventory import Inventory
from quell.inventory.membership import Membership
from quell.matching.groups import ALL, CONTAINERS, Groups
from quell.matching.patterns import regex, wildcard
from quell.model.rule import Group, GroupCriterion
from quell.model.sighting import ContainerSeen, Gone, NamespaceSeen, PodSeen, ServiceSeen, Sighting, Sightings
from quell.response.facts import Workload

NOW = 1_790_000_000.0
IDS = tuple(f"{digit * 12}{'0' * 52}" for digit in "abc")
PODS = ("uid-1", "uid-2")
SPACES = ("shop", "dev")
NODES = ("n1", "n2")
SOURCES = ("agent/a1", "agent/a2", "kubernetes/k", "event/falco")
VALUES = {
    "image": ("nginx:1", "redis", "nginx*", "any", "*"),
    "node": (*NODES, "n?"),
    "container": ("web", "db", "any"),
    "service": ("web", "db", "w*"),
    "namespace": (*SPACES, "d*"),
    "domain": SPACES,
    "app": ("web", "db", "any"),
    "tier": ("front",),
    "ns:env": ("prod", "any"),
    "address": ("10.0.0.1",),
}
OPERATORS = ("=", "=", "!=", "contains", "prefix", "regex", "!regex")


def some(values: tuple[str, ...]) -> SearchStrategy[str | None]:
    return st.none() | st.sampled_from(values)


@st.composite
def groups(draw: st.DrawFn) -> tuple[Group, ...]:
    keys = st.sampled_from(sorted(VALUES))
    made = []
    for n in range(draw(st.integers(0, 6))):
        criteria = []
        for key in draw(st.lists(keys, max_size=4)):
            op = draw(st.sampled_from(OPERATORS))
            value = draw(st.sampled_from(VALUES[key]))
            if op not in ("=", "!="):
                value = value.replace("*", "").replace("?", "") or "w"
            criteria.append(GroupCriterion(key=key, op=op, value=value))
        made.append(Group(name=f"g{n}", criteria=tuple(criteria)))
    return tuple(made)


labels = st.none() | st.dictionaries(st.sampled_from(("app", "tier")), st.sampled_from(("web", "db", "front")))
containers = st.builds(
    ContainerSeen,
    id=st.sampled_from(IDS),
    name=some(("web", "db")),
    image=some(("nginx:1", "redis")),
    node=some(NODES),
    labels=labels,
    pod_uid=some(PODS),
    running=st.booleans(),
)
pods = st.builds(
    PodSeen,
    uid=st.sampled_from(PODS),
    name=st.sampled_from(("p1", "p2")),
    namespace=st.sampled_from(SPACES),
    node=some(NODES),
    labels=labels.map(lambda given: given or {}),
    owner_name=st.sampled_from(("", "web")),
    containers=st.lists(containers, max_size=2, unique_by=lambda each: each.id).map(tuple),
)
spaces = st.builds(
    NamespaceSeen, name=st.sampled_from(SPACES), labels=st.sampled_from(({}, {"env": "prod"}, {"env": "dev"}))
)
services = st.builds(
    ServiceSeen,
    name=st.sampled_from(("web", "db")),
    namespace=st.sampled_from(SPACES),
    selector=st.sampled_from(({}, {"app": "web"}, {"app": "db", "tier": "front"})),
)
gone = st.builds(Gone, kind=st.just("container"), key=st.sampled_from(IDS)) | st.builds(
    Gone, kind=st.just("pod"), key=st.sampled_from(PODS)
)
messages = st.builds(
    Sightings,
    source=st.sampled_from(SOURCES),
    seen=st.lists(containers | pods | spaces | services, max_size=4).map(tuple),
    gone=st.lists(gone, max_size=2).map(tuple),
    complete=st.booleans(),
    kinds=st.sampled_from(((), ("container",), ("pod", "container"), ("namespace", "service"))),
)
#: A message, new documents, time that passes, a source that is no more, or somebody who asks.
steps = st.lists(
    messages
    | groups()
    | st.sampled_from((60.0, 700.0, 4000.0))
    | st.sampled_from(SOURCES)
    | st.sampled_from(IDS).map(lambda identifier: ("ask", identifier)),
    min_size=1,
    max_size=12,
)


def holds(criterion: GroupCriterion, value: str) -> bool:
    """Written a second time, as plainly as can be."""
    wanted = criterion.value
    match criterion.op.removeprefix("!"):
        case "contains":
            found = wanted in value
        case "prefix":
            found = value.startswith(wanted)
        case "regex":
            found = regex(wanted).matches(value)
        case _:
            found = wanted == "any" or wildcard(wanted).matches(value)
    return found is not criterion.op.startswith("!")


def scanned(known: Workload, defined: tuple[Group, ...]) -> set[str]:
    if known.gone is not None or not known.running or known.contested:
        return set()
    facts: dict[str, str | None] = {
        "container": known.name,
        "image": known.image,
        "node": known.node,
        "service": known.service,
        "namespace": known.namespace,
        "domain": known.namespace,
        **(known.labels or {}),
        **{f"ns:{key}": value for key, value in (known.namespace_labels or {}).items()},
    }
    found = {ALL, CONTAINERS}
    if known.service:
        found.add(f"nv.{known.service}.{known.namespace}" if known.namespace else f"nv.{known.service}")
    for group in defined:
        keys = {criterion.key for criterion in group.criteria}
        met = []
        for key in keys:
            value = facts.get(key)
            of_key = [criterion for criterion in group.criteria if criterion.key == key]
            positive = [criterion for criterion in of_key if not criterion.op.startswith("!")]
            negative = [criterion for criterion in of_key if criterion.op.startswith("!")]
            met.append(
                value is not None
                and (not positive or any(holds(each, value) for each in positive))
                and all(holds(each, value) for each in negative)
            )
        if keys and "address" not in keys and all(met):
            found.add(group.name)
    return found


@settings(max_examples=200, deadline=None)
@given(steps)
def test_membership_is_what_a_scan_gives_after_any_changes(taken: list[object]) -> None:
    inventory, defined, now = Inventory(), (), NOW
    membership = Membership(inventory.workloads, {})
    for step in taken:
        match step:
            case Sightings():
                membership.changed(inventory.take(step, now).workloads)
            case ("ask", str(identifier)):
                membership.groups_of(identifier, now)
            case tuple():
                defined = step
                membership.use(Groups(defined), ())
                membership.settle(now, 1)
            case float():
                now += step
                membership.changed(inventory.expire(now).workloads)
            case str():
                membership.changed(inventory.forget(step, now).workloads)
    expected = {identifier: scanned(known, defined) for identifier, known in inventory.workloads.items()}
    assert {identifier: set(membership.groups_of(identifier, now)) for identifier in expected} == expected
    for group in {*(group.name for group in defined), *(name for names in expected.values() for name in names)}:
        members = {identifier for identifier, names in expected.items() if group in names}
        assert set(membership.members(group, now)) == members
    learned = {name for names in expected.values() for name in names if name.startswith("nv.")}
    assert learned <= set(membership.learned(now))


Words = dict[tuple[str, str, str], Sighting]


def spoken(words: Words, message: Sightings) -> None:
    """What each source's last words are after a message: a second time, over plain words."""
    source = message.source

    def drop(kind: str, key: str) -> None:
        if words.pop((source, kind, key), None) is not None and kind == "pod":
            inside(key, frozenset())

    def inside(uid: str, stay: frozenset[str]) -> None:
        for (of, kind, key), word in list(words.items()):
            if (of, kind) == (source, "container") and word.pod_uid == uid and key not in stay:  # type: ignore[union-attr]
                del words[of, kind, key]

    told = [
        *((each, str(each.__struct_config__.tag), identity(each)) for each in message.seen),
        *((c, "container", c.id) for each in message.seen if isinstance(each, PodSeen) for c in each.containers),
    ]
    if message.complete:
        here = {(kind, key) for _, kind, key in told}
        for of, kind, key in list(words):
            if of == source and kind in message.kinds and (kind, key) not in here:
                drop(kind, key)
    for each in message.gone:
        drop(each.kind, each.key)
    for seen in message.seen:
        if isinstance(seen, PodSeen):
            if seen.containers or source.startswith("kubernetes/"):
                inside(seen.uid, frozenset(each.id for each in seen.containers))
            for each in seen.containers:
                words[source, "container", each.id] = msgspec.structs.replace(
                    each, pod_uid=seen.uid, pod_name=seen.name, namespace=seen.namespace, node=each.node or seen.node
                )
            seen = msgspec.structs.replace(seen, containers=())  # noqa: PLW2901 - the pod alone
        words[source, str(seen.__struct_config__.tag), identity(seen)] = seen


def identity(seen: Sighting) -> str:
    match seen:
        case ContainerSeen():
            return seen.id
        case PodSeen():
            return seen.uid
        case ServiceSeen():
            return f"{seen.namespace}/{seen.name}"
        case _:
            return getattr(seen, "name", "")


@settings(max_examples=300, deadline=None)
@given(st.lists(messages.filter(lambda told: not told.source.startswith("event/")), min_size=1, max_size=8))
def test_what_is_joined_bit_by_bit_is_what_the_last_words_give(told: list[Sightings]) -> None:
    inventory, words = Inventory(), Words()
    for message in told:
        inventory.take(message, NOW)
        spoken(words, message)
    fresh = Inventory()
    fresh.restore(words.items(), NOW)
    assert {key: known for key, known in inventory.workloads.items() if known.gone is None} == fresh.workloads
    saved: Words = {}
    while True:
        stand, taken_back = inventory.drain(1000)
        if not stand and not taken_back:
            break
        saved |= stand
    assert saved == words
