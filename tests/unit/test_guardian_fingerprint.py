"""What a fingerprint keeps, what it joins, and where it ends."""

from __future__ import annotations

import msgspec
import pytest
from tests.guardian import NOW, connects, listens, seen, service, step, workload

from quell.guardian import conversations
from quell.guardian.conversations import Listening, Talk
from quell.guardian.fingerprint import CHILDREN, SIZE, WORKLOADS, Fingerprint, Key, Kind, SeenProcess, add, key_of
from quell.guardian.peers import SINGLE, joined
from quell.guardian.replay import replay
from quell.model.observation import Observation, Seen
from quell.model.policy import PROCESS_DEPTH_LIMIT, Direction
from quell.model.subject import Container, Pod, Subject

IN, OUT = Direction.INGRESS, Direction.EGRESS
SH, NGINX = step("sh"), step("nginx")


def learned(*some: Observation) -> Fingerprint:
    made = Fingerprint(kind=Kind.IMAGE, name="web")
    for each in some:
        add(made, each)
    return made


def names(level: list[SeenProcess]) -> list[object]:
    return [each.name if not each.children else (each.name, names(each.children)) for each in level]


@pytest.mark.parametrize(
    ("subject", "key"),
    [
        (workload(), Key(Kind.IMAGE, "docker.io/library/web:1")),
        (workload(service="web", service_cgroup="x"), Key(Kind.IMAGE, "docker.io/library/web:1")),
        (workload(image=None), None),
        (service("web.service"), Key(Kind.SERVICE, "systemd:/system.slice/web.service")),
        (Subject(service="web.service"), Key(Kind.SERVICE, "web.service")),
        (Subject(node="n1"), None),
    ],
)
def test_it_is_of_an_image_or_of_a_service(subject: Subject, key: Key | None) -> None:
    assert key_of(subject) == key


def test_copies_are_their_parent_and_other_users_are_not() -> None:
    made = learned(
        seen(SH, SH, NGINX), seen(NGINX, NGINX, step("nginx", "www"), step("nginx", "www")), seen(SH, NGINX, SH)
    )
    assert names(made.roots) == [("sh", [("nginx", ["sh"])]), ("nginx", ["nginx"])]
    assert made.size == 5


def test_times_and_counts_are_those_of_what_was_seen() -> None:
    first, later = seen(SH, NGINX), msgspec.structs.replace(seen(SH, NGINX, what=Seen.RUNNING), time=NOW + 60)
    made = Fingerprint(kind=Kind.IMAGE, name="web")
    assert add(made, first)
    assert not add(made, later)
    [root] = made.roots
    [child] = root.children
    assert (made.first, made.last, made.count) == (NOW, NOW + 60, 2)
    assert (child.first, child.last, child.count) == (NOW, NOW + 60, 2)
    assert (root.last, root.count) == (NOW, 0), "it was seen as a parent only"


def test_what_lacks_a_fact_is_not_learned() -> None:
    made = learned(
        seen(("sh", None, "root")), seen(SH, ("x", "/x", None)), seen(SH, is_whole=False), connects(SH, ip="?")
    )
    assert (made.incomplete, made.count, made.roots) == (4, 0, [])
    assert not add(made, Observation(seen=Seen.EXECUTED, time=NOW, subject=workload()))


def test_names_that_differ_in_digits_alone_are_one_from_the_eighth_on() -> None:
    workers = [seen(SH, step(f"worker-{n}", exe="/w")) for n in range(8)]
    made = learned(*workers[:7])
    assert len(made.roots[0].children) == 7
    assert add(made, workers[7])
    [joined_one] = made.roots[0].children
    assert (joined_one.name, joined_one.called, joined_one.count) == ("worker-[0-9]", "worker-0", 8)
    assert made.size == 2
    assert not add(made, seen(SH, step("worker-9", exe="/w")))
    for other in (
        step("worker-10", exe="/w"),
        step("worker-1", "other", exe="/w"),
        step("worker-1"),
        step("worker-x", exe="/w"),
    ):
        assert add(made, seen(SH, other)), "another length, user, executable or letter is another process"


def test_their_sockets_peers_and_children_are_joined_too() -> None:
    made = learned(
        *[seen(SH, step(f"w{n}", exe="/w"), step("ls")) for n in range(4)],
        *[listens(SH, step(f"w{n}", exe="/w"), port=8000 + n) for n in range(8)],
        *[connects(SH, step(f"w{n}", exe="/w"), ip=f"10.0.0.{n}") for n in range(8)],
    )
    [one] = made.roots[0].children
    assert names([one]) == [("w[0-9]", ["ls"])]
    assert one.listening == [Listening(port=8000 + n) for n in range(8)]
    assert one.talks == [Talk(direction=OUT, port=443, networks=[f"10.0.0.{n}/32" for n in range(8)])]
    assert made.size == 3


def test_ports_that_the_kernel_gives_out_are_their_range_from_the_third_on() -> None:
    made = learned(*[listens(SH, port=port) for port in (80, 40000, 40001)])
    assert made.roots[0].listening == [Listening(port=80), Listening(port=40000), Listening(port=40001)]
    add(made, listens(SH, port=40002, protocol="UDP"))
    assert add(made, listens(SH, port=50000))
    assert made.roots[0].listening == [
        Listening(port=80),
        Listening(port=40002, protocol="UDP"),
        Listening(port=32768, end=60999),
    ]
    assert not add(made, listens(SH, port=60999))
    assert add(made, listens(SH, port=61000))


def test_connections_to_such_ports_keep_all_their_peers() -> None:
    made = learned(*[connects(SH, ip=f"10.0.0.{n}", port=40000 + n, direction=IN) for n in range(3)])
    assert made.roots[0].talks == [
        Talk(direction=IN, port=32768, end=60999, networks=["10.0.0.0/32", "10.0.0.1/32", "10.0.0.2/32"])
    ]


def test_up_to_sixteen_addresses_stand_by_themselves_then_their_network_does() -> None:
    near = [connects(SH, ip=f"192.168.1.{n}", port=80, direction=IN) for n in range(1, SINGLE + 1)]
    made = learned(*near)
    assert len(made.roots[0].talks[0].networks) == SINGLE
    assert add(made, connects(SH, ip="192.168.1.200", port=80, direction=IN))
    assert made.roots[0].talks[0].networks == ["192.168.1.0/24"]
    assert not add(made, connects(SH, ip="192.168.1.201", port=80, direction=IN))


@pytest.mark.parametrize(
    ("given", "direction", "expected"),
    [
        ([f"10.{n}.0.1/32" for n in range(17)], OUT, ["10.0.0.0/8"]),
        ([f"100.64.{n}.1/32" for n in range(17)], IN, ["100.64.0.0/10"]),
        ([f"fd00:0:0:{n:x}::1/128" for n in range(1, 18)], OUT, ["fc00::/7"]),
        ([f"8.8.{n}.1/32" for n in range(17)], OUT, [f"8.8.{n}.0/24" for n in range(17)]),
        ([f"8.8.{n}.1/32" for n in range(17)], IN, ["0.0.0.0/0"]),
        ([f"2001:db8:0:{n:x}::1/128" for n in range(17)], IN, ["::/0"]),
        ([*[f"8.8.{n}.1/32" for n in range(16)], "10.0.0.1/32"], IN, ["0.0.0.0/0"]),
        (["9.9.9.9/32", *[f"8.8.8.{n}/32" for n in range(16)]], OUT, ["9.9.9.9/32", "8.8.8.0/24"]),
    ],
)
def test_private_addresses_become_their_block_and_public_clients_everybody(
    given: list[str], direction: Direction, expected: list[str]
) -> None:
    found = joined(given, direction)
    assert found == expected


def test_peers_with_a_name_are_kept_by_name() -> None:
    made = learned(
        *[connects(SH, ip=f"8.8.8.{n}", dns=name) for n, name in enumerate(("a.example", "A.example.", "b.example"))]
    )
    [talk] = made.roots[0].talks
    assert (talk.names, talk.networks, talk.ip) == (["a.example", "b.example"], [], "8.8.8.2")


def test_where_there_is_no_room_it_is_counted_and_nothing_grows() -> None:
    made = learned(*[seen(SH, step(f"p{'x' * n}")) for n in range(CHILDREN)])
    assert not add(made, seen(SH, step("one-more")))
    assert (made.dropped, len(made.roots[0].children)) == (1, CHILDREN)
    deep = learned(seen(*[step(f"{'x' * n}y") for n in range(PROCESS_DEPTH_LIMIT + 1)]))
    assert (deep.dropped, deep.size) == (1, PROCESS_DEPTH_LIMIT)
    wide = Fingerprint(kind=Kind.IMAGE, name="web")
    for outer in range(20):
        for inner in range(100):
            add(wide, seen(step("a" * (outer + 1)), step("b" * (inner + 1))))
    assert wide.size == SIZE
    assert wide.dropped == 87 + 9 * 100, "13 children of the eleventh have room, and nothing after it"


def test_sockets_peers_and_names_are_bounded() -> None:
    made = learned(*[listens(SH, port=port) for port in range(1, conversations.PORTS + 3)])
    assert (len(made.roots[0].listening), made.dropped) == (conversations.PORTS, 2)
    made = learned(*[connects(SH, dns=f"h{n}.example") for n in range(conversations.NAMES + 3)])
    assert (len(made.roots[0].talks[0].names), made.dropped) == (conversations.NAMES, 3)
    made = learned(*[connects(SH, port=port) for port in range(1, conversations.TALKS + 4)])
    assert (len(made.roots[0].talks), made.dropped) == (conversations.TALKS, 3)
    made = learned(*[connects(SH, ip=f"8.{n // 250}.{n % 250}.1") for n in range(conversations.NETWORKS + 5)])
    assert (len(made.roots[0].talks[0].networks), made.dropped) == (conversations.NETWORKS, 5)
    assert not add(made, connects(SH, ip="8.0.0.77")), "its network is there"
    assert made.dropped == 5


def test_a_fingerprint_of_everything_at_its_bound_stays_small() -> None:
    made = Fingerprint(kind=Kind.IMAGE, name="web")
    for outer in range(12):
        for inner in range(100):
            add(
                made,
                seen(step("a" * (outer % 16 + 1)), step(f"{'b' * (inner % 15)}{inner}", exe=f"/usr/local/bin/{inner}")),
            )
    assert made.size == SIZE
    assert len(msgspec.msgpack.encode(made)) < 200 * SIZE


def test_examples_are_workloads_that_differ_in_more_than_their_instance() -> None:
    made = learned(
        seen(step("a"), at=workload()),
        seen(
            step("b"),
            at=workload(container=Container(id="c2"), pod=Pod(name="web-2", uid="uid-2", labels={"app": "web"})),
        ),
        *[seen(step("c" * (n + 1)), at=workload(namespace=f"ns-{n}")) for n in range(10)],
    )
    assert len(made.workloads) == WORKLOADS
    assert [each.workload for each in made.roots[:4]] == [0, 0, 1, 2]
    assert all(each.process is None for each in made.workloads)


def test_a_replay_shows_each_thing_once_where_it_was_seen() -> None:
    dev = workload(namespace="dev")
    made = learned(
        seen(SH, at=dev),
        listens(SH, step("nginx"), port=80, at=dev),
        connects(SH, step("nginx"), ip="10.0.0.1", port=80, direction=IN, at=dev),
        connects(SH, step("nginx"), ip="8.8.8.8", dns="a.example", at=dev),
    )
    again = list(replay(made))
    assert [(each.seen, each.subject.namespace, each.inside) for each in again] == [
        (Seen.EXECUTED, "dev", 0),
        (Seen.EXECUTED, "dev", 1),
        (Seen.LISTENING, "dev", 1),
        (Seen.CONNECTED, "dev", 1),
        (Seen.CONNECTED, "dev", 1),
    ]
    assert again[-1].peer is not None
    assert (again[-1].peer.dns, again[-1].peer.ip) == ("a.example", "8.8.8.8")
    assert not any(add(made, each) for each in again)
