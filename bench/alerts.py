"""Inputs for the benchmarks: Falco alerts of about 1.2 KB and rules that each match 0.1 % of them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

PROFILES = 1_000

_RULES = (
    "Terminal shell in container",
    "Read sensitive file untrusted",
    "Drop and execute new binary in container",
    "Contact K8S API Server From Container",
    "Launch Suspicious Network Tool in Container",
    "Write below binary dir",
    "Run shell untrusted",
    "Netcat Remote Code Execution in Container",
)
_PRIORITIES = ("Critical", "Error", "Warning", "Notice", "Informational")


def alert(profile: int, serial: int) -> bytes:
    """One alert, as Falco's http_output sends it; alike within a profile but for time, pid and command line."""
    chance = random.Random(profile)
    namespace, name = f"team-{profile % 50}", f"app-{profile}"
    pod = f"{name}-{chance.randrange(16**9):09x}-{chance.randrange(16**5):05x}"
    container = f"{chance.randrange(16**12):012x}"
    process = chance.choice(("bash", "sh", "nc", "curl", "python3", "xmrig", "socat", "nmap"))
    rule = _RULES[profile % len(_RULES)]
    priority = _PRIORITIES[profile % len(_PRIORITIES)]
    stamp = 1_790_000_000_000_000_000 + serial * 1_000_003
    command = f"{process} -c 'exec {serial:08d} --from {name} --to 10.{profile % 250}.{serial % 250}.7'"
    fields = {
        "container.id": container,
        "container.image.repository": f"registry.example.com/{namespace}/{name}",
        "container.image.tag": f"1.{profile % 20}.{profile % 7}",
        "container.name": name,
        "evt.time": stamp,
        "evt.type": "execve",
        "k8s.ns.name": namespace,
        "k8s.pod.name": pod,
        "k8s.pod.uid": f"{chance.randrange(16**8):08x}-0000-4000-8000-{container}",
        "proc.aname[2]": "containerd-shim",
        "proc.aname[3]": "systemd",
        "proc.cmdline": command,
        "proc.exepath": f"/usr/bin/{process}",
        "proc.name": process,
        "proc.pid": 1_000 + serial % 30_000,
        "proc.pid.ts": stamp - 5_000_000,
        "proc.pname": "runc",
        "proc.tty": 34816,
        "user.loginuid": -1,
        "user.name": "root",
        "user.uid": 0,
    }
    output = (
        f"{priority} {rule} | user=root process={process} command={command} parent=runc terminal=34816 "
        f"container_id={container} container_image={fields['container.image.repository']} k8s_pod={pod} k8s_ns={namespace}"
    )
    return json.dumps(
        {
            "hostname": f"node-{profile % 20}",
            "output": output,
            "output_fields": fields,
            "priority": priority,
            "rule": rule,
            "source": "syscall",
            "tags": ["container", "maturity_stable", "mitre_execution", "process", "shell", "T1059"],
            "time": "2026-09-21T14:13:20.000000000Z",
        },
        separators=(",", ":"),
    ).encode()


def alerts(count: int, seed: int = 0) -> Iterator[bytes]:
    """So many alerts over PROFILES profiles in random order."""
    chance = random.Random(seed)
    for serial in range(count):
        yield alert(chance.randrange(PROFILES), serial)


def rules(count: int) -> str:
    """So many ResponseRules as YAML; rule N is met by the alerts of one profile in a thousand (its pod's namespace,
    image and process), the N-th by its level and a glob too. What they ask for is suppress-log, so that neither
    webhooks nor machines are measured."""
    documents = []
    for number in range(count):
        profile = number % PROFILES
        fields = json.loads(alert(profile, 0))["output_fields"]
        image = f"{fields['container.image.repository']}:{fields['container.image.tag']}"
        criteria = (
            [f"name:{_RULES[profile % len(_RULES)]}", f"image:{image}"],
            [f"image:{image}", f"process:{fields['proc.name']}"],
            [f"namespace:{fields['k8s.ns.name']}", f"image:*/{fields['container.name']}:*", "level:>=Debug"],
            [f"image:{image}", "level:>=Debug", f"process:/usr/bin/{fields['proc.name']}"],
        )[number % 4]
        documents.append(
            json.dumps(
                {
                    "apiVersion": "quell.dev/v1",
                    "kind": "ResponseRule",
                    "metadata": {"name": f"bench-{number}"},
                    "spec": {"event": "security-event", "criteria": criteria, "actions": ["suppress-log"]},
                }
            )
        )
    return "\n---\n".join(documents)
