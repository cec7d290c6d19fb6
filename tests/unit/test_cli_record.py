"""The decision record as people read it."""

from __future__ import annotations

import io

from rich.console import Console

from quell.cli.record import describe_action, describe_target, print_record
from quell.model.action import KillProcess, MakeRedFlag, Quarantine, SendWebhook, Severity
from quell.model.decision import (
    ActionRecord,
    Decision,
    Evidence,
    Flag,
    FlagClass,
    Match,
    NearMiss,
    Outcome,
    OutcomeStatus,
    Reason,
    Status,
)
from quell.model.explanation import Explanation
from quell.model.subject import Container, NetworkTarget, Pod, Process, ProcessTarget, Subject

EVENT = {
    "id": "e1",
    "time": 1795362011.204,
    "received": 1795362011.205,
    "source": "sensor",
    "category": "security-event",
    "kind": "incident",
    "name": "Host.Suspicious.Process",
    "level": "Critical",
    "subject": {"node": "vm", "process": {"pid": 7, "name": "nc", "cmdline": "nc -l 1"}},
}
TARGET = ProcessTarget(node="vm", process=Process(pid=7, name="nc"))


def printed(explanation: Explanation, *, near_misses: bool = False, imagined: bool = False) -> str:
    stream = io.StringIO()
    print_record(Console(file=stream, width=100), explanation, near_misses=near_misses, imagined=imagined)
    return stream.getvalue()


def decision(**parts: object) -> Decision:
    return Decision(event_id="e1", time=1795362011.2055, revision=3, **parts)  # type: ignore[arg-type]


def test_everything_from_event_to_outcome() -> None:
    text = printed(
        Explanation(
            event=EVENT,
            decision=decision(
                matches=(Match(ref="rule/8", name="no-nc", evidence=(Evidence(criterion="process:nc", value="nc"),)),),
                actions=(
                    ActionRecord(
                        id="e1/0",
                        action=KillProcess(),
                        target=TARGET,
                        asked_by=("rule/8", "rule/9"),
                        status=Status.GRANTED,
                        agent="a",
                    ),
                    ActionRecord(
                        id="e1/1",
                        action=SendWebhook(endpoints=("soc", "ops")),
                        asked_by=("rule/8",),
                        status=Status.GRANTED,
                        endpoints=("soc", "ops"),
                    ),
                ),
            ),
            outcomes=(
                Outcome(id="e1/0", status=OutcomeStatus.DONE, time=1795362011.21, duration=0.0019, facts={"pid": 7}),
                Outcome(id="e1/webhook/soc", status=OutcomeStatus.DONE, time=1795362011.3, duration=0.05),
                Outcome(id="e1/webhook/ops", status=OutcomeStatus.FAILED, time=1795362012.0, explanation="404"),
                Outcome(id="other/0", status=OutcomeStatus.EXPIRED, time=1795362012.0),
            ),
            flags=(
                Flag(
                    id="f", flag_class=FlagClass.RED, severity=Severity.HIGH, name="Netcat", time=1795362011.0, count=2
                ),
            ),
        )
    )
    assert text == (
        "event        Host.Suspicious.Process\n"
        "             Critical security-event/incident from sensor, 2026-11-22 15:40:11.204Z\n"
        "             process nc (pid 7, nc -l 1), node vm\n"
        "             e1\n"
        "matched      rule/8  no-nc\n"
        "               process:nc  is nc\n"
        "actions      agentKillProcess  nc (pid 7) on vm\n"
        "               asked by rule/8, rule/9 → granted → done in 1.9 ms  [pid 7]\n"
        "             webhook  to soc, ops\n"
        "               asked by rule/8 → granted\n"
        "                → soc done in 50 ms\n"
        "                → ops failed: 404\n"
        "flags        red high  Netcat  (2 times)\n"
        "decided      by revision 3 of the rules, 2026-11-22 15:40:11.205Z, 0.5 ms after receipt\n"
    )


def test_a_flag_that_is_not_raised_again_says_on_which_it_counts() -> None:
    record = ActionRecord(
        id="e2/0",
        action=MakeRedFlag(severity=Severity.HIGH),
        asked_by=("rule/8",),
        status=Status.REFUSED,
        reason=Reason.COOLDOWN,
        explanation="it did so already",
        repeats="e1/0",
    )
    text = printed(Explanation(event=EVENT, decision=decision(actions=(record,))))
    assert "               counted on flag e1/0\n" in text


def test_refusals_holds_and_what_is_still_to_come() -> None:
    def record(status: Status, reason: Reason | None = None, explanation: str = "") -> ActionRecord:
        return ActionRecord(
            id="e1/0",
            action=KillProcess(),
            target=TARGET,
            asked_by=("rule/8",),
            status=status,
            reason=reason,
            explanation=explanation,
        )

    refused = decision(actions=(record(Status.REFUSED, Reason.IDENTITY, "it started later"),))
    assert "rule/8 → refused (identity): it started later\n" in printed(Explanation(event=EVENT, decision=refused))
    held = decision(actions=(record(Status.HELD, Reason.BUDGET),))
    assert "rule/8 → held (budget)\n" in printed(Explanation(event=EVENT, decision=held))
    granted = Explanation(event=EVENT, decision=decision(actions=(record(Status.GRANTED),)))
    assert "rule/8 → granted → no outcome yet\n" in printed(granted)
    assert "rule/8 → granted\n" in printed(granted, imagined=True)


def test_near_misses_say_what_was_expected_and_what_was_there() -> None:
    missed = decision(
        near_misses=(
            NearMiss(ref="rule/8", name="a", criterion="source:falco", expected="falco", got="native"),
            NearMiss(ref="rule/9", name="b", criterion="namespace:prod", expected="prod"),
        )
    )
    text = printed(Explanation(event=EVENT, decision=missed), near_misses=True)
    assert "matched      no rule\n" in text
    assert "source:falco  expected falco, got native\n" in text
    assert "namespace:prod  expected prod, the event has none\n" in text
    assert "not matched" not in printed(Explanation(event=EVENT, decision=missed))


def test_what_an_event_says_is_text_and_never_markup() -> None:
    event = EVENT | {"name": "[red]x[/red]", "details": {"message": "[link=file:///etc]y"}}
    text = printed(Explanation(event=event, decision=decision(matches=(Match(ref="rule/8", name="[b]n"),))))
    assert "[red]x[/red]" in text
    assert "[link=file:///etc]y" in text
    assert "rule/8  [b]n" in text


def test_control_characters_of_an_event_do_not_reach_the_terminal() -> None:
    event = EVENT | {"subject": {"process": {"name": "nc", "cmdline": "nc \x1b]0;owned\x07 \x1b[2J"}}}
    text = printed(Explanation(event=event, decision=decision()))
    assert "\x1b" not in text
    assert "\x07" not in text


def test_actions_and_targets_in_a_word() -> None:
    assert describe_action(Quarantine(ttl=60.0, strict=True)) == "quarantine for 1m strict"
    assert describe_action(Quarantine(investigator=("192.0.2.7", "::7"))) == "quarantine but for 192.0.2.7, ::7"
    assert describe_action(MakeRedFlag(severity=Severity.LOW)) == "makeRedFlag low"
    assert describe_target(TARGET) == "nc (pid 7) on vm"
    by_container = NetworkTarget(node="vm", key="k", container_id="4f1e2a90b7c3aaaa")
    assert describe_target(by_container) == "network of container 4f1e2a90b7c3 on vm"


def test_what_the_inventory_added_and_where_it_differs() -> None:
    added = Subject(
        namespace="shop",
        namespace_labels={"env": "prod"},
        pod=Pod(name="web-1", labels={}),
        container=Container(id="c" * 12, image_id="sha256:1"),
        service="web\x1b[2J",
    )
    text = printed(Explanation(event=EVENT, decision=decision(added=added, conflicts=("image: the event says a",))))
    told = " ".join(text.split())
    assert "inventory added namespace shop, namespace labels env=prod, pod name web-1, pod labels none," in told
    assert "container id cccccccccccc, container image id sha256:1," in told
    assert "image: the event says a" in text
    assert "\x1b" not in text
    assert "inventory" not in printed(Explanation(event=EVENT, decision=decision()))
