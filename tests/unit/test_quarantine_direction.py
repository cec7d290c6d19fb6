"""Who is isolated for a threat or a violation, from the event as it is written to the record. SEMANTICS section 4, end."""

from __future__ import annotations

import itertools
import json
from typing import Any

import msgspec
import pytest
from tests.unit.test_response import NOW, Engine, agent

from quell.detectors import DETECTORS
from quell.inventory.enrichment import merged, missing
from quell.model.action import Quarantine
from quell.model.decision import ActionRecord, Reason, Status
from quell.model.event import Category
from quell.model.rule import Rule
from quell.model.subject import NetworkTarget
from quell.response.state import Workload

CLIENT, SERVER, ELSE = "c" * 64, "5" * 64, "e" * 64
SIDES = {"client": CLIENT, "server": SERVER}
RULE = Rule(id=8, name="r", category=Category.SECURITY_EVENT, actions=(Quarantine(),), allow_broad=True)
UNMANAGED = "the client is not managed, and a server is not isolated for what a client does"
WHICH = "the event does not say which container the client is"
VICTIM = "it is the victim, not the attacker"
UNKNOWN = "the event does not say whether it is the attacker or the victim"
NOBODY = "the event does not say who the client is, and a server is not isolated for what a client does"


def decide(name: str, kind: str, reporting: str | None, details: dict[str, Any] | None) -> ActionRecord:
    subject: dict[str, Any] = {"node": "n1"}
    if reporting is not None:
        subject["container"] = {"id": reporting}
    told: dict[str, Any] = {"id": "e0", "time": NOW, "name": name, "kind": kind, "subject": subject}
    if details is not None:
        told["details"] = details
    engine = Engine(RULE, agents=[agent(host_netns=1)])
    engine.state.set_workloads([Workload(id=each, node="n1") for each in (CLIENT, SERVER)])
    event = DETECTORS["native"].decode(json.dumps(told).encode(), id=None, received=NOW)
    # The side that is meant may be another than the one the detector spoke of; where it runs, the inventory knows.
    container = event.subject.container
    added = None if container is None else missing(event.subject, Workload(id=container.id, node="n1"))
    if added is not None:
        event = msgspec.structs.replace(event, subject=merged(event.subject, added))
    return engine.one(event)


def isolated(record: ActionRecord) -> str | None:
    """Whose network it is, or None."""
    if record.status is not Status.GRANTED:
        assert (record.status, record.reason) == (Status.REFUSED, Reason.NOT_APPLICABLE)
        return None
    assert isinstance(record.target, NetworkTarget)
    return record.target.container_id


def parties(*, image: bool = True, named: bool = True, server: bool = True) -> dict[str, Any]:
    client = {"ip": "10.0.0.1"} | ({"image": "nginx"} if image else {}) | ({"workload": CLIENT} if named else {})
    return {"client": client, "server": {"image": "pg"} | ({"workload": SERVER} if server else {})}


@pytest.mark.parametrize("kind", ["threat", "incident"])
@pytest.mark.parametrize(("role", "why"), [("attacker", ""), ("victim", VICTIM), (None, UNKNOWN)])
def test_a_role_that_is_said(kind: str, role: str | None, why: str) -> None:
    record = decide("mine", kind, CLIENT, None if role is None else {"role": role})
    if kind == "incident" and role is None:
        why = ""  # an incident is of what happened inside
    assert (isolated(record), record.explanation) == (None if why else CLIENT, why)


@pytest.mark.parametrize(("target", "reporter"), list(itertools.product(SIDES, SIDES)))
def test_a_threat_by_target_and_reporter(target: str, reporter: str) -> None:
    victim = target == reporter
    details = {"connection": parties(), "target": target, "reporter": reporter}
    # The reporting workload may be the subject already, or be one of the connection's sides.
    for subject in (SIDES[reporter], None):
        record = decide("mine", "threat", subject, details)
        assert (isolated(record), record.explanation) == ((None, VICTIM) if victim else (SIDES[reporter], "")), subject


@pytest.mark.parametrize(
    ("reporting", "who", "why"),
    [
        (CLIENT, CLIENT, ""),
        (CLIENT[:12], CLIENT[:12], ""),
        (SERVER, None, VICTIM),
        (SERVER[:12], None, VICTIM),
        (ELSE, None, UNKNOWN),
    ],
)
def test_a_threat_by_target_and_the_side_of_its_subject(reporting: str, who: str | None, why: str) -> None:
    record = decide("mine", "threat", reporting, {"connection": parties(), "target": "server"})
    assert (isolated(record), record.explanation) == (who, why)


@pytest.mark.parametrize("name", ["DLP.cards.visa", "WAF.web.xss", "waf.web.xss"])
@pytest.mark.parametrize("details", [None, {"role": "victim"}, {"target": "server", "reporter": "server"}])
def test_dlp_and_waf_have_no_victim(name: str, details: dict[str, Any] | None) -> None:
    assert isolated(decide(name, "threat", SERVER, {"connection": parties(), **(details or {})})) == SERVER


@pytest.mark.parametrize("reporting", [CLIENT, CLIENT[:12], SERVER, SERVER[:12], None])
def test_of_a_violation_the_managed_client_and_nobody_else(reporting: str | None) -> None:
    record = decide("Network.Violation", "violation", reporting, {"connection": parties()})
    assert isolated(record) in (CLIENT, CLIENT[:12])
    record = decide("Network.Violation", "violation", reporting, {"connection": parties(image=False)})
    assert (isolated(record), record.explanation) == (None, UNMANAGED)


@pytest.mark.parametrize(
    ("reporting", "server", "who"),
    [
        (CLIENT, True, CLIENT),  # it is not the server, so it is the client
        (SERVER, True, None),
        (SERVER[:12], True, None),
        (SERVER, False, None),  # it could be either
        (CLIENT, False, None),
    ],
)
def test_a_managed_client_without_an_id(reporting: str, server: bool, who: str | None) -> None:
    details = {"connection": parties(named=False, server=server)}
    record = decide("Network.Violation", "violation", reporting, details)
    assert (isolated(record), record.explanation) == (who, "" if who else WHICH)


@pytest.mark.parametrize(
    ("details", "who", "why"),
    [
        (None, None, NOBODY),
        ({"message": "x"}, None, NOBODY),
        ({"connection": {"server": {"workload": SERVER}}}, None, NOBODY),
        ({"role": "attacker"}, CLIENT, ""),
        ({"role": "victim"}, None, NOBODY),
    ],
)
def test_a_violation_that_does_not_name_the_client(details: dict[str, Any] | None, who: str | None, why: str) -> None:
    record = decide("Network.Violation", "violation", CLIENT, details)
    assert (isolated(record), record.explanation) == (who, why)
