"""Containers and processes against rulesets. SEMANTICS 5."""

from __future__ import annotations

import pytest
from tests.guardian import IMAGE, policy, rule, ruleset, seen, selector, service, step, workload

from quell.guardian.guard import Guard, event_name
from quell.model.details import Deviation
from quell.model.policy import Expected, Operator, Policy, PolicyType, RulesetRule, SelectorKind
from quell.model.subject import Container, Subject

CLUSTER = selector(SelectorKind.CLUSTER, "name", "demo")
NAME = "kubernetes.io/metadata.name"
SHOP = (selector(SelectorKind.NAMESPACE, NAME, "shop"),)
DEV = (selector(SelectorKind.NAMESPACE, NAME, "dev"),)
WEB, DB = "docker.io/library/web:1", "docker.io/library/db:1"
TARGET = "container::image"


def cluster(**fields: object) -> Policy:
    return policy(
        name="images", type_=PolicyType.CLUSTER, scope=(CLUSTER,), rulesets=("rules",), expected=Expected(), **fields
    )  # type: ignore[arg-type]


def judged(subject: Subject, *rules: RulesetRule) -> Deviation | None:
    [watch] = Guard([cluster()], [ruleset(*rules)]).watches(subject)
    return watch.compare_container(subject)


def allow(*values: str, scope: tuple[object, ...] = ()) -> RulesetRule:
    return rule(TARGET, *values, scope=scope)  # type: ignore[arg-type]


def deny(*values: str, scope: tuple[object, ...] = ()) -> RulesetRule:
    return rule(TARGET, *values, allow=False, scope=scope)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rules", "allowed"),
    [
        ([], True),
        ([rule("container::imageID", "sha256:*")], True),
        ([allow(WEB)], True),
        ([allow(DB)], False),
        ([allow(DB, scope=DEV)], False),
        ([allow(WEB, scope=DEV)], False),
        ([allow("docker.io/*")], True),
        ([deny("docker.io/*"), allow(WEB)], True),
        ([deny(WEB), allow("docker.io/*")], False),
        ([deny(WEB), allow(WEB)], False),
        ([deny("*web*"), allow("docker.io/*")], False),
        ([deny(WEB), allow("docker.io/*", scope=SHOP)], True),
        ([deny("docker.io/*", scope=SHOP), allow(WEB)], False),
        ([deny("docker.io/*", scope=SHOP), allow(WEB, scope=SHOP)], True),
        ([deny(WEB, scope=SHOP), allow(WEB, scope=SHOP)], False),
        ([deny(WEB, scope=DEV), allow(WEB)], True),
        ([deny(DB)], False),
    ],
)
def test_scoped_beats_global_then_explicit_beats_a_glob_then_deny_beats_allow(
    rules: list[RulesetRule], allowed: bool
) -> None:
    assert (judged(workload(), *rules) is None) is allowed


def test_what_no_rule_matches_is_denied_by_default_and_the_addition_is_for_its_namespace() -> None:
    found = judged(workload(), allow(DB))
    assert found is not None
    assert found.what == "container"
    assert found.matched == {TARGET: ("__DEFAULT_DENY__",)}
    assert found.addition == {
        "rules": [
            {"target": TARGET, "verb": "allow", "values": [WEB], "namespaceSelector": {"matchLabels": {NAME: "shop"}}}
        ]
    }
    assert found.message == f"image {WEB} is allowed by no rule in namespace shop: policy images"
    assert event_name(found) == "Container.Image.Deviation"
    assert found.policy_type == "cluster"


def test_a_deny_names_its_pattern_and_what_must_go_for_the_addition_to_hold() -> None:
    by_glob = judged(workload(), deny("*web*", scope=SHOP), allow("*"))
    assert by_glob is not None
    assert by_glob.matched == {TARGET: ("*web*",)}
    assert "without" not in by_glob.addition, "an explicit allow beats it"
    explicit = judged(workload(), deny(WEB, DB, scope=SHOP), deny(WEB, scope=DEV), deny(WEB))
    assert explicit is not None
    assert explicit.addition["without"] == [
        {"target": TARGET, "verb": "deny", "values": [WEB], "namespaceSelector": {"matchLabels": {NAME: "shop"}}}
    ]


def test_without_a_namespace_the_addition_is_for_all_unless_a_scoped_deny_stands_against_it() -> None:
    plain = workload(pod=None, namespace=None)
    found = judged(plain, allow(DB))
    assert found is not None
    assert found.addition == {"rules": [{"target": TARGET, "verb": "allow", "values": [WEB]}]}
    scoped = (selector(SelectorKind.CONTAINER, "containerName", "web"),)
    found = judged(plain, deny("*web*", scope=scoped))
    assert found is not None
    assert found.addition["rules"][0]["machineSelector"] == {"matchFields": {"hostname": "n1"}}


def test_each_target_is_judged_and_all_that_deviate_are_one_deviation() -> None:
    rules = (allow(DB), rule("container::imageID", "sha256:2"), rule("container::containerName", "w*"))
    found = judged(workload(), *rules)
    assert found is not None
    assert list(found.matched) == [TARGET, "container::imageID"]
    assert [each["values"] for each in found.addition["rules"]] == [[WEB], ["sha256:1"]]


def test_a_value_that_is_not_known_is_no_proof() -> None:
    unknown = workload(container=Container(id="c1"))
    found = judged(unknown, rule("container::imageID", "sha256:1"))
    assert found is not None
    assert found.unproven == "what the rules for container::imageID ask about is not known"
    assert found.addition == {}
    only_denied = judged(unknown, rule("container::imageID", "sha256:1", allow=False))
    assert only_denied is not None
    assert only_denied.unproven == "", "whatever it is, nothing allows it"
    other = judged(unknown, rule("container::imageID", "sha256:1"), allow(DB))
    assert other is not None
    assert other.unproven == "", "the image is known and denied"


def test_a_scope_that_is_not_known_holds_for_nobody_and_may_hold() -> None:
    labelled = (selector(SelectorKind.NAMESPACE, "env", "prod"),)
    found = judged(workload(), allow(WEB, scope=labelled))
    assert found is not None
    assert found.unproven
    assert judged(workload(), deny(WEB, scope=labelled), allow("*")) is None, "a deny that may not be meant"
    known = workload(namespace_labels={"env": "dev"})
    found = judged(known, allow(WEB, scope=labelled))
    assert found is not None
    assert found.unproven == ""


def test_a_scope_on_what_is_not_there_never_holds() -> None:
    absent = (selector(SelectorKind.POD, "app", operator=Operator.DOES_NOT_EXIST),)
    found = judged(workload(pod=None), allow(WEB, scope=absent))
    assert found is not None
    assert found.unproven == ""


def test_repeats_are_one_a_value_and_namespace() -> None:
    first = judged(workload(), allow(DB))
    again = judged(workload(container=Container(id="c2"), node="n2"), allow(DB))
    other = judged(workload(namespace="dev"), allow(DB))
    assert first is not None
    assert again is not None
    assert other is not None
    assert first.checksum == again.checksum != other.checksum


def test_process_targets_are_compared_when_one_is_seen() -> None:
    shells = (selector(SelectorKind.PROCESS, "euser", "root"),)
    rules = [rule("process::name", "web", "sh"), rule("process::name", "sh", allow=False, scope=shells)]
    [watch] = Guard([cluster()], [ruleset(*rules)]).watches(workload())
    assert watch.compare(seen(step("web"))) is None
    assert watch.compare(seen(step("sh", "app"))) is None
    assert watch.compare_container(workload()) is None
    found = watch.compare(seen(step("web"), step("sh")))
    assert found is not None
    assert (found.what, event_name(found)) == ("process", "Process.Profile.Violation")
    assert found.matched == {"process::name": ("sh",)}


def test_rulesets_are_about_containers_and_a_container_policy_may_have_some() -> None:
    rules = [rule("process::name", "web"), allow(WEB)]
    guard = Guard([cluster()], [ruleset(*rules)])
    assert guard.watches(service()) == ()
    own = policy(name="own", scope=(IMAGE,), rulesets=("rules",), expected=Expected())
    [watch] = Guard([own], [ruleset(deny(WEB))]).watches(workload())
    assert watch.compare_container(workload()) is not None
