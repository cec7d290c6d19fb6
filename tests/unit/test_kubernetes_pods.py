"""Which pod is meant, and which is never deleted. SEMANTICS section 8, identity and protected."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import pytest
from tests.support.kubernetes.objects import container_id, pod

from quell.controller.kubernetes.pods import Pod, nameless, stands_against
from quell.model.decision import Reason
from quell.model.subject import PodTarget

MADE = "2026-05-04T03:02:01Z"
MOMENT = dt.datetime.fromisoformat(MADE).timestamp()
SKEW = 5.0


def made(**more: Any) -> Pod:
    thing = pod("web-1", "shop", created=MADE)
    thing["metadata"] |= {"uid": "u1", **more}
    return msgspec.convert(thing, Pod)


def against(target: PodTarget, there: Pod | None = None, machines: frozenset[str] = frozenset({"m1"})) -> Reason | None:
    found = stands_against(
        there or made(), target, machines=machines, protected=("kube-system", "shop-internal"), skew=SKEW
    )
    return None if found is None else found.reason


def target(**more: Any) -> PodTarget:
    return PodTarget(**{"namespace": "shop", "name": "web-1", "uid": "u1", "seen": MOMENT, **more})


@pytest.mark.parametrize(
    ("more", "refused"),
    [
        ({}, None),
        ({"node": "node-1"}, None),
        ({"node": "node-2"}, Reason.IDENTITY),
        ({"node": "node-1", "machine_id": "m1"}, None),
        ({"node": "node-1", "machine_id": "m2"}, Reason.IDENTITY),
        ({"machine_id": "m1"}, None),
        ({"machine_id": "m2"}, Reason.IDENTITY),
    ],
)
def test_it_has_to_be_where_the_event_happened(more: dict[str, str], refused: Reason | None) -> None:
    assert against(target(**more)) is refused


def test_a_machine_that_nobody_knows_proves_nothing() -> None:
    assert against(target(machine_id="m1"), machines=frozenset()) is Reason.IDENTITY
    assert against(target(node="node-1", machine_id="m1"), machines=frozenset()) is None


@pytest.mark.parametrize(
    ("more", "refused"),
    [
        ({"seen": MOMENT + SKEW + 1.0}, None),
        ({"seen": MOMENT + SKEW + 0.9}, Reason.IDENTITY),
        ({"seen": MOMENT - 10}, Reason.IDENTITY),
        ({"seen": None}, Reason.IDENTITY),
        ({"container_id": container_id("web-1")}, None),
        ({"container_id": container_id("web-1")[:12]}, None),
        ({"container_id": container_id("web-1")[:11]}, Reason.IDENTITY),
        ({"container_id": "f" * 64}, Reason.IDENTITY),
        ({"container_id": "f" * 64, "seen": MOMENT + 100}, None),
    ],
)
def test_without_a_uid_a_container_or_its_age_proves_which_it_is(more: dict[str, Any], refused: Reason | None) -> None:
    assert against(target(uid=None, **more)) is refused


@pytest.mark.parametrize(
    ("more", "refused"),
    [
        ({}, None),
        ({"seen": None}, None),
        ({"container_id": "f" * 64}, None),
        ({"seen": MOMENT - SKEW}, None),
        ({"seen": MOMENT - SKEW - 1}, Reason.IDENTITY),
    ],
)
def test_with_a_uid_it_only_must_not_be_younger_than_the_event(more: dict[str, Any], refused: Reason | None) -> None:
    """The uid may have been learned from the name, of a pod that has it by now."""
    assert against(target(**more)) is refused


def test_a_container_that_was_restarted_still_is_of_its_pod() -> None:
    thing = pod("web-1", "shop", created=MADE)
    thing["status"]["containerStatuses"][0]["lastState"] = {"terminated": {"containerID": "containerd://" + "e" * 64}}
    there = msgspec.convert(thing, Pod)
    assert against(target(uid=None, container_id="e" * 64), there) is None


@pytest.mark.parametrize(
    ("metadata", "refused"),
    [
        ({"annotations": {"kubernetes.io/config.mirror": "c0ffee"}}, Reason.PROTECTED),
        ({"annotations": {"kubernetes.io/config.source": "api"}}, None),
        ({"ownerReferences": [{"kind": "Node", "name": "node-1", "controller": True}]}, Reason.PROTECTED),
        ({"ownerReferences": [{"kind": "ReplicaSet", "name": "web", "controller": True}]}, None),
        ({"namespace": "kube-system"}, Reason.PROTECTED),
        ({"namespace": "shop-internal"}, Reason.PROTECTED),
    ],
)
def test_what_is_protected_is_never_deleted(metadata: dict[str, Any], refused: Reason | None) -> None:
    assert against(target(), made(**metadata)) is refused


@pytest.mark.parametrize(
    ("namespace", "name", "can_be_asked"),
    [
        ("shop", "web-1", True),
        ("shop", "web.example.org", True),
        ("shop", "a" * 253, True),
        ("shop", "a" * 254, False),
        ("a" * 64, "web", False),
        ("shop", "..", False),
        ("shop", "web-1/eviction", False),
        ("shop", "web-1%2Feviction", False),
        ("shop", "web-1\n", False),
        ("shop\n", "web-1", False),
        ("shop.x", "web-1", False),
        ("", "web-1", False),
        ("shop", "", False),
        (None, None, False),
    ],
)
def test_only_a_name_becomes_part_of_a_path(namespace: str | None, name: str | None, can_be_asked: bool) -> None:
    refusal = nameless(PodTarget(namespace=namespace, name=name))
    assert (refusal is None) is can_be_asked
    assert refusal is None or refusal.reason is Reason.NO_TARGET
