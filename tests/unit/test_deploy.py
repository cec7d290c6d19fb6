"""What is under deploy/: valid, of one piece, and with a reason for each privilege on its line or the one before."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from quell.agent.__main__ import _parser as agent_parser
from quell.agent.enrol import Address
from quell.configuration import load_configuration

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted(DEPLOY.glob("systemd/*.service")) + sorted(DEPLOY.glob("systemd/*.conf"))
MANIFESTS = [path for path in sorted(DEPLOY.glob("kubernetes/*.yaml")) if path.name != "kustomization.yaml"]
#: The oldest version that knows every field, and a late one.
VERSIONS = ("1.31", "1.37")

#: Directives of a unit that give nothing and take nothing away.
PLAIN = {"Description", "Wants", "After", "StartLimitBurst", "Type", "ExecStart", "EnvironmentFile", "Group"}
PLAIN |= {"RestartSec", "WantedBy"}

#: Lines of a manifest that give or take away.
GRANTING = re.compile(
    r"\s*(- )?\{?(name: [\w-]+, mountPath|host(PID|Network|IPC|Path)|privileged|allowPrivilegeEscalation"
    r"|runAs\w+|fsGroup\w*|supplementalGroups|seccompProfile|appArmorProfile|readOnlyRootFilesystem|capabilities: \{"
    r"|drop:|secret:|persistentVolumeClaim:|emptyDir:|serviceAccountName|automountServiceAccountToken|tolerations"
    r"|priorityClassName|dnsPolicy|ipBlock|pod-security|[A-Z][A-Z_]+( |$))"
)


def unexplained(lines: list[str], is_granting: Any, goes_with_the_one_before: Any) -> list[str]:
    found = []
    for number, line in enumerate(lines):
        if line.lstrip().startswith("#") or not is_granting(line) or " # " in line:
            continue
        before = number - 1
        while goes_with_the_one_before(lines[before]):
            before -= 1
        if not lines[before].lstrip().startswith("# "):
            found.append(f"{number + 1}: {line.strip()}")
    return found


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_each_directive_of_a_unit_has_its_reason_before_it(unit: Path) -> None:
    lines = unit.read_text().splitlines()
    missing = unexplained(lines, lambda line: "=" in line and line.partition("=")[0] not in PLAIN, lambda _: False)
    missing = [line for line in missing if "RestartSec" not in line]
    assert missing == []


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.name)
def test_each_privilege_of_a_manifest_has_its_reason(manifest: Path) -> None:
    lines = manifest.read_text().splitlines()
    assert (
        unexplained(lines, GRANTING.match, lambda line: re.fullmatch(r"\s+(- name: [\w-]+|- to:|- ipBlock: .*)", line))
        == []
    )


def test_a_reason_that_is_missing_is_found() -> None:
    lines = (DEPLOY / "kubernetes" / "agent.yaml").read_text().splitlines()
    wanted = [line for line in lines if not line.lstrip().startswith("#")]
    bare = [line.partition("  # ")[0] for line in wanted]
    missing = "\n".join(unexplained(bare, GRANTING.match, lambda line: re.fullmatch(r"\s+- name: [\w-]+", line)))
    for each in ("hostPID", "hostNetwork", "SYS_ADMIN", "KILL", "privileged", "machine-id, mountPath", "hostPath"):
        assert each in missing


def documents(*paths: Path) -> list[dict[str, Any]]:
    return [each for path in paths or MANIFESTS for each in yaml.safe_load_all(path.read_text())]


@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_are_what_kubernetes_takes(version: str) -> None:
    for each in documents():
        kubernetes_validate.validate(each, version, strict=True)


def test_a_manifest_with_a_wrong_field_is_refused() -> None:
    (daemon,) = (each for each in documents() if each["kind"] == "DaemonSet")
    daemon["spec"]["template"]["spec"]["hostPid"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(daemon, VERSIONS[-1], strict=True)


def named(kind: str, name: str) -> dict[str, Any]:
    (found,) = (each for each in documents() if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


def test_manifests_name_each_other() -> None:
    kustomization = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())
    assert {DEPLOY / "kubernetes" / name for name in kustomization["resources"]} == {
        path for path in MANIFESTS if path.name != "rbac-kill-pods.yaml"
    }
    (patch,) = kustomization["patches"]
    assert named(patch["target"]["kind"], patch["target"]["name"])
    assert yaml.safe_load(patch["patch"])["metadata"]["labels"]

    pod = named("Deployment", "quell-controller")["spec"]["template"]
    labels = pod["metadata"]["labels"].items()
    assert named("Service", "quell-controller")["spec"]["selector"].items() <= labels
    assert named("NetworkPolicy", "quell-controller")["spec"]["podSelector"]["matchLabels"].items() <= labels
    assert named("Deployment", "quell-controller")["spec"]["selector"]["matchLabels"].items() <= labels
    assert named("ServiceAccount", pod["spec"]["serviceAccountName"])
    assert named("PersistentVolumeClaim", "quell-controller")
    daemon = named("DaemonSet", "quell-agent")["spec"]
    assert daemon["selector"]["matchLabels"].items() <= daemon["template"]["metadata"]["labels"].items()
    assert named("ServiceAccount", daemon["template"]["spec"]["serviceAccountName"])
    for each in (pod, daemon["template"]):
        volumes = {volume["name"] for volume in each["spec"]["volumes"]}
        (container,) = each["spec"]["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        assert container["image"] == kustomization["images"][0]["name"]
    for each in documents():
        if not each["kind"].startswith(("ClusterRole", "Namespace")):
            assert each["metadata"]["namespace"] == "quell"


def test_the_controller_is_restricted_as_kubernetes_means_it() -> None:
    pod = named("Deployment", "quell-controller")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert not {"hostPID", "hostNetwork", "hostIPC"} & pod.keys()
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert all("hostPath" not in volume for volume in pod["volumes"])


def test_the_agent_writes_its_state_only_and_has_the_units_capabilities() -> None:
    pod = named("DaemonSet", "quell-agent")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert [mount["name"] for mount in container["volumeMounts"] if not mount.get("readOnly")] == ["state"]
    context = container["securityContext"]
    assert context["privileged"] is False
    assert context["capabilities"]["drop"] == ["ALL"]
    unit = (DEPLOY / "systemd" / "quell-agent.service").read_text()
    assert [f"CAP_{each}" for each in context["capabilities"]["add"]] == re.findall(
        r"^CapabilityBoundingSet=(.+)$", unit, re.MULTILINE
    )


def test_programs_take_the_words_and_settings_that_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    (agent,) = named("DaemonSet", "quell-agent")["spec"]["template"]["spec"]["containers"]
    options = agent_parser().parse_args(agent["args"][1:])
    monkeypatch.delenv("QUELL_CONFIG", raising=False)
    (controller,) = named("Deployment", "quell-controller")["spec"]["template"]["spec"]["containers"]
    for variable in controller["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    server = load_configuration(None).settings.server
    address = Address.parse(options.url)
    assert address.host in server.names
    assert address.tls
    assert server.port == address.port == controller["ports"][0]["containerPort"]
    unit = (DEPLOY / "systemd" / "quell-agent.service").read_text()
    (words,) = re.findall(r"^ExecStart=/opt/quell/bin/quell agent (.+)$", unit, re.MULTILINE)
    agent_parser().parse_args(words.split())


def test_the_containerfile_copies_what_there_is_and_ends_as_nobody() -> None:
    text = (DEPLOY / "container" / "Containerfile").read_text()
    for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for name in line.split():
            assert (ROOT / name).exists(), name
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"debian:bookworm-slim"}
    assert "-c /source/constraints.txt" in text
    (user,) = re.findall(r"^USER (\d+):\d+$", text, re.MULTILINE)
    pod = named("Deployment", "quell-controller")["spec"]["template"]["spec"]
    assert int(user) == pod["securityContext"]["runAsUser"] > 0
