"""Disruption budgets as Kubernetes keeps them: counted by a controller, asked by evictions.

pkg/controller/disruption and pkg/registry/core/pod/storage/eviction.go, as far as tests need them.
"""

from __future__ import annotations

from typing import Any

from tests.support.kubernetes import statuses
from tests.support.kubernetes.cluster import Cluster, Object, key_of

_BUDGETS = "poddisruptionbudgets"


def count(cluster: Cluster) -> None:
    """The controller's work; put it among cluster.controllers, or call it when a test wants it done."""
    with cluster.changed:
        for budget in list(cluster.objects[_BUDGETS].values()):
            status = _counted(cluster, budget)
            if any(budget.get("status", {}).get(name) != value for name, value in status.items()):
                cluster.put(_BUDGETS, {**budget, "status": {**budget.get("status", {}), **status}})


def check(cluster: Cluster, pod: Object, *, dry_run: bool) -> None:
    """Failure: the pod may not be evicted. Otherwise a place is taken, but for a dry run."""
    if _needs_no_place(pod):
        return
    budgets = [each for each in cluster.objects[_BUDGETS].values() if _takes(each, pod)]
    if len(budgets) > 1:
        raise statuses.too_many_budgets()
    for budget in budgets:
        status, spec = budget["status"], budget["spec"]
        if not _is_ready(pod):
            policy = spec.get("unhealthyPodEvictionPolicy", "IfHealthyBudget")
            if policy == "AlwaysAllow" or 0 < status["desiredHealthy"] <= status["currentHealthy"]:
                return
        if status.get("observedGeneration", 0) < budget["metadata"]["generation"]:
            raise statuses.still_counting(budget)
        if status["disruptionsAllowed"] <= 0:
            raise statuses.against_budget(budget)
        if not dry_run:
            disrupted = {**status.get("disruptedPods", {}), key_of(pod)[1]: cluster.stamp()}
            left = status["disruptionsAllowed"] - 1
            cluster.put(
                _BUDGETS, {**budget, "status": {**status, "disruptedPods": disrupted, "disruptionsAllowed": left}}
            )


def _counted(cluster: Cluster, budget: Object) -> dict[str, Any]:
    pods = [pod for pod in cluster.objects["pods"].values() if _takes(budget, pod) and not _is_over(pod)]
    healthy = sum(_is_ready(pod) and "deletionTimestamp" not in pod["metadata"] for pod in pods)
    spec, expected = budget["spec"], len(pods)
    wanted = spec["minAvailable"] if "minAvailable" in spec else expected - spec["maxUnavailable"]
    return {
        "observedGeneration": budget["metadata"]["generation"],
        "disruptionsAllowed": max(0, healthy - wanted),
        "currentHealthy": healthy,
        "desiredHealthy": max(0, wanted),
        "expectedPods": expected,
    }


def _takes(budget: Object, pod: Object) -> bool:
    selector = budget["spec"].get("selector")
    if selector is None or key_of(budget)[0] != key_of(pod)[0]:
        return False
    assert "matchExpressions" not in selector, "the stand-in does not know these"
    return selector.get("matchLabels", {}).items() <= pod["metadata"].get("labels", {}).items()


def _needs_no_place(pod: Object) -> bool:
    return "deletionTimestamp" in pod["metadata"] or pod.get("status", {}).get("phase") in (
        "Pending",
        "Succeeded",
        "Failed",
    )


def _is_over(pod: Object) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _is_ready(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
