"""One network namespace from look to look: what is new, which way a connection goes, and whose it is."""

from __future__ import annotations

from collections.abc import Iterable

from quell.agent.cgroup import Placement
from quell.agent.holders import Holder
from quell.agent.linux.sock_diag import TCP, UDP, Listed, Looked, Socket
from quell.agent.place import Finding, Place
from quell.agent.sockets import common
from quell.model.policy import Direction

WEB = Placement(containers=("a" * 64,))
OTHER = Placement(containers=("b" * 64,))
SERVER = Holder(10, 100, WEB, 4)
CLIENT = Holder(11, 110, WEB, 4)
LISTENING = Socket(TCP, True, "", 80, "", 0, 1, 1)


class Owners:
    """Who holds which inode, and what was asked for."""

    def __init__(self, known: dict[int, Holder] | None = None) -> None:
        self.known = known or {}
        self.asked: list[set[int]] = []

    def __call__(self, inodes: Iterable[int]) -> dict[int, Holder]:
        wanted = set(inodes)
        self.asked.append(wanted)
        return {inode: holder for inode, holder in self.known.items() if inode in wanted}


def listed(*sockets: Socket, known: Iterable[int] = (), protocol: str = TCP) -> Looked:
    present = {each.id for each in sockets} | set(known)
    return Looked({protocol: Listed(present, list(sockets))}, [], 0)


def gone(*sockets: Socket) -> Looked:
    return Looked({}, list(sockets), 0)


def connection(number: int, here: int, peer: str = "10.0.0.9", there: int = 50_000, protocol: str = TCP) -> Socket:
    return Socket(protocol, False, "10.0.0.1", here, peer, there, number, number)


def place() -> Place:
    return Place((32768, 60999))


def test_a_server_and_both_ways_of_connections() -> None:
    owners = Owners({1: SERVER, 2: SERVER, 3: CLIENT})
    looked = listed(connection(3, 40_000, "192.0.2.1", 443), connection(2, 80), LISTENING)
    findings, unattributed = place().take(looked, owners, None)
    assert findings == [
        Finding(holder=SERVER, placement=WEB, protocol=TCP, port=80),
        Finding(holder=CLIENT, placement=WEB, protocol=TCP, port=443, peer="192.0.2.1", direction=Direction.EGRESS),
        Finding(holder=SERVER, placement=WEB, protocol=TCP, port=80, peer="10.0.0.9", direction=Direction.INGRESS),
    ]
    assert unattributed == 0


def test_what_is_known_is_not_told_again_until_it_shall_be() -> None:
    here, owners = place(), Owners({1: SERVER, 2: SERVER})
    assert len(here.take(listed(LISTENING, connection(2, 80)), owners, None).findings) == 2
    assert here.known == {TCP: {1, 2}}
    assert here.take(listed(known=(1, 2)), owners, None).findings == []
    assert len(owners.asked) == 1
    assert not here.wants_all
    here.forget()
    assert here.wants_all
    assert len(here.take(listed(LISTENING, connection(2, 80)), owners, None).findings) == 2


def test_the_loopback_is_nobody_s_business_but_a_port_on_it_is() -> None:
    on_loopback = Socket(TCP, True, "127.0.0.1", 5432, "", 0, 1, 1)
    within = Socket(TCP, False, "127.0.0.1", 40_000, "127.0.0.1", 5432, 2, 2)
    owners = Owners({1: SERVER, 2: SERVER})
    findings, _ = place().take(listed(on_loopback, within), owners, None)
    assert findings == [Finding(holder=SERVER, placement=WEB, protocol=TCP, address="127.0.0.1", port=5432)]
    assert owners.asked == [{1}]
    assert place().take(gone(within), owners, WEB).findings == []


def test_a_port_on_one_address_says_nothing_of_another() -> None:
    on_loopback = Socket(TCP, True, "127.0.0.1", 40_000, "", 0, 1, 1)
    outward = connection(2, 40_000, "192.0.2.1", 443)
    findings, _ = place().take(listed(on_loopback, outward), Owners({1: SERVER, 2: CLIENT}), None)
    assert findings[1].direction is Direction.EGRESS


def test_who_is_not_found_is_searched_for_once_more() -> None:
    here, owners = place(), Owners()
    outward = connection(2, 40_000, "192.0.2.1", 443)
    assert here.take(listed(outward), owners, WEB).findings == []
    assert here.wants_all
    assert here.known == {TCP: set()}
    owners.known = {2: CLIENT}
    (finding,) = here.take(listed(outward), owners, WEB).findings
    assert finding.holder == CLIENT
    assert not here.wants_all
    assert here.known == {TCP: {2}}


def test_who_is_never_found_is_unknown_where_it_can_only_be_one_workload_s() -> None:
    for otherwise, told in ((WEB, 1), (None, 0)):
        here = place()
        outward = connection(2, 40_000, "192.0.2.1", 443)
        assert here.take(listed(outward), Owners(), otherwise).findings == []
        findings, unattributed = here.take(listed(outward), Owners(), otherwise)
        assert [each.holder for each in findings] == [None] * told
        assert [each.placement for each in findings] == [WEB] * told
        # There it is most likely a process of no workload: nothing is missing.
        assert unattributed == 0
        assert here.known == {TCP: {2}}


def test_what_was_taken_and_not_yet_accepted_is_the_listener_s() -> None:
    here, owners = place(), Owners({1: SERVER})
    waiting = Socket(TCP, False, "10.0.0.1", 80, "10.0.0.9", 50_000, 0, 2)
    findings, _ = here.take(listed(LISTENING, waiting), owners, None)
    assert [(each.holder, each.direction) for each in findings] == [(SERVER, None), (SERVER, Direction.INGRESS)]
    assert here.known == {TCP: {1, 2}}


def test_what_a_worker_took_is_the_listener_s() -> None:
    taken = connection(2, 80)
    for holds in ({1: SERVER, 2: CLIENT}, {1: SERVER}):
        findings, _ = place().take(listed(LISTENING, taken), Owners(holds), WEB)
        assert [each.holder for each in findings] == [SERVER, SERVER]
    (finding, *_) = place().take(listed(LISTENING, taken), Owners({2: CLIENT}), WEB).findings
    assert finding.holder == CLIENT


def test_what_came_and_went_between_two_looks() -> None:
    here, owners = place(), Owners({1: SERVER, 2: SERVER})
    here.take(listed(LISTENING, connection(2, 80)), owners, WEB)
    inward, outward = connection(5, 80, "10.0.0.8"), connection(6, 40_000, "192.0.2.1", 443)
    # The second one was known, the last had no peer.
    findings, unattributed = here.take(gone(inward, outward, connection(2, 80), LISTENING), owners, WEB)
    assert findings == [
        Finding(holder=SERVER, placement=WEB, protocol=TCP, port=80, peer="10.0.0.8", direction=Direction.INGRESS),
        Finding(holder=None, placement=WEB, protocol=TCP, port=443, peer="192.0.2.1", direction=Direction.EGRESS),
    ]
    assert unattributed == 0
    findings, unattributed = here.take(gone(inward, outward), owners, None)
    assert [each.holder for each in findings] == [SERVER]
    assert unattributed == 1


def test_what_goes_while_its_process_is_searched_for_is_told() -> None:
    here = place()
    outward = connection(2, 40_000, "192.0.2.1", 443)
    assert here.take(listed(outward), Owners(), WEB).findings == []
    taken = here.take(Looked({TCP: Listed(set(), [])}, [outward], 0), Owners(), WEB)
    assert [each.holder for each in taken.findings] == [None]
    assert not here.wants_all


def test_a_port_that_is_let_go_of_is_no_server_s_any_more() -> None:
    here, owners = place(), Owners({1: SERVER, 2: CLIENT})
    here.take(listed(LISTENING), owners, None)
    here.take(listed(), owners, None)
    (finding,) = here.take(listed(connection(2, 80, there=443)), owners, None).findings
    assert (finding.direction, finding.port) == (Direction.EGRESS, 443)


def test_what_was_taken_right_before_its_server_stopped_listening() -> None:
    for looked in (listed(connection(2, 80)), Looked({TCP: Listed(set(), [])}, [connection(2, 80)], 0)):
        here, owners = place(), Owners({1: SERVER})
        here.take(listed(LISTENING), owners, WEB)
        (finding,) = here.take(looked, owners, WEB).findings
        assert (finding.holder, finding.direction, finding.port) == (SERVER, Direction.INGRESS, 80)


def test_udp_without_a_peer_listens_unless_the_kernel_chose_the_port() -> None:
    server = Socket(UDP, True, "", 53, "", 0, 1, 1)
    sender = Socket(UDP, True, "", 40_000, "", 0, 2, 2)
    asked = connection(3, 40_001, "192.0.2.53", 53, protocol=UDP)
    answered = connection(4, 53, "10.0.0.9", 4444, protocol=UDP)
    owners = Owners({1: SERVER, 2: CLIENT, 3: CLIENT, 4: SERVER})
    findings, _ = place().take(listed(server, sender, asked, answered, protocol=UDP), owners, None)
    assert [(each.protocol, each.peer, each.port, each.direction) for each in findings] == [
        (UDP, None, 53, None),
        (UDP, "192.0.2.53", 53, Direction.EGRESS),
        (UDP, "10.0.0.9", 53, Direction.INGRESS),
    ]


def test_what_all_who_live_there_have_in_common() -> None:
    in_pod = [Placement(containers=(each * 64,), pod_uid="p") for each in "cd"]
    service = Placement(service_path="/x.service")

    def where(*placements: Placement) -> Placement | None:
        return common([Holder(number, 1, each, 4) for number, each in enumerate(placements)])

    assert where(WEB, WEB) == WEB
    assert where(service) == service
    assert where(*in_pod) == Placement(pod_uid="p")
    assert where(in_pod[0]) == in_pod[0]
    assert where(WEB, OTHER) is None
    assert where(WEB, in_pod[0]) is None
    assert where(WEB, service) is None
    assert where() is None
