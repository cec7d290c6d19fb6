"""What became of containers: what is told, once, and what is not. Pure, on a clock of numbers."""

from __future__ import annotations

import msgspec

from quell.inventory.lifecycle import Happened, Lifecycle, Quota
from quell.response.facts import Workload

A, B = "a" * 64, "b" * 64
AGENT = "agent/a1"


class Place:
    """An inventory as far as this reads it. since: the agent first spoke at 100."""

    def __init__(self, *known: Workload, covering: dict[str, int] | None = None) -> None:
        self.workloads = {one.id: one for one in known}
        self.since = {AGENT: 100.0}
        self.lifecycle = Lifecycle(self.workloads, self.since)
        self.lifecycle.begin(covering or {})

    def now_is(self, known: Workload, now: float = 200.0, *, said: bool = True) -> list[tuple[str, str]]:
        self.workloads[known.id] = known
        return told(self.lifecycle.changed([known.id], now, said=said))


def told(happened: list[Happened]) -> list[tuple[str, str]]:
    return [(one.name, one.identifier.removeprefix(one.workload.id)) for one in happened]


def container(identifier: str = A, **facts: object) -> Workload:
    base = Workload(id=identifier, name="web", node="n1", pid=7, started=150.0, sources=(AGENT,))
    return msgspec.structs.replace(base, **facts)


def test_a_container_that_started_after_the_machine_was_first_seen() -> None:
    place = Place()
    assert place.now_is(container()) == [("Container.Start", "/start/150")]
    assert place.now_is(container(image="nginx:1.27")) == []
    assert place.now_is(container(running=False, pid=None)) == [("Container.Stop", "/stop/150")]
    assert place.now_is(container(pid=9, started=180.0)) == [("Container.Start", "/start/180")]
    assert place.now_is(container(gone=190.0, sources=())) == [("Container.Remove", "/remove")]
    assert place.now_is(container(gone=190.0, sources=())) == []


def test_what_ran_when_the_machine_was_first_seen_has_not_started() -> None:
    place = Place()
    assert place.now_is(container(started=99.0), 101.0) == []
    assert place.now_is(container(B, started=None), 101.0) == []
    assert place.now_is(container("c" * 64, started=None), 161.0) == [("Container.Start", "/start/161")]
    assert place.now_is(container("d" * 64, running=False), 161.0) == []
    assert place.now_is(container(started=99.0, running=False), 170.0) == [("Container.Stop", "/stop/99")]


def test_what_a_restart_of_the_controller_finds_is_known() -> None:
    place = Place(container(), container(B, gone=120.0))
    assert place.now_is(container(image="other")) == []
    assert place.now_is(container(running=False, pid=None)) == [("Container.Stop", "/stop/150")]
    assert place.now_is(container(B, started=190.0)) == [("Container.Start", "/start/190")]


def test_a_restart_in_one_breath_is_a_start() -> None:
    place = Place(container())
    assert place.now_is(container(pid=8, started=170.0)) == [("Container.Start", "/start/170")]


def test_a_second_source_with_another_idea_of_the_start_tells_nothing() -> None:
    place = Place()
    place.since["kubernetes/prod"] = 90.0
    assert len(place.now_is(container(sources=("kubernetes/prod",), pid=None, started=151.0))) == 1
    assert place.now_is(container(sources=(AGENT, "kubernetes/prod"), started=150.42)) == []
    assert place.now_is(container(sources=("kubernetes/prod",), pid=None, started=151.0)) == []


def test_silence_says_nothing_about_containers() -> None:
    place = Place(container())
    assert place.now_is(container(gone=150.0, sources=()), said=False) == []
    assert place.now_is(container()) == [("Container.Start", "/start/150")]  # the same id as at first: a repetition


def test_what_only_events_told_of_or_nobody_agrees_about_is_left_alone() -> None:
    place = Place()
    assert place.now_is(container(taught_by="falco", sources=("event/falco",))) == []
    assert place.now_is(container(contested=("n1", "n2"))) == []
    assert place.now_is(container()) == [("Container.Start", "/start/150")]


def test_covered_by_an_agent_that_can_isolate() -> None:
    place = Place()
    host = container("c" * 64, host_network=True, started=1.0)
    assert place.now_is(container(started=1.0)) == []
    assert place.now_is(host) == []
    assert place.now_is(container(B, started=1.0, running=False)) == []
    assert told(place.lifecycle.cover("a1", 1, list(place.workloads), 200.0)) == [
        ("Container.Secured", "/secured/a1/1")
    ]
    assert place.now_is(container(B, started=199.0)) == [
        ("Container.Start", "/start/199"),
        ("Container.Secured", "/secured/a1/1"),
    ]
    assert place.now_is(container(image="other", started=1.0)) == []
    assert place.now_is(container(B, gone=200.0, sources=())) == [("Container.Remove", "/remove")]
    assert told(place.lifecycle.uncover("a1", 300.0)) == [("Container.Unsecured", "/unsecured/a1/1")]
    assert told(place.lifecycle.uncover("a1", 300.0)) == []
    assert told(place.lifecycle.cover("a1", 2, [A], 400.0)) == [("Container.Secured", "/secured/a1/2")]


def test_what_was_covered_before_a_restart_is() -> None:
    place = Place(container(), container(B, sources=("agent/a2",)), covering={"a1": 3})
    assert told(place.lifecycle.cover("a1", 3, [A], 200.0)) == []
    assert told(place.lifecycle.cover("a2", 1, [B], 200.0)) == [("Container.Secured", "/secured/a2/1")]
    assert told(place.lifecycle.uncover("a1", 300.0)) == [("Container.Unsecured", "/unsecured/a1/3")]


def test_a_crash_loop_leaves_room_for_others_and_is_counted() -> None:
    quota = Quota(8, 60.0, of_all=11, of_service=lambda most: most // 4)

    def many(count: int, **facts: object) -> int:
        return sum(quota.admits(Happened("Container.Start", container(**facts), 0.0, ""), 0.0) for _ in range(count))

    assert many(10) == 2
    assert many(2, name="db") == 2
    assert sum(many(1, name=f"other-{number}") for number in range(10)) == 4
    assert many(10, node="n2") == 2
    assert sum(many(1, node="n2", name=f"more-{number}") for number in range(10)) == 1
    assert quota.due(59.0) == {}
    assert quota.due(60.0) == {"n1": {"Container.Start": 14}, "n2": {"Container.Start": 17}}
    assert many(1) == 1
