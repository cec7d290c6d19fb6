"""What the kernel says of sockets, read from messages made by hand as linux/inet_diag.h has them."""

from __future__ import annotations

import socket
import struct

import pytest

from quell.agent.linux import sock_diag
from quell.agent.linux.sock_diag import TCP, UDP, Socket

ESTABLISHED, CLOSE, LISTEN = 1, 7, 10
ANY = "0.0.0.0"  # noqa: S104 - read, not bound to


def entry(
    family: int,
    state: int,
    here: tuple[str, int],
    there: tuple[str, int],
    *,
    inode: int = 0,
    cookie: int = 1,
    kind: int = 20,
    attributes: bytes = b"",
) -> bytes:
    """A netlink message with one struct inet_diag_msg."""
    addresses = b"".join(socket.inet_pton(family, address).ljust(16, b"\0") for address, _ in (here, there))
    identity = (
        struct.pack("!HH", here[1], there[1]) + addresses + struct.pack("=III", 0, cookie & 0xFFFFFFFF, cookie >> 32)
    )
    body = struct.pack("=BBBB", family, state, 0, 0) + identity + struct.pack("=IIIII", 0, 0, 0, 33, inode) + attributes
    return struct.pack("=IHHII", 16 + len(body), kind, 2, 0, 0) + body


def read(message: bytes, protocol: str = TCP) -> list[Socket]:
    return [sock_diag._socket(message, at, protocol) for at, _ in sock_diag._entries(message)]


def test_one_that_listens_on_all_addresses_and_one_that_is_connected() -> None:
    message = entry(socket.AF_INET, LISTEN, (ANY, 80), (ANY, 0), inode=7)
    message += entry(socket.AF_INET, ESTABLISHED, ("10.0.0.1", 80), ("10.0.0.2", 4321), inode=8, cookie=2, kind=18)
    listening, connected = read(message)
    assert listening == Socket(TCP, True, "", 80, "", 0, 7, listening.id)
    assert connected == Socket(TCP, False, "10.0.0.1", 80, "10.0.0.2", 4321, 8, connected.id)
    assert listening.id != connected.id
    assert not connected.is_loopback


@pytest.mark.parametrize(
    ("written", "read_as"),
    [
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("::", ""),
        ("::1", "::1"),
        # Neither mapped nor IPv4: an address that only begins alike.
        ("::192.0.2.7", "::192.0.2.7"),
    ],
)
def test_an_ipv4_address_in_an_ipv6_socket_is_one(written: str, read_as: str) -> None:
    (found,) = read(entry(socket.AF_INET6, LISTEN, (written, 80), ("::", 0)))
    assert found.address == read_as
    (found,) = read(entry(socket.AF_INET6, ESTABLISHED, ("2001:db8::9", 80), (written, 9)))
    assert found.peer == (read_as or "::")


@pytest.mark.parametrize(
    ("here", "there", "inside"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.9.9.9", True),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
    ],
)
def test_what_stays_in_the_namespace(here: str, there: str, inside: bool) -> None:
    for family, prefix in ((socket.AF_INET, ""), (socket.AF_INET6, "::ffff:")):
        (found,) = read(entry(family, ESTABLISHED, (prefix + here, 1), (prefix + there, 2)))
        assert found.is_loopback is inside


def test_udp_listens_where_it_has_no_peer() -> None:
    without = entry(socket.AF_INET, CLOSE, (ANY, 53), (ANY, 0))
    connected = entry(socket.AF_INET, ESTABLISHED, ("10.0.0.1", 5353), ("10.0.0.2", 53))
    first, second = read(without + connected, UDP)
    assert (first.listens, first.peer) == (True, "")
    assert (second.listens, second.peer, second.peer_port) == (False, "10.0.0.2", 53)


def test_a_socket_with_another_peer_is_another() -> None:
    first, second, third = read(
        entry(socket.AF_INET, ESTABLISHED, ("10.0.0.1", 9), ("10.0.0.2", 53), cookie=2**40)
        + entry(socket.AF_INET, ESTABLISHED, ("10.0.0.1", 9), ("10.0.0.3", 53), cookie=2**40)
        + entry(socket.AF_INET, ESTABLISHED, ("10.0.0.1", 9), ("10.0.0.2", 53), cookie=2**41)
    )
    assert len({first.id, second.id, third.id}) == 3


def test_the_protocol_of_one_that_went_stands_behind_it() -> None:
    other = struct.pack("=HHI", 8, 2, 0)
    for number, protocol in ((6, TCP), (17, UDP)):
        attribute = struct.pack("=HHB3x", 5, 10, number)
        message = entry(socket.AF_INET, CLOSE, ("10.0.0.1", 1), ("10.0.0.2", 2), attributes=other + attribute)
        ((at, end),) = sock_diag._entries(message)
        assert sock_diag._protocol(message, at, end) == protocol


def test_the_end_of_a_list_and_a_refusal() -> None:
    one = entry(socket.AF_INET, LISTEN, (ANY, 80), (ANY, 0))
    done = struct.pack("=IHHIIi", 20, 3, 2, 0, 0, 0)
    assert not sock_diag._ends(one)
    assert sock_diag._ends(done)
    assert sock_diag._ends(one + done)
    assert len(read(one + done)) == 1
    with pytest.raises(PermissionError):
        read(struct.pack("=IHHIIi", 36, 2, 0, 0, 0, -1) + bytes(16))


@pytest.mark.parametrize("cut", [1, 15, 16, 40, 87])
def test_half_a_message_is_none(cut: int) -> None:
    message = entry(socket.AF_INET, LISTEN, (ANY, 80), (ANY, 0))
    assert read(b"\0" * 3) == []
    # The kernel never cuts one: whatever comes, nothing is made up of what is not there.
    assert read(struct.pack("=IHHII", cut, 20, 2, 0, 0) + message[16:]) == []
