"""The index finds what a scan over all rules finds, for any rules and events, in any order, and changes nothing."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from quell.evaluate import evaluate
from quell.matching import index as indexes
from quell.model.action import KillProcess, MakeOpsFlag, Quarantine, SendWebhook, Severity, SuppressLog
from quell.model.details import (
    AdmissionReview,
    ComplianceItem,
    ComplianceReport,
    CveReport,
    Details,
    SecurityDetails,
    Vulnerability,
)
from quell.model.event import Category, Event, Kind, Level
from quell.model.rule import Criterion, Group, GroupCriterion, Rule, Webhook
from quell.model.subject import Container, Pod, Process, Subject
from quell.response.state import AgentFacts, State

NOW = 1_790_000_000.0
DAY = 86400.0


class Documents(Struct, frozen=True):
    rules: tuple[Rule, ...]
    groups: tuple[Group, ...] = ()
    webhooks: tuple[Webhook, ...] = ()
    policies: tuple[()] = ()


NAMES = ("Network.Violation", "SSL.TLS1.0", "SSL.TLS1.0or1.1", "Container.Quarantined", "DLP.a.b", "my rule", "My Rule")
IMAGES = ("reg/a:1", "reg/a:2", "reg/b:1", "other/a")
PLACES = ("shop", "shop-dev", "kube-system")
PROCESSES = ("nc", "ncat", "sh", "kworker/0")
GROUPS = ("", "containers", "nodes", "all", "external", "nv.web.shop", "g", "h", "members")

CRITERIA = {
    "name": (*NAMES, "*", "network.*", "D.[1-5].*", "5.4", "D.5.4"),
    "level": (*Level, ">=Warning", ">=debug", "critical"),
    "kind": tuple(Kind),
    "process": (*PROCESSES, "n*", "/usr/bin/nc", "/usr/*", "*/nc", "*"),
    "namespace": (*PLACES, "shop*", "?hop"),
    "image": (*IMAGES, "reg/*", "*:1", "reg/[ab]:1"),
    "node": ("n1", "n2", "n*"),
    "source": ("falco", "native"),
    "label:app": ("web", "db", "w*"),
    "number": ("5.4", "D.5.4", "K.*", "5.?"),
    "cve-name": ("CVE-2018-12", "CVE-2018-1234", "GHSA-x", "*-1234"),
    "cve-high": ("1", ">1", ">=2"),
    "cve-medium": ("1",),
    "cve-high-with-fix": ("1", "0/10", ">=1/10"),
    "report": ("container", "host"),
}


def criterion(type_: str) -> st.SearchStrategy[Criterion]:
    values = st.lists(st.sampled_from(CRITERIA[type_]), min_size=1, max_size=3, unique=True)
    return values.map(lambda chosen: Criterion(type=type_, values=tuple(str(value) for value in chosen)))


criteria = st.lists(st.sampled_from(sorted(CRITERIA)).flatmap(criterion), max_size=4).map(tuple)
actions = st.lists(
    st.sampled_from(
        [
            SuppressLog(),
            SendWebhook(),
            Quarantine(),
            Quarantine(ttl=60.0),
            KillProcess(),
            MakeOpsFlag(severity=Severity.LOW),
        ]
    ),
    min_size=1,
    max_size=3,
    unique=True,
).map(tuple)


@st.composite
def documents(draw: st.DrawFn) -> Documents:
    shapes = draw(
        st.lists(
            st.tuples(st.sampled_from(Category), st.sampled_from(GROUPS), criteria, actions, st.booleans()), max_size=30
        )
    )
    rules = tuple(
        Rule(id=8 + place, name=f"r{place}", category=category, group=group, criteria=some, actions=asked, disabled=off)
        for place, (category, group, some, asked, off) in enumerate(shapes)
    )
    groups = (
        Group(name="g", criteria=(GroupCriterion(key="image", op="=", value="reg/*"),)),
        Group(
            name="h",
            criteria=(
                GroupCriterion(key="app", op="!=", value="db"),
                GroupCriterion(key="namespace", op="regex", value="^shop"),
            ),
        ),
    )
    return Documents(rules, groups, (Webhook(name="w", url="https://receiver.example.com", default=True),))


def maybe(values: tuple[str, ...]) -> st.SearchStrategy[str | None]:
    return st.none() | st.sampled_from(values)


details = {
    Category.CVE_REPORT: st.lists(
        st.builds(
            Vulnerability,
            name=st.sampled_from(("CVE-2018-1234", "CVE-2018-12", "GHSA-x", "ghsa-y")),
            severity=st.sampled_from(("High", "Critical", "Medium")),
            fixed=st.booleans(),
            published=st.sampled_from((None, NOW - 10 * DAY, NOW - 20 * DAY)),
        ),
        max_size=4,
    ).flatmap(
        lambda some: st.sampled_from(("container", "host")).map(
            lambda r: CveReport(report=r, vulnerabilities=tuple(some))
        )
    ),
    Category.COMPLIANCE: st.lists(
        st.builds(ComplianceItem, number=st.sampled_from(("D.5.4", "K.5.4", "I.1.1", "g/check")), failed=st.booleans()),
        max_size=3,
    ).map(lambda items: ComplianceReport(items=tuple(items))),
    Category.ADMISSION_CONTROL: st.sampled_from(IMAGES).map(lambda image: AdmissionReview(images=(image, "x"))),
    Category.SECURITY_EVENT: st.sampled_from(((), ("g",), ("h", "nv.web.shop"))).map(
        lambda groups: SecurityDetails(groups=groups)
    ),
}


@st.composite
def events(draw: st.DrawFn) -> Event:
    category = draw(st.sampled_from(Category))
    told: Details | None = draw(st.none() | details[category]) if category in details else None
    container = draw(st.none() | st.sampled_from(("c1", "c2")))
    labels = draw(st.none() | st.sampled_from(({"app": "web"}, {"app": "db"}, {})))
    process = draw(
        st.none()
        | st.builds(
            Process, pid=st.sampled_from((None, 7)), name=maybe(PROCESSES), exe=maybe(("/usr/bin/nc", "/bin/sh"))
        )
    )
    return Event(
        id="event",
        time=draw(st.sampled_from((None, NOW, NOW - 5000))),
        received=NOW,
        source=draw(st.sampled_from(("falco", "native", "quell"))),
        category=category,
        name=draw(st.sampled_from(NAMES)),
        catalogue_name=draw(maybe(NAMES)),
        level=draw(st.sampled_from(Level)),
        kind=draw(st.none() | st.sampled_from(Kind)),
        subject=Subject(
            node=draw(maybe(("n1", "n2"))),
            namespace=draw(maybe(PLACES)),
            pod=None if labels is None else Pod(labels=labels),
            container=None if container is None else Container(id=container),
            image=draw(maybe(IMAGES)),
            service=draw(maybe(("web", "web.shop"))),
            process=process,
        ),
        raw=b"{}",
        decode=None if told is None else lambda _: told,
    )


def world() -> State:
    state = State()
    state.set_agents([AgentFacts(id="a", node="n1", capabilities=frozenset(("quarantine", "agentKillProcess")))])
    state.set_members({"members": ["c1"], "g": ["c2"]})
    return state


@settings(max_examples=300, deadline=None)
@given(documents(), st.lists(events(), min_size=1, max_size=8))
def test_the_index_finds_what_a_scan_finds(written: Documents, seen: list[Event]) -> None:
    index, state = indexes.compile(written), world()
    for event in [*seen, *seen]:
        decision = evaluate(event, index, state, NOW, near_misses=True)
        alone = [
            f"rule/{rule.id}"
            for rule in written.rules
            if evaluate(
                event, indexes.compile(Documents((rule,), written.groups, written.webhooks)), state, NOW
            ).matches
        ]
        assert [match.ref for match in decision.matches] == alone
        missed = {miss.ref for miss in decision.near_misses}
        assert not missed & set(alone)
        for match in decision.matches:
            assert all(evidence.value for evidence in match.evidence)


@settings(max_examples=150, deadline=None)
@given(documents(), events(), st.randoms(use_true_random=False))
def test_the_order_of_rules_never_changes_the_result(written: Documents, event: Event, chance: random.Random) -> None:
    rules = list(written.rules)
    chance.shuffle(rules)
    other = Documents(tuple(rules), written.groups, written.webhooks)
    state = world()
    assert evaluate(event, indexes.compile(written), state, NOW) == evaluate(event, indexes.compile(other), state, NOW)


@settings(max_examples=150, deadline=None)
@given(documents(), st.lists(events(), min_size=1, max_size=10))
def test_evaluate_changes_nothing_and_a_replay_gives_the_same_state(written: Documents, seen: list[Event]) -> None:
    index, state, replayed = indexes.compile(written), world(), world()
    for place, event in enumerate(seen):
        now = NOW + place
        before = state.snapshot()
        decision = evaluate(event, index, state, now)
        assert decision == evaluate(event, index, state, now)
        assert state.snapshot() == before
        state.apply(decision)
        replayed.apply(decision)
    assert replayed.snapshot() == state.snapshot()
    assert State.restore(state.snapshot()).snapshot() == state.snapshot()
