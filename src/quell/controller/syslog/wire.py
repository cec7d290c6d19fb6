"""What datagrams and streams have in common: how a way to a receiver is used, where it may lead, and how it ends."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec import Struct

from quell.controller.addresses import EVERYWHERE, AddressRefused, IPNetwork, permitted
from quell.model.syslog import Syslog


class Broken(Exception):
    """A way to a receiver that cannot be opened, or has ended."""


class Stalled(Broken):
    """The receiver took nothing for too long: what it has taken it may never have read."""


class Access(Struct, frozen=True, kw_only=True):
    """Where receivers may lie, and how long they may take."""

    networks: Sequence[IPNetwork] = ()
    #: Seconds to connect and to take what is sent.
    timeout: float = 10.0


class Wire(Protocol):
    """An open way to a receiver."""

    async def send(self, frames: Sequence[bytes]) -> int:
        """Bytes written. Broken: what had been written before may not have arrived."""
        ...

    @property
    def failure(self) -> Broken | None:
        """Why it has ended; None: it has not."""
        ...

    @property
    def complaint(self) -> str:
        """What was said against the messages sent last, though the way is still open; "": nothing."""
        ...

    def in_flight(self) -> int:
        """Bytes that the receiver's side has not confirmed."""
        ...

    async def close(self) -> None:
        """In order, so far as it is still open."""
        ...


#: Told when a way has ended of itself.
Ended = Callable[[], None]


async def addresses(receiver: Syslog, access: Access) -> list[str]:
    """The addresses that the receiver may be reached at. Broken."""
    allowed = EVERYWHERE if receiver.allow_private else access.networks
    try:
        return await permitted(receiver.host, receiver.port, allowed=allowed)
    except AddressRefused as error:
        raise Broken(str(error)) from error
    except (OSError, UnicodeError) as error:
        raise Broken(f"{receiver.host}: {error}") from error


def is_ipv6(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).version == 6
