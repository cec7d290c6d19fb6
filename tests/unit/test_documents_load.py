"""What documents mean once they are read."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from quell.documents.load import Documents, load_paths, load_text, load_values
from quell.documents.nodes import MAX_DEPTH
from quell.documents.write import dump_yaml
from quell.errors import DocumentError
from quell.model.action import (
    KillPod,
    KillProcess,
    MakeOpsFlag,
    MakeRedFlag,
    Quarantine,
    ReniceProcess,
    SendWebhook,
    Severity,
)
from quell.model.event import Category, Kind, Level
from quell.model.policy import Expected, Operator, PolicyType, Ports, ProcessNode, Requirement, Selector, SelectorKind
from quell.model.rule import Criterion, GroupCriterion, Mode, Rule, Source, WebhookFilter, WebhookType


def one_rule(spec: str) -> Rule:
    """The rule of a spec written as one flow mapping."""
    documents = load_text(f"{{apiVersion: quell.dev/v1, kind: ResponseRule, metadata: {{name: r}}, spec: {spec}}}")
    return documents.rules[0]


def problems(text: str | bytes) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        load_text(text, "f")
    return [str(problem) for problem in caught.value.problems]


RULE = """\
apiVersion: quell.dev/v1
kind: ResponseRule
metadata:
  name: isolate shells
spec:
  id: 12
  event: incident
  group: nv.web.demo
  criteria:
  - name:containerscanreport
  - {type: level, value: [">=error", notice]}
  - label:app.kubernetes.io/name:web:1
  - process: /bin/*sh
  actions:
  - quarantine: {strict: true}
  - webhook: {endpoints: [soc]}
  - makeRedFlag: {severity: high, impact: a shell, content: "**look**", webhooks: [people]}
  - agentKillPod: {grace_period: 5}
  webhooks: [soc, audit, soc]
  disable: true
  comment: 1.10
  cfg_type: ground
  mode: audit
  cooldown: 90
  ttl: 2h
  limit: 5/10m
  max_age: 500ms
  allow_broad: true
  approval: true
"""


def test_a_rule_with_every_field() -> None:
    assert load_text("# a comment\n---\n" + RULE, "rules.yaml").rules == (
        Rule(
            id=12,
            name="isolate shells",
            category=Category.SECURITY_EVENT,
            kind=Kind.INCIDENT,
            group="nv.web.demo",
            criteria=(
                Criterion(type="name", values=("Container.Scan.Report",)),
                Criterion(type="level", values=(">=Error", "Notice")),
                Criterion(type="label:app.kubernetes.io/name", values=("web:1",)),
                Criterion(type="process", values=("/bin/*sh",)),
            ),
            actions=(
                Quarantine(ttl=7200.0, strict=True),
                SendWebhook(endpoints=("soc",)),
                MakeRedFlag(severity=Severity.HIGH, impact="a shell", content="**look**", webhooks=("people",)),
                KillPod(grace_period=5),
            ),
            webhooks=("soc", "audit"),
            disabled=True,
            comment="1.10",
            cfg_type="ground",
            mode=Mode.AUDIT,
            cooldown=90.0,
            approval=True,
            limit=(5, 600.0),
            max_age=0.5,
            allow_broad=True,
            source=Source(file="rules.yaml", line=3),
        ),
    )


@pytest.mark.parametrize(
    ("word", "category", "kind"),
    [
        ("Events", Category.EVENT, None),
        ("event", Category.EVENT, None),
        ("Security Event", Category.SECURITY_EVENT, None),
        ("security_event", Category.SECURITY_EVENT, None),
        ("CVE-Report", Category.CVE_REPORT, None),
        ("Benchmark", Category.COMPLIANCE, None),
        ("Compliance", Category.COMPLIANCE, None),
        ("Admission", Category.ADMISSION_CONTROL, None),
        ("admission-control", Category.ADMISSION_CONTROL, None),
        ("deviation", Category.DEVIATION, None),
        ("incident", Category.SECURITY_EVENT, Kind.INCIDENT),
        ("Threat", Category.SECURITY_EVENT, Kind.THREAT),
        ("violation", Category.SECURITY_EVENT, Kind.VIOLATION),
    ],
)
def test_the_mission_documents_words_for_categories(word: str, category: Category, kind: Kind | None) -> None:
    rule = one_rule(f'{{event: "{word}", criteria: [level:Info], actions: [webhook]}}')
    assert (rule.category, rule.kind) == (category, kind)


def test_a_name_may_stand_in_the_spec_instead() -> None:
    text = "{apiVersion: quell.dev/v1, kind: ResponseRule, metadata: %s, spec: {name: a, event: event, actions: [webhook]}}"
    assert load_text(text % "{}").rules[0].name == "a"
    assert load_text(text % "{name: a}").rules[0].name == "a"
    assert problems(text % "{name: b}")[0].endswith('spec.name: the name is "b" in metadata: leave it out here')


def test_nothing_is_guessed_from_a_scalar() -> None:
    rule = one_rule("{event: event, group: no, comment: 2001-01-01, criteria: [namespace: 010], actions: [webhook]}")
    assert (rule.group, rule.comment, rule.criteria[0].values) == ("no", "2001-01-01", ("010",))
    assert problems("{apiVersion: quell.dev/v1, kind: Group, metadata: {name: ~}, spec: {comment: }}") == [
        "f:1:58: metadata.name: expected text, got nothing",
        "f:1:78: spec.comment: expected text, got nothing",
    ]


def test_a_priority_may_be_a_string() -> None:
    rule = one_rule('{event: incident, group: g, actions: [agentReniceProcess: {priority: "-20"}]}')
    assert rule.actions == (ReniceProcess(priority=-20),)


def test_investigators_of_a_quarantine() -> None:
    one = one_rule("{event: incident, group: g, ttl: 5, actions: [quarantine: {investigator: 192.0.2.7}]}")
    assert one.actions == (Quarantine(ttl=5.0, investigator=("192.0.2.7",)),)
    several = "[2001:DB8:0::7, 192.0.2.7, '2001:db8::7']"
    more = one_rule(f"{{event: incident, group: g, actions: [quarantine: {{investigator: {several}}}]}}")
    assert more.actions == (Quarantine(investigator=("192.0.2.7", "2001:db8::7")),)
    assert load_text(dump_yaml([more])).rules[0].actions == more.actions


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ("investigator: 10.0.0.0/8", "'10.0.0.0/8' is no IPv4 or IPv6 address (a network or a name cannot be given)"),
        ("investigator: bastion", "'bastion' is no IPv4 or IPv6 address"),
        ("investigator: '::ffff:192.0.2.7'", "stands for 192.0.2.7: write that"),
        ("investigator: 'fe80::1%eth0'", "names an interface"),
        ("investigator: 127.0.0.1", "nothing comes to a container from 127.0.0.1"),
        ("investigator: 224.0.0.1", "nothing comes to a container from 224.0.0.1"),
        ("investigator: 0.0.0.0", "nothing comes to a container from 0.0.0.0"),
        ("investigator: {a: b}", "expected text"),
        ("strict: true, investigator: 192.0.2.7", "strict closes everything"),
        (f"investigator: [{', '.join(f'192.0.2.{n}' for n in range(1, 10))}]", "more than 8 addresses"),
    ],
)
def test_investigators_that_are_none(parameters: str, said: str) -> None:
    spec = f"{{event: incident, group: g, actions: [quarantine: {{{parameters}}}]}}"
    head = "apiVersion: quell.dev/v1, kind: ResponseRule, metadata: {name: r}"
    [told] = problems(f"{{{head}, spec: {spec}}}")
    assert said in told


def test_a_rules_ttl_is_that_of_quarantines_without_one() -> None:
    rule = one_rule("{event: incident, group: g, ttl: 60, actions: [quarantine, quarantine: {ttl: 5}, webhook]}")
    assert rule.actions == (Quarantine(ttl=60.0), Quarantine(ttl=5.0), SendWebhook())


def test_the_other_systems_counts_keep_their_meaning() -> None:
    documents = load_text(
        """
apiVersion: neuvector.com/v1
kind: NvResponseRuleSecurityRule
metadata: {name: cve-report--1234, generation: 2}
spec:
  rule:
    policy_name: fed
    event: cve-report
    conditions:
    - {type: cve-high-with-fix, value: "3"}
    - {type: cve-critical-with-fix, value: 1/30}
    - {type: cve-high-only-with-fix, value: ">2"}
    - {type: cve-high, value: "5"}
    actions: [quarantine]
    disable: true
"""
    )
    [rule] = documents.rules
    assert [criterion.values[0] for criterion in rule.criteria] == [">=3", ">=1/30", ">2", "5"]
    assert (rule.name, rule.cfg_type, rule.disabled) == ("cve-report--1234", "federal", True)


def test_lists_of_documents() -> None:
    item = """
  - apiVersion: neuvector.com/v1
    kind: NvResponseRuleSecurityRule
    metadata: {name: %s}
    spec: {rule: {policy_name: default, event: event, conditions: [{type: name, value: User.Login}], actions: [webhook]}}
"""
    items = "\nitems:" + item % "a" + item % "b"
    for head in (
        "apiVersion: v1\nkind: List",
        "apiVersion: neuvector.com/v1\nkind: List",
        "apiVersion: neuvector.com/v1\nkind: NvResponseRuleSecurityRuleList\nmetadata: {continue: ''}",
    ):
        assert [rule.name for rule in load_text(head + items).rules] == ["a", "b"]


def test_a_group() -> None:
    documents = load_text(
        """
apiVersion: quell.dev/v1
kind: Group
metadata: {name: web}
spec:
  comment: front ends
  criteria:
  - {key: image, op: "!regex", value: "redis|mongo"}
  - {key: "ns:env", op: "=", value: prod}
"""
    )
    [group] = documents.groups
    assert group.criteria == (
        GroupCriterion(key="image", op="!regex", value="redis|mongo"),
        GroupCriterion(key="ns:env", op="=", value="prod"),
    )
    assert documents.warnings == ()


def test_a_webhook() -> None:
    documents = load_text(
        """
apiVersion: quell.dev/v1
kind: Webhook
metadata: {name: soc}
spec:
  url: http://soc.example.org:8080/hook?a=b
  type: Slack
  enable: off
  default: on
  use_proxy: true
  secret: whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz
  headers: {Authorization: Bearer x}
  filter: {categories: [security-event], level: warning, flags: true}
  ca_file: /etc/ca.pem
  verify_tls: false
  allow_http: true
  allow_private: true
"""
    )
    [webhook] = documents.webhooks
    assert webhook.type is WebhookType.SLACK
    assert (webhook.enable, webhook.default, webhook.verify_tls) == (False, True, False)
    assert webhook.headers == {"Authorization": "Bearer x"}
    assert webhook.filter == WebhookFilter(categories=(Category.SECURITY_EVENT,), level=Level.WARNING, flags=True)


def test_a_policy() -> None:
    documents = load_text(
        """
apiVersion: spyderbat/v1
kind: SpyderbatPolicy
metadata: {name: web, type: container, uid: pol:1, selectorHash: x, version: 3}
spec:
  mode: enforce
  containerSelector: {image: "nginx:*"}
  podSelector:
    matchLabels: {app: web}
    matchExpressions: [{key: tier, operator: NotIn, values: [a, b]}, {key: gone, operator: DoesNotExist}]
  processPolicy: [{id: sh_0, name: sh, exe: [/bin/sh], euser: [root], listeningSockets: [{port: 80}]}]
  networkPolicy: {ingress: [], egress: []}
  response:
    default: [makeRedFlag: {severity: high}, agentKillPod: ]
    actions:
    - agentKillProcess: {enabled: false, processSelector: {matchFields: {exe: /bin/*}}}
    - makeOpsFlag: {severity: low, description: why, clusterSelector: {matchFields: {name: c}}}
"""
    )
    [policy] = documents.policies
    assert (policy.type, policy.mode, policy.uid, policy.enabled) == (PolicyType.CONTAINER, Mode.ENFORCE, "pol:1", True)
    assert policy.scope == (
        Selector(
            kind=SelectorKind.POD,
            requirements=(
                Requirement(key="app", operator=Operator.IN, values=("web",)),
                Requirement(key="tier", operator=Operator.NOT_IN, values=("a", "b")),
                Requirement(key="gone", operator=Operator.DOES_NOT_EXIST),
            ),
        ),
        Selector(
            kind=SelectorKind.CONTAINER,
            requirements=(Requirement(key="image", operator=Operator.IN, values=("nginx:*",)),),
        ),
    )
    assert [entry.action for entry in policy.default] == [MakeRedFlag(severity=Severity.HIGH), KillPod()]
    kill, flag = policy.actions
    assert (kill.action, kill.enabled, len(kill.selectors)) == (KillProcess(), False, 1)
    assert flag.action == MakeOpsFlag(severity=Severity.LOW, impact="why")
    assert policy.expected == Expected(
        processes=(ProcessNode(id="sh_0", name="sh", exe=("/bin/sh",), euser=("root",), listening=(Ports(port=80),)),),
        ingress=(),
        egress=(),
    )


def test_limits_of_content_are_those_of_the_document() -> None:
    flag = f"makeRedFlag: {{severity: low, content: {'x' * 351}}}"
    assert one_rule(f"{{event: incident, group: g, actions: [{flag}]}}").actions
    assert problems(
        "{apiVersion: neuvector.com/v1, kind: NvResponseRuleSecurityRule, metadata: {name: a}, "
        f"spec: {{rule: {{policy_name: default, event: incident, actions: [{flag}]}}}}}}"
    )[0].endswith("too long: 351 of at most 350 characters")


def test_folders_are_read_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    group = "{{apiVersion: quell.dev/v1, kind: Group, metadata: {{name: {0}}}, spec: {{}}}}\n---\n"
    (tmp_path / "c.yml").write_text(group.format("three"))
    (tmp_path / "b" / "two.yaml").write_text(group.format("two"))
    (tmp_path / "a.yaml").write_text("\ufeff" + group.format("one"))
    (tmp_path / "notes.txt").write_text("not: a document")
    documents = load_paths([tmp_path])
    assert [group.name for group in documents.groups] == ["one", "two", "three"]
    assert documents.groups[1].source == Source(file=str(tmp_path / "b" / "two.yaml"), line=1)


def test_all_problems_of_all_files_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: Group\n")
    (tmp_path / "b.yaml").write_text("a: [\n")
    with pytest.raises(DocumentError) as caught:
        load_paths([tmp_path, tmp_path / "none.yaml"])
    assert [Path(problem.file).name for problem in caught.value.problems] == ["a.yaml", "b.yaml", "none.yaml"]
    assert caught.value.problems[2].message == "cannot be read: No such file or directory"


def test_a_folder_without_documents_is_doubtful(tmp_path: Path) -> None:
    documents = load_paths([tmp_path])
    assert [warning.message for warning in documents.warnings] == ["no *.yaml or *.yml file in this folder"]


@pytest.mark.parametrize("text", ["", "---\n", "# only a comment\n---\n---\n~\n", b""])
def test_no_document_at_all(text: str | bytes) -> None:
    assert load_text(text) == Documents()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: \xff", "f:1:4: not UTF-8"),
        (b"a: b\nc: \xc3\xa9\xe9", "f:2:5: not UTF-8"),
        ("a: b\nc: \x07", "f:2:4: not YAML"),
        ("a: *b", "f:1:4: the alias *b names nothing before it"),
        ("a: &b [*b]", "f:1:8: the alias *b stands inside what it names"),
        ("[" * (MAX_DEPTH + 1), f"f:1:{MAX_DEPTH + 1}: nested deeper than {MAX_DEPTH} levels"),
        ("- " * 100_000, f"f:1:{2 * MAX_DEPTH + 1}: nested deeper than {MAX_DEPTH} levels"),
        ("a: [b", "not YAML"),
        ("a: b: c", "f:1:5: not YAML"),
        ("%YAML 9.9\n---\na", "not YAML"),
    ],
)
def test_what_is_no_yaml(text: str | bytes, message: str) -> None:
    [found] = problems(text)
    assert message in found


def test_a_small_text_cannot_grow() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    [found] = problems("\n".join(lines))
    assert "too large once its aliases are expanded" in found


def test_values_are_read_as_text_is() -> None:
    spec = {
        "event": "event",
        "disable": True,
        "id": 9,
        "group": "a",
        "actions": ["webhook"],
        "criteria": ("level:Info",),
    }
    document = {"apiVersion": "quell.dev/v1", "kind": "ResponseRule", "metadata": {"name": "true"}, "spec": spec}
    [rule] = load_values([document]).rules
    assert (rule.name, rule.disabled, rule.id) == ("true", True, 9)
    with pytest.raises(DocumentError, match="object is no value of a document"):
        load_values([{**document, "spec": object()}])
    with pytest.raises(DocumentError, match=r"spec\.comment: expected text, got nothing"):
        load_values([{**document, "spec": {**spec, "comment": None}}])


def test_a_thousand_rules_load_at_once() -> None:
    text = "---\n".join(
        RULE.replace("id: 12", f"id: {number + 8}").replace("isolate shells", f"rule {number}")
        for number in range(1000)
    )
    start = time.process_time()
    assert len(load_text(text).rules) == 1000
    assert time.process_time() - start < 1.5
