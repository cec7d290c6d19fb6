"""Policies switched, widened by deviations, and what is still a deviation afterwards. Plans, without a store."""

from __future__ import annotations

import pytest
from tests.plans import ANN, AUTHOR, plan, told

from quell.controller.policy_changes import plan_enable, plan_merge, plan_mode, policy_of
from quell.controller.relevance import standings
from quell.controller.rule_changes import Options
from quell.controller.rulebook import Edition, Editor, Key
from quell.errors import DocumentConflict, DocumentError, DocumentForbidden
from quell.guardian.guard import Guard, event_name
from quell.model.details import Deviation
from quell.model.observation import Observation, Seen
from quell.model.policy import Policy, Ruleset
from quell.model.repeats import Repeated, Standing
from quell.model.rule import Mode
from quell.model.subject import Ancestor, Container, Process, Subject

WEB = """
apiVersion: quell.dev/v1
kind: Policy
metadata: {name: web, type: container}
spec:
  mode: audit
  enabled: ENABLED
  containerSelector: {matchFields: {image: "nginx:*"}}
  processPolicy: [{id: nginx, name: nginx, exe: [/bin/nginx], euser: [root]}]
  response: {default: [ACTION]}
---
apiVersion: quell.dev/v1
kind: Policy
metadata: {name: prod, type: cluster}
spec:
  mode: enforce
  clusterSelector: {matchFields: {name: prod}}
  rulesets: [images, more]
  response: {default: [{makeRedFlag: {severity: high}}]}
---
apiVersion: quell.dev/v1
kind: Ruleset
metadata: {name: images, type: cluster}
spec: {rules: [{target: "container::image", verb: allow, values: ["nginx:*"]}]}
---
apiVersion: quell.dev/v1
kind: Ruleset
metadata: {name: more, type: cluster}
spec: {rules: [{target: "container::imageID", verb: allow, values: ["*"]}]}
"""
KILL, FLAG = "{agentKillProcess: {}}", "{makeRedFlag: {severity: high}}"


def things(enabled: str = "true", action: str = KILL, source: str = "") -> dict[Key, object]:
    text = WEB.replace("ENABLED", enabled).replace("ACTION", action)
    return dict(plan({}, text, source).after)


def edition(editor: Editor = ANN) -> Edition:
    return Edition(revision=9, time=5.0, editor=editor)


def deviation(policy: Policy, name: str = "nc") -> Deviation:
    found = Guard([policy], []).watches(observation(name).subject)[0].compare(observation(name))
    assert found is not None
    return found


def observation(name: str = "nc") -> Observation:
    lineage = (Ancestor("nginx", "/bin/nginx", "root", 9, 9), Ancestor("conmon", "/bin/conmon", "root", 2, 2))
    process = Process(pid=10, start_ticks=10, name=name, exe=f"/bin/{name}", user="root", lineage=lineage)
    subject = Subject(container=Container(id="c" * 64), image="nginx:1", process=process)
    return Observation(seen=Seen.EXECUTED, time=1.0, subject=subject, inside=1)


def test_a_switch_and_a_mode() -> None:
    there = things()
    off = plan_enable(there, "web", on=False, edition=edition(), options=Options())
    assert told(off) == {"Policy web": "configured"}
    assert policy_of(off.after, "web").enabled is False
    enforcing = plan_mode(there, "web", Mode.ENFORCE, edition(), Options())
    assert policy_of(enforcing.after, "web").mode is Mode.ENFORCE
    same = plan_mode(there, "web", Mode.AUDIT, edition(), Options())
    assert told(same) == {"Policy web": "unchanged"}
    with pytest.raises(KeyError):
        plan_mode(there, "none", Mode.AUDIT, edition(), Options())


@pytest.mark.parametrize(("enabled", "action", "forbidden"), [("true", KILL, True), ("true", FLAG, False)])
def test_what_takes_an_operator(enabled: str, action: str, forbidden: bool) -> None:
    there = things(enabled, action)
    author = edition(AUTHOR)
    found = deviation(policy_of(there, "web"))
    tries = [
        lambda: plan_mode(there, "web", Mode.ENFORCE, author, Options()),
        lambda: plan_merge(there, "web", [found], author, Options()),
    ]
    for attempt in tries:
        if forbidden:
            with pytest.raises(DocumentForbidden, match="takes an operator"):
                attempt()
        else:
            assert told(attempt()) == {"Policy web": "configured"}
    off = plan_enable(there, "web", on=False, edition=author, options=Options()).after
    if forbidden:
        with pytest.raises(DocumentForbidden, match="it takes an operator to enable policy web"):
            plan_enable(off, "web", on=True, edition=author, options=Options())


def test_a_merge_is_the_change_of_one_document_and_of_its_owner() -> None:
    there = things(source="git")
    found = deviation(policy_of(there, "web"))
    with pytest.raises(DocumentConflict, match="belongs to source git"):
        plan_merge(there, "web", [found], edition(), Options())
    merged = plan_merge(there, "web", [found], edition(), Options(source="git"))
    assert told(merged) == {"Policy web": "configured"}
    after = policy_of(merged.after, "web")
    assert [child.name for child in after.expected.processes[0].children] == ["nc"]
    assert Guard([after], []).watches(observation().subject)[0].compare(observation()) is None
    again = plan_merge(merged.after, "web", [found], edition(), Options(source="git"))
    assert told(again) == {"Policy web": "unchanged"}


def test_what_a_ruleset_did_not_allow_is_merged_into_it() -> None:
    there = things()
    policy, subject = (
        policy_of(there, "prod"),
        Subject(cluster="prod", container=Container(id="d" * 64, image_id="i"), image="redis:7"),
    )
    rulesets = [kept.thing for kept in there.values() if isinstance(kept.thing, Ruleset)]
    found = Guard([policy], rulesets).watches(subject)[0].compare_container(subject)
    assert found is not None
    merged = plan_merge(there, "prod", [found], edition(), Options())
    assert told(merged) == {"Ruleset images": "configured"}
    wider = [kept.thing for kept in merged.after.values() if isinstance(kept.thing, Ruleset)]
    assert Guard([policy], wider).watches(subject)[0].compare_container(subject) is None
    assert set(told(plan_merge(merged.after, "prod", [found], edition(), Options())).values()) == {"unchanged"}


def test_what_cannot_be_merged_is_said() -> None:
    there = things()
    other = Deviation(policy="other", checksum="x", message="m", addition={"processPolicy": []})
    with pytest.raises(DocumentError, match="deviation x"):
        plan_merge(there, "web", [other], edition(), Options())


def test_what_is_allowed_by_now_is_no_deviation_any_more() -> None:
    policy = policy_of(things(), "web")
    kept = {name: repeated(deviation(policy, name), observation(name)) for name in ("nc", "sh")}
    assert standings(policy, [], list(kept.values())) == {}
    merged = policy_of(plan_merge(things(), "web", [kept["nc"].deviation], edition(), Options()).after, "web")
    assert standings(merged, [], list(kept.values())) == {kept["nc"].checksum: Standing.IRRELEVANT}
    # One that came ready-made has no example; what would be merged tells.
    bare = repeated(kept["nc"].deviation, None)
    assert standings(merged, [], [bare]) == {bare.checksum: Standing.IRRELEVANT}
    assert standings(policy, [], [bare]) == {}
    allowed = repeated(kept["nc"].deviation, observation("nc"), Standing.MERGED)
    assert standings(policy, [], [allowed]) == {allowed.checksum: Standing.OPEN}
    assert standings(merged, [], [allowed]) == {}


def repeated(found: Deviation, example: Observation | None, status: Standing = Standing.OPEN) -> Repeated:
    return Repeated(
        policy="web",
        checksum=found.checksum or "",
        name=event_name(found),
        deviation=found,
        status=status,
        first=1.0,
        last=1.0,
        example=example,
    )
