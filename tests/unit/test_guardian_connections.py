"""Connections against networkPolicy and the disable* switches. SEMANTICS 5."""

from __future__ import annotations

import pytest
from tests.guardian import connects, node, policy, step

from quell.guardian.guard import Guard, event_name
from quell.model.details import Deviation
from quell.model.observation import Observation
from quell.model.policy import Block, Direction, Expected, Names, NetworkRule, Policy, Ports

IN, OUT = Direction.INGRESS, Direction.EGRESS
SH, PYTHON = step("sh"), step("python3")
TREE = (node("sh", node("python3"), users=("root",)),)
HTTPS = (Ports(port=443),)


def rule(
    *peers: Block | Names, ports: tuple[Ports, ...] = HTTPS, processes: tuple[str, ...] = ("python3_0",)
) -> NetworkRule:
    return NetworkRule(peers=peers, ports=ports, processes=processes)


WEB = policy(
    *TREE,
    ingress=(rule(Block(cidr="192.168.0.0/16", exceptions=("192.168.9.0/24",)), ports=(Ports(port=8080, end=8090),)),),
    egress=(
        rule(Names(names=("mongodb.*.svc.cluster.local", "API.example.com"))),
        rule(Block(cidr="10.1.0.0/16"), Block(cidr="fd00::/8"), processes=()),
        rule(Block(cidr="0.0.0.0/0"), ports=(Ports(port=53, protocol="UDP"),)),
    ),
)


def compared(observation: Observation, written: Policy = WEB) -> Deviation | None:
    [watch] = Guard([written], []).watches(observation.subject)
    return watch.compare(observation)


def deviates(observation: Observation, written: Policy = WEB) -> Deviation:
    found = compared(observation, written)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "observation",
    [
        connects(SH, PYTHON, ip="192.168.1.1", port=8080, direction=IN),
        connects(SH, PYTHON, PYTHON, ip="::ffff:192.168.1.1", port=8090, direction=IN),
        connects(SH, PYTHON, dns="mongodb.shop.svc.cluster.local"),
        connects(SH, PYTHON, ip="8.8.8.8", dns="api.Example.com."),
        connects(SH, PYTHON, ip="10.1.2.3"),
        connects(SH, ip="10.1.2.3"),
        connects(step("curl"), ip="fd12::1%eth0"),
        connects(SH, PYTHON, ip="8.8.8.8", port=53, protocol="UDP"),
    ],
)
def test_what_a_rule_lists_is_expected(observation: Observation) -> None:
    assert compared(observation) is None


@pytest.mark.parametrize(
    "observation",
    [
        connects(SH, PYTHON, ip="192.168.9.1", port=8080, direction=IN),
        connects(SH, PYTHON, ip="192.168.1.1", port=8091, direction=IN),
        connects(SH, ip="192.168.1.1", port=8080, direction=IN),
        connects(SH, PYTHON, ip="8.8.8.8", dns="evil.example.com"),
        connects(SH, PYTHON, ip="10.1.2.3", port=444),
        connects(SH, PYTHON, ip="8.8.8.8", port=53),
        connects(step("curl"), ip="8.8.8.8", port=53, protocol="UDP"),
    ],
)
def test_all_else_deviates_for_sure(observation: Observation) -> None:
    found = deviates(observation)
    assert (found.what, found.unproven) == (observation.peer and observation.peer.direction, "")
    assert event_name(found) == "Network.Violation"


def test_an_address_without_a_name_meets_no_rule_about_names_but_might() -> None:
    found = deviates(connects(SH, PYTHON, ip="8.8.8.8"))
    assert found.unproven == "the name or address of 8.8.8.8 is not known"
    assert deviates(connects(SH, ip="8.8.8.8")).unproven == "", "that rule is not about this process"


def test_a_process_that_is_not_known_wholly_might_be_the_one_of_a_rule() -> None:
    found = deviates(connects(SH, ("python3", None, "root"), ip="192.168.1.1", port=8080, direction=IN))
    assert found.unproven == "the executable of python3 is not known"
    assert deviates(connects(SH, ("curl", None, "root"), ip="192.168.1.1", port=8080, direction=IN)).unproven == ""


def test_the_addition_is_this_peer_this_port_and_this_process() -> None:
    found = deviates(connects(SH, PYTHON, ip="10.9.9.9", port=5000, direction=IN))
    assert found.addition == {
        "processPolicy": [{"policyNode": {"id": "python3_0"}}],
        "networkPolicy": {
            "ingress": [
                {
                    "from": [{"ipBlock": {"cidr": "10.9.9.9/32"}}],
                    "processes": ["python3_0"],
                    "ports": [{"protocol": "TCP", "port": 5000}],
                }
            ]
        },
    }
    assert found.connection is not None
    assert found.connection.client is not None
    assert found.connection.client.ip == "10.9.9.9"
    assert found.connection.server is not None
    assert (found.connection.server.image, found.connection.server.port) == ("docker.io/library/web:1", 5000)
    named = deviates(connects(SH, PYTHON, ip="8.8.8.8", dns="evil.example.com"))
    assert named.addition["networkPolicy"]["egress"][0]["to"] == [{"dnsSelector": ["evil.example.com"]}]
    assert named.connection is not None
    assert (named.connection.fqdn, named.connection.client and named.connection.client.image) == (
        "evil.example.com",
        "docker.io/library/web:1",
    )


def test_a_process_that_is_not_listed_comes_with_its_connection() -> None:
    found = deviates(connects(SH, step("curl"), ip="8.8.8.8"))
    assert found.addition["processPolicy"] == [
        {
            "policyNode": {
                "id": "sh_0",
                "children": [{"id": "curl_0", "name": "curl", "exe": ["/usr/bin/curl"], "euser": ["root"]}],
            }
        }
    ]
    assert found.addition["networkPolicy"]["egress"][0]["processes"] == ["curl_0"]
    assert deviates(connects(SH, ("curl", None, None), ip="8.8.8.8")).addition == {}


def test_repeats_are_told_by_peer_and_server_port() -> None:
    first = deviates(connects(SH, step("curl"), ip="8.8.8.8"))
    assert deviates(connects(SH, SH, step("curl"), ip="8.8.8.8")).checksum == first.checksum
    assert deviates(connects(SH, step("curl"), ip="8.8.4.4")).checksum != first.checksum
    assert deviates(connects(SH, step("curl"), ip="8.8.8.8", port=80)).checksum != first.checksum
    named = deviates(connects(SH, step("curl"), ip="8.8.8.8", dns="dns.example"))
    assert deviates(connects(SH, step("curl"), ip="8.8.4.4", dns="dns.example")).checksum == named.checksum


def test_without_rules_of_a_direction_it_is_not_compared_and_without_processes_any_may() -> None:
    silent = policy(expected=Expected(egress=(rule(Block(cidr="10.0.0.0/8"), processes=()),)))
    assert compared(connects(SH, ip="8.8.8.8", direction=IN), silent) is None
    assert compared(connects(SH, ip="10.0.0.1"), silent) is None
    found = deviates(connects(SH, ip="8.8.8.8"), silent)
    assert found.addition == {
        "networkPolicy": {
            "egress": [{"to": [{"ipBlock": {"cidr": "8.8.8.8/32"}}], "ports": [{"protocol": "TCP", "port": 443}]}]
        }
    }
    assert deviates(connects(SH, ip="10.0.0.1"), policy(egress=())).what == "egress"


PRIVATE = [
    "10.0.0.1",
    "172.31.0.1",
    "192.168.1.1",
    "100.127.0.1",
    "127.0.0.1",
    "169.254.1.1",
    "fd00::1",
    "fe80::1",
    "::1",
]
PUBLIC = ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2001:db8::1", "::ffff:8.8.8.8"]


@pytest.mark.parametrize("ip", [*PRIVATE, *PUBLIC])
def test_switches_forbid_by_direction_and_kind_of_address(ip: str) -> None:
    any_ = (rule(Block(cidr="0.0.0.0/0"), Block(cidr="::/0"), processes=()),)
    common = {"processes": TREE, "ingress": any_, "egress": any_}
    assert compared(connects(SH, ip=ip), policy(expected=Expected(**common))) is None  # type: ignore[arg-type]

    def forbids(direction: Direction, **switches: tuple[Direction, ...]) -> bool:
        written = policy(expected=Expected(**common, **switches))  # type: ignore[arg-type]
        found = compared(connects(SH, ip=ip, direction=direction), written)
        assert found is None or (found.addition == {} and found.unproven == "")
        return found is not None

    for here, there in ((IN, OUT), (OUT, IN)):
        assert forbids(here, no_connections=(here,))
        assert not forbids(here, no_connections=(there,))
        assert forbids(here, no_private_connections=(here,)) is (ip in PRIVATE)
        assert forbids(here, no_public_connections=(IN, OUT)) is (ip in PUBLIC)
        assert not forbids(here, no_public_connections=(there,), no_private_connections=(there,))


def test_an_address_that_is_none_is_forbidden_by_a_switch_but_not_for_sure() -> None:
    written = policy(expected=Expected(no_public_connections=(OUT,)))
    found = deviates(connects(SH, ip="?"), written)
    assert found.unproven == "the name or address of ? is not known"
    assert "disablePublicConnections" in found.message
