"""Criteria, groups, selectors and the index, beyond what the cases say: evidence, near misses, laziness, errors."""

from __future__ import annotations

import pytest
from msgspec import Struct

from quell.errors import DocumentError
from quell.evaluate import conclude, evaluate
from quell.matching import index as indexes
from quell.matching.patterns import glob, regex, wildcard
from quell.matching.policies import PolicyStatus, status
from quell.model.action import MakeRedFlag, SendWebhook, Severity, SuppressLog
from quell.model.answer import Answer
from quell.model.decision import Evidence
from quell.model.details import ComplianceItem, ComplianceReport, CveReport, Details, Vulnerability
from quell.model.event import Category, Event, Kind, Level
from quell.model.policy import Policy, PolicyType
from quell.model.rule import Criterion, Group, GroupCriterion, Mode, Rule, Source
from quell.model.subject import Container, Pod, Process, Subject
from quell.response.state import State

NOW = 1_790_000_000.0


class Documents(Struct, frozen=True):
    rules: tuple[Rule, ...] = ()
    groups: tuple[Group, ...] = ()
    webhooks: tuple[()] = ()
    policies: tuple[Policy, ...] = ()


def rule(
    *criteria: tuple[str, str], number: int = 8, category: Category = Category.SECURITY_EVENT, group: str = ""
) -> Rule:
    return Rule(
        id=number,
        name=f"r{number}",
        category=category,
        group=group,
        criteria=tuple(Criterion(type=type_, values=(value,)) for type_, value in criteria),
        actions=(SuppressLog(),),
    )


def event(details: Details | None = None, **fields: object) -> Event:
    known: dict[str, object] = {
        "id": "e",
        "time": NOW,
        "received": NOW,
        "source": "falco",
        "category": Category.SECURITY_EVENT,
        "name": "Terminal shell in container",
        "catalogue_name": "Container.Suspicious.Process",
        "level": Level.WARNING,
        "kind": Kind.INCIDENT,
        "subject": Subject(
            node="n1",
            namespace="shop",
            pod=Pod(name="web-1", labels={"app": "web"}),
            container=Container(id="c1", name="web"),
            image="reg/web:1",
            service="web",
            process=Process(pid=5, name="bash", exe="/bin/bash"),
        ),
        "raw": b"{}",
        "decode": None if details is None else lambda _: details,
    }
    return Event(**{**known, **fields})  # type: ignore[arg-type]


def compiled(*rules: Rule, groups: tuple[Group, ...] = ()) -> indexes.Index:
    return indexes.compile(Documents(rules=rules, groups=groups), 3)


def test_evidence_names_each_criterion_and_the_events_own_value() -> None:
    index = compiled(
        rule(("name", "terminal SHELL*"), ("level", ">=Notice"), ("process", "/bin/*"), group="nv.web.shop")
    )
    decision = evaluate(event(), index, State(), NOW)
    assert decision.revision == 3
    assert decision.matches[0].ref == "rule/8"
    assert decision.matches[0].evidence == (
        Evidence(criterion="name:terminal SHELL*", value="Terminal shell in container"),
        Evidence(criterion="level:>=Notice", value="Warning"),
        Evidence(criterion="process:/bin/*", value="/bin/bash"),
        Evidence(criterion="group:nv.web.shop", value="nv.web.shop"),
    )


def test_evidence_of_a_report_is_the_number_and_the_vulnerability() -> None:
    report = ComplianceReport(items=(ComplianceItem(number="K.5.12", failed=True),))
    made = event(report, category=Category.COMPLIANCE, name="Compliance.Host.Violation", catalogue_name=None, kind=None)
    index = compiled(rule(("name", "5.12"), category=Category.COMPLIANCE))
    assert evaluate(made, index, State(), NOW).matches[0].evidence[0].value == "K.5.12"
    scan = CveReport(vulnerabilities=(Vulnerability(name="CVE-2018-12001", severity="High"),))
    made = event(scan, category=Category.CVE_REPORT, name="Container.Scan.Report", kind=None)
    index = compiled(rule(("cve-name", "cve-2018-12"), ("cve-high", "1"), category=Category.CVE_REPORT))
    assert [e.value for e in evaluate(made, index, State(), NOW).matches[0].evidence] == ["CVE-2018-12001", "1"]


def test_a_near_miss_says_the_first_criterion_that_is_not_met() -> None:
    index = compiled(
        rule(("level", "Warning"), ("namespace", "other"), ("image", "x")),
        rule(("node", "n1"), number=9),
        rule(("label:tier", "fe"), number=10),
        rule(("level", "Warning"), number=11, group="nodes"),
        rule(("level", "Warning"), number=12, category=Category.EVENT),
    )
    decision = evaluate(event(), index, State(), NOW, near_misses=True)
    assert [match.ref for match in decision.matches] == ["rule/9"]
    told = {miss.ref: (miss.criterion, miss.expected, miss.got) for miss in decision.near_misses}
    assert told["rule/8"] == ("namespace:other", "other", "shop")
    assert told["rule/10"] == ("label:tier:fe", "fe", None)
    assert told["rule/11"][:2] == ("group:nodes", "a member of nodes")
    assert set(told) == {"rule/8", "rule/10", "rule/11"}
    assert evaluate(event(), index, State(), NOW).near_misses == ()


def test_near_misses_of_counts_say_how_many_there_were() -> None:
    scan = CveReport(vulnerabilities=(Vulnerability(name="CVE-2018-12001", severity="High", fixed=True),))
    made = event(scan, category=Category.CVE_REPORT, name="Container.Scan.Report", kind=None)
    index = compiled(
        rule(("cve-high", ">5"), category=Category.CVE_REPORT),
        rule(("cve-high-with-fix", "1/30"), number=9, category=Category.CVE_REPORT),
        rule(("cve-name", "CVE-2019-1000"), number=10, category=Category.CVE_REPORT),
    )
    misses = evaluate(made, index, State(), NOW, near_misses=True).near_misses
    assert [(miss.expected, miss.got) for miss in misses] == [
        ("at least 6 critical and high", "1"),
        ("at least 2 critical and high with a fix, published more than 30 days ago", "0"),
        ("CVE-2019-1000", "1 other vulnerabilities"),
    ]


def test_details_are_decoded_only_when_a_candidate_needs_them_and_once() -> None:
    decoded: list[bytes] = []

    def decode(raw: bytes) -> Details:
        decoded.append(raw)
        return CveReport(vulnerabilities=(Vulnerability(name="CVE-2018-12001", severity="High"),))

    made = event(category=Category.CVE_REPORT, name="Container.Scan.Report", kind=None, decode=decode)
    others = [
        rule(("level", "Debug"), ("cve-high", str(n)), number=n, category=Category.CVE_REPORT) for n in range(8, 40)
    ]
    evaluate(made, compiled(*others), State(), NOW)
    assert decoded == []
    wanted = [
        rule(("level", "Warning"), ("cve-high", "1"), number=n, category=Category.CVE_REPORT) for n in range(8, 40)
    ]
    assert len(evaluate(made, compiled(*wanted), State(), NOW).matches) == 32
    assert len(decoded) == 1


def test_a_container_without_a_pod_is_known_by_its_own_labels_to_groups_and_criteria() -> None:
    group = Group(name="g", criteria=(GroupCriterion(key="app", op="=", value="web"),))
    index = compiled(rule(group="g"), rule(("label:app", "w*"), number=9), groups=(group,))
    labels = {"app": "web"}
    for subject, met in (
        (Subject(container=Container(id="c1", labels=labels)), ["rule/8", "rule/9"]),
        (Subject(container=Container(id="c1", labels=labels), pod=Pod(name="p")), []),
        (Subject(container=Container(id="c1")), []),
    ):
        assert [match.ref for match in evaluate(event(subject=subject), index, State(), NOW).matches] == met


def test_members_by_state_count_beside_criteria_and_change_at_once() -> None:
    index, state = compiled(rule(group="g")), State()
    assert not evaluate(event(), index, state, NOW).matches
    state.set_members({"g": ["c1"], "h": ["c1", "c2"]})
    assert evaluate(event(), index, state, NOW).matches
    assert state.groups_of("c1") == ("g", "h")
    state.set_members({})
    assert not evaluate(event(), index, state, NOW).matches


@pytest.mark.parametrize("criterion", [("process", "nc"), ("label:app", "web"), ("image", "x")])
def test_many_events_at_once_are_matched_as_each_alone(criterion: tuple[str, str]) -> None:
    subjects = [
        Subject(process=process, image=image, pod=pod)
        for process in (None, Process(name="nc"), Process(name="sh", exe="/bin/nc"), Process(name="sh"))
        for image in (None, "x", "y")
        for pod in (None, Pod(labels={"app": "web"}))
    ]
    events = [
        event(id=f"e{n}", subject=subject, source=("falco", "quell")[n % 2]) for n, subject in enumerate(subjects)
    ]
    events += [event(id="other", category=Category.EVENT, kind=None), *events[::-1]]
    documents, state = Documents(rules=(rule(criterion), rule(("process", "sh"), number=9))), State()
    for part in (events, [each for each in events if each.subject.process is not None]):
        index = indexes.compile(documents)
        for _ in range(2):  # the second time they are known
            found = index.match_all(part, state, NOW)
            for each, matched in zip(part, found, strict=True):
                decision = evaluate(each, indexes.compile(documents), state, NOW)
                if isinstance(matched, Answer):
                    assert matched.decision(each.id, NOW, index.revision) == decision
                else:
                    assert conclude(each, matched, index, state, NOW) == decision


def test_many_rules_on_one_field_are_found_through_tables_and_patterns() -> None:
    rules = [rule(("image", f"reg/app-{n}:*"), ("namespace", "shop"), number=n) for n in range(8, 200)]
    index = compiled(*rules, rule(("image", "reg/*"), number=500))
    made = event(subject=Subject(namespace="shop", image="reg/app-77:2", container=Container(id="c")))
    for _ in range(2):
        assert [match.ref for match in evaluate(made, index, State(), NOW).matches] == ["rule/77", "rule/500"]


@pytest.mark.parametrize(
    ("pattern", "fits", "does_not"),
    [
        ("*", ["", "a", "a/b\nc"], []),
        ("a*b*c", ["abc", "aXbYc", "abbc"], ["ab", "acb", "xabc"]),
        ("ab*ba", ["abba", "abXba"], ["aba", "ab"]),
        ("a?c", ["abc", "a\nc"], ["ac", "abbc"]),
        ("[a-c]x", ["ax", "cx"], ["dx", "x"]),
        ("[!a-c]x", ["dx"], ["ax", "x"]),
        ("[]]", ["]"], ["["]),
        ("a[b", ["a[b"], ["ab"]),
        ("a.b", ["a.b"], ["axb"]),
        ("[a-]?", ["-x", "ax"], ["bx"]),
    ],
)
def test_globs(pattern: str, fits: list[str], does_not: list[str]) -> None:
    matches = glob(pattern).matches
    assert all(matches(value) for value in fits)
    assert not any(matches(value) for value in does_not)


def test_a_groups_wildcard_knows_no_sets_and_a_regex_is_unanchored() -> None:
    assert wildcard("[a]?").matches("[a]b")
    assert not wildcard("[a]*").matches("a")
    assert regex("b.d").matches("abcde")


def test_no_pattern_takes_more_than_linear_time() -> None:
    assert not glob("*a" * 40 + "b").matches("a" * 5000)
    assert not regex("(a*)*b").matches("a" * 5000)


def test_everything_that_cannot_be_compiled_is_reported_at_once() -> None:
    bad_rule = Rule(
        id=8,
        name="r",
        category=Category.SECURITY_EVENT,
        criteria=(Criterion(type="level", values=("loud",)), Criterion(type="colour", values=("red",))),
        actions=(SuppressLog(),),
        source=Source(file="rules.yaml", line=4),
    )
    bad_group = Group(name="g", criteria=(GroupCriterion(key="image", op="regex", value="("),))
    with pytest.raises(DocumentError) as raised:
        indexes.compile(Documents(rules=(bad_rule,), groups=(bad_group,)))
    told = [str(problem) for problem in raised.value.problems]
    assert len(told) == 3
    assert "group g" in told[0]
    assert "rules.yaml:4" in told[1]
    assert "'loud'" in told[1]
    assert "colour" in told[2]


def test_rules_without_an_id_are_known_by_their_name() -> None:
    index = compiled(rule(("level", "Warning"), number=0))
    assert evaluate(event(), index, State(), NOW).matches[0].ref == "rule/r0"


def test_a_deviation_meets_security_event_rules_by_its_catalogue_name_and_level() -> None:
    made = event(category=Category.DEVIATION, name="Process.Profile.Violation", catalogue_name=None, kind=None)
    rules = (
        rule(("name", "Process.Profile.Violation")),
        rule(("level", "Warning"), number=9),
        rule(("kind", "incident"), number=10),
        rule(("kind", "threat"), number=11),
        rule(("process", "bash"), number=12, category=Category.DEVIATION),
    )
    found = evaluate(made, compiled(*rules), State(), NOW).matches
    assert [match.ref for match in found] == ["rule/8", "rule/9", "rule/10", "rule/12"]
    image = event(category=Category.DEVIATION, name="Container.Image.Deviation", catalogue_name=None, kind=None)
    assert [match.ref for match in evaluate(image, compiled(*rules), State(), NOW).matches] == ["rule/12"]


def test_status_of_a_policy() -> None:
    policy = Policy(
        name="p",
        type=PolicyType.CLUSTER,
        mode=Mode.ENFORCE,
        rulesets=("r",),
    )
    assert status(policy) is PolicyStatus.PENDING
    assert status(policy, {"r"}) is PolicyStatus.ENFORCING


def test_a_rule_that_asks_for_much_asks_with_its_own_bounds() -> None:
    asking = Rule(
        id=8,
        name="r",
        category=Category.SECURITY_EVENT,
        criteria=(Criterion(type="level", values=("Warning",)),),
        actions=(SendWebhook(endpoints=("b", "a")), MakeRedFlag(severity=Severity.LOW)),
        webhooks=("a",),
        cooldown=60.0,
        limit=(3, 10.0),
    )
    matched = compiled(asking).match(event(), State(), NOW)
    assert matched is not None
    assert matched.asks[0].endpoints == ("a", "b")
    assert [ask.cooldown for ask in matched.asks] == [60.0, 60.0]
    assert matched.asks[1].limit == (3, 10.0)
