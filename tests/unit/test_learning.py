"""Fingerprints in a controller: kept, bounded, aged; and policies made of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from quell.controller.creation import of_cluster, of_workloads
from quell.controller.guardian_settings import GuardianSettings
from quell.controller.learning import PROCESSES, SEEN_AGAIN, Learning
from quell.documents.load import load_text
from quell.documents.write import dump_yaml
from quell.guardian.fingerprint import Key, Kind
from quell.model.observation import Observation, Seen
from quell.model.policy import Policy
from quell.model.subject import Ancestor, Container, Process, Subject
from quell.storage.store import Store

OUTSIDE = Ancestor("systemd", "/sbin/init", "root", 1, 1)


class Taught:
    def __init__(self, store: Store, settings: GuardianSettings | None = None) -> None:
        self.now = 1000.0
        self.store = store
        self.settings = settings or GuardianSettings(fingerprints=10, fingerprints_age="1d")
        self.learning = self.again()

    def again(self) -> Learning:
        """As after a restart."""
        self.learning = Learning(self.store, self.settings, lambda: self.now)
        return self.learning

    def saw(self, name: str, *, image: str | None = "nginx:1", service: str | None = None) -> None:
        process = Process(pid=1, start_ticks=1, name=name, exe=f"/bin/{name}", user="root", lineage=(OUTSIDE,))
        container = None if image is None else Container(id="c" * 64)
        subject = Subject(container=container, image=image, service=service, cluster="prod", process=process)
        self.learning.take(Observation(seen=Seen.EXECUTED, time=self.now, subject=subject))

    def written(self) -> None:
        self.learning.close()
        self.store.submit(lambda _: None).result()

    def names(self) -> list[str]:
        return [each.name for each in self.learning.all()]


@pytest.fixture
def taught(tmp_path: Path) -> Iterator[Taught]:
    with Store.open(tmp_path / "quell.db") as store:
        yield Taught(store)


def test_what_was_seen_is_known_after_a_restart(taught: Taught) -> None:
    taught.saw("nginx")
    taught.saw("sshd", image=None, service="ssh.service")
    taught.saw("x", image=None)  # in no workload
    taught.written()
    taught.again()
    assert taught.names() == ["nginx:1", "ssh.service"]
    found = taught.learning.one(Key(Kind.IMAGE, "nginx:1"))
    assert found is not None
    assert [(each.name, each.count) for each in found.roots] == [("nginx", 1)]
    taught.saw("nginx")
    assert (found.count, found.size) == (2, 1)


def test_only_what_is_news_is_written(taught: Taught) -> None:
    taught.saw("nginx")
    assert taught.learning._save(10)
    taught.saw("nginx")
    assert not taught.learning._save(10)
    taught.now += SEEN_AGAIN + 1
    taught.saw("nginx")
    assert taught.learning._save(10)


def test_there_are_only_so_many(taught: Taught) -> None:
    for number in range(15):
        taught.now += 1
        taught.saw("a", image=f"i{number}")
    taught.saw("a", image="i5")
    taught.saw("a", image="new")
    assert taught.names() == sorted(["i5", "new", *(f"i{number}" for number in range(7, 15))])
    taught.written()
    taught.again()
    assert len(taught.names()) == 10
    for number in range(10 * PROCESSES + 100):
        taught.saw(f"p{number // 120}-{number}x", image=f"big{number // 120}")
    assert taught.learning._size <= 10 * PROCESSES


def test_what_does_not_run_any_more_is_forgotten(taught: Taught) -> None:
    taught.saw("a", image="old")
    taught.now += 86_400
    taught.saw("a", image="new")
    taught.learning.tick()
    assert taught.names() == ["new", "old"]
    taught.now += 1
    taught.learning.tick()
    assert taught.names() == ["new"]
    taught.written()
    taught.again()
    assert taught.names() == ["new"]


def test_nothing_is_learned_where_only_policies_are_compared(taught: Taught) -> None:
    taught.settings = GuardianSettings(observe="policies")
    taught.again()
    taught.saw("a")
    assert taught.names() == []


# ---- policies


def image_scope(policy: Policy) -> tuple[str, ...]:
    return policy.scope[0].requirements[0].values


def test_a_policy_is_for_the_images_that_the_words_name(taught: Taught) -> None:
    for image in ("docker.io/library/nginx:1", "docker.io/library/nginx:2", "docker.io/library/redis:7"):
        taught.saw("a", image=image)
    known = taught.learning.all()
    exact = of_workloads(Kind.IMAGE, ["docker.io/library/nginx:1"], known, "", ())
    assert (exact.name, image_scope(exact)) == ("nginx", ("docker.io/library/nginx:1",))
    globs = of_workloads(Kind.IMAGE, ["docker.io/library/nginx:*"], known, "", {"nginx"})
    assert (globs.name, image_scope(globs)) == ("nginx-2", ("docker.io/library/nginx:*",))
    both = of_workloads(Kind.IMAGE, ["*/nginx:*", "docker.io/library/redis:7"], known, "mine", ())
    assert (both.name, image_scope(both)) == ("mine", ("*/nginx:*", "docker.io/library/redis:7"))
    [read] = load_text(dump_yaml([both])).policies
    assert image_scope(read) == image_scope(both)
    with pytest.raises(ValueError, match="nothing was seen of image postgres"):
        of_workloads(Kind.IMAGE, ["*/nginx:*", "postgres"], known, "", ())


@pytest.mark.parametrize(
    ("kind", "word", "name"),
    [
        (Kind.IMAGE, "nginx", "nginx"),
        (Kind.IMAGE, "registry.example:5000/shop/cart@sha256:12", "cart"),
        (Kind.IMAGE, "*", "image"),
        (Kind.IMAGE, "*/x:*", "x"),
        (Kind.SERVICE, "systemd:/system.slice/nginx.service", "nginx"),
        (Kind.SERVICE, "postgresql@15-main.service", "postgresql-15-main"),
        (Kind.SERVICE, "cron", "cron"),
    ],
)
def test_what_a_policy_is_called(kind: Kind, word: str, name: str, taught: Taught) -> None:
    if kind is Kind.IMAGE:
        for image in (word, "registry/x:1"):
            taught.saw("a", image=image)
    else:
        taught.saw("a", image=None, service=word)
    assert of_workloads(kind, [word], taught.learning.all(), "", ()).name == name


def test_a_policy_for_a_cluster_allows_what_was_seen_in_each_namespace() -> None:
    seen = [
        Subject(cluster="prod", namespace="shop", image="cart:1"),
        Subject(cluster="prod", namespace="data", image="pg:15"),
        Subject(cluster="test", namespace="shop", image="cart:2"),
    ]
    ruleset, policy = of_cluster("prod", seen, "", ())
    assert (policy.name, policy.rulesets) == ("prod", (ruleset.name,))
    assert sorted(value for rule in ruleset.rules for value in rule.values) == ["cart:1", "pg:15"]
    with pytest.raises(ValueError, match="no container of a known image was seen in cluster none"):
        of_cluster("none", seen, "", ())
