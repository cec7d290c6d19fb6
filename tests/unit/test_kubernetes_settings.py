"""Where credentials of the Kubernetes API are looked for, and that the page tells of all that is asked and set."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from quell.controller.kubernetes.credentials import CredentialsError, Place, configured, find
from quell.controller.kubernetes.rbac import BUDGETS, KILL, WATCH
from quell.controller.kubernetes.settings import KubernetesSettings
from quell.setting import declared

ROOT = Path(__file__).resolve().parents[2]


def test_each_setting_is_declared_with_its_default() -> None:
    defaults = {one.name: one.default for one in declared("kubernetes", KubernetesSettings)}
    assert defaults == {
        "kubernetes.enabled": "auto",
        "kubernetes.kubeconfig": "",
        "kubernetes.context": "",
        "kubernetes.disruption_budgets": "respect",
        "kubernetes.gone_within": "30s",
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


def test_quells_own_namespace_is_that_of_its_service_account(tmp_path: Path) -> None:
    """Whatever it is called; outside of a cluster there is none."""
    (tmp_path / "token").touch()
    inside = {"KUBERNETES_SERVICE_HOST": "192.0.2.1"}
    known = configured(KubernetesSettings(), inside, tmp_path)
    assert known is not None
    assert known.namespace() is None
    (tmp_path / "namespace").write_text("security\n")
    assert known.namespace() == "security"
    outside = configured(KubernetesSettings(kubeconfig="/a"), inside, tmp_path)
    assert outside is not None
    assert outside.namespace() is None


def test_a_cluster_that_is_asked_for_counts_as_configured_even_where_nothing_says_where_it_is(tmp_path: Path) -> None:
    """Else its pods would be left to agents because of a missing file."""
    nowhere = {"KUBECONFIG": str(tmp_path / "none")}
    asked_for = configured(KubernetesSettings(enabled="on"), nowhere, tmp_path / "none")
    assert asked_for is not None
    with pytest.raises(CredentialsError, match=r"set kubernetes\.kubeconfig"):
        asyncio.run(asked_for.current())
    assert configured(KubernetesSettings(), nowhere, tmp_path / "none") is None
    assert configured(KubernetesSettings(enabled="off", kubeconfig="/a"), {}, tmp_path) is None


@pytest.mark.parametrize(
    ("settings", "name", "cluster"),
    [
        (KubernetesSettings(kubeconfig="/a"), "default", None),
        (KubernetesSettings(kubeconfig="/a", context="here"), "here", None),
        (KubernetesSettings(kubeconfig="/a", context="here", cluster="blue"), "blue", "blue"),
    ],
)
def test_what_an_api_is_called_before_it_is_reached(settings: KubernetesSettings, name: str, cluster: str) -> None:
    known = configured(settings, {})
    assert known is not None
    assert (known.name, known.cluster) == (name, cluster)


def test_the_page_names_each_permission_and_each_setting() -> None:
    page = (ROOT / "docs/kubernetes.md").read_text()
    for each in (*WATCH, *KILL, *BUDGETS):
        assert f"| {each.resource} | {', '.join(each.verbs)} |" in page
    for one in declared("kubernetes", KubernetesSettings):
        assert one.field in page
