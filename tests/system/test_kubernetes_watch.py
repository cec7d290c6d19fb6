"""The Kubernetes watch against the stand-in for the API: real HTTP and TLS on loopback."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.kubernetes.certificates import Authority
from tests.support.kubernetes.cluster import Cluster, User, permissions
from tests.support.kubernetes.kubeconfig import kubeconfig, service_account
from tests.support.kubernetes.objects import container_id, namespace, node, pod, service
from tests.support.kubernetes.server import StandIn, serving
from tests.support.kubernetes.statuses import Failure
from tests.support.kubernetes.watching import QUICK, Watched, watching
from tests.system.running import wait_for

from quell.controller.controller import Controller
from quell.controller.kubernetes.reflector import KINDS, KindStatus, Pace
from quell.controller.kubernetes.settings import KubernetesSettings
from quell.controller.kubernetes.watch import KubernetesWatch, State
from quell.inventory.inventory import Inventory
from quell.model.sighting import Gone, Sightings
from quell.settings import Settings

TOKEN = "the-token-of-quell"
NEEDED = permissions("get list watch", "nodes namespaces pods services")
WEB = {"app": "web", "pod-template-hash": "5d9c7b6f4"}
WEB_SET = ("apps/v1", "ReplicaSet", "web-5d9c7b6f4")


def small() -> Cluster:
    """One node, two namespaces, two pods of a Deployment and its service."""
    cluster = Cluster()
    cluster.allow(TOKEN, "system:serviceaccount:quell:quell", NEEDED)
    cluster.put("nodes", node("node-1"))
    cluster.put("namespaces", namespace("shop", env="prod"))
    cluster.put("namespaces", namespace("kube-system"))
    for name in ("web-5d9c7b6f4-aaaaa", "web-5d9c7b6f4-bbbbb"):
        cluster.put("pods", pod(name, "shop", owner=WEB_SET, labels=WEB))
    cluster.put("services", service("web", "shop", {"app": "web"}, "203.0.113.7"))
    return cluster


@pytest.fixture
def standin() -> Iterator[StandIn]:
    with serving(StandIn(small())) as standin:
        yield standin


@contextlib.contextmanager
def by_token(standin: StandIn, folder: Path, *, pace: Pace = QUICK, page: int = 250) -> Iterator[Watched]:
    file = kubeconfig(folder / "kubeconfig", standin.url, user={"token": TOKEN})
    with watching(KubernetesSettings(kubeconfig=str(file)), pace=pace, page=page) as watched:
        yield watched


def synced(watched: Watched) -> None:
    """Each kind was listed, and its watch is open."""
    watched.wait(lambda: all(watched.lists(kind.tag) for kind in KINDS), "a list of each kind")
    watched.wait(lambda: watched.status().state is State.CONNECTED, "the connection")


def test_first_lists_tell_of_all_there_is(standin: StandIn, tmp_path: Path) -> None:
    with by_token(standin, tmp_path) as watched:
        synced(watched)
        assert {one.source for one in watched.told} == {"kubernetes/blue"}
        assert {one.cluster for one in watched.told} == {"blue"}
        assert set(watched.known("node")) == {"node-1"}
        assert watched.known("namespace")["shop"].labels["env"] == "prod"
        assert watched.known("service")["shop/web"].addresses == ("203.0.113.7",)
        seen = watched.pods()["web-5d9c7b6f4-aaaaa"]
        assert (seen.owner_kind, seen.owner_name) == ("Deployment", "web")
        assert seen.containers[0].id == container_id("web-5d9c7b6f4-aaaaa")
        status = watched.status()
        assert status.connected
        assert status.server == standin.url
        assert status.source == "kubernetes/blue"
        assert status.missing == ()
        assert status.last_contact is not None


def test_changes_are_told_as_they_happen(standin: StandIn, tmp_path: Path) -> None:
    with by_token(standin, tmp_path) as watched:
        synced(watched)
        added = standin.cluster.put("pods", pod("db-0", "shop", owner=("apps/v1", "StatefulSet", "db")))
        watched.wait(lambda: "db-0" in watched.pods(), "the new pod")
        assert watched.pods()["db-0"].owner_kind == "StatefulSet"

        standin.cluster.label("pods", "db-0", {"quarantine": "true"}, "shop")
        watched.wait(lambda: watched.pods()["db-0"].labels == {"quarantine": "true"}, "the new label")

        standin.cluster.label("namespaces", "shop", {"env": "test"})
        watched.wait(lambda: watched.known("namespace")["shop"].labels == {"env": "test"}, "the namespace's label")

        standin.cluster.delete("pods", "db-0", "shop")
        watched.wait(lambda: "db-0" not in watched.pods(), "the end of the pod")
        assert Gone(kind="pod", key=added["metadata"]["uid"]) in [gone for one in watched.told for gone in one.gone]
        standin.cluster.delete("services", "web", "shop")
        watched.wait(lambda: not watched.known("service"), "the end of the service")
        assert watched.lists("pod") == 1, "what was told came by the watch"


def test_the_inventory_joins_what_the_watch_tells(standin: StandIn, tmp_path: Path) -> None:
    with by_token(standin, tmp_path) as watched:
        synced(watched)
        standin.cluster.delete("pods", "web-5d9c7b6f4-bbbbb", "shop")
        standin.cluster.label("namespaces", "shop", {"env": "test"})
        watched.wait(lambda: len(watched.pods()) == 1, "the end of a pod")
        watched.wait(lambda: watched.known("namespace")["shop"].labels == {"env": "test"}, "the namespace's label")
        told = list(watched.told)
    inventory = Inventory()
    for one in told:
        inventory.take(one, 1.0)
    there = [workload for workload in inventory.workloads.values() if workload.gone is None]
    assert [workload.id for workload in there] == [container_id("web-5d9c7b6f4-aaaaa")]
    (workload,) = there
    assert (workload.service, workload.namespace, workload.node) == ("web", "shop", "node-1")
    assert (workload.labels, workload.namespace_labels) == (WEB, {"env": "test"})
    assert (workload.image, workload.cluster, workload.host_network) == ("registry.example/web:1.4", "blue", False)
    assert inventory.is_kubernetes("node-1")
    assert inventory.refused == 0


async def until(condition: Callable[[], bool], what: str) -> None:
    """The loop goes on meanwhile."""
    await asyncio.to_thread(wait_for, condition, 30, what)


def test_the_controller_knows_what_the_watch_tells(standin: StandIn, tmp_path: Path) -> None:
    """On the controller's own loop, from the first list to a change of a label and the end of the pods."""
    file = kubeconfig(tmp_path / "kubeconfig", standin.url, user={"token": TOKEN})
    identifier = container_id("web-5d9c7b6f4-aaaaa")

    async def scenario() -> None:
        controller = Controller.open(tmp_path / "state", Settings())
        controller.start()
        watch = KubernetesWatch(KubernetesSettings(kubeconfig=str(file)), controller.take_sightings, pace=QUICK)
        watch.start()
        try:
            workloads = controller.inventory.workloads
            await until(lambda: identifier in workloads and workloads[identifier].service == "web", "the workload")
            standin.cluster.label("pods", "web-5d9c7b6f4-aaaaa", {"app": "other"}, "shop")
            await until(lambda: workloads[identifier].labels == {"app": "other"}, "the new label")
            standin.cluster.delete("pods", "web-5d9c7b6f4-aaaaa", "shop")
            await until(lambda: workloads[identifier].gone is not None, "its end")
        finally:
            await watch.stop()
            await controller.stop()

    asyncio.run(scenario())


def test_a_pod_that_takes_the_place_of_another_is_another(standin: StandIn, tmp_path: Path) -> None:
    """As a StatefulSet's pod does: the same name, another uid, both in one piece of the stream."""
    first = standin.cluster.put("pods", pod("db-0", "shop"))["metadata"]["uid"]
    with by_token(standin, tmp_path) as watched:
        synced(watched)
        with standin.cluster.changed:
            standin.cluster.delete("pods", "db-0", "shop")
            second = standin.cluster.put("pods", pod("db-0", "shop"))["metadata"]["uid"]
        watched.wait(lambda: second in watched.known("pod"), "the second pod")
        assert first != second
        assert first not in watched.known("pod")


def test_large_lists_come_in_pages(standin: StandIn, tmp_path: Path) -> None:
    for number in range(25):
        standin.cluster.put("pods", pod(f"job-{number:02}", "shop"))
    with by_token(standin, tmp_path, page=10) as watched:
        synced(watched)
        assert len(watched.pods()) == 27
        assert watched.lists("pod") == 1, "one complete list, whatever its pages"
        pages = standin.targets("/pods?limit=10")
        assert len(pages) == 3
        assert ["continue=" in page for page in pages] == [False, True, True]


def test_a_list_whose_next_page_has_expired_is_begun_again(standin: StandIn, tmp_path: Path) -> None:
    for number in range(25):
        standin.cluster.put("pods", pod(f"job-{number:02}", "shop"))
    standin.forget_before("/pods?limit=10&continue=")
    with by_token(standin, tmp_path, page=10) as watched:
        synced(watched)
        assert len(watched.pods()) == 27
        assert watched.lists("pod") == 1, "half a list is never told as complete"
        assert len(standin.targets("/pods?limit=10")) == 5


def test_a_restarted_server_is_watched_on_from_where_it_was(standin: StandIn, tmp_path: Path) -> None:
    with by_token(standin, tmp_path) as watched:
        synced(watched)
        standin.cluster.put("pods", pod("before", "shop"))
        watched.wait(lambda: "before" in watched.pods(), "a pod")
        version = standin.cluster.version
        standin.stop()
        watched.wait(lambda: watched.status().state is State.DISCONNECTED, "that it is noticed")
        assert any("no answer from the API" in text for text in watched.status().missing)
        standin.cluster.put("pods", pod("meanwhile", "shop"))
        gone = standin.cluster.delete("pods", "web-5d9c7b6f4-aaaaa", "shop")["metadata"]["uid"]
        standin.start()
        watched.wait(lambda: "meanwhile" in watched.pods(), "what happened meanwhile")
        watched.wait(lambda: gone not in watched.known("pod"), "what went meanwhile")
        watched.wait(lambda: watched.status().state is State.CONNECTED, "the connection")
        assert watched.status().missing == ()
        assert watched.lists("pod") == 1, "nothing had to be listed again"
        assert f"resourceVersion={version}&" in standin.targets("/pods?watch=1")[-1]


def test_what_is_no_longer_known_is_listed_again(standin: StandIn, tmp_path: Path) -> None:
    with by_token(standin, tmp_path) as watched:
        synced(watched)
        for at_once in (False, True):
            standin.rest.expired_at_once = at_once
            before = watched.lists("pod")
            standin.stop()
            standin.cluster.put("pods", pod(f"meanwhile-{at_once}".lower(), "shop"))
            standin.cluster.delete("pods", f"web-5d9c7b6f4-{'bbbbb' if at_once else 'aaaaa'}", "shop")
            standin.cluster.put("nodes", node(f"node-{at_once}".lower()))
            standin.cluster.compact()
            standin.start()
            watched.wait(lambda before=before: watched.lists("pod") > before, "another list")
            assert f"meanwhile-{at_once}".lower() in watched.pods()
        watched.wait(lambda: watched.status().state is State.CONNECTED, "the connection")
        assert set(watched.pods()) == {"meanwhile-false", "meanwhile-true"}
        assert next(kind.expired for kind in watched.status().kinds if kind.resource == "pods") == 2


def test_bookmarks_move_the_watch_on_where_nothing_happens(tmp_path: Path) -> None:
    """Services do not change; what else happens in the cluster must not make their version expire."""
    with (
        serving(StandIn(small(), bookmark_seconds=0.05)) as standin,
        by_token(standin, tmp_path) as watched,
    ):
        synced(watched)
        standin.cluster.put("pods", pod("later", "shop"))
        version = str(standin.cluster.version)
        contacts = {services(watched).last_contact}

        def again() -> bool:
            contacts.add(services(watched).last_contact)
            return len(contacts) > 2  # the first may have been under way

        watched.wait(again, "bookmarks")
        standin.cut()
        resumed = f"/services?watch=1&allowWatchBookmarks=true&resourceVersion={version}&"
        watched.wait(lambda: bool(standin.targets(resumed)), "a watch from the bookmark's version")
        assert watched.lists("service") == 1
        assert services(watched).events == 0


def services(watched: Watched) -> KindStatus:
    return next(kind for kind in watched.status().kinds if kind.resource == "services")


def test_a_watch_that_the_server_ends_goes_on(standin: StandIn, tmp_path: Path) -> None:
    pace = Pace(first=QUICK.first, longest=QUICK.longest, denied=QUICK.denied, watch=1.0)
    with by_token(standin, tmp_path, pace=pace) as watched:
        synced(watched)
        watched.wait(lambda: len(standin.targets("/pods?watch=1")) >= 3, "a third watch")
        standin.cluster.put("pods", pod("late", "shop"))
        watched.wait(lambda: "late" in watched.pods(), "the pod")
        assert watched.lists("pod") == 1
        assert all(kind.failures == 0 for kind in watched.status().kinds)


def test_one_kind_without_permission_is_named_and_the_others_go_on(standin: StandIn, tmp_path: Path) -> None:
    allowed = permissions("get list watch", "namespaces pods services")
    standin.cluster.allow(TOKEN, "system:serviceaccount:quell:quell", allowed)
    with by_token(standin, tmp_path) as watched:
        watched.wait(lambda: bool(watched.lists("pod") and watched.lists("service")), "the other kinds")
        watched.wait(lambda: watched.status().missing != (), "what is missing")
        status = watched.status()
        assert status.state is State.PARTIAL
        assert not status.connected
        (missing,) = status.missing
        assert missing == (
            "permission to list nodes: the role needs list and watch on nodes (nodes is forbidden: User "
            '"system:serviceaccount:quell:quell" cannot list resource "nodes" in API group "" at the cluster scope)'
        )
        standin.cluster.put("pods", pod("later", "shop"))
        watched.wait(lambda: "later" in watched.pods(), "a pod, by the watch")

        standin.cluster.allow(TOKEN, "system:serviceaccount:quell:quell", NEEDED)
        watched.wait(lambda: bool(watched.known("node")), "the nodes, once they are allowed")
        watched.wait(lambda: watched.status().connected, "the connection")
        assert watched.status().missing == ()


def test_a_list_without_a_watch_is_taken_again_and_again(standin: StandIn, tmp_path: Path) -> None:
    rules = [permissions("get list watch", "nodes namespaces services"), permissions("get list", "pods")]
    standin.cluster.allow(TOKEN, "system:serviceaccount:quell:quell", *rules)
    with by_token(standin, tmp_path) as watched:
        watched.wait(lambda: any("permission to watch pods" in text for text in watched.status().missing), "the reason")
        standin.cluster.put("pods", pod("later", "shop"))
        watched.wait(lambda: "later" in watched.pods(), "the pod, by a later list")


@pytest.mark.parametrize("code", [429, 500, 503, 504])
def test_a_server_in_trouble_is_asked_again(standin: StandIn, tmp_path: Path, code: int) -> None:
    standin.failing.extend([Failure(code, "InTrouble", "the stand-in has been told to fail")] * 6)
    with by_token(standin, tmp_path) as watched:
        synced(watched)
        assert sum(kind.failures for kind in watched.status().kinds) == 6
        assert len(watched.pods()) == 2
        if code == 429:  # with Retry-After: 1
            times = [[call.at for call in standin.calls if f"/{kind.resource}?limit" in call.target] for kind in KINDS]
            again = [second - first for each in times for first, second in itertools.pairwise(each)]
            assert len(again) == 6
            assert min(again) >= 1.0


def test_a_token_that_has_run_out_is_read_again(standin: StandIn, tmp_path: Path) -> None:
    with by_token(standin, tmp_path) as watched:
        synced(watched)
        del standin.cluster.users[TOKEN]
        standin.cut()
        watched.wait(lambda: any("Unauthorized" in text for text in watched.status().missing), "that it is refused")
        assert TOKEN not in repr(watched.status())
        standin.cluster.allow("the-next-token", "system:serviceaccount:quell:quell", NEEDED)
        kubeconfig(tmp_path / "kubeconfig", standin.url, user={"token": "the-next-token"})
        standin.cluster.put("pods", pod("later", "shop"))
        watched.wait(lambda: "later" in watched.pods(), "the pod")
        watched.wait(lambda: watched.status().connected, "the connection")
        assert watched.lists("pod") == 1


def test_another_current_context_does_not_switch_the_cluster(standin: StandIn, tmp_path: Path) -> None:
    """What is read again when the token has run out is the context of the start."""
    with serving(StandIn(Cluster())) as other, by_token(standin, tmp_path) as watched:
        synced(watched)
        file = tmp_path / "kubeconfig"
        told = json.loads(file.read_text())
        told["users"][0]["user"]["token"] = "the-next-token"
        told["clusters"].append({"name": "red", "cluster": {"server": other.url}})
        told["contexts"].append({"name": "there", "context": {"cluster": "red", "user": "quell"}})
        file.write_text(json.dumps({**told, "current-context": "there"}))
        standin.cluster.allow("the-next-token", "system:serviceaccount:quell:quell", NEEDED)
        del standin.cluster.users[TOKEN]
        standin.cut()
        standin.cluster.put("pods", pod("later", "shop"))
        watched.wait(lambda: "later" in watched.pods(), "the pod")
        assert other.calls == []


def test_an_exec_plugin_gives_the_token(standin: StandIn, tmp_path: Path) -> None:
    plugin = tmp_path / "plugin"
    answer = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": TOKEN}}
    plugin.write_text(f"#!/bin/sh\necho '{json.dumps(answer)}'\n")
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin)}}
    file = kubeconfig(tmp_path / "kubeconfig", standin.url, user=user)
    with watching(KubernetesSettings(kubeconfig=str(file), cluster="green")) as watched:
        synced(watched)
        assert watched.status().source == "kubernetes/green"


def in_cluster(standin: StandIn) -> dict[str, str]:
    return {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(standin.port)}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_inside_a_cluster_the_service_account_is_used(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = service_account(tmp_path / "serviceaccount", TOKEN, authority.file)
    with serving(StandIn(small(), tls=authority.server())) as standin:
        for name, value in in_cluster(standin).items():
            monkeypatch.setenv(name, value)  # kr8s reads them from the process's environment
        with watching(KubernetesSettings(), environment=in_cluster(standin), service_account=folder) as watched:
            synced(watched)
            assert {(one.source, one.cluster) for one in watched.told} == {("kubernetes/in-cluster", None)}
            assert watched.status().server == standin.url

            del standin.cluster.users[TOKEN]
            standin.cluster.allow("rotated", "system:serviceaccount:quell:quell", NEEDED)
            (folder / "token").write_text("rotated")
            standin.cut()
            standin.cluster.put("pods", pod("later", "shop"))
            watched.wait(lambda: "later" in watched.pods(), "the pod, with the new token")
            synced(watched)
        assert {call.authorization for call in standin.calls} == {f"Bearer {TOKEN}", "Bearer rotated"}


def test_a_kubeconfig_beside_the_service_account_has_no_say_inside_a_cluster(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = service_account(tmp_path / "serviceaccount", TOKEN, authority.file)
    other = kubeconfig(tmp_path / "other", "http://127.0.0.1:9", user={"token": "other"})
    with serving(StandIn(small(), tls=authority.server())) as standin:
        environment = {**in_cluster(standin), "KUBECONFIG": str(other)}
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with watching(KubernetesSettings(), environment=environment, service_account=folder) as watched:
            synced(watched)


def test_a_server_of_another_authority_is_not_believed(tmp_path: Path, authority: Authority) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    other = Authority(folder)
    with serving(StandIn(small(), tls=other.server())) as standin:
        file = kubeconfig(
            tmp_path / "kubeconfig",
            standin.url,
            user={"token": TOKEN},
            cluster={"certificate-authority": str(authority.file)},
        )
        with watching(KubernetesSettings(kubeconfig=str(file))) as watched:
            watched.wait(lambda: len(watched.status().missing) == len(KINDS), "that each kind says so")
            assert all("CERTIFICATE_VERIFY_FAILED" in text for text in watched.status().missing)
        assert standin.calls == [], "the token was shown to nobody"
        assert watched.told == []


def data(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


@pytest.mark.parametrize("given", ["data", "files", "beside"])
def test_a_client_certificate_is_used_and_its_key_does_not_stay_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    """Keys in the kubeconfig itself are swept; files of the user's own stay, even in the folder for temporary ones."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    authority = Authority(temporary if given == "beside" else tmp_path)
    certificate, key = authority.issue("tmp-quell")
    user: dict[str, Any] = {"client-certificate": str(certificate), "client-key": str(key)}
    cluster = {"certificate-authority": str(authority.file)}
    if given == "data":
        user = {"client-certificate-data": data(certificate), "client-key-data": data(key)}
        cluster = {"certificate-authority-data": data(authority.file)}
    elif given == "beside":
        user = {"client-certificate": certificate.name, "client-key": key.name}
        cluster = {"certificate-authority": authority.file.name}
    with serving(StandIn(small(), tls=authority.server())) as standin:
        standin.certified["tmp-quell"] = User("tmp-quell", (NEEDED,))
        folder = temporary if given == "beside" else tmp_path
        file = kubeconfig(folder / "kubeconfig", standin.url, user=user, cluster=cluster)
        before = set(temporary.iterdir())
        with watching(KubernetesSettings(kubeconfig=str(file))) as watched:
            synced(watched)
    assert set(temporary.iterdir()) == before
    assert certificate.exists()
    assert key.exists()
    assert authority.file.exists()


def test_without_a_cluster_it_says_so_and_does_nothing(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "KUBECONFIG": str(kubeconfig(tmp_path / "desk", "http://127.0.0.1:9", user={}))}
    with watching(KubernetesSettings(), environment=home) as watched:
        status = watched.status()
        assert (status.state, status.missing, status.kinds) == (State.ABSENT, (), ())
    with watching(KubernetesSettings(enabled="off", kubeconfig=home["KUBECONFIG"])) as watched:
        assert watched.status().state is State.OFF
    assert watched.told == []


def test_asked_for_and_not_there_is_a_fault(tmp_path: Path) -> None:
    with watching(KubernetesSettings(enabled="on"), environment={"KUBECONFIG": str(tmp_path / "none")}) as watched:
        status = watched.status()
        assert status.state is State.DISCONNECTED
        assert "set kubernetes.kubeconfig" in status.missing[0]


def test_asked_for_it_takes_the_usual_kubeconfig(standin: StandIn, tmp_path: Path) -> None:
    file = kubeconfig(tmp_path / "desk", standin.url, user={"token": TOKEN})
    with watching(KubernetesSettings(enabled="on"), environment={"KUBECONFIG": str(file)}) as watched:
        synced(watched)


@pytest.mark.parametrize(
    ("text", "context", "said"),
    [
        (None, "", "there is no such file"),
        ("users: [{name: a, user: {token: very-secret", "", "cannot be used: ParserError"),
        ("{}", "", "cannot be used: it has no 'current-context'"),
        ("contexts: []\ncurrent-context: lost\n", "", "Context lost not found"),
        ("contexts: []\ncurrent-context: lost\n", "other", "No such context other"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_named(tmp_path: Path, text: str | None, context: str, said: str) -> None:
    file = tmp_path / "kubeconfig"
    if text is not None:
        file.write_text(text)
    with watching(KubernetesSettings(kubeconfig=str(file), context=context)) as watched:
        watched.wait(lambda: watched.status().missing != (), "the fault")
        missing = watched.status().missing
        assert len(missing) == 1, "said once, not once a kind"
        assert str(file) in missing[0]
        assert said in missing[0]
        assert "very-secret" not in missing[0]


def test_an_answer_of_another_form_is_a_fault_and_not_the_end(standin: StandIn, tmp_path: Path) -> None:
    broken = standin.cluster.put("services", {"metadata": {"name": "odd", "namespace": "shop", "labels": ["x"]}})
    assert broken["metadata"]["labels"] == ["x"]
    with by_token(standin, tmp_path) as watched:
        watched.wait(lambda: watched.status().missing != (), "the fault")
        assert "services: an answer that is not of the form" in watched.status().missing[0]
        assert "$.items[0].metadata.labels" in watched.status().missing[0]
        standin.cluster.delete("services", "odd", "shop")
        synced_again = "shop/web"
        watched.wait(lambda: synced_again in watched.known("service"), "the services")


def test_an_error_of_our_own_is_told_and_not_the_end(standin: StandIn, tmp_path: Path) -> None:
    failing = [RuntimeError("the taker has a fault")] * 3

    def fail(_told: Sightings) -> None:
        if failing:
            raise failing.pop()

    file = kubeconfig(tmp_path / "kubeconfig", standin.url, user={"token": TOKEN})
    slow = Pace(first=0.4, longest=0.4, denied=0.2, watch=30.0)
    with watching(KubernetesSettings(kubeconfig=str(file)), pace=slow, taker=fail) as watched:
        said = "an error of Quell's own: RuntimeError('the taker has a fault')"
        watched.wait(lambda: any(said in text for text in watched.status().missing), "the fault")
        synced(watched)
        assert len(watched.pods()) == 2


@pytest.mark.parametrize("piece", [0, 7, 1000])
def test_changes_are_read_however_they_are_cut_into_pieces(standin: StandIn, tmp_path: Path, piece: int) -> None:
    """Several changes of one object in one piece, or one change in many."""
    standin.piece = piece
    with by_token(standin, tmp_path) as watched:
        synced(watched)
        with standin.cluster.changed:
            for round_ in range(5):
                standin.cluster.delete("services", "web", "shop")
                standin.cluster.put("services", service("web", "shop", {"round": str(round_)}, "203.0.113.9"))
            standin.cluster.put("services", service("api", "shop", None, "203.0.113.10"))
            standin.cluster.delete("services", "api", "shop")
            standin.cluster.put("services", service("last", "shop", None, "203.0.113.11"))
        watched.wait(lambda: "shop/last" in watched.known("service"), "the last service")
        assert set(watched.known("service")) == {"shop/web", "shop/last"}
        assert watched.known("service")["shop/web"].selector == {"round": "4"}
        assert watched.lists("service") == 1
