"""The least role: what is in it for which rules and settings, printed without a controller."""

from __future__ import annotations

import io
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml

from quell.cli.main import main
from quell.controller.kubernetes.rbac import BUDGETS, KILL, WATCH, manifests, role_for, roles
from quell.controller.kubernetes.reflector import KINDS

ROOT = Path(__file__).resolve().parents[2]
RULE = """
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {{name: shells}}
spec: {{id: 8, event: security-event, criteria: ["level:Critical"], actions: [{action}]{more}}}
"""
POLICY = """
apiVersion: quell.dev/v1
kind: Policy
metadata: {{name: images, type: cluster}}
spec:
  mode: {mode}
  enabled: {enabled}
  clusterSelector: {{matchFields: {{name: blue}}}}
  rulesets: []
  response: {{default: [{{agentKillPod: {{enabled: {entry}}}}}], actions: []}}
"""


def rbac(tmp_path: Path, text: str, *arguments: str, code: int = 0, **environment: str) -> str:
    file = tmp_path / "documents.yaml"
    file.write_text(text)
    out, told = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(told):
        for name in [name for name in os.environ if name.startswith("QUELL_")]:
            patch.delenv(name)
        for name, value in {"COLUMNS": "200", **environment}.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["quell", "rbac", "-f", str(file), *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == code, told.getvalue()
    return out.getvalue() if code == 0 else told.getvalue()


def granted(text: str) -> dict[str, set[tuple[str, str, str]]]:
    """By the role's name and namespace: API group, resource, verb."""
    parts: list[Any] = [part for part in yaml.safe_load_all(text) if part and part["kind"] in ("Role", "ClusterRole")]
    return {
        "/".join(filter(None, (part["metadata"].get("namespace", ""), part["metadata"]["name"]))): {
            (group, resource, verb)
            for rule in part["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }
        for part in parts
    }


READS = {("", kind.resource, verb) for kind in KINDS for verb in ("list", "watch")}
KILLS = {("", "pods", "get"), ("", "pods", "delete")}
ASKS = {("policy", "poddisruptionbudgets", "list")}


@pytest.mark.parametrize(
    ("text", "kills"),
    [
        (RULE.format(action="agentKillPod", more=""), True),
        (
            RULE.format(action="agentKillPod: {grace_period: 5}", more="")
            .replace("[agent", "[{agent")
            .replace("5}]", "5}}]"),
            True,
        ),
        (RULE.format(action="agentKillPod", more=", mode: audit"), False),
        (RULE.format(action="agentKillPod", more=", disable: true"), False),
        (RULE.format(action="agentKillPod", more="").replace('criteria: ["level:Critical"], ', ""), False),
        (RULE.format(action="agentKillProcess", more=""), False),
        (POLICY.format(mode="enforce", enabled="true", entry="true"), True),
        (POLICY.format(mode="audit", enabled="true", entry="true"), False),
        (POLICY.format(mode="enforce", enabled="false", entry="true"), False),
        (POLICY.format(mode="enforce", enabled="true", entry="false"), False),
    ],
)
def test_pods_may_be_deleted_only_where_something_that_acts_asks_for_it(tmp_path: Path, text: str, kills: bool) -> None:
    found = granted(rbac(tmp_path, text))
    assert found == {"quell-watch": READS} | ({"quell-kill-pods": KILLS | ASKS} if kills else {})


def test_settings_count(tmp_path: Path) -> None:
    text = RULE.format(action="agentKillPod", more="")
    ignoring = rbac(tmp_path, text, QUELL_KUBERNETES_DISRUPTION_BUDGETS="ignore")
    assert granted(ignoring)["quell-kill-pods"] == KILLS
    file = tmp_path / "quell.toml"
    file.write_text('[kubernetes]\nenabled = "off"\n')
    off = rbac(tmp_path, text, "--config", str(file))
    assert granted(off) == {}
    assert "asks nothing of the cluster's API" in off


def test_pods_of_single_namespaces_and_another_account(tmp_path: Path) -> None:
    text = rbac(
        tmp_path,
        RULE.format(action="agentKillPod", more=""),
        *("--namespace", "shop", "-n", "bank", "--service-account", "security/quell"),
    )
    assert granted(text) == {
        "quell-watch": READS,
        "shop/quell-kill-pods": KILLS | ASKS,
        "bank/quell-kill-pods": KILLS | ASKS,
    }
    bindings: list[Any] = [part for part in yaml.safe_load_all(text) if part["kind"].endswith("Binding")]
    assert [(each["kind"], each["metadata"].get("namespace")) for each in bindings] == [
        ("ClusterRoleBinding", None),
        ("RoleBinding", "shop"),
        ("RoleBinding", "bank"),
    ]
    for each in bindings:
        assert each["subjects"] == [{"kind": "ServiceAccount", "name": "quell", "namespace": "security"}]
        assert each["roleRef"]["name"] == each["metadata"]["name"]
        assert each["roleRef"]["kind"] == each["kind"].removesuffix("Binding")


@pytest.mark.parametrize("arguments", [("-n", "a/b"), ("-n", "Shop"), ("--service-account", "quell")])
def test_what_is_no_name_is_refused(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert "expected" in rbac(tmp_path, RULE.format(action="agentKillPod", more=""), *arguments, code=2)


def test_what_is_wrong_in_the_files_is_told(tmp_path: Path) -> None:
    assert "agentKillPods" in rbac(tmp_path, RULE.format(action="agentKillPods", more=""), code=3)


def test_comments_say_who_asks_and_why(tmp_path: Path) -> None:
    audited = RULE.format(action="agentKillPod", more=", mode: audit").replace("shells", "later").replace("8", "9")
    text = rbac(tmp_path, RULE.format(action="agentKillPod", more="") + "---" + audited)
    assert "# agentKillPod is asked for by rule 8 (shells).\n" in text
    assert "# It only watches, or is disabled, in rule 9 (later).\n" in text
    for each in (*WATCH, *KILL, *BUDGETS):
        assert f"  # {each.why}\n" in text


def test_the_watch_needs_what_it_watches() -> None:
    assert [each.resource for each in WATCH] == [kind.resource for kind in KINDS]


def test_a_missing_permission_is_told_as_it_has_to_stand_in_the_role() -> None:
    assert role_for("delete", "pods") == "delete on pods"
    assert role_for("list", "poddisruptionbudgets") == 'list on poddisruptionbudgets in API group "policy"'


@pytest.mark.parametrize(
    ("file", "watches", "kills"), [("rbac.yaml", True, False), ("rbac-kill-pods.yaml", False, True)]
)
def test_the_manifests_are_what_is_printed(file: str, watches: bool, kills: bool) -> None:
    text = (ROOT / "deploy/kubernetes" / file).read_text()
    assert text.endswith(manifests(roles(watches=watches, kills=kills, budgets=kills)))
    others = [part["kind"] for part in yaml.safe_load_all(text) if part["kind"] in ("Namespace", "ServiceAccount")]
    assert others == (["Namespace", "ServiceAccount"] if watches else [])
