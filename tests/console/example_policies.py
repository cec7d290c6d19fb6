"""Policies, what deviates from them, and one night's trace, put there through the API: for screenshots and tests of pages."""

from __future__ import annotations

import time
from typing import Any

import httpx

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
