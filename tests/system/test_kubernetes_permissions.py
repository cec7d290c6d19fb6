"""What `quell rbac` prints is exactly what a controller asks of the API: nothing is missing, and nothing is too much."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pods import NODE, SHOP, TOKEN, Place, PodCluster, placed
from running import wait_for
from tests.support.kubernetes.cluster import Rule
from tests.support.kubernetes.resources import BY_NAME
from tests.support.kubernetes.rest import Permission
from tests.support.kubernetes.server import serving

USER = "system:serviceaccount:quell:quell-controller"


def printed(place: Place, *arguments: str) -> str:
    """By the running controller's rules and settings."""
    command = [sys.executable, "-m", "quell", "--url", place.server.url, "--token", place.server.token("admin"), "rbac"]
    return subprocess.run([*command, *arguments], check=True, capture_output=True, text=True, timeout=60).stdout


def granted(text: str) -> tuple[list[Rule], set[Permission]]:
    """The roles as the stand-in's rights, and as what they allow; "": in every namespace, or of none."""
    rights, allowed = [], set()
    parts: list[Any] = [part for part in yaml.safe_load_all(text) if part["kind"] in ("Role", "ClusterRole")]
    for part in parts:
        namespace = part["metadata"].get("namespace")
        for rule in part["rules"]:
            (group,), (resource,) = rule["apiGroups"], rule["resources"]
            assert group == BY_NAME[resource].group
            rights.append(Rule(frozenset(rule["verbs"]), frozenset({resource}), namespace))
            allowed |= {Permission(verb, group, resource, namespace or "") for verb in rule["verbs"]}
    return rights, allowed


@pytest.mark.parametrize("namespaced", [False, True])
@pytest.mark.parametrize("budgets", ["respect", "ignore"])
def test_the_printed_role_is_what_is_asked_for(tmp_path: Path, namespaced: bool, budgets: str) -> None:
    with serving(PodCluster()) as standin:
        assert isinstance(standin, PodCluster)
        del standin.cluster.users[TOKEN]
        standin.cluster.allow(TOKEN, USER)
        with placed(standin, tmp_path, kubernetes_disruption_budgets=budgets) as place:
            rights, allowed = granted(printed(place, *(("-n", SHOP) if namespaced else ())))
        standin.cluster.allow(TOKEN, USER, *rights)
        standin.rest.needed.clear()
        with placed(standin, tmp_path, kubernetes_disruption_budgets=budgets) as place:
            uid = standin.run()["metadata"]["uid"]
            place.knows()
            machines = place.server.controller.inventory.machines_of
            wait_for(lambda: bool(machines(NODE)), what="the nodes")
            wait_for(lambda: len(standin.targets("watch=1")) >= 4, what="a watch of each kind")
            outcome = place.outcome(place.event(uid=uid))
            assert outcome["status"] == "done", outcome
        asked = {
            # Of the cluster as a whole, or of the one namespace that it was about.
            each if namespaced or each.namespace != SHOP else Permission(each.verb, each.group, each.resource, "")
            for each in standin.rest.needed
        }
        assert asked == allowed


def test_without_rules_that_act_nothing_may_be_deleted(tmp_path: Path) -> None:
    with serving(PodCluster()) as standin:
        assert isinstance(standin, PodCluster)
        with placed(standin, tmp_path) as place:
            place.admin.delete("/v1/documents/ResponseRule/shells").raise_for_status()
            text = printed(place)
    assert "agentKillPod is asked for by nothing that acts" in text
    _, allowed = granted(text)
    assert {each.verb for each in allowed} == {"list", "watch"}
