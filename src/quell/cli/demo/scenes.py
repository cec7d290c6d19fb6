"""The scenes of the demonstration. Each plays on real processes, shows what happened when, and prints the record."""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from quell.agent import proc
from quell.cli.demo import namespaces
from quell.cli.demo.listener import Listener, Received
from quell.cli.demo.stage import PATIENCE, DemoError, Stage, wait_for
from quell.cli.demo.timeline import Step, Timeline
from quell.cli.output import milliseconds
from quell.cli.record import print_record
from quell.model.action import Quarantine, word
from quell.model.decision import ActionRecord, Outcome, OutcomeStatus, Status
from quell.model.explanation import Explanation

#: Seconds to wait for the sensor where it may not see everything.
_PATIENCE_UNSURE = 2.0

WATCH_LIST = """\
[[watch]]
name = "demonstration"
description = "Nothing but the demonstration's own netcat, so that it leaves this machine's processes alone"
exe = ["{exe}"]
copies = false
"""


def netcat_kept(folder: Path) -> Path:
    """A netcat of the demonstration's own: a copy, so that it is never confused with anybody else's.

    Without netcat on this machine it is a copy of sleep under netcat's name: just as harmless.
    """
    original = shutil.which("nc") or shutil.which("sleep")
    if original is None:
        raise DemoError("neither nc nor sleep is on this machine")
    copy = folder / "nc"
    shutil.copy(Path(original).resolve(), copy)
    copy.chmod(0o755)
    return copy


def kill_netcat(stage: Stage, timeline: Timeline, listener: Listener, netcat: Path) -> None:
    """Exec seen by the sensor (or told by us, without root) -> rule -> signed command -> process gone."""
    timeline.scene("A netcat is started; nobody should run one here")
    arguments = ["-l", "127.0.0.1", str(_free_port())] if shutil.which("nc") else ["600"]
    victim = subprocess.Popen([netcat, *arguments], stdin=subprocess.DEVNULL)
    try:
        handle = os.pidfd_open(victim.pid)
        gone = _when_gone(handle, PATIENCE if _is_watched(stage) else _PATIENCE_UNSURE)
        sensed = gone is not None or _is_watched(stage)
        if sensed:
            event_id = wait_for(lambda: _event_about(stage, victim.pid), "the sensor's event")
        else:
            timeline.left_out(
                "the sensor does not see it here, so this program reports it itself, with its exact start"
            )
            event_id = stage.client.events.send(_incident(stage, victim.pid)).ids[0]
            gone = _when_gone(handle, PATIENCE)
        os.close(handle)
        if gone is None:
            raise DemoError(f"netcat still runs after {PATIENCE:g} s")
        code = victim.wait()
    finally:
        victim.kill()
        victim.wait()
    explanation = stage.explained(event_id)
    outcome = _outcome_of(explanation, "agentKillProcess")
    _expect(outcome.status is OutcomeStatus.DONE, f"the kill ended as {outcome.status}: {outcome.explanation}")
    _expect(code == -9, f"netcat ended with {code}, not by the kill signal")
    message = _message(listener, event_id)
    timeline.steps(
        [
            Step(_moment(explanation, "time"), f"exec of {netcat.name} {' '.join(arguments)} (pid {victim.pid})"),
            Step(_moment(explanation, "received"), "sensor's event taken" if sensed else "posted event taken"),
            Step(explanation.decision.time, f"decided by {_rules(explanation)}"),
            Step(
                outcome.time, f"agent carried out the signed command, itself in {milliseconds(outcome.duration or 0)}"
            ),
            Step(gone, "netcat is gone"),
            Step(message.at, "webhook received, signature verified"),
        ]
    )
    timeline.done(f"from exec to gone in {milliseconds(gone - _moment(explanation, 'time'))}")
    _print(timeline, explanation)


def tell_of_falco(stage: Stage, timeline: Timeline, listener: Listener) -> None:
    """A Falco alert as Falco's http_output sends it -> rule -> signed webhook."""
    timeline.scene("Falco reports something critical")
    posted = time.time()
    event_id = stage.client.events.send(_alert(stage, posted), detector="falco").ids[0]
    acknowledged = time.time()
    message = _message(listener, event_id)
    explanation = stage.explained(event_id)
    timeline.steps(
        [
            Step(posted, "alert posted to /v1/events/falco"),
            Step(explanation.decision.time, f"decided by {_rules(explanation)}"),
            Step(acknowledged, "202: event and decision are on disk"),
            Step(message.at, f"webhook received, signature verified: {len(message.body)} fields of JSON"),
        ]
    )
    timeline.done("told, and nothing destructive was asked for")
    _print(timeline, explanation)


def isolate_namespace(stage: Stage, timeline: Timeline, listener: Listener) -> None:
    """An event about a process in its own network namespace -> isolated -> ping stops -> released -> ping works."""
    timeline.scene("A tunnel leaves a network namespace; it is cut off, and let go")
    if lacking := namespaces.missing():
        timeline.left_out(f"left out: {lacking}")
        return
    if word(Quarantine) not in stage.agent["capabilities"]:
        timeline.left_out(f"left out: the agent cannot isolate here: {'; '.join(stage.agent['limits'])}")
        return
    with namespaces.joined() as pair:
        _expect(pair.ping(), "ping does not work between the two namespaces before anything is isolated")
        timeline.done(f"two namespaces joined by a veth pair; sleep (pid {pair.process.pid}) in one, ping answers")
        event_id = stage.client.events.send(_tunnel(stage, pair.process.pid)).ids[0]
        explanation = stage.explained(event_id)
        outcome = _outcome_of(explanation, word(Quarantine))
        _expect(outcome.status is OutcomeStatus.DONE, f"isolation ended as {outcome.status}: {outcome.explanation}")
        silent = pair.pings(expected=False)
        _expect(silent is not None, "ping still works although the namespace is isolated")
        _expect(pair.process.poll() is None, "the process inside was not to be ended")
        message = _message(listener, event_id)
        timeline.steps(
            [
                Step(_moment(explanation, "received"), "event taken"),
                Step(explanation.decision.time, f"decided by {_rules(explanation)}"),
                Step(outcome.time, f"agent isolated the namespace, itself in {milliseconds(outcome.duration or 0)}"),
                Step(message.at, "webhook received, signature verified"),
            ]
        )
        timeline.done("ping stops; the process inside keeps running")
        _print(timeline, explanation)
        _release(stage, timeline, pair)


def _release(stage: Stage, timeline: Timeline, pair: namespaces.Pair) -> None:
    quarantines = stage.client.agents.quarantines()
    _expect(len(quarantines) == 1, f"expected one quarantine, got {quarantines}")
    key = str(quarantines[0]["key"])
    asked = time.time()
    stage.client.agents.release(key)
    wait_for(lambda: not stage.client.agents.quarantines(), "the end of the quarantine")
    ended = time.time()
    _expect(pair.pings(expected=True) is not None, "ping does not work again after the release")
    timeline.done(f"quell quarantines release {key}: open again in {milliseconds(ended - asked)}, ping answers")


def _incident(stage: Stage, pid: int) -> bytes:
    return _native("Host.Suspicious.Process", stage, pid, "netcat was started by hand")


def _tunnel(stage: Stage, pid: int) -> bytes:
    return _native("Container.Tunnel.Detected", stage, pid, "traffic is hidden in another protocol")


def _native(name: str, stage: Stage, pid: int, message: str) -> bytes:
    facts = proc.read_process(pid)
    if facts is None:
        raise DemoError(f"process {pid} ended before it could be looked at")
    return msgspec.json.encode(
        {
            "name": name,
            "time": time.time(),
            "subject": {"node": stage.node, "process": facts.process},
            "details": {"message": message},
        }
    )


def _alert(stage: Stage, at: float) -> bytes:
    moment = datetime.fromtimestamp(at, UTC)
    return json.dumps(
        {
            "hostname": stage.node,
            "priority": "Critical",
            "rule": "Drop and execute new binary in container",
            "source": "syscall",
            "time": moment.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "output": f"{moment:%H:%M:%S.%f}: Critical Executing binary not part of base image (proc_exe=/tmp/xmrig)",
            "output_fields": {
                "container.id": "4f1e2a90b7c3",
                "container.image.repository": "docker.io/library/nginx",
                "container.name": "web-1",
                "evt.time": int(at * 1e9),
                "proc.cmdline": "xmrig -o pool",
                "proc.exepath": "/tmp/xmrig",  # noqa: S108 - a fact of a made-up alert
                "proc.name": "xmrig",
                "user.uid": 0,
            },
            "tags": ["container", "maturity_stable", "process"],
        }
    ).encode()


def _event_about(stage: Stage, pid: int) -> str | None:
    for event in stage.client.events.recent(20):
        if event["source"] == "sensor" and event["subject"].get("process", {}).get("pid") == pid:
            return str(event["id"])
    return None


def _is_watched(stage: Stage) -> bool:
    """Whether the agent said that its sensor sees everything."""
    return not any(limit.startswith("sensor:") for limit in stage.agent["limits"])


def _when_gone(pidfd: int, patience: float) -> float | None:
    """When the process ended, in epoch seconds: its handle becomes readable then (pidfd_open(2)). None: it did not."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return time.time() if poll.poll(patience * 1000) else None


def _outcome_of(explanation: Explanation, action: str) -> Outcome:
    for record in explanation.decision.actions:
        if word(record.action) == action:
            _expect(record.status is Status.GRANTED, f"{action} was {_refused(record)}")
            return next(outcome for outcome in explanation.outcomes if outcome.id == record.id)
    raise DemoError(f"no rule asked for {action}")


def _refused(record: ActionRecord) -> str:
    return f"{record.status} ({record.reason}): {record.explanation}"


def _message(listener: Listener, event_id: str) -> Received:
    message = listener.wait_for(event_id, PATIENCE)
    if message is None:
        raise DemoError(f"no webhook about event {event_id} came within {PATIENCE:g} s")
    _expect(message.verified, "the webhook's signature is wrong")
    return message


def _moment(explanation: Explanation, key: str) -> float:
    return float(explanation.event[key])


def _rules(explanation: Explanation) -> str:
    return ", ".join(f"{match.ref} {match.name}" for match in explanation.decision.matches)


def _print(timeline: Timeline, explanation: Explanation) -> None:
    timeline.say(f"$ quell explain {explanation.decision.event_id}")
    print_record(timeline.console, explanation)


def _expect(condition: Any, otherwise: str) -> None:
    if not condition:
        raise DemoError(otherwise)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
