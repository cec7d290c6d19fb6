"""Kubernetes audit events as events: on inputs of our own, and on every sample of real ones where these are at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from quell.detectors import POSTED, Divided
from quell.detectors.audit_documents import MAX_EVENTS
from quell.detectors.context import NOTHING, Context, Skipped
from quell.errors import EventError
from quell.model.details import AdmissionReview, PlainDetails
from quell.model.event import Category, Event, Level
from quell.model.subject import Pod, Subject

ROOT = Path(__file__).resolve().parents[2]
OWN = ROOT / "tests/inputs/kubernetes_audit"
SHARED = ROOT / "../shared/samples/detectors"
AUDIT = POSTED["k8s-audit"]
assert isinstance(AUDIT, Divided)

ALLOWED, VIOLATION, DENIED = (f"Admission.Control.{word}" for word in ("Allowed", "Violation", "Denied"))
READ, FORBIDDEN, FAILED, OTHER = (f"Kubernetes.Audit.{word}" for word in ("Read", "Forbidden", "Failed", "Other"))
ADMISSION, EVENT = Category.ADMISSION_CONTROL, Category.EVENT


def split(document: bytes | object, context: Context = NOTHING) -> list[Any]:
    assert isinstance(AUDIT, Divided)
    return list(AUDIT.split(document if isinstance(document, bytes) else json.dumps(document).encode(), context))


def decode(line: bytes | object) -> Event:
    return AUDIT.decode(line if isinstance(line, bytes) else json.dumps(line).encode(), id=None, received=100.0)


def request(verb: str = "create", code: int = 201, said: str = "", **more: Any) -> dict[str, Any]:
    reference = {"resource": "pods", "namespace": "shop", "name": "cart"}
    status = {"code": code, "message": said, "status": "Failure"} if code >= 400 else {"code": code}
    decision = {"authorization.k8s.io/decision": "allow"}
    return {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "auditID": "1",
        "verb": verb,
        "objectRef": reference,
        "responseStatus": status,
        **more,
        "annotations": decision | more.get("annotations", {}),
    }


def review(event: Event) -> AdmissionReview:
    details = event.details()
    assert isinstance(details, AdmissionReview)
    return details


@pytest.fixture(scope="module")
def listed() -> list[Event]:
    """Those of an EventList as kube-apiserver posts it: its events have no kind of their own."""
    parts = split((OWN / "event_list.json").read_bytes())
    assert parts[0] == Skipped("stage RequestReceived, which a later stage of the same request repeats")
    return [decode(part) for part in parts[1:]]


def test_each_event_of_a_list_is_one_of_ours(listed: list[Event]) -> None:
    assert [(event.category, event.name, event.catalogue_name, event.level) for event in listed] == [
        (ADMISSION, "create pods", DENIED, Level.CRITICAL),
        (ADMISSION, "create pods", DENIED, Level.CRITICAL),
        (ADMISSION, "create deployments", DENIED, Level.CRITICAL),
        (ADMISSION, "create pods", VIOLATION, Level.WARNING),
        (ADMISSION, "update configmaps", VIOLATION, Level.WARNING),
        (EVENT, "delete secrets", FORBIDDEN, Level.WARNING),
        (ADMISSION, "create pods/exec", ALLOWED, Level.INFO),
        (ADMISSION, "create pods/exec", ALLOWED, Level.INFO),
        (EVENT, "get pods", READ, Level.INFO),
        (ADMISSION, "patch deployments", ALLOWED, Level.INFO),
        (EVENT, "create pods", FAILED, Level.NOTICE),
    ]


def test_who_of_admission_decided(listed: list[Event]) -> None:
    assert [review(event).rule for event in listed if event.category is ADMISSION] == [
        "validation.gatekeeper.sh",
        "PodSecurity restricted:latest",
        "replica-limit",
        "PodSecurity baseline:v1.33",
        "validation.gatekeeper.sh",
        None,
        None,
        None,
    ]


def test_a_denied_pod_in_full(listed: list[Event]) -> None:
    denied = listed[0]
    assert denied.subject == Subject(
        namespace="shop",
        pod=Pod(name="cart", labels={"app": "cart"}),
        image="registry.example/shop/cart:latest",
        user="alice",
    )
    assert denied.time == 1795362001.118904
    assert review(denied) == AdmissionReview(
        message="alice: create pods, shop/pods/cart, from 10.0.0.7, answered 403; admission webhook"
        ' "validation.gatekeeper.sh" denied the request: [no-latest] container <c0> uses the tag latest',
        user="alice",
        operation="CREATE",
        object="shop/pods/cart",
        images=("registry.example/shop/cart:latest",),
        rule="validation.gatekeeper.sh",
    )


def test_images_are_those_of_request_and_response(listed: list[Event]) -> None:
    assert review(listed[2]).images == ("busybox:1.36", "nginx:1.27", "fluent-bit:3")
    assert listed[2].subject.image is None
    assert review(listed[3]).images == ("busybox:1.36", "mesh/proxy:2")
    assert listed[3].subject.pod == Pod(
        name="debug", uid="3c1f0a52-9f4e-4c3b-8f49-3d1e6c1f7a10", labels={"app": "debug", "mesh": "on"}
    )
    assert review(listed[9]).images == ("evil.example/web:1",)


def test_an_exec_counts_when_it_starts_and_its_end_is_the_same_event(listed: list[Event]) -> None:
    start, end = listed[6], listed[7]
    assert start.id == end.id
    assert start.id_given
    assert (start.time, end.time) == (1795362007.118904, 1795363111.5)
    assert review(start).operation == "CONNECT"
    assert "container c0, command sh -c id" in review(start).message


def test_who_asked_in_whose_name(listed: list[Event]) -> None:
    patch = listed[9]
    assert review(patch).user == "alice as system:serviceaccount:shop:deployer"
    assert patch.subject.user == "alice"
    assert "dry run" in review(patch).message


def test_rights_are_not_admission(listed: list[Event]) -> None:
    details = listed[5].details()
    assert isinstance(details, PlainDetails)
    assert details.user == "mallory"
    assert 'cannot delete resource "secrets"' in details.message


def test_a_client_that_chooses_its_audit_id_hides_nothing() -> None:
    """The id is the client's own word (header Audit-ID); a repeat is dropped, so it must be the very request."""
    harmless = decode(request(requestURI="/a", requestReceivedTimestamp="2026-11-22T15:40:00.000001Z"))
    same = decode(request(requestURI="/a", requestReceivedTimestamp="2026-11-22T15:40:00.000001Z"))
    assert harmless.id == same.id
    for other in (
        request(requestURI="/b", requestReceivedTimestamp="2026-11-22T15:40:00.000001Z"),
        request(requestURI="/a", requestReceivedTimestamp="2026-11-22T15:40:00.000002Z"),
        request("delete", requestURI="/a", requestReceivedTimestamp="2026-11-22T15:40:00.000001Z"),
        request(
            requestURI="/a",
            requestReceivedTimestamp="2026-11-22T15:40:00.000001Z",
            requestObject={"kind": "Pod", "spec": {"containers": [{"image": "evil"}]}},
        ),
    ):
        assert decode(other).id != harmless.id


@pytest.mark.parametrize("audit_id", ["a/b c", "x" * 5000, "\u00e4"])
def test_an_audit_id_of_any_form_gives_an_id_of_ours(audit_id: str) -> None:
    found = decode(request(auditID=audit_id))
    assert found.id_given
    assert len(found.id) <= 200
    assert found.id.isascii()
    assert not set(" /") & set(found.id)


@pytest.mark.parametrize(
    ("code", "said", "rule"),
    [
        (400, 'admission webhook "a.example" denied the request without explanation', "a.example"),
        (500, 'Internal error occurred: failed calling webhook "b.example": failed to call webhook: EOF', "b.example"),
        (403, "pods \"cart\" is forbidden: ValidatingAdmissionPolicy 'p' denied request: no", "p"),
        (403, 'pods "cart" is forbidden: exceeded quota: small, requested: pods=1, used: pods=4', "ResourceQuota"),
        (403, 'pods "cart" is forbidden: maximum cpu usage per Container is 1, but limit is 2', "LimitRanger"),
        (403, 'pods "cart" is forbidden: something that no plug-in known here says', None),
    ],
)
def test_what_admission_refuses(code: int, said: str, rule: str | None) -> None:
    found = decode(request(code=code, said=said))
    assert (found.catalogue_name, review(found).rule) == (DENIED, rule)


@pytest.mark.parametrize(
    ("code", "said", "decision", "name"),
    [
        (403, 'pods is forbidden: User "x" cannot create resource "pods"', "forbid", FORBIDDEN),
        (403, 'User "admission webhook "a" denied the request" cannot create', "forbid", FORBIDDEN),
        (403, 'pods is forbidden: User "x" cannot create resource "pods"', "allow", FORBIDDEN),
        (403, 'clusterroles "x" is forbidden: user "y" is attempting to grant RBAC permissions', "allow", FORBIDDEN),
        (403, 'users "x" is forbidden: User "y" cannot impersonate resource "users"', "allow", FORBIDDEN),
        (401, "Unauthorized", "allow", FORBIDDEN),
        (403, "", "allow", FORBIDDEN),
        (404, 'pods "cart" not found', "allow", FAILED),
        (429, "Cannot evict pod as it would violate the pod's disruption budget.", "allow", FAILED),
        (422, 'Pod "cart" is invalid: spec: Forbidden: pod updates may not change fields', "allow", FAILED),
        (500, "APIServer panic'd: nil", "allow", FAILED),
    ],
)
def test_what_admission_did_not_refuse(code: int, said: str, decision: str, name: str) -> None:
    found = decode(request(code=code, said=said, annotations={"authorization.k8s.io/decision": decision}))
    assert (found.category, found.catalogue_name) == (EVENT, name)


@pytest.mark.parametrize(
    ("annotations", "rule"),
    [
        (
            {
                "validation.policy.admission.k8s.io/validation_failure": json.dumps(
                    [{"message": "too many", "policy": "p1", "binding": "b", "validationActions": ["Audit"]}]
                )
            },
            "p1",
        ),
        ({"validation.policy.admission.k8s.io/validation_failure": "not JSON"}, "ValidatingAdmissionPolicy"),
        ({"failed-open.mutation.webhook.admission.k8s.io/round_1_index_0": "m.example"}, "m.example"),
        ({"pod-security.kubernetes.io/audit-violations": "of a form not known here"}, "PodSecurity"),
    ],
)
def test_what_was_let_through_in_spite_of_a_rule(annotations: dict[str, str], rule: str) -> None:
    found = decode(request(annotations=annotations))
    assert (found.catalogue_name, review(found).rule) == (VIOLATION, rule)


def test_a_webhook_that_changed_the_object_is_no_violation() -> None:
    """Every pod of a cluster with a service mesh would be one."""
    mutated = '{"configuration":"mesh","webhook":"inject.mesh.example","mutated":true}'
    found = decode(request(annotations={"mutation.webhook.admission.k8s.io/round_0_index_0": mutated}))
    assert found.catalogue_name == ALLOWED


@pytest.mark.parametrize(
    ("verb", "subresource", "name", "operation"),
    [
        ("get", "exec", "create pods/exec", "CONNECT"),
        ("create", "attach", "create pods/attach", "CONNECT"),
        ("get", "portforward", "create pods/portforward", "CONNECT"),
        ("get", "proxy", "get pods/proxy", "CONNECT"),
        ("connect", "exec", "create pods/exec", "CONNECT"),
        ("create", "eviction", "create pods/eviction", "CREATE"),
        ("deletecollection", None, "deletecollection pods", "DELETE"),
    ],
)
def test_verbs_and_what_admission_calls_them(verb: str, subresource: str | None, name: str, operation: str) -> None:
    reference = {"resource": "pods", "subresource": subresource, "namespace": "shop", "name": "cart"}
    found = decode(request(verb, objectRef=reference))
    assert (found.name, review(found).operation) == (name, operation)


@pytest.mark.parametrize(("verb", "subresource"), [("get", "log"), ("list", None), ("watch", None)])
def test_reads_are_plain_events(verb: str, subresource: str | None) -> None:
    found = decode(request(verb, objectRef={"resource": "pods", "subresource": subresource}))
    assert (found.category, found.catalogue_name) == (EVENT, READ)


def test_what_is_no_resource_is_named_by_its_path() -> None:
    found = decode(request("get", objectRef=None, requestURI="/healthz?verbose", code=200))
    assert (found.name, found.catalogue_name) == ("get /healthz", READ)
    changed = decode(request("delete", objectRef=None, requestURI="/odd//[", code=200))
    assert (changed.category, changed.catalogue_name) == (EVENT, OTHER)


def test_a_binding_names_the_node() -> None:
    reference = {"resource": "pods", "subresource": "binding", "namespace": "shop", "name": "cart"}
    bound = {"kind": "Binding", "target": {"kind": "Node", "name": "worker-2"}}
    assert decode(request(objectRef=reference, requestObject=bound)).subject.node == "worker-2"
    pod = {"kind": "Pod", "spec": {"nodeName": "worker-3", "containers": "odd"}}
    assert decode(request(requestObject=pod)).subject.node == "worker-3"


def test_the_labels_of_a_patch_are_not_the_pods() -> None:
    patch = {"kind": "Pod", "metadata": {"labels": {"app": "cart"}}}
    found = decode(request("patch", requestObject=patch)).subject.pod
    assert found is not None
    assert found.labels is None


@pytest.mark.parametrize(
    "patch",
    [
        [{"op": "add", "path": "/spec/containers/-", "value": {"name": "x", "image": "evil"}}],
        [{"op": "replace", "path": "/spec/initContainers", "value": [{"image": "evil"}]}],
        [{"op": "replace", "path": "/spec/template", "value": {"spec": {"containers": [{"image": "evil"}]}}}],
        {"spec": {"jobTemplate": {"spec": {"template": {"spec": {"containers": [{"image": "evil"}]}}}}}},
        {"spec": {"ephemeralContainers": [{"image": "evil"}]}},
        {"template": {"spec": {"containers": [{"image": "evil"}, {"image": 1}, "odd"]}}},
    ],
)
def test_images_are_found_wherever_they_are_set(patch: object) -> None:
    assert review(decode(request("patch", requestObject=patch))).images == ("evil",)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"kind": "Pod", "apiVersion": "v1"}, "Expected `Event`, got `Pod` - at `$.kind`"),
        ({"kind": "Event", "apiVersion": "v1", "reason": "Killing"}, "is not an audit event"),
        ({"kind": "Event", "apiVersion": "audit.k8s.io/v1alpha1"}, "Expected audit.k8s.io/v1 or audit.k8s.io/v1beta1"),
        ({"kind": "Event"}, "Expected audit.k8s.io/v1, got nothing"),
        ({"verb": "get"}, "Expected `Event`, got nothing"),
        (request(stage="RequestReceived"), "got `RequestReceived` - at `$.stage`"),
        (request(annotations={"a": 1}), "Expected `str`, got `int` - at `$.annotations[...]`"),
        (b'{"kind": "Event",', "not JSON"),
        (b"[]", "Expected `object`, got `array`"),
    ],
)
def test_what_is_none_is_refused_with_a_reason(line: Any, said: str) -> None:
    with pytest.raises(EventError) as caught:
        decode(line)
    assert said in str(caught.value)


def test_a_release_before_v1() -> None:
    assert decode(request(apiVersion="audit.k8s.io/v1beta1")).catalogue_name == ALLOWED


class Wrapping(NamedTuple):
    document: object
    cluster: str | None = None


ONE = request("update", 200)
TEXT = json.dumps(ONE)


@pytest.mark.parametrize(
    "wrapping",
    [
        Wrapping(ONE),
        Wrapping([ONE]),
        Wrapping({"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "items": [ONE]}),
        Wrapping({"log": TEXT, "stream": "stdout"}),
        Wrapping({"message": TEXT, "@timestamp": "2026-11-22T15:40:11Z"}),
        Wrapping({"kubernetes": {"audit": ONE}}),
        Wrapping({"messageType": "DATA_MESSAGE", "logEvents": [{"id": "1", "timestamp": 1, "message": TEXT}]}),
        Wrapping({"category": "kube-audit-admin", "properties": {"log": TEXT}}),
        Wrapping(
            {
                "records": [
                    {
                        "category": "kube-audit",
                        "resourceId": "/SUBSCRIPTIONS/1/PROVIDERS/X/MANAGEDCLUSTERS/PROD/AGENTPOOLS/A",
                        "properties": {"log": TEXT + "\n"},
                    }
                ]
            },
            cluster="PROD",
        ),
    ],
)
def test_wrappings(wrapping: Wrapping) -> None:
    (part,) = split(wrapping.document)
    found = decode(part)
    assert (found.name, found.subject.cluster) == ("update pods", wrapping.cluster)
    (told,) = split(wrapping.document, Context(cluster="mine"))
    assert decode(told).subject.cluster == "mine"


def test_other_logs_of_a_cloud_are_counted_and_left() -> None:
    azure = {"records": [{"category": "guard", "properties": {"log": "x"}}]}
    assert split(azure) == [Skipped("Azure log of category guard")]
    assert split({"logEvents": [{"message": "I1122 starting"}]}) == [Skipped("a log line that is not JSON")]


def test_one_that_cannot_be_read_leaves_the_others() -> None:
    first, second = split({"kind": "EventList", "items": [{"log": 1}, ONE]})
    assert isinstance(first, EventError)
    assert decode(second).name == "update pods"


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({}, "Expected an audit event, a list of them or a known wrapping"),
        (b"[[[[[[[]]]]]]]", "wrapped too often"),
        (b"5", "Expected `object`, got `int`"),
        (b"[" + b"{}," * MAX_EVENTS + b"{}]", f"Expected `array` of length <= {MAX_EVENTS}"),
    ],
)
def test_documents_that_hold_none(document: Any, said: str) -> None:
    try:
        (found,) = split(document)
    except EventError as error:
        found = error
    assert isinstance(found, EventError)
    assert said in str(found)


class Expected(NamedTuple):
    name: str
    catalogue: str
    subject: Subject
    time: float | None = None
    object: str | None = None
    images: tuple[str, ...] = ()
    user: str | None = None
    operation: str = "CREATE"


def of(user: str, namespace: str | None = None, pod: Pod | None = None, image: str | None = None) -> Subject:
    return Subject(user=user, namespace=namespace, pod=pod, image=image)


#: Read by hand, in the files.
SAMPLES = {
    "aks_kube-audit_elastic": Expected(
        "update leases",
        ALLOWED,
        Subject(cluster="TEST-CLUSTER", namespace="kube-system", user="aksService"),
        1759853959.647762,
        "kube-system/leases/kubelet-serving-csr-approver",
        operation="UPDATE",
    ),
    "real_lease-update": Expected(
        "update leases",
        ALLOWED,
        of("aksService", "kube-system"),
        1759853959.647762,
        "kube-system/leases/kubelet-serving-csr-approver",
        operation="UPDATE",
    ),
    "panther_k8s-admission-controller-created": Expected(
        "create mutatingwebhookconfigurations",
        ALLOWED,
        of("admin@example.com"),
        object="mutatingwebhookconfigurations/custom-mutator",
    ),
    "panther_k8s-anonymous-api-access": Expected(
        "unknown pods", OTHER, of("system:anonymous", "default", Pod(name="test-pod")), 1669680544.38
    ),
    "panther_k8s-client-certificate-created": Expected(
        "create certificatesigningrequests",
        ALLOWED,
        of("attacker@example.com"),
        object="certificatesigningrequests/malicious-csr",
    ),
    "panther_k8s-clusterrolebinding-privileged": Expected(
        "create clusterrolebindings",
        ALLOWED,
        of("attacker@example.com"),
        object="clusterrolebindings/backdoor-admin",
    ),
    "panther_k8s-cronjob-created-or-modified": Expected(
        "create cronjobs",
        ALLOWED,
        of("admin@example.com", "default", image="backup:latest"),
        object="default/cronjobs/backup-job",
        images=("backup:latest",),
    ),
    "panther_k8s-daemonset-created": Expected(
        "create daemonsets",
        ALLOWED,
        of("admin@example.com", "kube-system", image="monitoring-agent:latest"),
        object="kube-system/daemonsets/monitoring-agent",
        images=("monitoring-agent:latest",),
    ),
    "panther_k8s-exec-into-pod": Expected(
        "create pods/exec",
        ALLOWED,
        of("john.doe@example.com", "default", Pod(name="nginx-pod")),
        object="default/pods/nginx-pod/exec",
        operation="CONNECT",
    ),
    "panther_k8s-ingress-without-tls": Expected(
        "create ingresses",
        ALLOWED,
        of("developer@example.com", "production"),
        object="production/ingresses/api-ingress",
    ),
    "panther_k8s-ioc-activity": Expected("list pods", READ, of("admin@example.com", "default")),
    "panther_k8s-kubectl-cp-operation": Expected(
        "create pods/exec",
        ALLOWED,
        of("attacker@example.com", "production", Pod(name="webapp-pod")),
        object="production/pods/webapp-pod/exec",
        operation="CONNECT",
    ),
    "panther_k8s-multiple-403-public-ip": Expected(
        "watch endpointslices", FORBIDDEN, of("system:serviceaccount:kube-system:coredns")
    ),
    "panther_k8s-pod-created-in-system-namespace": Expected(
        "create pods",
        ALLOWED,
        of("attacker@example.com", "kube-system", Pod(name="malicious-pod", labels={}), "attacker/backdoor:latest"),
        object="kube-system/pods/malicious-pod",
        images=("attacker/backdoor:latest",),
    ),
    "panther_k8s-pod-dangerous-capabilities": Expected(
        "create pods",
        ALLOWED,
        of("admin@example.com", "default", Pod(name="test-pod", labels={}), "nginx"),
        object="default/pods/test-pod",
        images=("nginx",),
    ),
    "panther_k8s-pod-host-ipc": Expected(
        "create pods",
        ALLOWED,
        of("developer@example.com", "default", Pod(name="debug-pod", labels={}), "busybox"),
        object="default/pods/debug-pod",
        images=("busybox",),
    ),
}


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared samples are not beside this checkout")
def test_no_sample_is_left_out() -> None:
    assert {file.stem.removeprefix("k8s-audit_") for file in SHARED.glob("k8s-audit_*")} == set(SAMPLES)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared samples are not beside this checkout")
@pytest.mark.parametrize("name", SAMPLES)
def test_a_real_audit_event(name: str) -> None:
    expected = SAMPLES[name]
    (part,) = split((SHARED / f"k8s-audit_{name}.json").read_bytes())
    found = decode(part)
    assert (found.name, found.catalogue_name, found.kind) == (expected.name, expected.catalogue, None)
    assert (found.subject, found.time, found.source) == (expected.subject, expected.time, "k8s-audit")
    levels = {ALLOWED: Level.INFO, READ: Level.INFO, OTHER: Level.INFO, FORBIDDEN: Level.WARNING}
    assert found.level is levels[expected.catalogue]
    if expected.catalogue.startswith("Admission"):
        assert found.category is ADMISSION
        details = review(found)
        told = (details.object, details.images, details.user, details.operation)
        assert told == (expected.object, expected.images, expected.subject.user, expected.operation)
    else:
        assert found.category is EVENT
        assert isinstance(found.details(), PlainDetails)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared samples are not beside this checkout")
def test_wrapped_or_not_it_is_the_same_event() -> None:
    ids = set()
    for name in ("aks_kube-audit_elastic", "real_lease-update"):
        (part,) = split((SHARED / f"k8s-audit_{name}.json").read_bytes())
        ids.add(decode(part).id)
    assert len(ids) == 1


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared samples are not beside this checkout")
def test_what_was_copied_says_so() -> None:
    (part,) = split((SHARED / "k8s-audit_panther_k8s-kubectl-cp-operation.json").read_bytes())
    assert review(decode(part)).message == (
        "attacker@example.com: create pods/exec, production/pods/webapp-pod/exec, container webapp, command tar cf -"
        " /app/secrets/credentials.json, from 203.0.113.42, answered 200"
    )
