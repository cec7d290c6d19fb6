"""The guard of webhook addresses: what is refused, however it is written."""

from __future__ import annotations

import asyncio
import ipaddress

import pytest

from quell.controller.addresses import EVERYWHERE, AddressRefused, permitted, refusal

REFUSED = {
    "127.0.0.1": "loopback",
    "127.8.9.1": "loopback",
    "::1": "loopback",
    "0.0.0.0": "unspecified",  # noqa: S104 - an address to refuse, nothing listens
    "0.1.2.3": "unspecified",
    "::": "unspecified",
    "169.254.169.254": "link-local",
    "fe80::1": "link-local",
    "224.0.0.1": "multicast",
    "ff02::1": "multicast",
    "255.255.255.255": "reserved",
    "fec0::1": "site-local",
    "100.100.100.200": "metadata",
    "168.63.129.16": "metadata",
    "fd00:ec2::254": "metadata",
    "::ffff:127.0.0.1": "loopback",
    "::ffff:169.254.169.254": "link-local",
    "::127.0.0.1": "loopback",
    "64:ff9b::a9fe:a9fe": "link-local",
    "64:ff9b:1::7f00:1": "loopback",
    "2002:7f00:1::1": "loopback",
    "2002:a9fe:a9fe::": "link-local",
    "::ffff:0:127.0.0.1": "loopback",
}


@pytest.mark.parametrize(("text", "reason"), REFUSED.items())
def test_dangerous_addresses_are_refused_with_their_reason(text: str, reason: str) -> None:
    assert reason in (refusal(ipaddress.ip_address(text)) or "")


@pytest.mark.parametrize("text", ["10.1.2.3", "192.168.0.7", "172.20.0.1", "93.184.216.34", "2606:4700::1", "fd12::1"])
def test_receivers_in_private_and_public_networks_are_fine(text: str) -> None:
    assert refusal(ipaddress.ip_address(text)) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1", "::1", "::ffff:127.0.0.1"])
def test_every_spelling_of_this_host_is_refused_after_resolution(host: str) -> None:
    with pytest.raises(AddressRefused):
        asyncio.run(permitted(host, 80))


def test_an_operator_can_open_a_network_and_everything() -> None:
    loopback = (ipaddress.ip_network("127.0.0.0/8"),)
    assert asyncio.run(permitted("127.0.0.1", 80, allowed=loopback)) == ["127.0.0.1"]
    assert asyncio.run(permitted("169.254.169.254", 80, allowed=EVERYWHERE)) == ["169.254.169.254"]
    with pytest.raises(AddressRefused, match="link-local"):
        asyncio.run(permitted("169.254.169.254", 80, allowed=loopback))


def test_a_name_that_does_not_exist_is_an_error_of_the_network() -> None:
    with pytest.raises(OSError):
        asyncio.run(permitted("nowhere.invalid", 443))
