"""What is granted, refused and held, for whom and why; what a state makes of it. SEMANTICS sections 3, 4 and 8."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest
from msgspec import Struct

from quell.evaluate import evaluate
from quell.matching import index as indexes
from quell.model.action import (
    Action,
    KillPod,
    KillProcess,
    MakeOpsFlag,
    MakeRedFlag,
    Quarantine,
    ReleaseQuarantine,
    ReniceProcess,
    SendWebhook,
    Severity,
    SuppressLog,
    word,
)
from quell.model.decision import (
    ActionRecord,
    Command,
    Decision,
    FlagClass,
    Outcome,
    OutcomeStatus,
    Reason,
    Status,
)
from quell.model.details import (
    Connection,
    CveReport,
    Details,
    Deviation,
    Endpoint,
    PlainDetails,
    Role,
    SecurityDetails,
)
from quell.model.event import Category, Event, Kind, Level
from quell.model.evidence import EvidenceBounds
from quell.model.policy import Operator, Policy, PolicyType, Requirement, ResponseEntry, Selector, SelectorKind
from quell.model.rule import Criterion, Group, Mode, Rule, Webhook, WebhookFilter
from quell.model.subject import Container, NetworkTarget, Pod, PodTarget, Process, ProcessTarget, Subject
from quell.response import refusals
from quell.response.commands import commands
from quell.response.flags import flags, repeated
from quell.response.quarantine import let_go, run_out
from quell.response.state import AgentFacts, ClusterFacts, Safety, State, Workload

NOW = 1_790_000_000.0
ALL = frozenset(word(action) for action in (KillProcess, KillPod, Quarantine, ReniceProcess, ReleaseQuarantine))
PROCESS = Process(pid=77, start_ticks=500, name="nc", exe="/usr/bin/nc", boot_id="boot-1")
SUBJECT = Subject(
    node="n1",
    namespace="shop",
    pod=Pod(name="web-1", uid="uid-1"),
    container=Container(id="c1"),
    service="web",
    process=PROCESS,
)


class Documents(Struct, frozen=True):
    rules: tuple[Rule, ...] = ()
    groups: tuple[Group, ...] = ()
    webhooks: tuple[Webhook, ...] = ()
    policies: tuple[Policy, ...] = ()


class Engine:
    """evaluate and apply, as the pipeline does it."""

    def __init__(
        self,
        *rules: Rule,
        safety: Safety | None = None,
        webhooks: tuple[Webhook, ...] = (),
        policies: tuple[Policy, ...] = (),
        agents: Iterable[AgentFacts] | None = None,
    ) -> None:
        self.index = indexes.compile(Documents(rules=rules, webhooks=webhooks, policies=policies))
        self.state = State(safety)
        self.state.set_agents([agent()] if agents is None else agents)

    def take(self, event: Event, now: float = NOW) -> Decision:
        decision = evaluate(event, self.index, self.state, now)
        self.state.apply(decision)
        return decision

    def one(self, event: Event, now: float = NOW) -> ActionRecord:
        (record,) = self.take(event, now).actions
        return record

    def report(self, record_id: str, status: OutcomeStatus = OutcomeStatus.DONE, now: float = NOW) -> None:
        self.state.outcome(Outcome(id=record_id, status=status, time=now))


def wide(**bounds: object) -> Safety:
    """No bound on replicas and no breaker but those given."""
    known: dict[str, object] = {"budget_replicas": 100, "breaker": (1000, 3600.0)}
    return Safety(**{**known, **bounds})  # type: ignore[arg-type]


def agent(**fields: object) -> AgentFacts:
    known: dict[str, object] = {
        "id": "a1",
        "node": "n1",
        "boot_id": "boot-1",
        "boot_time": NOW - 9000,
        "capabilities": ALL,
    }
    return AgentFacts(**{**known, **fields})  # type: ignore[arg-type]


def rule(*actions: Action, number: int = 8, **fields: object) -> Rule:
    known: dict[str, object] = {
        "id": number,
        "name": f"r{number}",
        "category": Category.SECURITY_EVENT,
        "criteria": (Criterion(type="level", values=("Warning",)),),
    }
    return Rule(**{**known, **fields}, actions=actions)  # type: ignore[arg-type]


def event(details: Details | None = None, *, n: int = 0, subject: Subject = SUBJECT, **fields: object) -> Event:
    known: dict[str, object] = {
        "id": f"e{n}",
        "time": NOW - 1,
        "received": NOW,
        "source": "falco",
        "category": Category.SECURITY_EVENT,
        "name": "Container.Suspicious.Process",
        "catalogue_name": "Container.Suspicious.Process",
        "level": Level.WARNING,
        "kind": Kind.INCIDENT,
        "raw": b"{}",
        "decode": None if details is None else lambda _: details,
    }
    return Event(**{**known, **fields}, subject=subject)  # type: ignore[arg-type]


def of(subject: Subject = SUBJECT, **changes: object) -> Subject:
    return msgspec.structs.replace(subject, **changes)


def number(n: int) -> Subject:
    """The n-th of many pods of one service."""
    process = msgspec.structs.replace(PROCESS, pid=100 + n)
    return of(pod=Pod(name=f"p{n}", uid=f"u{n}"), container=Container(id=f"k{n}"), process=process)


def replicas(count: int) -> list[Workload]:
    """What the inventory knows of them."""
    return [Workload(id=f"k{n}", namespace="shop", service="web", pod_uid=f"u{n}") for n in range(count)]


# ---- targets


def test_a_kill_names_the_process_with_every_fact_and_the_boot() -> None:
    engine = Engine(rule(KillProcess()))
    bare = of(process=msgspec.structs.replace(PROCESS, boot_id=None))
    record = engine.one(event(subject=bare))
    assert (record.status, record.agent) == (Status.GRANTED, "a1")
    assert record.target == ProcessTarget(node="n1", process=PROCESS, container_id="c1", seen=NOW - 1)


@pytest.mark.parametrize(
    ("subject", "reason"),
    [
        (of(process=None), Reason.NOT_APPLICABLE),
        (of(process=Process(name="nc")), Reason.NO_TARGET),
        (of(process=Process(pid=77, name="nc")), Reason.IDENTITY),
        (of(process=msgspec.structs.replace(PROCESS, boot_id="boot-0")), Reason.STALE),
        (of(process=msgspec.structs.replace(PROCESS, pid=1)), Reason.PROTECTED),
        (of(process=msgspec.structs.replace(PROCESS, ppid=2)), Reason.PROTECTED),
        (of(process=msgspec.structs.replace(PROCESS, pid=4)), Reason.PROTECTED),
        (of(namespace="kube-system"), Reason.PROTECTED),
        (of(node="n2"), Reason.NO_AGENT),
        (of(node=None), Reason.NO_AGENT),
        (of(machine_id="m2"), Reason.NO_AGENT),
    ],
)
def test_a_kill_is_refused_where_doubt_remains(subject: Subject, reason: Reason) -> None:
    engine = Engine(rule(KillProcess()), agents=[agent(machine_id="m1", protected_pids=frozenset({4}))])
    decision = engine.take(event(subject=subject))
    assert (decision.actions[0].status, decision.actions[0].reason) == (Status.REFUSED, reason)
    assert commands(decision, engine.state, NOW) == []


def test_where_two_agents_claim_a_node_none_is_asked() -> None:
    engine = Engine(rule(KillProcess()), agents=[agent(), agent(id="a2")])
    assert engine.one(event()).reason is Reason.NO_AGENT
    engine.state.set_agents([agent(machine_id="m1"), agent(id="a2", node="n2", machine_id="m2")])
    assert engine.one(event(subject=of(node=None, machine_id="m2"))).agent == "a2"
    assert engine.one(event(subject=of(node="n1", machine_id="m2"))).reason is Reason.NO_AGENT


def test_what_an_agent_cannot_do_is_unsupported() -> None:
    engine = Engine(
        rule(KillProcess(), ReniceProcess(priority=5)), agents=[agent(capabilities=frozenset({"agentKillProcess"}))]
    )
    assert [record.reason for record in engine.take(event()).actions] == [None, Reason.UNSUPPORTED]


def test_on_a_kubernetes_node_an_unknown_namespace_is_protected() -> None:
    engine = Engine(rule(KillProcess()), agents=[agent(kubernetes=True)])
    assert engine.one(event(subject=of(namespace=None))).reason is Reason.PROTECTED


@pytest.mark.parametrize(
    ("subject", "key"),
    [
        (SUBJECT, "uid-1"),
        (of(pod=None, container=Container(id="c1", sandbox="sandbox-1")), "sandbox-1"),
        (of(pod=None, container=Container(id="c2")), "c2"),
        (Subject(node="n1", process=msgspec.structs.replace(PROCESS, netns=99)), "process:boot-1:77:500"),
    ],
)
def test_a_quarantine_is_keyed_on_the_sandbox(subject: Subject, key: str) -> None:
    engine = Engine(rule(Quarantine()), agents=[agent(host_netns=1)])
    record = engine.one(event(subject=subject))
    assert record.status is Status.GRANTED
    assert isinstance(record.target, NetworkTarget)
    assert record.target.key == key
    assert list(engine.state.quarantines) == [key]


@pytest.mark.parametrize(
    ("subject", "reason"),
    [
        (Subject(node="n1", process=PROCESS), Reason.NOT_APPLICABLE),
        (Subject(node="n1", process=msgspec.structs.replace(PROCESS, netns=1)), Reason.NOT_APPLICABLE),
        (of(container=Container(id="c1", host_network=True)), Reason.HOST_NETWORK),
        (of(process=msgspec.structs.replace(PROCESS, netns=1)), Reason.HOST_NETWORK),
    ],
)
def test_the_hosts_own_network_is_never_isolated(subject: Subject, reason: Reason) -> None:
    engine = Engine(rule(Quarantine()), agents=[agent(host_netns=1)])
    assert engine.one(event(subject=subject)).reason is reason
    assert engine.state.quarantines == {}


def test_a_victim_is_not_isolated_and_an_attacker_is() -> None:
    engine = Engine(rule(Quarantine()))
    victim, attacker = SecurityDetails(role=Role.VICTIM), SecurityDetails(role=Role.ATTACKER)
    threat = {"kind": Kind.THREAT, "name": "SQL.Injection", "catalogue_name": "SQL.Injection"}
    assert engine.one(event(victim, **threat)).reason is Reason.NOT_APPLICABLE
    assert engine.one(event(victim, kind=Kind.THREAT, name="WAF.a.b", catalogue_name=None)).status is Status.GRANTED
    assert engine.one(event(attacker, **threat)).status is Status.GRANTED


def test_of_a_violation_the_managed_client_is_isolated_where_it_runs() -> None:
    engine = Engine(rule(Quarantine()), agents=[agent(), agent(id="a2", node="n2")])
    engine.state.set_workloads([Workload(id="client", node="n2", sandbox="client-pod")])
    seen = SecurityDetails(connection=Connection(client=Endpoint(workload="client", image="i", namespace="dev")))
    record = engine.one(event(seen, kind=Kind.VIOLATION, name="Network.Violation"))
    assert isinstance(record.target, NetworkTarget)
    assert (record.target.key, record.target.node, record.agent) == ("client-pod", "n2", "a2")
    unmanaged = SecurityDetails(connection=Connection(client=Endpoint(workload="external")))
    assert engine.one(event(unmanaged, kind=Kind.VIOLATION)).reason is Reason.NOT_APPLICABLE


def test_a_pod_is_killed_by_uid() -> None:
    engine = Engine(rule(KillPod(grace_period=3)))
    record = engine.one(event())
    assert record.target == PodTarget(
        node="n1", namespace="shop", name="web-1", uid="uid-1", container_id="c1", seen=NOW - 1
    )
    assert record.agent == "a1"
    assert engine.one(event(subject=of(pod=None))).reason is Reason.NOT_APPLICABLE


def test_a_pod_of_podmans_own_is_the_one_the_inventory_knows_the_container_in() -> None:
    engine = Engine(rule(KillPod()))
    engine.state.workloads = {"c1": Workload(id="c1", podman_pod="ef" * 32), "c2": Workload(id="c2", sandbox="c1")}
    # It is of no cluster, whichever API there is.
    engine.state.set_clusters([ClusterFacts(id="kubernetes:default")])
    record = engine.one(event(subject=of(pod=None)))
    assert (record.status, record.agent) == (Status.GRANTED, "a1")
    assert record.target == PodTarget(node="n1", namespace="shop", uid="ef" * 32, container_id="c1", seen=NOW - 1)
    beside = engine.one(event(n=1, subject=of(pod=None, container=Container(id="c2"))))
    assert beside.reason is Reason.NOT_APPLICABLE, "to share a network is not to be in a pod"


@pytest.mark.parametrize(
    ("api", "cluster", "to"),
    [
        (None, None, "a1"),
        ("blue", None, "kubernetes:default"),
        ("blue", "blue", "kubernetes:default"),
        ("blue", "red", "a1"),
        ("", None, "kubernetes:default"),
        ("", "red", "kubernetes:default"),
    ],
)
def test_a_pod_whose_clusters_api_is_configured_is_ended_there_and_by_no_agent(
    api: str | None, cluster: str | None, to: str
) -> None:
    """api: the name of the cluster whose API there is; "": it has none."""
    engine = Engine(rule(KillPod(), KillProcess()))
    if api is not None:
        engine.state.set_clusters([ClusterFacts(id="kubernetes:default", name=api or None)])
    decision = engine.take(event(subject=of(cluster=cluster)))
    assert [record.agent for record in decision.actions] == [to, "a1"]
    assert [command.agent for command in commands(decision, engine.state, NOW)] == [to, "a1"]


def test_an_api_needs_no_agent_but_all_the_rest() -> None:
    engine = Engine(rule(KillPod()), agents=())
    assert engine.one(event()).reason is Reason.NO_AGENT
    engine.state.set_clusters([ClusterFacts(id="kubernetes:default")])
    assert engine.one(event()).status is Status.GRANTED
    assert engine.one(event(subject=of(namespace="kube-system"))).reason is Reason.PROTECTED
    assert engine.one(event(subject=of(namespace=None))).reason is Reason.PROTECTED
    assert engine.one(event(time=None)).reason is Reason.STALE
    assert engine.one(event(time=NOW - 61)).reason is Reason.STALE
    assert engine.one(event(subject=of(node=None))).status is Status.GRANTED


def test_an_api_can_do_nothing_else() -> None:
    engine = Engine(rule(KillProcess(), Quarantine()), agents=())
    engine.state.set_clusters([ClusterFacts(id="kubernetes:default")])
    assert [record.reason for record in engine.take(event()).actions] == [Reason.NO_AGENT] * 2


def test_what_was_granted_and_then_refused_is_told_once_an_hour_for_an_owner() -> None:
    engine = Engine(rule(KillPod()))
    engine.state.set_clusters([ClusterFacts(id="kubernetes:default")])

    def told(n: int, now: float) -> list[tuple[str, int]]:
        happened = event(n=n, time=now - 1, received=now)
        (command,) = commands(engine.take(happened, now), engine.state, now)
        outcome = Outcome(
            id=command.id, status=OutcomeStatus.REFUSED, reason=Reason.DISRUPTION_BUDGET, explanation="none", time=now
        )
        counted = refusals.counted(command, outcome, happened, engine.state, now)
        made = refusals.flags(command, outcome, happened, counted, now)
        engine.state.change(counted)
        return [(flag.id, flag.count) for flag in made]

    assert told(1, NOW) == [("e1/0/disruption-budget/rule/8", 1)]
    assert told(2, NOW + 10) == []
    assert told(3, NOW + 20) == []
    assert told(4, NOW + 3601) == [("e4/0/disruption-budget/rule/8", 3)]


def test_what_is_gone_or_done_is_no_refusal() -> None:
    told = {status for status in OutcomeStatus if refusals.is_told(Outcome(id="e/0", status=status, time=NOW))}
    assert told == {OutcomeStatus.REFUSED, OutcomeStatus.FAILED, OutcomeStatus.EXPIRED}


@pytest.mark.parametrize(
    "category", [Category.EVENT, Category.CVE_REPORT, Category.COMPLIANCE, Category.ADMISSION_CONTROL]
)
def test_only_security_events_and_deviations_name_a_process_to_act_on(category: Category) -> None:
    engine = Engine(rule(KillProcess(), category=category))
    assert (
        engine.one(event(category=category, kind=None, name="x", catalogue_name=None)).reason is Reason.NOT_APPLICABLE
    )


# ---- time


@pytest.mark.parametrize(
    ("action", "time", "granted"),
    [
        (KillProcess(), NOW - 59, True),
        (KillProcess(), NOW - 61, False),
        (Quarantine(), NOW - 599, True),
        (Quarantine(), NOW - 601, False),
        (KillProcess(), None, False),
        (KillProcess(), NOW + 4, True),
        (KillProcess(), NOW + 6, False),
    ],
)
def test_what_is_too_old_or_of_no_known_time_is_stale(action: Action, time: float | None, granted: bool) -> None:
    record = Engine(rule(action)).one(event(time=time))
    assert record.reason is (None if granted else Reason.STALE)


def test_before_the_boot_is_stale_and_a_report_may_be_a_day_old() -> None:
    engine = Engine(rule(Quarantine(), max_age=1e6), agents=[agent(boot_time=NOW - 100)])
    assert engine.one(event(time=NOW - 200)).reason is Reason.STALE
    engine = Engine(rule(Quarantine(), category=Category.CVE_REPORT), agents=[agent(boot_time=0.0)])
    report = CveReport()
    scan = {"category": Category.CVE_REPORT, "kind": None, "name": "Container.Scan.Report"}
    assert engine.one(event(report, time=NOW - 86000, **scan)).status is Status.GRANTED
    assert engine.one(event(report, n=1, time=NOW - 87000, **scan)).reason is Reason.STALE


def test_a_rules_own_max_age_replaces_the_defaults() -> None:
    assert Engine(rule(KillProcess(), max_age=5.0)).one(event(time=NOW - 6)).reason is Reason.STALE
    assert Engine(rule(KillProcess(), max_age=500.0)).one(event(time=NOW - 400)).status is Status.GRANTED


# ---- one action, many askers


def test_one_action_is_done_once_and_names_every_asker() -> None:
    engine = Engine(rule(KillProcess()), rule(KillProcess(), KillPod(), number=9))
    first, second = engine.take(event()).actions
    assert (first.id, first.asked_by) == ("e0/0", ("rule/8", "rule/9"))
    assert (second.id, second.asked_by) == ("e0/1", ("rule/9",))
    assert [command.id for command in commands(engine.take(event(n=1)), engine.state, NOW)] == ["e1/0", "e1/1"]


def test_a_kill_that_one_asker_wants_evidence_of_is_one_kill_with_evidence() -> None:
    engine = Engine(
        rule(KillProcess(), number=8), rule(KillProcess(), MakeRedFlag(severity=Severity.LOW), evidence=True)
    )
    decision = engine.take(event())
    assert [(record.evidence, record.status) for record in decision.actions] == [
        (True, Status.GRANTED),
        (False, Status.GRANTED),
    ]
    (command,) = commands(decision, engine.state, NOW)
    assert command.evidence == EvidenceBounds(wait=0.2, executable=32 << 20)


def test_who_may_not_act_asks_for_no_evidence_either() -> None:
    audit = rule(KillProcess(), number=9, mode=Mode.AUDIT, evidence=True)
    decision = Engine(rule(KillProcess()), audit).take(event())
    assert [record.evidence for record in decision.actions] == [False]


def test_a_policys_kill_has_the_evidence_of_its_entry() -> None:
    entries = (
        ResponseEntry(action=KillProcess(), evidence=True),
        ResponseEntry(action=MakeRedFlag(severity=Severity.LOW)),
    )
    policy = Policy(name="p", type=PolicyType.CONTAINER, mode=Mode.ENFORCE, default=entries)
    decision = Engine(policies=(policy,)).take(deviation(Deviation(policy="p", checksum="c")))
    assert [record.evidence for record in decision.actions] == [True, False]


def test_one_asker_in_audit_does_not_stop_another_nor_spend_its_budget() -> None:
    engine = Engine(rule(KillProcess(), mode=Mode.AUDIT), rule(KillProcess(), number=9))
    record = engine.one(event())
    assert record.status is Status.GRANTED
    assert "rule/8: audit" in record.explanation
    assert sorted(key for key in engine.state.spent if "breaker" not in key) == ["engine", "namespace/shop", "rule/9"]


def test_audit_says_what_would_have_been_done_and_does_nothing() -> None:
    asked = (KillProcess(), SuppressLog(), SendWebhook(), MakeRedFlag(severity=Severity.HIGH))
    engine = Engine(rule(*asked, mode=Mode.AUDIT), webhooks=(Webhook(name="w", url="u", default=True),))
    seen = event()
    decision = engine.take(seen)
    assert {record.reason for record in decision.actions} == {Reason.AUDIT}
    assert all("would have been done" in record.explanation for record in decision.actions)
    assert (decision.suppressed, decision.changes, flags(decision, seen)) == (False, (), [])
    stale = engine.take(event(n=1, time=None))
    assert "would have been refused: stale" in stale.actions[0].explanation
    assert stale.changes == ()


def test_a_rule_for_everything_acts_only_if_that_is_meant() -> None:
    assert Engine(rule(KillProcess(), criteria=())).one(event()).reason is Reason.AUDIT
    assert Engine(rule(KillProcess(), criteria=(), allow_broad=True)).one(event()).status is Status.GRANTED
    assert Engine(rule(SuppressLog(), criteria=())).one(event()).status is Status.GRANTED


# ---- budgets, limits, cooldowns, pause, approval


@pytest.mark.parametrize(
    ("safety", "allowed"),
    [
        (wide(budget_engine=(3, 60.0)), 3),
        (wide(budget_rule=(2, 60.0)), 2),
        (wide(budget_namespace=(4, 60.0)), 4),
        (wide(budget_replicas=50), 3),
    ],
)
def test_over_the_budget_everything_is_held_until_the_window_has_passed(safety: Safety, allowed: int) -> None:
    engine = Engine(rule(KillProcess(), max_age=1e6), safety=safety)
    engine.state.set_workloads(replicas(6))
    records = [engine.one(event(n=n, subject=number(n))) for n in range(6)]
    assert [record.status for record in records] == [Status.GRANTED] * allowed + [Status.HELD] * (6 - allowed)
    assert records[-1].reason is Reason.BUDGET
    assert records[-1].agent == ""
    assert engine.one(event(n=7), NOW + 61).status is Status.GRANTED


def test_several_actions_of_one_event_count_each() -> None:
    engine = Engine(rule(KillProcess(), KillPod(), Quarantine()), safety=Safety(budget_rule=(2, 60.0)))
    assert sorted(record.status for record in engine.take(event()).actions) == ["granted", "granted", "held"]


def test_a_hold_raises_one_red_flag_an_hour_with_a_count() -> None:
    engine = Engine(rule(KillProcess(), max_age=1e6), safety=Safety(budget_rule=(1, 9000.0)))
    engine.take(event())
    raised = []
    for n, now in ((1, NOW), (2, NOW + 10), (3, NOW + 20), (4, NOW + 3601), (5, NOW + 3602)):
        made = event(n=n)
        raised.append(flags(engine.take(made, now), made))
    assert [len(each) for each in raised] == [1, 0, 0, 1, 0]
    first, later = raised[0][0], raised[3][0]
    assert (first.flag_class, first.count, first.id) == (FlagClass.RED, 1, "e1/0/budget/rule/8")
    assert later.count == 3


def test_what_is_not_flagged_again_counts_on_the_flag_that_was() -> None:
    engine = Engine(rule(KillProcess(), max_age=1e6), safety=Safety(budget_rule=(1, 9000.0)))
    engine.take(event())
    told = [[one.flag for one in repeated(engine.take(event(n=n), NOW + n))] for n in (1, 2, 3)]
    assert told == [[], ["e1/0/budget/rule/8"], ["e1/0/budget/rule/8"]]
    # It stays so over a restart; the next that is raised is the one that counts from then on.
    engine.state = State.restore(engine.state.snapshot(), engine.state.safety)
    engine.state.set_agents([agent()])
    assert [one.flag for one in repeated(engine.take(event(n=4), NOW + 4))] == ["e1/0/budget/rule/8"]
    assert repeated(engine.take(event(n=5), NOW + 3602)) == []
    assert [one.flag for one in repeated(engine.take(event(n=6), NOW + 3603))] == ["e5/0/budget/rule/8"]


def test_a_flag_in_its_cooldown_counts_on_the_one_before() -> None:
    engine = Engine(rule(MakeOpsFlag(severity=Severity.LOW), MakeRedFlag(severity=Severity.HIGH), cooldown=30.0))
    first, again = engine.take(event()), engine.take(event(n=1), NOW + 3)
    assert [record.repeats for record in again.actions] == [record.id for record in first.actions]
    assert [(one.flag, one.time) for one in repeated(again)] == [("e0/0", NOW + 3), ("e0/1", NOW + 3)]
    assert flags(again, event(n=1)) == []
    assert repeated(engine.take(event(n=2, subject=number(2)), NOW + 4)) == []
    assert repeated(engine.take(event(n=3), NOW + 31)) == []
    assert [one.flag for one in repeated(engine.take(event(n=4), NOW + 32))] == ["e3/0", "e3/1"]


def test_refusals_raise_an_ops_flag_but_not_all() -> None:
    engine = Engine(rule(KillProcess()), rule(KillProcess(), number=9, max_age=1e6))
    made = event(time=None)
    raised = flags(engine.take(made), made)
    assert [(flag.flag_class, flag.id) for flag in raised] == [
        (FlagClass.OPS, "e0/0/stale/rule/8"),
        (FlagClass.OPS, "e0/0/stale/rule/9"),
    ]
    quiet = event(n=1, subject=of(process=None))
    assert flags(engine.take(quiet), quiet) == []


def test_a_cooldown_starts_with_success_and_ends() -> None:
    engine = Engine(rule(KillProcess(), cooldown=30.0), safety=wide())
    assert engine.one(event()).status is Status.GRANTED
    engine.report("e0/0", OutcomeStatus.FAILED)
    assert engine.one(event(n=1)).status is Status.GRANTED
    engine.report("e1/0", now=NOW + 1)
    assert engine.one(event(n=2), NOW + 2).reason is Reason.COOLDOWN
    assert engine.one(event(n=3, subject=number(3)), NOW + 2).status is Status.GRANTED
    assert engine.one(event(n=4), NOW + 32).status is Status.GRANTED


def test_a_flags_cooldown_starts_at_once_and_is_kept_for_its_subject() -> None:
    engine = Engine(rule(MakeOpsFlag(severity=Severity.LOW), cooldown=30.0))
    assert engine.one(event()).status is Status.GRANTED
    assert engine.one(event(n=1)).reason is Reason.COOLDOWN
    assert engine.one(event(n=2, subject=number(2))).status is Status.GRANTED
    assert engine.one(event(n=3), NOW + 31).status is Status.GRANTED


def test_a_limit_caps_all_of_a_rules_own_actions() -> None:
    asking = rule(MakeOpsFlag(severity=Severity.LOW), KillProcess(), limit=(3, 60.0))
    engine = Engine(asking, rule(KillPod(), number=9), safety=wide())
    assert [record.status for record in engine.take(event()).actions] == [Status.GRANTED] * 3
    second = engine.take(event(n=1, subject=number(1)))
    assert [record.reason for record in second.actions] == [None, Reason.LIMIT, None]


def test_while_paused_what_would_have_been_done_is_listed() -> None:
    engine = Engine(rule(KillProcess(), MakeRedFlag(severity=Severity.LOW)), safety=Safety(paused=True))
    kill, flag = engine.take(event()).actions
    assert (kill.reason, flag.status) == (Reason.PAUSED, Status.GRANTED)
    assert engine.state.spent == {}


def test_what_needs_approval_is_held() -> None:
    record = Engine(rule(KillProcess(), approval=True)).one(event())
    assert (record.status, record.reason) == (Status.HELD, Reason.APPROVAL)


# ---- telling


HOOKS = (
    Webhook(name="a", url="u"),
    Webhook(name="b", url="u", default=True),
    Webhook(name="off", url="u", enable=False),
    Webhook(name="loud", url="u", filter=WebhookFilter(level=Level.CRITICAL)),
    Webhook(name="scans", url="u", filter=WebhookFilter(categories=(Category.CVE_REPORT,))),
)


def test_webhooks_are_one_record_with_the_union_of_endpoints() -> None:
    engine = Engine(
        rule(SendWebhook(), webhooks=("a", "off")),
        rule(SendWebhook(endpoints=("a",)), number=9),
        rule(SendWebhook(), number=10),
        webhooks=HOOKS,
    )
    record = engine.one(event())
    assert (record.endpoints, record.asked_by) == (("a", "b"), ("rule/8", "rule/9", "rule/10"))
    assert "off is disabled" in record.explanation


@pytest.mark.parametrize(
    ("name", "said"), [("off", "disabled"), ("loud", "Critical"), ("scans", "category"), ("x", "no endpoint x")]
)
def test_without_an_endpoint_that_takes_it_the_rule_is_told_why(name: str, said: str) -> None:
    record = Engine(rule(SendWebhook(endpoints=(name,))), webhooks=HOOKS).one(event())
    assert (record.status, record.reason) == (Status.REFUSED, Reason.NO_ENDPOINT)
    assert said in record.explanation


def test_suppress_log_silences_webhooks_and_flags_but_stops_no_action() -> None:
    flagging = MakeRedFlag(severity=Severity.HIGH, webhooks=("a",))
    engine = Engine(rule(SuppressLog()), rule(SendWebhook(), flagging, KillProcess(), number=9), webhooks=HOOKS)
    made = event(PlainDetails(message="what happened"))
    decision = engine.take(made)
    told = {word(record.action): (record.status, record.reason) for record in decision.actions}
    assert decision.suppressed
    assert told["webhook"] == (Status.REFUSED, Reason.NOT_APPLICABLE)
    assert told["agentKillProcess"][0] is Status.GRANTED
    (flag,) = flags(decision, made)
    assert (flag.webhooks, flag.silent, flag.description) == ((), True, "what happened")


def test_quells_own_safety_events_are_never_suppressed() -> None:
    engine = Engine(rule(SuppressLog(), category=Category.EVENT, criteria=()))
    own = {"source": "quell", "category": Category.EVENT, "kind": None}
    assert not engine.take(event(name="Kernel.Messages.Lost", catalogue_name=None, **own)).suppressed
    assert engine.take(event(name="Container.Quarantined", catalogue_name="Container.Quarantined", **own)).suppressed


# ---- quarantine


def test_a_second_rule_joins_without_another_command() -> None:
    engine = Engine(rule(Quarantine()), rule(Quarantine(), number=9, criteria=(Criterion(type="name", values=("x",)),)))
    first = engine.take(event())
    (command,) = commands(first, engine.state, NOW)
    assert command.action == Quarantine()
    second = engine.take(event(n=1, name="x"))
    assert second.actions[0].status is Status.GRANTED
    assert commands(second, engine.state, NOW) == []
    assert engine.state.quarantines["uid-1"].holders == {"rule/8": None, "rule/9": None}
    assert len(engine.state.spent["engine"]) == 1


def test_a_lease_is_renewed_by_new_evidence_but_not_by_each_event() -> None:
    engine = Engine(rule(Quarantine(ttl=100.0)))
    assert len(commands(engine.take(event()), engine.state, NOW)) == 1
    assert commands(engine.take(event(n=1), NOW + 5), engine.state, NOW + 5) == []
    later = engine.take(event(n=2, time=NOW + 49, received=NOW + 50), NOW + 50)
    assert [command.action for command in commands(later, engine.state, NOW + 50)] == [Quarantine(ttl=100.0)]
    assert engine.state.quarantines["uid-1"].holders == {"rule/8": NOW + 150}


def test_of_several_quarantines_the_strictest_and_longest_is_carried_out() -> None:
    engine = Engine(
        rule(Quarantine(ttl=60.0), number=8),
        rule(Quarantine(), number=9),
        rule(Quarantine(ttl=5.0, strict=True), number=10),
    )
    made = commands(engine.take(event()), engine.state, NOW)
    assert {command.action for command in made} == {Quarantine(strict=True)}
    assert engine.state.quarantines["uid-1"].holders == {"rule/8": NOW + 60, "rule/9": None, "rule/10": NOW + 5}


def test_it_ends_when_the_last_holder_lets_go() -> None:
    engine = Engine(rule(Quarantine()), rule(Quarantine(), number=9))
    engine.take(event())
    engine.report("e0/0")
    assert engine.state.quarantines["uid-1"].confirmed
    assert list(engine.state.quarantines["uid-1"].holders) == ["rule/8", "rule/9"]
    first = let_go(engine.state, NOW, holder="rule/8")
    assert (first.commands, first.kept) == ((), (("uid-1", ("rule/8",), ("rule/9",)),))
    engine.state.change(first.changes)
    last = let_go(engine.state, NOW + 1, holder="rule/9")
    engine.state.change(last.changes)
    (command,) = last.commands
    assert isinstance(command.action, ReleaseQuarantine)
    assert (command.agent, command.target) == ("a1", engine.state.quarantines["uid-1"].target)
    engine.report(command.id)
    assert engine.state.quarantines == {}


def test_a_person_releases_all_holders_at_once() -> None:
    engine = Engine(rule(Quarantine()), rule(Quarantine(), number=9))
    engine.take(event())
    released = let_go(engine.state, NOW, key="uid-1", by="user/ann")
    assert [command.asked_by for command in released.commands] == [("user/ann",)]
    assert len(released.changes) == 3


def test_a_lease_runs_out_and_a_failed_release_is_tried_again() -> None:
    engine = Engine(rule(Quarantine(ttl=100.0)))
    engine.take(event())
    engine.report("e0/0")
    assert run_out(engine.state, NOW + 99) == ((), (), (), ())
    over = run_out(engine.state, NOW + 100)
    engine.state.change(over.changes)
    assert len(over.commands) == 1
    assert run_out(engine.state, NOW + 101).commands == ()
    engine.report(over.commands[0].id, OutcomeStatus.EXPIRED)
    again = run_out(engine.state, NOW + 140)
    assert len(again.commands) == 1
    assert again.commands[0].id != over.commands[0].id
    engine.state.change(again.changes)
    engine.report(again.commands[0].id, OutcomeStatus.GONE)
    assert engine.state.quarantines == {}


def test_what_was_never_isolated_is_not_shown_as_isolated() -> None:
    engine = Engine(rule(Quarantine()))
    engine.take(event())
    engine.report("e0/0", OutcomeStatus.EXPIRED)
    assert engine.state.quarantines == {}
    assert len(commands(engine.take(event(n=1)), engine.state, NOW)) == 1


def test_new_evidence_while_it_is_being_released_isolates_again() -> None:
    engine = Engine(rule(Quarantine()))
    engine.take(event())
    engine.report("e0/0")
    released = let_go(engine.state, NOW, key="uid-1")
    engine.state.change(released.changes)
    assert len(commands(engine.take(event(n=1)), engine.state, NOW)) == 1
    engine.report(released.commands[0].id)
    assert engine.state.quarantines["uid-1"].holders == {"rule/8": None}
    engine.report("e1/0")
    assert engine.state.quarantines["uid-1"].confirmed


# ---- policies


def policy(mode: Mode = Mode.ENFORCE, scope: tuple[Selector, ...] = (), actions: tuple[Action, ...] = ()) -> Policy:
    default = tuple(ResponseEntry(action=action) for action in actions)
    return Policy(name="p", uid="pol:1", type=PolicyType.CONTAINER, mode=mode, scope=scope, default=default)


def deviation(told: Deviation, **fields: object) -> Event:
    names = {"name": "Process.Profile.Violation", "catalogue_name": "Process.Profile.Violation", "kind": None}
    return event(told, category=Category.DEVIATION, **{**names, **fields})


def test_a_policy_is_found_by_uid_or_name_and_asks_like_a_rule() -> None:
    engine = Engine(rule(KillProcess()), policies=(policy(actions=(KillProcess(),)),))
    for n, told in enumerate(
        (Deviation(policy="p"), Deviation(policy="x", policy_uid="pol:1"), Deviation(policy="pol:1"))
    ):
        record = engine.one(deviation(told, n=n))
        assert record.asked_by == ("rule/8", "policy/p/default")
    assert engine.one(deviation(Deviation(policy="x"), n=9)).asked_by == ("rule/8",)


def test_a_scope_that_cannot_be_proved_lets_nothing_destructive_happen() -> None:
    scope = (
        Selector(
            kind=SelectorKind.CONTAINER,
            requirements=(Requirement(key="image", operator=Operator.IN, values=("reg/*",)),),
        ),
    )
    engine = Engine(policies=(policy(scope=scope, actions=(KillProcess(), MakeRedFlag(severity=Severity.LOW))),))
    kill, flag = engine.take(deviation(Deviation(policy="p"))).actions
    assert (kill.reason, flag.status) == (Reason.UNKNOWN_SCOPE, Status.GRANTED)
    proved = engine.take(deviation(Deviation(policy="p"), n=1, subject=of(image="reg/a")))
    assert proved.actions[0].status is Status.GRANTED
    outside = engine.take(deviation(Deviation(policy="p"), n=2, subject=of(image="other")))
    assert outside.matches == ()


def test_a_deviation_that_is_not_proved_lets_nothing_destructive_happen_whoever_asks() -> None:
    actions = (KillProcess(), MakeRedFlag(severity=Severity.LOW))
    engine = Engine(rule(KillProcess(), ReniceProcess(priority=5)), policies=(policy(actions=actions),))
    told = Deviation(policy="p", unproven="the executable of sh is not known")
    records = engine.take(deviation(told)).actions
    unknown = Reason.UNKNOWN_SCOPE
    assert {type(record.action): record.reason for record in records} == {
        KillProcess: unknown,
        ReniceProcess: unknown,
        MakeRedFlag: None,
    }
    assert records[0].explanation == "it may be allowed: the executable of sh is not known"


def test_a_checksum_is_flagged_once_an_hour() -> None:
    engine = Engine(policies=(policy(actions=(MakeRedFlag(severity=Severity.LOW),)),))
    told = [deviation(Deviation(policy="p", checksum=checksum), n=n) for n, checksum in enumerate("aab")]
    assert [engine.one(made).reason for made in told] == [None, Reason.COOLDOWN, None]
    assert engine.one(deviation(Deviation(policy="p", checksum="a"), n=5), NOW + 3601).status is Status.GRANTED


def test_two_flags_of_one_policy_and_deviation_are_counted_each() -> None:
    engine = Engine(policies=(policy(actions=tuple(MakeRedFlag(severity=one) for one in Severity)[:2]),))
    made = [deviation(Deviation(policy="p", checksum="a"), n=n) for n in range(3)]
    first = engine.take(made[0])
    assert [record.status for record in first.actions] == [Status.GRANTED, Status.GRANTED]
    for one in made[1:]:
        assert [each.flag for each in repeated(engine.take(one, NOW + 5))] == ["e0/0", "e0/1"]


def test_a_policy_in_audit_makes_no_flag() -> None:
    engine = Engine(policies=(policy(mode=Mode.AUDIT, actions=(MakeRedFlag(severity=Severity.LOW),)),))
    made = deviation(Deviation(policy="p"))
    decision = engine.take(made)
    assert decision.actions[0].reason is Reason.AUDIT
    assert flags(decision, made) == []


def test_only_a_process_deviation_has_a_process_to_kill() -> None:
    engine = Engine(policies=(policy(actions=(KillProcess(),)),))
    assert engine.one(deviation(Deviation(policy="p", what="egress"))).reason is Reason.NOT_APPLICABLE


# ---- state


def test_commands_expire_and_are_the_same_when_made_again() -> None:
    engine = Engine(rule(KillProcess()), safety=Safety(command_ttl=7.0))
    decision = engine.take(event())
    (command,) = commands(decision, engine.state, NOW)
    assert isinstance(command, Command)
    assert (command.issued, command.expires, command.event_id) == (NOW, NOW + 7, "e0")
    assert commands(decision, engine.state, NOW) == [command]


def test_an_outcome_counts_once() -> None:
    engine = Engine(rule(KillProcess(), cooldown=30.0))
    engine.take(event())
    outcome = Outcome(id="e0/0", status=OutcomeStatus.DONE, time=NOW)
    changes = engine.state.outcome(outcome)
    assert changes
    assert engine.state.outcome(outcome) == ()
    twin = State()
    twin.change(changes)
    assert twin.cooldowns == engine.state.cooldowns


def test_a_restored_state_decides_as_the_old_one() -> None:
    engine = Engine(rule(KillProcess(), Quarantine(ttl=60.0), cooldown=30.0), safety=Safety(budget_rule=(3, 60.0)))
    engine.take(event())
    engine.report("e0/0")
    engine.take(event(n=1, subject=number(1)))
    other = State.restore(engine.state.snapshot(), engine.state.safety)
    other.set_agents([agent()])
    for subject in (SUBJECT, number(1), number(2)):
        made = event(n=5, subject=subject)
        assert evaluate(made, engine.index, other, NOW) == evaluate(made, engine.index, engine.state, NOW)


def test_what_is_over_is_forgotten_once_there_is_much_of_it() -> None:
    engine = Engine(rule(MakeOpsFlag(severity=Severity.LOW), cooldown=1.0))
    for n in range(4200):
        engine.take(event(n=n, subject=number(n)), NOW + n)
    assert len(engine.state.cooldowns) < 200
