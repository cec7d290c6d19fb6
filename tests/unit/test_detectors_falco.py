"""Falco's alerts as events: on inputs of our own, and on every sample of real alerts where these are at hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quell.detectors import DETECTORS
from quell.errors import EventError
from quell.model.details import Connection, Endpoint, PlainDetails, Role, SecurityDetails
from quell.model.event import Category, Event, Kind, Level
from quell.model.subject import Container, Pod, Process, Subject

ROOT = Path(__file__).resolve().parents[2]
OWN = ROOT / "tests/inputs/falco"
SHARED = ROOT / "../shared/samples/detectors"
FALCO = DETECTORS["falco"]


def event(name: str) -> Event:
    return decode((OWN / f"{name}.json").read_bytes())


def decode(line: bytes | dict[str, object]) -> Event:
    if isinstance(line, dict):
        line = json.dumps(line).encode()
    return FALCO.decode(line, id=None, received=100.0)


def alert(**fields: object) -> dict[str, object]:
    return {"rule": "r", "priority": "Error", "source": "syscall", "output_fields": fields}


def test_a_host_process_is_named_with_everything_that_proves_it() -> None:
    found = event("host_with_pid")
    assert found.subject == Subject(
        node="node-3.internal",
        process=Process(
            pid=20117,
            start_time=1772454601.4,
            name="nc",
            exe="/usr/bin/nc.openbsd",
            cmdline="nc -lvp 4444",
            cwd="/root/",
            ppid=20001,
            pgid=20117,
            uid=0,
            user="root",
            ancestors=("bash", "sshd", "sshd", "systemd"),
        ),
        user="root",
    )
    assert (found.name, found.catalogue_name, found.level) == ("Netcat on the host", None, Level.WARNING)
    assert (found.category, found.kind, found.time) == (Category.SECURITY_EVENT, Kind.INCIDENT, 1772454601.5)


def test_a_container_gives_pod_labels_image_and_its_side_of_a_connection() -> None:
    found = event("container_full")
    full = "3f1d6c1b2a4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8"
    image = "registry.example/shop/cart:1.4"
    assert found.subject.container == Container(id=full, name="cart", image_id="sha256:77", host_network=False)
    assert found.subject.pod == Pod(
        name="cart-6d4", uid="8f0e4c1a-0d1b-4c36-8f3c-6f1f0a1d2b3c", labels={"app": "cart", "tier": "backend"}
    )
    assert (found.subject.image, found.subject.namespace, found.subject.node) == (image, "shop", "node-1")
    assert (found.catalogue_name, found.kind) == ("Network.Violation", Kind.VIOLATION)
    assert found.details() == SecurityDetails(
        message="Unexpected connection",
        role=Role.ATTACKER,
        connection=Connection(
            client=Endpoint(ip="10.0.3.7", port=51044, workload=full, name="cart", image=image, namespace="shop"),
            server=Endpoint(ip="10.96.0.1", port=443),
            protocol="tcp",
        ),
    )


def test_numbers_sent_as_texts_are_numbers() -> None:
    process = event("container_full").subject.process
    assert process is not None
    assert (process.pid, process.start_time, process.uid) == (33111, 1772454601.9, 1000)


def test_a_process_group_of_the_containers_own_pid_namespace_is_not_the_hosts() -> None:
    inside = event("container_full").subject.process
    assert inside is not None
    assert inside.pgid is None
    same = decode(alert(**{"proc.name": "a", "proc.pid": 7, "proc.vpid": 7, "proc.vpgid": 5})).subject.process
    assert same is not None
    assert same.pgid == 5


def test_null_na_empty_and_minus_one_are_absent() -> None:
    found = event("unknown_values")
    assert found.subject == Subject(node="node-2", process=Process(name="tee", cmdline="tee /etc/cron.d/x"))
    assert found.details() == SecurityDetails(message="x", file="/etc/cron.d/x")
    assert found.level is Level.INFO


def test_an_audit_record_speaks_of_a_pod_and_never_of_a_process_on_a_node() -> None:
    found = event("k8s_audit")
    assert found.subject == Subject(namespace="shop", pod=Pod(name="cart-6d4"), user="alice")


def test_falco_about_itself_is_an_event_and_no_security_event() -> None:
    found = event("internal_drop")
    assert (found.category, found.kind, found.subject) == (Category.EVENT, None, Subject(node="node-1"))
    assert isinstance(found.details(), PlainDetails)


def test_the_text_time_serves_where_no_field_gives_it() -> None:
    assert event("no_fields").time == 1772454605.5


@pytest.mark.parametrize("time", ["", "yesterday", "2026-03-02T12:30:03"])
def test_a_time_that_cannot_be_read_is_no_time(time: str) -> None:
    assert decode({"rule": "r", "priority": "Error", "time": time}).time is None


@pytest.mark.parametrize("network", [("accept", Role.VICTIM), ("connect", Role.ATTACKER), ("close", None)])
def test_which_end_the_process_has_is_told_by_the_call(network: tuple[str, Role | None]) -> None:
    call, role = network
    fields = {"fd.name": "10.0.0.1:4000->10.0.0.2:80", "evt.type": call, "proc.name": "a", "container.id": "abc"}
    found = decode(alert(**fields)).details()
    assert isinstance(found, SecurityDetails)
    assert found.role is role


def test_a_repetition_by_a_forwarder_has_the_id_it_gave() -> None:
    line = {"rule": "r", "priority": "Error", "uuid": "0b8e1f3a-77aa-4f52-9f1f-0d0f3c6b2a11"}
    assert decode(line).id == "0b8e1f3a-77aa-4f52-9f1f-0d0f3c6b2a11"
    assert decode(line).id_given
    assert not decode({"rule": "r", "priority": "Error"}).id_given


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"priority": "Error"}', "missing required field `rule`"),
        (b'{"rule": "r", "priority": "Loud"}', "got `Loud` - at `$.priority`"),
        (b'{"rule": "", "priority": "Error"}', "at `$.rule`"),
        (b'{"rule": "r", "priority": "Error", "output_fields": {"proc.name": 5}}', "at `$.output_fields"),
        (b"[]", "Expected `object`"),
        (b'{"rule": "r", "priority": "Error"', "not JSON: Expecting"),
        (b'{"rule": "r", "priority": "Error", "x": "\xff"}', "not UTF-8"),
        (b'{"rule": "r", "priority": "Error", "x": ' + b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_alert_is_refused_with_the_place(line: bytes, reason: str) -> None:
    with pytest.raises(EventError) as refused:
        decode(line)
    assert reason in str(refused.value)


def test_a_fault_has_its_byte() -> None:
    line = b'{"rule": "r\xc3\xa9", "priority": nope}'
    with pytest.raises(EventError) as refused:
        decode(line)
    assert refused.value.position == line.index(b"nope")


@pytest.mark.parametrize("file", sorted(OWN.glob("*.json")), ids=lambda file: file.stem)
def test_decoding_again_gives_the_same_event(file: Path) -> None:
    found = decode(file.read_bytes())
    again = FALCO.decode(found.raw, id=found.id, received=found.received)
    assert again == found
    assert again.details() == found.details()


SAMPLES = sorted(SHARED.glob("falco_*"))


@pytest.mark.skipif(not SAMPLES, reason="the folder of shared samples is not beside this clone")
@pytest.mark.parametrize("file", SAMPLES, ids=lambda file: file.stem)
def test_every_sample_of_a_real_alert_is_taken(file: Path) -> None:
    line = file.read_bytes()
    told = json.loads(line)
    found = decode(line)
    assert found.name == told["rule"]
    assert found.level.value == {"Informational": "Info"}.get(told["priority"], told["priority"])
    assert FALCO.decode(line, id=found.id, received=found.received) == found
    details = found.details()
    assert isinstance(details, SecurityDetails | PlainDetails)
    assert details.message == told["output"]
    fields = told["output_fields"]
    if told.get("source", "syscall") != "syscall" or "ka.user.name" in fields:
        assert found.subject.process is None
        assert found.subject.container is None
    elif fields.get("container.id") not in (None, "host"):
        assert found.subject.container is not None
        assert found.subject.container.id.startswith(fields["container.id"])
    else:
        assert found.subject.container is None
    # The samples of the test of a forwarder have a time that is no time.
    assert (found.time is None) == ("time.Now" in told["time"])
