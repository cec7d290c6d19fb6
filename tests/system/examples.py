"""The examples in the API's description, recorded from a controller that does each thing once.

python tests/system/examples.py     writes src/quell/api/data/examples.json anew
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
import msgspec
from live import Live, live
from msgspec import Struct
from running import wait_for

FILE = Path(__file__).parents[2] / "src/quell/api/data/examples.json"

RULE = """\
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: shells-in-the-shop}
spec:
  event: security-event
  group: shop
  criteria: ["name:Container.Suspicious.Process", "level:>=Warning"]
  actions: [{makeRedFlag: {severity: high}}]
---
apiVersion: quell.dev/v1
kind: Group
metadata: {name: shop}
spec:
  criteria: [{key: namespace, op: "=", value: shop}]
---
apiVersion: quell.dev/v1
kind: Webhook
metadata: {name: soc}
spec: {url: "https://127.0.0.1/hooks/quell", type: CloudEvents, default: true}
---
apiVersion: quell.dev/v1
kind: Syslog
metadata: {name: siem}
spec: {address: "udp://127.0.0.1:51400", format: json, allow_private: true}
"""
EVENT = {
    "id": "detector-7-4711",
    "time": 1789000000.25,
    "name": "Container.Suspicious.Process",
    "level": "Critical",
    "subject": {
        "node": "node-1",
        "namespace": "shop",
        "image": "registry.example/shop/cart:1.4",
        "container": {"id": "4f5e2c1b9a8d" + "0" * 52, "name": "cart"},
        "process": {"pid": 4711, "name": "nc", "cmdline": "nc -l -p 4444"},
    },
}
FALCO = {
    "time": "2026-09-10T00:26:40.250000000Z",
    "rule": "Terminal shell in container",
    "priority": "Notice",
    "source": "syscall",
    "hostname": "node-1",
    "output": "A shell was spawned in a container",
    "output_fields": {"container.id": "4f5e2c1b9a8d", "proc.name": "bash", "user.name": "root"},
}
TRIVY = {
    "SchemaVersion": 2,
    "ReportID": "019b2f5e-7a10-7c3e-9d51-0d6a3e2b9c10",
    "CreatedAt": "2026-09-10T00:20:00Z",
    "ArtifactName": "registry.example/shop/cart:1.4",
    "ArtifactType": "container_image",
    "Metadata": {"RepoTags": ["registry.example/shop/cart:1.4"]},
    "Results": [
        {
            "Target": "registry.example/shop/cart:1.4 (debian 12.5)",
            "Class": "os-pkgs",
            "Vulnerabilities": [
                {
                    "VulnerabilityID": "CVE-2026-1001",
                    "PkgName": "openssl",
                    "InstalledVersion": "3.0.11-1",
                    "FixedVersion": "3.0.14-1",
                    "Severity": "CRITICAL",
                    "PublishedDate": "2026-09-01T10:00:00Z",
                }
            ],
        }
    ],
}
KUBE_BENCH = {
    "Controls": [
        {
            "id": "4",
            "version": "cis-1.9",
            "text": "Worker Node Security Configuration",
            "node_type": "node",
            "tests": [
                {
                    "section": "4.1",
                    "results": [
                        {
                            "test_number": "4.1.1",
                            "test_desc": "Ensure that the kubelet service file permissions are set to 600",
                            "status": "FAIL",
                        }
                    ],
                }
            ],
        }
    ]
}
AUDIT = {
    "kind": "EventList",
    "apiVersion": "audit.k8s.io/v1",
    "items": [
        {
            "level": "Metadata",
            "auditID": "6f1c3d0a-0000-4000-8000-000000000001",
            "stage": "ResponseComplete",
            "requestURI": "/api/v1/namespaces/shop/pods",
            "verb": "create",
            "user": {"username": "alice"},
            "objectRef": {"resource": "pods", "namespace": "shop", "name": "cart", "apiVersion": "v1"},
            "responseStatus": {
                "status": "Failure",
                "message": 'admission webhook "images.example" denied the request: the tag is latest',
                "code": 403,
            },
            "requestReceivedTimestamp": "2026-09-10T00:26:40.104211Z",
            "stageTimestamp": "2026-09-10T00:26:40.118904Z",
            "annotations": {"authorization.k8s.io/decision": "allow"},
        }
    ],
}
DEVIATION = {
    "schema": "event_deviation:workload:1.0.0",
    "id": "dev:n4Kd0QxT2hw:BCxyz:0",
    "time": 1789000000.25,
    "policy_name": "cart",
    "policy_type": "container",
    "policy_mode": "enforce",
    "hostname": "node-1",
    "container_uid": "cont:n4Kd0QxT2hw:BCxya:4f5e2c1b9a8d",
    "ref": "proc:n4Kd0QxT2hw:aX-9qA:4711",
    "deviation": {
        "apiVersion": "spyderbat/v1",
        "kind": "GuardianDeviation",
        "metadata": {"type": "process", "checksum": "5f0c1d"},
        "spec": {"processPolicy": [{"id": "nc_0", "name": "nc", "exe": ["/usr/bin/nc"], "euser": ["www"]}]},
    },
}
POLICY = """\
apiVersion: quell.dev/v1
kind: Policy
metadata: {name: cart, type: container}
spec:
  mode: audit
  containerSelector: {matchFields: {image: "registry.example/shop/cart:*"}}
  processPolicy:
    - {id: cart, name: cart, exe: [/usr/bin/cart], euser: [www]}
  networkPolicy: {ingress: [], egress: []}
  response: {default: [{agentKillProcess: {}}, {makeRedFlag: {severity: high}}]}
---
apiVersion: quell.dev/v1
kind: Ruleset
metadata: {name: known-images, type: cluster}
spec:
  rules: [{target: "container::image", verb: allow, values: ["registry.example/shop/*"]}]
"""
OBSERVATION = {
    "seen": "executed",
    "time": 1789000000.25,
    "subject": {
        "node": "node-1",
        "image": "registry.example/shop/cart:1.4",
        "container": {"id": "4f5e2c1b9a8d" + "0" * 52, "name": "cart"},
        "process": {
            "pid": 4711,
            "start_ticks": 880011,
            "name": "nc",
            "exe": "/usr/bin/nc",
            "user": "www",
            "lineage": [["cart", "/usr/bin/cart", "www", 4000, 870000], ["conmon", "/usr/bin/conmon", "root", 3990]],
        },
    },
    "inside": 1,
}
EVE = {
    "timestamp": "2026-09-10T00:26:40.104211+0000",
    "flow_id": 1700000000000003,
    "event_type": "alert",
    "src_ip": "10.244.1.17",
    "src_port": 41003,
    "dest_ip": "198.51.100.7",
    "dest_port": 80,
    "proto": "TCP",
    "alert": {
        "action": "allowed",
        "gid": 1,
        "signature_id": 2006446,
        "rev": 11,
        "signature": "ET WEB_SERVER Possible SQL Injection Attempt UNION SELECT",
        "category": "Web Application Attack",
        "severity": 1,
    },
}


#: That which the flag of EVENT opens.
TRACE = "/v1/traces/ee42304015ffbb4c"


class Step(Struct, frozen=True):
    """One request. operation "": only for what follows. body: JSON, or a document's text."""

    operation: str
    method: str
    path: str
    body: Any = None
    headers: dict[str, str] = {}


STEPS = (
    Step("apply", "POST", "/v1/documents", RULE),
    Step("send_events", "POST", "/v1/events", EVENT),
    Step("send_falco_events", "POST", "/v1/events/falco", FALCO),
    Step("send_trivy_events", "POST", "/v1/events/trivy?node=node-1", TRIVY),
    Step("send_kube_bench_events", "POST", "/v1/events/kube-bench?node=node-1", KUBE_BENCH),
    Step("send_k8s_audit_events", "POST", "/v1/events/k8s-audit?cluster=prod", AUDIT),
    Step("send_deviation_events", "POST", "/v1/events/deviation", DEVIATION),
    Step("send_suricata_events", "POST", "/v1/events/suricata?node=node-1", EVE),
    Step("events", "GET", "/v1/events?limit=1"),
    Step("event", "GET", "/v1/events/detector-7-4711"),
    Step("list_evidence", "GET", "/v1/evidence"),
    Step("event_evidence", "GET", "/v1/evidence/detector-7-4711"),
    Step("list_notifications", "GET", "/v1/notifications/security-events?limit=1&level=%3E%3DError"),
    Step("list_flags", "GET", "/v1/flags"),
    Step("flag", "GET", "/v1/flags/detector-7-4711/0"),
    Step(
        "acknowledge_flags", "POST", "/v1/flags/acknowledge", {"ids": ["detector-7-4711/0"], "note": "a test of ours"}
    ),
    Step("unacknowledge_flags", "POST", "/v1/flags/unacknowledge", {"ids": ["detector-7-4711/0"]}),
    Step("list_traces", "GET", "/v1/traces"),
    Step("trace", "GET", TRACE),
    Step("policy_of_trace", "GET", f"{TRACE}/policy"),
    Step("close_trace", "POST", f"{TRACE}/close", {"note": "a test of ours"}),
    Step("reopen_trace", "POST", f"{TRACE}/reopen", {}),
    Step(
        "dry_run",
        "POST",
        "/v1/dry-runs",
        {"event_id": "detector-7-4711", "now": True, "actions": ["agentKillProcess", {"quarantine": {"ttl": "1h"}}]},
    ),
    Step("rejects", "GET", "/v1/rejects"),
    Step("documents", "GET", "/v1/documents?kind=Group"),
    Step("document", "GET", "/v1/documents/Group/shop"),
    Step(
        "put_document",
        "PUT",
        "/v1/documents/Group/shop",
        {
            "apiVersion": "quell.dev/v1",
            "kind": "Group",
            "metadata": {"name": "shop"},
            "spec": {"comment": "carts", "criteria": [{"key": "namespace", "op": "=", "value": "shop"}]},
        },
    ),
    Step("export_documents", "GET", "/v1/documents/export?kind=Group"),
    Step("workloads", "GET", "/v1/workloads"),
    Step("workload", "GET", "/v1/workloads/4f5e2c1b9a8d" + "0" * 52),
    Step("nodes", "GET", "/v1/nodes"),
    Step("groups", "GET", "/v1/groups"),
    Step("members", "GET", "/v1/groups/shop/members"),
    Step("delete_document", "DELETE", "/v1/documents/ResponseRule/shells-in-the-shop"),
    Step(
        "insert_rules",
        "POST",
        "/v1/rules",
        {
            "rule": {
                "name": "many-high-cves",
                "event": "cve-report",
                "group": "shop",
                "criteria": ["cve-high:>5", "report:container"],
                "actions": ["quarantine", "webhook"],
            },
            "after": 0,
        },
    ),
    Step("rules", "GET", "/v1/rules?limit=1"),
    Step("rule", "GET", "/v1/rules/8"),
    Step("options", "GET", "/v1/rules/options?category=compliance"),
    Step(
        "try_rule",
        "POST",
        "/v1/rules/trial",
        {"rule": {"event": "event", "criteria": ["name:*"], "actions": ["suppress-log"]}, "events": 100},
    ),
    Step("edit_rule", "PATCH", "/v1/rules/8", {"comment": "of the shop", "ttl": "12h"}),
    Step("move_rule", "POST", "/v1/rules/8/move", {"after": 3}),
    Step("disable_rule", "POST", "/v1/rules/8/disable?unquarantine=true"),
    Step("enable_rule", "POST", "/v1/rules/8/enable"),
    Step("delete_rule", "DELETE", "/v1/rules/8?unquarantine=true"),
    Step("restore_defaults", "POST", "/v1/rules/restore-defaults?reset=true"),
    Step("", "POST", "/v1/documents", POLICY),
    Step("send_observations", "POST", "/v1/observations", OBSERVATION),
    Step("policies", "GET", "/v1/policies"),
    Step("options_of_policies", "GET", "/v1/policies/options"),
    Step("policy", "GET", "/v1/policies/cart"),
    Step("deviations", "GET", "/v1/deviations?policy=cart&limit=1"),
    Step("deviation", "GET", "/v1/deviations/cart/CHECKSUM"),
    Step("simulate", "GET", "/v1/policies/cart/simulation?mode=enforce"),
    Step("merge_deviations", "POST", "/v1/policies/cart/merge?dry_run=true", {"checksums": ["CHECKSUM"]}),
    Step("fingerprints", "GET", "/v1/fingerprints"),
    Step("fingerprint", "GET", "/v1/fingerprints/image/registry.example/shop/cart:1.4"),
    Step("policy_of_observed", "GET", "/v1/fingerprints/policy?image=registry.example/shop/cart:*"),
    Step("disable_policy", "POST", "/v1/policies/cart/disable?unquarantine=true"),
    Step("enable_policy", "POST", "/v1/policies/cart/enable"),
    Step("set_policy_mode", "POST", "/v1/policies/cart/mode", {"mode": "enforce"}),
    Step("rulesets", "GET", "/v1/rulesets"),
    Step("ruleset", "GET", "/v1/rulesets/known-images"),
    Step("agents", "GET", "/v1/agents"),
    Step("join_token", "POST", "/v1/agents/join-tokens", {"ttl": 600}),
    Step(
        "enrol",
        "POST",
        "/v1/agents/join",
        {
            "token": "JOIN",
            "name": "node-1",
            "public_key": "ed25519:" + "A" * 43 + "=",
            "node": "node-1",
            "machine_id": "0f" * 16,
        },
    ),
    Step(
        "request_quarantine",
        "POST",
        "/v1/quarantines",
        {"workload": "4f5e2c1b9a8d", "node": "node-1", "ttl": 3600, "comment": "until it is looked at"},
    ),
    Step("quarantines", "GET", "/v1/quarantines"),
    Step("pending_approvals", "GET", "/v1/approvals"),
    Step(
        "decide_approval",
        "POST",
        "/v1/approvals",
        {"id": "detector-7-4711/0", "verdict": "approve", "note": "seen on the host"},
    ),
    Step("breakers", "GET", "/v1/breakers"),
    Step("reset_breaker", "POST", "/v1/breakers/reset", {"key": "breaker/rule/8/agentKillPod/shop/cart/cart:1.4"}),
    Step("endpoints", "GET", "/v1/webhooks"),
    Step("endpoint", "GET", "/v1/webhooks/soc"),
    Step("test_endpoint", "POST", "/v1/webhooks/soc/test"),
    Step("replay_all", "POST", "/v1/webhooks/soc/replay"),
    Step("discard_all", "POST", "/v1/webhooks/soc/discard"),
    Step("syslog_receivers", "GET", "/v1/syslog"),
    Step("test_syslog", "POST", "/v1/syslog/siem/test"),
    Step("release_quarantines", "POST", "/v1/quarantines/release", {"rule": 8}),
    Step("delivered", "GET", "/v1/webhooks/deliveries"),
    Step("dead", "GET", "/v1/webhooks/dead-letters"),
    Step(
        "create_user", "POST", "/v1/users", {"name": "ada", "role": "operator", "password": "a long enough pass phrase"}
    ),
    Step("list_users", "GET", "/v1/users"),
    Step("get_user", "GET", "/v1/users/ada"),
    Step("change_user", "PATCH", "/v1/users/ada", {"role": "author"}),
    Step("change_password", "PUT", "/v1/users/ada/password", {"password": "another long pass phrase"}),
    Step("log_in", "POST", "/v1/sessions", {"name": "ada", "password": "another long pass phrase"}),
    Step("list_sessions", "GET", "/v1/sessions"),
    Step("current_session", "GET", "/v1/sessions/current"),
    Step("delete_user", "DELETE", "/v1/users/ada"),
    Step("create_token", "POST", "/v1/tokens", {"role": "ingest", "name": "falco-node-1", "nodes": ["node-1"]}),
    Step("list_tokens", "GET", "/v1/tokens"),
    Step("get_token", "GET", "/v1/tokens/falco-node-1"),
    Step("rotate_token", "POST", "/v1/tokens/falco-node-1/rotate", {"grace": 60}),
    Step("login_link", "POST", "/v1/login-links"),
    Step("settings", "GET", "/v1/settings?limit=1"),
    Step("setting", "GET", "/v1/settings/safety.budget_rule"),
    Step("change_settings", "PATCH", "/v1/settings", {"set": {"safety.budget_rule": "5/1m"}, "reason": "a new rule"}),
    Step("set_pause", "PUT", "/v1/pause", {"paused": True, "reason": "maintenance"}),
    Step("pause", "GET", "/v1/pause"),
    Step("audit_entries", "GET", "/v1/audit?limit=1"),
    Step("audit_head", "GET", "/v1/audit/head"),
    Step("audit_verification", "GET", "/v1/audit/verification"),
    Step("version", "GET", "/v1/version"),
)

#: What would need an agent to have something to decide about: only the question is shown.
ASKED_ONLY = ("decide_approval", "reset_breaker")
_SECRETS = re.compile(r"quell_[A-Za-z0-9_.-]{20,}|(?<=code=)[A-Za-z0-9_-]{20,}")


def record(server: Live) -> dict[str, dict[str, Any]]:
    """Operation to request and response, without secrets."""
    found: dict[str, dict[str, Any]] = {}
    join = checksum = ""
    with server.client("admin") as admin:
        for step in STEPS:
            if step.operation == "list_traces":
                # It is made of the flag once that is on disk.
                wait_for(lambda: admin.get(TRACE).is_success, what="the trace")
            body = step.body
            if step.operation == "enrol":
                body = {**body, "token": join}
            if "CHECKSUM" in step.path:
                step = msgspec.structs.replace(step, path=step.path.replace("CHECKSUM", checksum))  # noqa: PLW2901
            if step.operation == "merge_deviations":
                body = {"checksums": [checksum]}
            answer = _ask(admin, step, body)
            if answer.is_error and step.operation not in ASKED_ONLY:
                raise AssertionError(f"{step.operation}: {answer.status_code} {answer.text}")
            if step.operation == "join_token":
                join = answer.json()["token"]
            if step.operation == "deviations":
                checksum = answer.json()["items"][0]["checksum"]
            example: dict[str, Any] = {}
            if step.body is not None:
                example["request"] = body if step.operation == "merge_deviations" else step.body
            if answer.is_error:
                pass
            elif "json" in answer.headers.get("content-type", ""):
                example["response"] = json.loads(_SECRETS.sub("quell_EXAMPLE", answer.text))
            elif answer.text:
                example["response"] = answer.text
            if step.operation:
                found[step.operation] = example
    return found


def _ask(admin: httpx.Client, step: Step, body: Any) -> httpx.Response:
    if body is None:
        return admin.request(step.method, step.path, headers=step.headers)
    if isinstance(body, str):
        return admin.request(
            step.method, step.path, content=body, headers={"Content-Type": "application/yaml", **step.headers}
        )
    return admin.request(step.method, step.path, json=body, headers=step.headers)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, live(Path(folder) / "s") as running:
        FILE.write_text(json.dumps(record(running), indent=1, ensure_ascii=False) + "\n")
    sys.stderr.write(f"written: {FILE.name}\n")
