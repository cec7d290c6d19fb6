"""Ready-made deviations as events: on inputs of our own, and on every sample of the shared ones where these are at hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from quell.detectors import POSTED, Divided
from quell.detectors.context import NOTHING, Context
from quell.detectors.likeness import looks_like
from quell.documents.load import load_text, load_values
from quell.errors import EventError
from quell.evaluate import evaluate
from quell.guardian.guard import Guard
from quell.guardian.ruleset_merging import merge_rulesets
from quell.matching.index import compile as compile_index
from quell.model.action import word
from quell.model.decision import Decision
from quell.model.details import Connection, Deviation, Endpoint
from quell.model.event import Category, Event, Level
from quell.model.policy import Ruleset
from quell.model.subject import Container, Pod, Process, ProcessTarget, Subject
from quell.response.state import AgentFacts, State

ROOT = Path(__file__).resolve().parents[2]
INPUTS = ROOT / "tests/inputs/deviation"
SHARED = ROOT / "../shared/samples/policies"
DETECTOR = POSTED["deviation"]
TIME = 1795362003.5


def decode(document: object, context: Context = NOTHING) -> Event:
    assert isinstance(DETECTOR, Divided)
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    [part] = DETECTOR.split(text, context)
    assert isinstance(part, bytes)
    return DETECTOR.decode(part, id=None, received=TIME + 1)


def said(event: Event) -> Deviation:
    details = event.details()
    assert isinstance(details, Deviation)
    return details


def read(name: str) -> Any:
    return json.loads((INPUTS / name).read_text())


def lines(name: str) -> list[Event]:
    return [decode(line) for line in (INPUTS / name).read_bytes().splitlines()]


def test_a_process_in_a_container() -> None:
    record = read("process_record.json")
    event = decode(record)
    assert (event.category, event.level, event.source) == (Category.DEVIATION, Level.WARNING, "deviation")
    assert (event.name, event.catalogue_name) == ("Process.Profile.Violation", "Process.Profile.Violation")
    assert (event.id, event.id_given, event.time) == ("dev:n4Kd0QxT2hw:BCxyz:0", True, TIME)
    assert event.subject == Subject(
        cluster="prod",
        cluster_uid="clus:prod0000001",
        node="worker-1",
        machine_uid="mach:n4Kd0QxT2hw",
        namespace="shop",
        pod=Pod(uid="0b6f3c1e-7d3a-4c55-9c0e-5f6f1b3b7a10"),
        container=Container(id="3f2a9c0d1e4b"),
        process=Process(pid=4711, name="nc", exe="/usr/bin/nc.openbsd", user="www-data"),
    )
    assert said(event) == Deviation(
        policy="shop-web",
        policy_uid="pol:shop00000001",
        policy_type="container",
        mode="enforce",
        what="process",
        message=record["description"],
        checksum="5f0c1d",
        addition=record["deviation"]["spec"],
    )


def test_a_process_of_a_service_with_its_start() -> None:
    event = decode(read("service_record.json"))
    assert event.catalogue_name == "Host.Process.Violation"
    assert event.time == TIME
    assert event.subject == Subject(
        node="db-1",
        machine_uid="mach:m0",
        service="postgresql.service",
        service_cgroup="systemd:/system.slice/postgresql.service",
        process=Process(
            pid=812,
            start_ticks=99012,
            boot_id="0f3c1a52-9f4e-4c3b-8f49-3d1e6c1f7a10",
            name="bash",
            exe="/bin/bash",
            user="postgres",
        ),
    )
    told = said(event)
    assert (told.policy, told.policy_uid, told.policy_type, told.mode) == ("postgres", None, "linux-service", "audit")
    assert (told.checksum, told.message) == ("77aa", "process bash deviates from policy postgres")


def test_a_container_that_no_ruleset_allows() -> None:
    document = read("cluster_object.json")
    event = decode(document)
    assert event.catalogue_name == "Container.Image.Deviation"
    assert (event.id, event.id_given, event.time) == ("dev:k3:BCxzz:0", True, None)
    assert event.subject == Subject(
        cluster="prod",
        cluster_uid="clus:prod0000001",
        node="worker-2",
        machine_uid="mach:k3",
        source_name="worker-2.example.org",
        namespace="shop",
        namespace_labels={"kubernetes.io/metadata.name": "shop", "env": "prod"},
        pod=Pod(labels={"app": "web"}),
        container=Container(
            id=document["metadata"]["scopes"]["containerSelector"]["containerID"], name="debug", image_id="sha256:aa11"
        ),
        image="docker.io/library/alpine:3.20",
    )
    assert said(event) == Deviation(
        policy="pol:cluster00001",
        policy_uid="pol:cluster00001",
        policy_type="cluster",
        what="container",
        message="docker.io/library/alpine:3.20 deviates from policy pol:cluster00001",
        checksum="9b1e",
        addition={"rules": [document["spec"]["rules"][0] | {"namespaceSelector": SHOP}]},
        matched={"container::image": ("__DEFAULT_DENY__",)},
    )


SHOP = {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}


@pytest.mark.parametrize("pattern", ["__DEFAULT_DENY__", "docker.io/library/*", "docker.io/library/alpine:3.20"])
def test_merged_into_its_ruleset_it_is_allowed_where_it_was_and_nowhere_else(pattern: str) -> None:
    image, scope = "docker.io/library/alpine:3.20", {"namespaceSelector": SHOP}
    rules: list[dict[str, Any]] = [
        {"target": "container::image", "verb": "allow", "values": ["registry.example.org/*"]}
    ]
    if pattern != "__DEFAULT_DENY__":
        rules.append({"target": "container::image", "verb": "deny", "values": [pattern], **scope})
    policy = {
        "mode": "enforce",
        "clusterSelector": {"matchFields": {"name": "prod"}},
        "rulesets": ["r"],
        "response": {},
    }
    made = [("Ruleset", "r", {"rules": rules}), ("Policy", "p", policy)]
    documents = load_values(
        {"apiVersion": "quell.dev/v1", "kind": kind, "metadata": {"name": name, "type": "cluster"}, "spec": spec}
        for kind, name, spec in made
    )
    document = read("cluster_object.json")
    document["spec"]["matches"]["container::image"]["matchedPatterns"] = [pattern]
    event = decode(document)
    merged = merge_rulesets(documents.rulesets, [said(event)])

    def deviates(rulesets: Sequence[Ruleset], subject: Subject) -> bool:
        watches = Guard(documents.policies, rulesets).watches(subject)
        assert watches
        return any(watch.compare_container(subject) is not None for watch in watches)

    elsewhere = msgspec.structs.replace(
        event.subject, namespace="db", namespace_labels={"kubernetes.io/metadata.name": "db"}
    )
    assert event.subject.image == image
    assert deviates(documents.rulesets, event.subject)
    assert not deviates(merged, event.subject)
    assert deviates(merged, elsewhere)


def test_connections() -> None:
    events = lines("network_objects.json")
    assert {event.catalogue_name for event in events} == {"Network.Violation"}
    assert [said(event).what for event in events] == ["egress", "egress", "ingress", "ingress"]
    assert [said(event).connection for event in events] == [
        Connection(client=Endpoint(), server=Endpoint(ip="203.0.113.9", port=4444), protocol="tcp"),
        Connection(client=Endpoint(), server=Endpoint(port=53), protocol="udp", fqdn="mine.example.org"),
        Connection(client=Endpoint(ip="2001:db8::7"), server=Endpoint(port=8080), protocol="tcp"),
        None,  # a whole network is no one peer
    ]
    assert [said(event).message.removesuffix(" deviates from policy pol:shop00000001") for event in events] == [
        "egress to 203.0.113.9",
        "egress to mine.example.org",
        "ingress from 2001:db8::7",
        "ingress from several peers",
    ]
    assert all(not event.id_given for event in events)


def test_what_the_sender_knows_beside() -> None:
    context = Context(cluster="prod", node="worker-1", machine_id="ab12", container="3f2a9c0d1e4b", image="web:1")
    document = (INPUTS / "network_objects.json").read_bytes().splitlines()[0]
    event = decode(document, context)
    assert event.subject == Subject(
        cluster="prod", node="worker-1", machine_id="ab12", container=Container(id="3f2a9c0d1e4b"), image="web:1"
    )
    connection = said(event).connection
    assert connection is not None
    assert connection.client == Endpoint(workload="3f2a9c0d1e4b", image="web:1")
    # The other system's number for the machine and the machine's own id do not contradict each other.
    assert decode(read("process_record.json"), Context(machine_id="ab12")).subject.machine_uid == "mach:n4Kd0QxT2hw"
    with pytest.raises(EventError, match="node: the document says worker-1, its sender worker-2"):
        decode(read("process_record.json"), Context(node="worker-2"))


def test_a_ruleset_may_be_about_processes() -> None:
    document = read("cluster_object.json")
    document["spec"] = {"rules": [{"target": "process::exe", "verb": "allow", "values": ["/bin/sh"]}]}
    event = decode(document)
    assert (event.catalogue_name, said(event).what) == ("Process.Profile.Violation", "process")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "event_redflag:a:1"}, r"Expected `event_deviation:…`, got `event_redflag:a:1` - at `\$\.schema`"),
        ({"schema": None}, "Expected a record with `schema` event_deviation, or `kind` GuardianDeviation, got neither"),
        ({"deviation": None}, r"Expected `object`, got `null` - at `\$\.deviation`"),
        ({"policy_type": "trace"}, r"Invalid enum value 'trace' - at `\$\.policy_type`"),
        ({"policy_mode": "Enforce"}, r"Invalid enum value 'Enforce' - at `\$\.policy_mode`"),
        ({"policy_uid": "pol:other"}, r"got `pol:shop00000001` - at `\$\.deviation\.metadata\.policy_uid`"),
        ({"process": {"pid": 1, "exe": 2}}, r"Expected `str \| null`, got `int` - at `\$\.process\.exe`"),
        ({"process": {"start": 1}}, r"Object contains unknown field `start` - at `\$\.process`"),
        ({"process": {"pid": 12}}, r"Expected `4711` as in `ref`, got `12` - at `\$\.process\.pid`"),
        ({"time": "yesterday"}, r"Invalid RFC3339 encoded datetime - at `\$\.time`"),
    ],
)
def test_what_is_no_deviation(change: dict[str, Any], message: str) -> None:
    record = read("process_record.json")
    with pytest.raises(EventError, match=message):
        decode(record | change)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("metadata.type", "unknown", r"Invalid enum value 'unknown' - at `\$\.metadata\.type`"),
        ("metadata.policy_uid", None, r"the policy's name or uid, got neither - at `\$\.metadata\.policy_uid`"),
        ("spec.rules", None, r"Expected `rules`, as it is of type cluster, got none - at `\$\.spec`"),
        ("spec.rules", [{"target": "a"}], r"missing required field `verb` - at `\$\.spec\.rules\[0\]`"),
        ("kind", "SpyderbatPolicy", r"Invalid enum value 'SpyderbatPolicy' - at `\$\.kind`"),
    ],
)
def test_an_object_of_another_shape(path: str, value: object, message: str) -> None:
    document = read("cluster_object.json")
    *parents, last = path.split(".")
    inner = document
    for key in parents:
        inner = inner[key]
    inner[last] = value
    with pytest.raises(EventError, match=message):
        decode(document)


def test_ids_of_another_form_are_not_taken() -> None:
    event = decode(read("cluster_object.json") | {"metadata": {"type": "cluster", "policy_uid": "p", "uid": "a b"}})
    assert not event.id_given
    assert event.id != "a b"


def test_several_new_processes_are_not_one() -> None:
    record = read("process_record.json")
    children = [{"id": str(n), "name": f"p{n}", "exe": ["/p"]} for n in range(2)]
    record["deviation"]["spec"] = {"processPolicy": [{"policyNode": {"id": "a", "children": children}}]}
    # What the description says still holds.
    assert decode(record).subject.process == Process(pid=4711, name="nc", exe="/usr/bin/nc.openbsd")


def test_repeats_without_a_checksum_have_the_same() -> None:
    def checksum(policy: str, values: list[str]) -> str | None:
        document = read("cluster_object.json")
        document["metadata"] |= {"checksum": "", "policy_uid": policy, "uid": str(values)}
        document["spec"]["rules"][0]["values"] = values
        return said(decode(document)).checksum

    assert checksum("a", ["x"]) == checksum("a", ["x"])
    assert len({checksum("a", ["x"]), checksum("b", ["x"]), checksum("a", ["y"])}) == 3
    assert len(checksum("a", ["x"]) or "") == 32


def test_whose_format_it_is() -> None:
    assert looks_like((INPUTS / "process_record.json").read_bytes()) == "deviation"
    assert looks_like((INPUTS / "cluster_object.json").read_bytes()) == "deviation"


POLICY = """
apiVersion: spyderbat/v1
kind: SpyderbatPolicy
metadata: {name: postgres, type: linux-service, uid: "pol:1"}
spec:
  mode: enforce
  serviceSelector: {matchFields: {name: postgresql.service}}
  machineSelector: {matchFields: {uid: "mach:m0"}}
  processPolicy: []
  networkPolicy: {ingress: [], egress: []}
  response: {default: [{agentKillProcess: {}}], actions: []}
"""


def decided(record: dict[str, Any]) -> Decision:
    state = State()
    agent = AgentFacts(
        id="a",
        node="db-1",
        machine_id="ab12",
        boot_id="0f3c1a52-9f4e-4c3b-8f49-3d1e6c1f7a10",
        capabilities=frozenset(("agentKillProcess",)),
    )
    state.set_agents([agent])
    event = decode(record)
    return evaluate(event, compile_index(load_text(POLICY)), state, TIME + 1)


def test_a_kill_needs_a_start_that_proves_the_process() -> None:
    record = read("service_record.json")
    [granted] = decided(record).actions
    assert (word(granted.action), granted.reason) == ("agentKillProcess", None)
    assert isinstance(granted.target, ProcessTarget)
    assert granted.target.process.start_ticks == 99012
    del record["process"]
    [refused] = decided(record).actions
    assert (word(refused.action), refused.reason) == ("agentKillProcess", "identity")


def shared(name: str) -> Any:
    file = SHARED / name
    if not file.exists():
        pytest.skip("the shared samples are not beside this checkout")
    return yaml.safe_load(file.read_text())


def test_the_shared_record() -> None:
    document = shared("record_deviation.json")
    event = decode(document)
    assert event.catalogue_name == "Process.Profile.Violation"
    assert event.subject == Subject(
        cluster="cluster3",
        cluster_uid="clus:VyTE0-BPVmo",
        machine_uid="mach:g3ssxxxxxxxx",
        namespace="dev",
        pod=Pod(uid="a8f2f824-iuxxxxxxxxx"),
        container=Container(id="74210ef01a9a"),
        process=Process(pid=3069822, name="sh", exe="/usr/bin/dash", user="root"),
    )
    told = said(event)
    assert (told.policy, told.policy_type, told.mode, told.checksum) == (
        "spyderbat-demo",
        "container",
        "enforce",
        "045d6xxxxxxxx",
    )
    assert told.addition == document["deviation"]["spec"]


def test_the_shared_deviation_of_a_cluster() -> None:
    event = decode(shared("18_cluster_deviation.yaml"))
    told = said(event)
    assert (event.catalogue_name, told.what, told.policy) == (
        "Container.Image.Deviation",
        "container",
        "pol:nUH3lG0c0U0SLiGfs4GN",
    )
    assert event.subject.image == "docker.io/guyduchatelet/spyderbat-demo:2"
    assert event.subject.namespace == "rsvp-svc-dev"
    assert told.matched == {"container::image": ("__DEFAULT_DENY__",)}


def test_the_shared_deviations_of_workloads() -> None:
    ingress, egress = map(decode, shared("20_workload_deviations.json"))
    assert (said(ingress).what, said(egress).what) == ("ingress", "egress")
    assert (ingress.id, egress.id) == ("audit:123456789", "audit:prMdv07tf2RbHsfjhBBf:AAYOBtdhxIY:0")
    connection = said(egress).connection
    assert connection is not None
    assert connection.server == Endpoint(ip="192.168.54.148", port=8081)
