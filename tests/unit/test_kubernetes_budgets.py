"""Disruption budgets judged as the eviction API does, and a place that is never taken twice."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.kubernetes import disruption
from tests.support.kubernetes.cluster import Cluster
from tests.support.kubernetes.objects import disruption_budget, pod
from tests.support.kubernetes.statuses import Failure

from quell.controller.kubernetes.budgets import Budget, Budgets
from quell.controller.kubernetes.pods import Pod

WEB = {"app": "web"}


def thing(name: str = "web-1", *, ready: bool = True, phase: str = "Running", **metadata: Any) -> dict[str, Any]:
    made = pod(name, "shop", labels=WEB)
    made["metadata"] |= {"uid": name, **metadata}
    made["status"] |= {"phase": phase, "conditions": [{"type": "Ready", "status": "True" if ready else "False"}]}
    return made


def of(made: dict[str, Any]) -> Pod:
    return msgspec.convert(made, Pod)


def budget(
    allowed: int = 1,
    *,
    selector: Any = ({"matchLabels": WEB},),
    healthy: int = 2,
    wanted: int = 1,
    counted: int = 1,
    version: str = "1",
    **spec: Any,
) -> Budget:
    """selector: in a tuple, so that None is one too."""
    made = disruption_budget("web", "shop", {}, wanted)
    made["metadata"] |= {"uid": "b", "resourceVersion": version}
    made["spec"] = {"selector": selector[0], **spec}
    made["status"] = {
        "observedGeneration": counted,
        "disruptionsAllowed": allowed,
        "currentHealthy": healthy,
        "desiredHealthy": wanted,
    }
    return msgspec.convert(made, Budget)


def expressions(*each: tuple[str, str, list[str]]) -> Any:
    return ({"matchExpressions": [{"key": key, "operator": op, "values": values} for key, op, values in each]},)


@pytest.mark.parametrize(
    ("selector", "takes"),
    [
        (({"matchLabels": WEB},), True),
        (({"matchLabels": {"app": "db"}},), False),
        (({},), True),
        ((None,), False),
        (expressions(("app", "In", ["web", "db"])), True),
        (expressions(("app", "In", ["db"])), False),
        (expressions(("tier", "In", ["web"])), False),
        (expressions(("app", "NotIn", ["web"])), False),
        (expressions(("tier", "NotIn", ["web"])), True),
        (expressions(("app", "Exists", [])), True),
        (expressions(("tier", "Exists", [])), False),
        (expressions(("tier", "DoesNotExist", [])), True),
        (expressions(("app", "DoesNotExist", [])), False),
        (expressions(("app", "Exists", []), ("tier", "Exists", [])), False),
        (expressions(("app", "Resembles", ["x"])), True),
    ],
)
def test_whose_budget_it_is_its_selector_says(selector: Any, takes: bool) -> None:
    answer = Budgets().take(of(thing()), [budget(0, selector=selector)])
    assert bool(answer.against) is takes


@pytest.mark.parametrize(
    ("made", "more", "allowed"),
    [
        (thing(), {}, False),
        (thing(phase="Pending"), {}, True),
        (thing(phase="Failed"), {}, True),
        (thing(deletionTimestamp="2026-05-04T03:02:01Z"), {}, True),
        (thing(ready=False), {"healthy": 1, "wanted": 1}, True),
        (thing(ready=False), {"healthy": 1, "wanted": 2}, False),
        (thing(ready=False), {"healthy": 0, "wanted": 0}, False),
        (thing(ready=False), {"healthy": 1, "wanted": 2, "unhealthyPodEvictionPolicy": "AlwaysAllow"}, True),
        (thing(), {"unhealthyPodEvictionPolicy": "AlwaysAllow"}, False),
    ],
)
def test_what_serves_nobody_takes_no_place(made: dict[str, Any], more: dict[str, Any], allowed: bool) -> None:
    assert (not Budgets().take(of(made), [budget(0, **more)]).against) is allowed


def test_all_budgets_of_a_pod_have_to_allow_it() -> None:
    other = msgspec.convert({"metadata": {"name": "other", "uid": "o"}, "spec": {"selector": {}}}, Budget)
    answer = Budgets().take(of(thing()), [budget(1), other])
    assert "disruption budget /other allows 0 more" in answer.against


def test_a_budget_that_is_not_counted_yet_is_asked_again_later() -> None:
    answer = Budgets().take(of(thing()), [budget(5, counted=0)])
    assert answer.later
    assert "is not counted yet" in answer.against


def test_a_place_is_taken_until_kubernetes_has_counted_anew() -> None:
    budgets = Budgets()
    assert budgets.take(of(thing("web-1")), [budget(1)]).against == ""
    assert budgets.take(of(thing("web-1")), [budget(1)]).against == "", "asked again for the same pod"
    assert "1 of them taken by Quell a moment ago" in budgets.take(of(thing("web-2")), [budget(1)]).against
    assert budgets.take(of(thing("web-2")), [budget(1, version="2")]).against == ""


def test_a_place_is_given_back_by_a_pod_that_stays() -> None:
    budgets = Budgets()
    budgets.take(of(thing("web-1")), [budget(1)])
    budgets.give_back("web-1")
    assert budgets.take(of(thing("web-2")), [budget(1)]).against == ""


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from(["Running", "Pending", "Failed"])), min_size=1, max_size=6),
    st.integers(0, 6),
    st.sampled_from(["IfHealthyBudget", "AlwaysAllow"]),
)
def test_it_judges_as_the_eviction_api_of_the_stand_in(pods: list[tuple[bool, str]], wanted: int, policy: str) -> None:
    """Which the exchanges with a real server show to be right where they speak of it."""
    cluster = Cluster()
    for number, (ready, phase) in enumerate(pods):
        cluster.put("pods", thing(f"web-{number}", ready=ready, phase=phase))
    cluster.put(
        "poddisruptionbudgets", disruption_budget("web", "shop", WEB, wanted, unhealthyPodEvictionPolicy=policy)
    )
    disruption.count(cluster)
    budgets = [msgspec.convert(each, Budget) for each in cluster.objects["poddisruptionbudgets"].values()]
    for made in cluster.objects["pods"].values():
        try:
            disruption.check(cluster, made, dry_run=True)
            allowed = True
        except Failure:
            allowed = False
        assert (not Budgets().take(of(made), budgets).against) is allowed
