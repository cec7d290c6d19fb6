"""TCP and TLS: messages in one stream, with an eye on what the receiver's side has confirmed. RFC 5425, RFC 6587.

Syslog has no answers, so that the nearest thing to a receipt is the kernel's count of bytes that the other side has not
acknowledged. That is why sockets are handled here and not through a transport, whose buffer nobody could look into.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import ssl
import struct
import termios
from collections.abc import Sequence

from quell.controller.syslog.wire import Access, Broken, Ended, Stalled, addresses, is_ipv6
from quell.model.syslog import Syslog, Transport

#: Bytes handed to the kernel at once; each such piece has the timeout to be taken.
_PIECE = 64 << 10
#: Bytes that the kernel may hold: enough for a fast receiver far away, little to send again.
_SEND_BUFFER = 256 << 10
_READ = 16 << 10
#: Seconds without traffic after which the other side is asked whether it is there, between two such questions, and how
#: many may stay unanswered.
_KEEP_IDLE, _KEEP_EVERY, _KEEP_COUNT = 30, 10, 3

#: Where struct tcp_info says how many milliseconds ago the last acknowledgement came.
_LAST_ACK = 56


class Stream:
    def __init__(self, connected: socket.socket, tls: _Tls | None, timeout: float, ended: Ended) -> None:
        self._socket = connected
        self._tls = tls
        self._timeout = timeout
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self.failure: Broken | None = None
        self.complaint = ""
        self._watching = asyncio.create_task(self._watch())

    @classmethod
    async def open(cls, receiver: Syslog, access: Access, ended: Ended) -> Stream:
        """Broken: no address took the connection, or its certificate does not prove it to be the receiver."""
        try:
            async with asyncio.timeout(access.timeout):
                return await cls._open(receiver, access, ended)
        except TimeoutError as error:
            raise Broken(f"no connection to {receiver.host}:{receiver.port} within {access.timeout:g} s") from error

    @classmethod
    async def _open(cls, receiver: Syslog, access: Access, ended: Ended) -> Stream:
        context = await asyncio.to_thread(_context, receiver) if receiver.transport is Transport.TLS else None
        failures: list[str] = []
        for address in await addresses(receiver, access):
            connected = _socket(address, access.timeout)
            try:
                await asyncio.get_running_loop().sock_connect(connected, (address, receiver.port))
                tls = None if context is None else _Tls(context, receiver.host)
                if tls is not None:
                    await tls.shake_hands(connected)
            except (OSError, Broken) as error:
                connected.close()
                failures.append(f"{address}: {_said(error)}")
            except BaseException:
                connected.close()
                raise
            else:
                return cls(connected, tls, access.timeout, ended)
        raise Broken("; ".join(failures))

    async def send(self, frames: Sequence[bytes]) -> int:
        data = b"".join(frames)
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            if self.failure is not None:
                raise self.failure
            try:
                async with asyncio.timeout(self._timeout):
                    await self._loop.sock_sendall(self._socket, piece if self._tls is None else self._tls.sealed(piece))
            except TimeoutError as error:
                raise self._silent(f"the receiver took nothing for {self._timeout:g} s") from error
            except OSError as error:
                raise self.failure or Broken(_said(error)) from error
        return len(data)

    def in_flight(self) -> int:
        """With TLS those of its records, which are never fewer than what is in them."""
        count = bytearray(4)
        try:
            fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, count)
        except (OSError, ValueError):
            return 1 << 62
        return int(struct.unpack("i", count)[0])

    async def close(self) -> None:
        self._watching.cancel()
        await asyncio.gather(self._watching, return_exceptions=True)
        if self.failure is None:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(1.0):
                    if self._tls is not None:
                        await self._loop.sock_sendall(self._socket, self._tls.farewell())
                self._socket.shutdown(socket.SHUT_WR)
        self._socket.close()

    def _silent(self, said: str) -> Broken:
        """Stalled if the other side's kernel still answers: then it is the receiver that does not read."""
        try:
            told = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_ACK + 4)
        except OSError:
            return Broken(said)
        (milliseconds,) = struct.unpack_from("I", told, _LAST_ACK)
        return (Stalled if milliseconds < self._timeout * 900 else Broken)(said)

    async def _watch(self) -> None:
        """Receivers say nothing; what comes is the end, or TLS's own affairs."""
        try:
            while data := await self._loop.sock_recv(self._socket, _READ):
                if self._tls is not None and not self._tls.take(data):
                    break
            self.failure = Broken("the receiver closed the connection")
        except TimeoutError:
            self.failure = self._silent("what was sent was not acknowledged in time")
        except OSError as error:
            self.failure = Broken(_said(error))
        # A send that waits for room would wait for ever.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._ended()


class _Tls:
    """TLS between two buffers."""

    def __init__(self, context: ssl.SSLContext, name: str) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)

    async def shake_hands(self, connected: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            finished = True
            try:
                self._object.do_handshake()
            except ssl.SSLWantReadError:
                finished = False
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    await loop.sock_sendall(connected, self._outgoing.read())
                raise
            await loop.sock_sendall(connected, self._outgoing.read())
            if finished:
                return
            data = await loop.sock_recv(connected, _READ)
            if not data:
                raise Broken("the receiver closed the connection during the TLS handshake")
            self._incoming.write(data)

    def sealed(self, data: bytes) -> bytes:
        self._object.write(data)
        return self._outgoing.read()

    def take(self, data: bytes) -> bool:
        """False: the other side has said that it is done. ssl.SSLError."""
        self._incoming.write(data)
        try:
            while self._object.read(_READ):
                pass
        except ssl.SSLWantReadError:
            return True
        except ssl.SSLZeroReturnError:
            return False
        return False

    def farewell(self) -> bytes:
        with contextlib.suppress(ssl.SSLError):
            self._object.unwrap()
        return self._outgoing.read()


def _socket(address: str, timeout: float) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if is_ipv6(address) else socket.AF_INET, socket.SOCK_STREAM)
    made.setblocking(False)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEP_IDLE)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEP_EVERY)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEP_COUNT)
    # A machine that has gone away would else be waited for a quarter of an hour.
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(max(timeout, 30.0) * 1000))
    return made


def _context(receiver: Syslog) -> ssl.SSLContext:
    """Reads the files of certificates. Broken."""
    try:
        context = ssl.create_default_context(cafile=receiver.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise Broken(f"CA file {receiver.ca_file}: {_said(error)}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not receiver.verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if receiver.client_cert_file:
        try:
            context.load_cert_chain(receiver.client_cert_file, receiver.client_key_file, password=_no_password)
        except (OSError, ssl.SSLError, ValueError) as error:
            files = ", ".join(filter(None, (receiver.client_cert_file, receiver.client_key_file)))
            raise Broken(f"client certificate {files}: {_said(error)}") from error
    return context


def _no_password() -> str:
    """Else a key with a password would ask the terminal."""
    return ""


def _said(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error.strerror}"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__
