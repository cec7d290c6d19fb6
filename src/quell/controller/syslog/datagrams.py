"""UDP: a message a datagram, sent and forgotten. RFC 5426."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence

from quell.controller.syslog.wire import Access, Broken, addresses, is_ipv6
from quell.model.syslog import Syslog

#: Seconds after which the name is resolved again: nothing else would tell that the receiver has moved.
_FRESH = 300.0
#: Datagrams between two breaths: a receiver's buffer holds some hundreds, and what does not fit is lost.
_BURST = 64
_BREATH = 0.002


class Datagrams:
    def __init__(self, receiver: Syslog, access: Access, connected: socket.socket) -> None:
        self._receiver = receiver
        self._access = access
        self._socket = connected
        self._resolved = time.monotonic()
        self.failure: Broken | None = None
        #: What the network said of datagrams before.
        self.complaint = ""

    @classmethod
    async def open(cls, receiver: Syslog, access: Access) -> Datagrams:
        """Broken: the name leads nowhere, or nowhere it may."""
        return cls(receiver, access, await _connected(receiver, access))

    async def send(self, frames: Sequence[bytes]) -> int:
        """Broken: this machine cannot send at all, as without a route."""
        if time.monotonic() - self._resolved > _FRESH:
            fresh = await _connected(self._receiver, self._access)
            self._socket.close()
            self._socket, self._resolved = fresh, time.monotonic()
        self.complaint = ""
        for position, frame in enumerate(frames):
            await self._send(frame)
            if position % _BURST == _BURST - 1:
                await asyncio.sleep(_BREATH)
        return sum(map(len, frames))

    async def _send(self, frame: bytes) -> None:
        complained = False
        while True:
            try:
                self._socket.send(frame)
            except BlockingIOError:
                await asyncio.sleep(_BREATH)
            except ConnectionRefusedError as error:
                # This tells of an earlier datagram; the one at hand was not sent yet.
                self.complaint = f"an earlier datagram was refused: {error.strerror}"
                if complained:
                    return
                complained = True
            except OSError as error:
                raise Broken(str(error)) from error
            else:
                return

    def in_flight(self) -> int:
        return 0

    async def close(self) -> None:
        self._socket.close()


async def _connected(receiver: Syslog, access: Access) -> socket.socket:
    """A socket whose datagrams go to the first address; being connected, it hears when nobody is there."""
    try:
        async with asyncio.timeout(access.timeout):
            address = (await addresses(receiver, access))[0]
    except TimeoutError as error:
        raise Broken(f"{receiver.host}: the name did not resolve in time") from error
    made = socket.socket(socket.AF_INET6 if is_ipv6(address) else socket.AF_INET, socket.SOCK_DGRAM)
    made.setblocking(False)
    try:
        made.connect((address, receiver.port))
    except OSError as error:
        made.close()
        raise Broken(f"{receiver.host}: {error}") from error
    return made
