"""Where the Kubernetes watch looks for credentials, and that what its documentation grants is what it uses."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from quell.controller.kubernetes.credentials import Place, find
from quell.controller.kubernetes.reflector import KINDS
from quell.controller.kubernetes.settings import KubernetesSettings
from quell.setting import declared

ROOT = Path(__file__).resolve().parents[2]


def test_each_setting_is_declared_with_its_default() -> None:
    defaults = {one.name: one.default for one in declared("kubernetes", KubernetesSettings)}
    assert defaults == {
        "kubernetes.enabled": "auto",
        "kubernetes.kubeconfig": "",
        "kubernetes.context": "",
        "kubernetes.cluster": "",
    }


@pytest.mark.parametrize(
    ("settings", "inside", "expected"),
    [
        (KubernetesSettings(), False, None),
        (KubernetesSettings(), True, Place()),
        (KubernetesSettings(kubeconfig="/a"), True, Place(kubeconfig="/a")),
        (KubernetesSettings(kubeconfig="/a:/b"), False, Place(kubeconfig="/a:/b")),
        (KubernetesSettings(enabled="on"), True, Place()),
        (KubernetesSettings(enabled="on"), False, Place(kubeconfig="here")),
        (KubernetesSettings(enabled="off", kubeconfig="/a"), True, None),
    ],
)
def test_where_credentials_are_looked_for(
    settings: KubernetesSettings, inside: bool, expected: Place | None, tmp_path: Path
) -> None:
    usual = tmp_path / "config"
    usual.touch()
    environment = {"KUBECONFIG": str(usual)}
    if inside:
        environment["KUBERNETES_SERVICE_HOST"] = "192.0.2.1"
        (tmp_path / "token").touch()
    if expected == Place(kubeconfig="here"):
        expected = Place(kubeconfig=str(usual))
    assert find(settings, environment, tmp_path) == expected


def test_a_service_account_counts_only_where_kubernetes_runs_the_process(tmp_path: Path) -> None:
    (tmp_path / "token").touch()
    assert find(KubernetesSettings(), {}, tmp_path) is None
    assert find(KubernetesSettings(), {"KUBERNETES_SERVICE_HOST": "192.0.2.1"}, tmp_path / "none") is None


def test_the_manifest_grants_what_the_watch_uses_and_no_more() -> None:
    parts = list(yaml.safe_load_all((ROOT / "deploy/kubernetes/rbac.yaml").read_text()))
    roles = [part for part in parts if part["kind"] in ("Role", "ClusterRole")]
    (rule,) = [rule for role in roles for rule in role["rules"]]
    assert rule["apiGroups"] == [""]
    assert set(rule["resources"]) == {kind.resource for kind in KINDS}
    assert rule["verbs"] == ["get", "list", "watch"]
    (binding,) = [part for part in parts if part["kind"] == "ClusterRoleBinding"]
    (account,) = [part for part in parts if part["kind"] == "ServiceAccount"]
    assert binding["roleRef"]["name"] == roles[0]["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", **account["metadata"]}]


def test_the_page_names_each_kind_and_each_setting() -> None:
    page = (ROOT / "docs/kubernetes.md").read_text()
    for kind in KINDS:
        assert f"| {kind.resource} | get, list, watch |" in page
    for one in declared("kubernetes", KubernetesSettings):
        assert one.field in page
