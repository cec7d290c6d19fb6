"""What sources say of workloads, joined: whose word counts, what is dropped, how long what is gone is known."""

from __future__ import annotations

import msgspec
import pytest

from quell.inventory import statements
from quell.inventory.inventory import GONE_KEPT, SILENCE, TAUGHT_KEPT, Inventory
from quell.inventory.statements import Key
from quell.model.sighting import (
    ContainerSeen,
    Gone,
    ImageSeen,
    NamespaceSeen,
    NodeSeen,
    PodSeen,
    ServiceSeen,
    Sighting,
    Sightings,
)
from quell.response.facts import Workload

NOW = 1_790_000_000.0
AGENT, KUBERNETES, EVENT = "agent/a1", "kubernetes/prod", "event/falco"
ID = "c" * 12 + "0" * 52
OTHER = "c" * 12 + "1" * 52

POD = PodSeen(
    uid="uid-1",
    name="web-1",
    namespace="shop",
    node="n1",
    labels={"app": "web", "tier": "front"},
    owner_kind="Deployment",
    owner_name="web-owner",
    containers=(ContainerSeen(id=ID, name="web", image="nginx:1.27"),),
)


def took(inventory: Inventory, source: str, *seen: Sighting, now: float = NOW, **more: object) -> frozenset[str]:
    return inventory.take(Sightings(source=source, seen=seen, **more), now).workloads  # type: ignore[arg-type]


def known(inventory: Inventory, identifier: str = ID) -> Workload:
    found = inventory.find(identifier)
    assert found is not None
    return found


def test_agent_and_kubernetes_together_say_all() -> None:
    inventory = Inventory()
    took(inventory, KUBERNETES, NodeSeen(name="n1"), NamespaceSeen(name="shop", labels={"env": "prod"}), POD)
    took(
        inventory,
        AGENT,
        ContainerSeen(
            id=ID, name="k8s_web", image="docker.io/library/nginx:1.27", node="n1", runtime="containerd", pid=7
        ),
    )
    found = known(inventory)
    assert (found.name, found.namespace, found.pod_name, found.pod_uid) == ("web", "shop", "web-1", "uid-1")
    assert (found.image, found.runtime, found.pid) == ("docker.io/library/nginx:1.27", "containerd", 7)
    assert (found.labels, found.namespace_labels) == (POD.labels, {"env": "prod"})
    assert (found.cluster, found.node, found.service) == ("prod", "n1", "web-owner")
    assert found.sources == (AGENT, KUBERNETES)


@pytest.mark.parametrize(("source", "ports"), [(KUBERNETES, (8080,)), (AGENT, ()), (EVENT, ())])
def test_only_kubernetes_is_believed_about_probes(source: str, ports: tuple[int, ...]) -> None:
    inventory = Inventory()
    took(inventory, source, msgspec.structs.replace(POD, probe_ports=(8080,)))
    assert known(inventory).probe_ports == ports
    pod = inventory.pod("uid-1", None, None)
    assert pod is not None
    assert pod.probe_ports == ports


@pytest.mark.parametrize("first", [AGENT, KUBERNETES])
def test_the_order_in_which_sources_speak_makes_no_difference(first: str) -> None:
    told = {
        AGENT: (ContainerSeen(id=ID, image="agent-image", node="n1", labels={"own": "x"}),),
        KUBERNETES: (NamespaceSeen(name="shop", labels={"env": "prod"}), POD, ServiceSeen(name="s", namespace="shop")),
    }
    inventory, other = Inventory(), Inventory()
    for source in (AGENT, KUBERNETES):
        took(inventory, source, *told[source])
    for source in sorted(told, key=lambda source: source != first):
        for sighting in reversed(told[source]):
            took(other, source, sighting)
    assert other.workloads == inventory.workloads


def test_events_count_only_where_nobody_else_speaks() -> None:
    inventory = Inventory()
    took(inventory, EVENT, ContainerSeen(id=ID[:12], name="told", image="told", node="n9"))
    assert (known(inventory, ID[:12]).name, known(inventory, ID[:12]).taught_by) == ("told", "falco")
    took(inventory, AGENT, ContainerSeen(id=ID, name="seen", node="n1"))
    assert list(inventory.workloads) == [ID]
    assert (known(inventory).name, known(inventory).node, known(inventory).taught_by) == ("seen", "n1", "")
    took(inventory, EVENT, ContainerSeen(id=ID, name="told", image="forged", node="n9"))
    assert (known(inventory).name, known(inventory).node, known(inventory).image) == ("seen", "n1", None)


def test_two_agents_that_claim_one_container_leave_nobody_knowing() -> None:
    inventory = Inventory()
    took(inventory, AGENT, ContainerSeen(id=ID, name="web", image="nginx", node="n1"))
    took(inventory, "agent/a2", ContainerSeen(id=ID, name="web", image="nginx", node="n2"))
    assert known(inventory).contested == ("n1", "n2")
    assert (known(inventory).node, known(inventory).image) == (None, None)
    inventory.forget("agent/a2", NOW)
    assert (known(inventory).node, known(inventory).image, known(inventory).contested) == ("n1", "nginx", ())


def test_kubernetes_decides_between_agents_but_is_not_followed_where_no_agent_sees_it() -> None:
    inventory = Inventory()
    took(inventory, KUBERNETES, POD)
    took(inventory, "agent/a2", ContainerSeen(id=ID, name="forged", image="forged", node="n2"))
    assert known(inventory).contested == ("n1", "n2")
    took(inventory, AGENT, ContainerSeen(id=ID, image="nginx", node="n1"))
    assert (known(inventory).node, known(inventory).image, known(inventory).contested) == ("n1", "nginx", ())


@pytest.mark.parametrize(
    ("services", "pod", "expected"),
    [
        ({"shop/a": {"app": "web"}, "shop/b": {"app": "web", "tier": "front"}}, {}, "b"),
        ({"shop/b": {"app": "web"}, "shop/a": {"app": "web"}}, {}, "a"),
        ({"other/a": {"app": "web"}, "shop/b": {"app": "db"}, "shop/c": {}}, {}, "web-owner"),
        ({}, {"owner_kind": "", "owner_name": ""}, "web-1"),
    ],
)
def test_the_service_is_what_selects_the_pod_else_its_owner_else_its_name(
    services: dict[str, dict[str, str]], pod: dict[str, str], expected: str
) -> None:
    inventory = Inventory()
    took(inventory, KUBERNETES, msgspec.structs.replace(POD, **pod))
    seen = [
        ServiceSeen(name=key.split("/")[1], namespace=key.split("/")[0], selector=selector)
        for key, selector in services.items()
    ]
    took(inventory, KUBERNETES, *seen)
    assert known(inventory).service == expected
    took(inventory, KUBERNETES, complete=True, kinds=("service",))
    assert known(inventory).service == (expected if not services or expected == "web-owner" else "web-owner")


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ({"labels": {"com.docker.compose.service": "db", "io.podman.compose.service": "x"}, "name": "p-db-1"}, "db"),
        ({"labels": {"PODMAN_SYSTEMD_UNIT": "db.service"}, "name": "systemd-db"}, "db"),
        ({"labels": {"a": "b"}, "name": "plain"}, "plain"),
        ({"pod_uid": "u", "labels": {"com.docker.compose.service": "db"}, "name": "inner"}, "inner"),
        ({}, None),
    ],
)
def test_without_kubernetes_the_service_is_a_label_else_the_name(seen: dict[str, object], expected: str | None) -> None:
    inventory = Inventory()
    took(inventory, AGENT, ContainerSeen(id=ID, node="n1", **seen))  # type: ignore[arg-type]
    assert known(inventory).service == expected


def test_a_container_in_a_pod_has_the_pods_labels_or_none_never_its_own() -> None:
    inventory = Inventory()
    took(inventory, AGENT, ContainerSeen(id=ID, node="n1", pod_uid="uid-1", labels={"own": "x"}))
    assert known(inventory).labels is None
    assert took(inventory, KUBERNETES, POD) == {ID}
    assert known(inventory).labels == POD.labels
    changed = msgspec.structs.replace(POD, labels={"app": "db"})
    assert took(inventory, KUBERNETES, changed) == {ID}
    assert known(inventory).labels == {"app": "db"}
    assert took(inventory, KUBERNETES, changed) == frozenset()


def test_namespaces_of_two_clusters_do_not_mix() -> None:
    inventory = Inventory()
    took(inventory, KUBERNETES, POD, NamespaceSeen(name="shop", labels={"env": "prod"}))
    took(inventory, "kubernetes/dev", NamespaceSeen(name="shop", labels={"env": "dev"}))
    assert known(inventory).namespace_labels == {"env": "prod"}
    assert took(inventory, "kubernetes/dev", NamespaceSeen(name="shop", labels={"env": "test"})) == frozenset()
    assert took(inventory, KUBERNETES, gone=(Gone(kind="namespace", key="shop"),)) == {ID}
    assert known(inventory).namespace_labels is None


def test_images_name_containers_that_only_give_the_images_id() -> None:
    inventory = Inventory()
    took(inventory, AGENT, ContainerSeen(id=ID, node="n1", image_id="sha256:1"))
    assert known(inventory).image is None
    assert took(inventory, AGENT, ImageSeen(id="sha256:1", names=("nginx:1.27", "nginx:latest"))) == {ID}
    assert known(inventory).image == "nginx:1.27"


def test_short_ids_find_the_one_container_that_begins_so() -> None:
    inventory = Inventory()
    took(inventory, AGENT, ContainerSeen(id=ID, node="n1"))
    assert known(inventory, ID[:12]).id == known(inventory, ID[:40]).id == ID
    assert inventory.find(ID[:11]) is None
    assert inventory.find(ID[:12] + "f") is None
    took(inventory, AGENT, ContainerSeen(id=OTHER, node="n1"))
    assert inventory.find(ID[:12]) is None
    assert known(inventory, OTHER[:13]).id == OTHER


def test_a_complete_message_takes_back_what_it_leaves_out_of_its_kinds() -> None:
    inventory = Inventory()
    took(inventory, AGENT, ContainerSeen(id=ID, node="n1"), ContainerSeen(id=OTHER, node="n1"), NodeSeen(name="n1"))
    changed = took(inventory, AGENT, ContainerSeen(id=ID, node="n1"), complete=True, kinds=("container",))
    assert changed == {OTHER}
    assert (known(inventory).gone, known(inventory, OTHER).gone) == (None, NOW)
    assert list(inventory.nodes()) == ["n1"]


def test_a_pod_that_lists_other_containers_has_no_others_and_takes_them_with_it() -> None:
    inventory = Inventory()
    took(inventory, KUBERNETES, POD)
    restarted = msgspec.structs.replace(POD, containers=(ContainerSeen(id=OTHER, name="web"),))
    assert took(inventory, KUBERNETES, restarted) == {ID, OTHER}
    assert (known(inventory).gone, known(inventory, OTHER).gone) == (NOW, None)
    assert took(inventory, KUBERNETES, gone=(Gone(kind="pod", key="uid-1"),)) == {OTHER}
    assert known(inventory, OTHER).gone == NOW


def test_what_is_gone_is_known_for_a_while_as_it_was_and_then_not() -> None:
    inventory = Inventory()
    took(inventory, KUBERNETES, POD)
    before = known(inventory)
    took(inventory, KUBERNETES, complete=True, kinds=("pod",))
    assert known(inventory) == msgspec.structs.replace(before, gone=NOW, sources=())
    assert inventory.expire(NOW + GONE_KEPT - 1).workloads == frozenset()
    assert inventory.expire(NOW + GONE_KEPT).workloads == {ID}
    assert inventory.find(ID) is None
    assert inventory.find(ID[:12]) is None
    assert inventory.workloads == {}


def test_what_comes_back_is_not_forgotten() -> None:
    inventory = Inventory()
    took(inventory, KUBERNETES, POD)
    took(inventory, KUBERNETES, complete=True, kinds=("pod",))
    took(inventory, KUBERNETES, POD, now=NOW + 5)
    inventory.expire(NOW + GONE_KEPT + 60)
    assert known(inventory).gone is None


def test_a_pod_is_found_by_name_only_while_one_had_it_of_late() -> None:
    inventory = Inventory()
    took(inventory, KUBERNETES, POD)
    found = inventory.pod(None, "shop", "web-1")
    assert found is not None
    assert (found.pod_uid, found.service, found.node) == ("uid-1", "web-owner", "n1")
    took(inventory, KUBERNETES, gone=(Gone(kind="pod", key="uid-1"),))
    again = msgspec.structs.replace(POD, uid="uid-2", containers=())
    took(inventory, KUBERNETES, again)
    assert inventory.pod(None, "shop", "web-1") is None
    assert inventory.pod("uid-2", None, None) is not None
    inventory.expire(NOW + GONE_KEPT)
    found = inventory.pod(None, "shop", "web-1")
    assert found is not None
    assert found.pod_uid == "uid-2"


def test_a_source_that_falls_silent_counts_for_a_while() -> None:
    inventory = Inventory()
    took(inventory, AGENT, ContainerSeen(id=ID, node="n1"))
    inventory.silent(AGENT, NOW)
    inventory.expire(NOW + SILENCE - 1)
    assert known(inventory).gone is None
    inventory.expire(NOW + SILENCE)
    assert known(inventory).gone == NOW + SILENCE
    took(inventory, AGENT, ContainerSeen(id=ID, node="n1"), now=NOW + SILENCE + 1)
    inventory.silent(AGENT, NOW + SILENCE + 1)
    took(inventory, AGENT, now=NOW + SILENCE + 2)
    inventory.expire(NOW + 3 * SILENCE)
    assert known(inventory).gone is None


def test_what_only_events_told_of_is_forgotten_after_a_while() -> None:
    inventory = Inventory()
    took(inventory, EVENT, ContainerSeen(id=ID, node="n1"))
    inventory.expire(NOW + TAUGHT_KEPT - 1)
    assert known(inventory).taught_by == "falco"
    assert inventory.expire(NOW + TAUGHT_KEPT).workloads == {ID}
    assert inventory.find(ID) is None


def test_what_is_drained_gives_the_same_inventory_again() -> None:
    inventory = Inventory()
    took(inventory, KUBERNETES, NodeSeen(name="n1"), NamespaceSeen(name="shop", labels={"env": "prod"}), POD)
    took(inventory, AGENT, ContainerSeen(id=ID, node="n1", image="nginx"), ContainerSeen(id=OTHER, node="n1"))
    took(inventory, EVENT, ContainerSeen(id="e" * 64))
    took(inventory, AGENT, gone=(Gone(kind="container", key=OTHER),))
    saved: dict[Key, Sighting] = {}
    while True:
        stand, taken_back = inventory.drain(2)
        if not stand and not taken_back:
            break
        assert len(stand) + len(taken_back) <= 2
        saved |= stand
        for key in taken_back:
            saved.pop(key, None)
    restored = Inventory()
    restored.restore(saved.items(), NOW + 100)
    there = {key: value for key, value in inventory.workloads.items() if value.gone is None and not value.taught_by}
    assert restored.workloads == there
    assert restored.drain(100) == ({}, [])
    took(restored, KUBERNETES, now=NOW + 101)
    restored.expire(NOW + 100 + SILENCE)
    assert (known(restored).gone, known(restored).sources) == (None, (KUBERNETES,))


def test_what_is_drained_and_cannot_be_saved_is_drained_again() -> None:
    inventory = Inventory()
    took(inventory, AGENT, ContainerSeen(id=ID, node="n1"))
    stand, _ = inventory.drain(10)
    assert inventory.drain(10) == ({}, [])
    inventory.save_again(stand)
    assert inventory.drain(10) == (stand, [])


def test_a_source_can_speak_of_so_much_and_of_events_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "LIMITS", dict.fromkeys(statements.Rank, 3))
    monkeypatch.setattr("quell.inventory.inventory.LIMITS", dict.fromkeys(statements.Rank, 3))
    inventory = Inventory()
    many = [ContainerSeen(id=f"{n:064x}", node="n1") for n in range(5)]
    took(inventory, AGENT, *many)
    assert (len(inventory.workloads), inventory.refused) == (3, 2)
    took(inventory, AGENT, many[0], many[4], complete=True, kinds=("container",))
    there = {identifier for identifier, known in inventory.workloads.items() if known.gone is None}
    assert there == {many[0].id, many[4].id}
    took(inventory, "agent/a2", ContainerSeen(id="d" * 64, node="n2"))
    assert inventory.refused == 2
    inventory = Inventory()
    took(inventory, EVENT, *many)
    assert sorted(inventory.workloads) == [each.id for each in many[2:]]


def test_what_is_too_long_is_left_out() -> None:
    inventory = Inventory()
    took(inventory, AGENT, ContainerSeen(id="", node="n1"), ContainerSeen(id="x" * 1000, node="n1"))
    assert (inventory.workloads, inventory.refused) == ({}, 2)
    labels = {"ok": "1", "long": "x" * 5000, **{f"k{n}": "v" for n in range(400)}}
    took(inventory, AGENT, ContainerSeen(id=ID, node="n1", image="i" * 5000, labels=labels))
    found = known(inventory)
    assert found.image is None
    assert found.labels is not None
    assert "long" not in found.labels
    assert len(found.labels) <= 256


def test_an_unknown_kind_of_source_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected"):
        Inventory().take(Sightings(source="rumour/x"), NOW)


def test_nodes_are_told_by_several_sources() -> None:
    inventory = Inventory()
    took(inventory, KUBERNETES, NodeSeen(name="n1", labels={"zone": "a"}, kubernetes=True))
    assert inventory.take(Sightings(source=AGENT, seen=(NodeSeen(name="n1", machine_id="m1"),)), NOW).nodes
    assert (inventory.machine_of_node("n1"), inventory.cluster_of_node("n1")) == ("m1", "prod")
    assert inventory.is_kubernetes("n1")
    assert not inventory.is_kubernetes("n2")
    assert [source for source, _ in inventory.nodes()["n1"]] == [AGENT, KUBERNETES]
