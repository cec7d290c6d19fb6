"""One HTTP/1.1 connection to a receiver, direct or through a proxy, kept open from one delivery to the next.

Deliveries to an endpoint go one after the other, so there is nothing to pool; what is left is a socket, h11's state
machine, and TLS. RFC 9112; CONNECT: RFC 9110, 9.3.6.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import h11
import httpx

from quell.controller.addresses import EVERYWHERE, IPNetwork, Resolver, permitted

#: Bytes of an answer that are read, so that the connection can serve the next delivery.
_ANSWER_BYTES = 65_536
#: Seconds that the rest of an answer may take once its status is known.
_REST = 1.0
_READ = 65_536

Header = tuple[bytes, bytes]


class Origin(NamedTuple):
    """Where a connection leads."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


class Proxy(NamedTuple):
    """An HTTP proxy. authorization: of a Proxy-Authorization header; empty: none."""

    origin: Origin
    authorization: bytes = b""

    @classmethod
    def of(cls, url: str) -> Proxy:
        """http:// or https://, with or without user and password. ValueError says what is wrong, and not the URL."""
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise ValueError("the proxy's URL is none") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected the URL of an HTTP proxy, such as http://proxy.example:3128")
        authorization = b""
        if parts.username is not None:
            known = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            authorization = b"Basic " + base64.b64encode(known)
        return cls(Origin(parts.scheme, parts.hostname, port), authorization)


class Response(NamedTuple):
    status: int
    #: Names in lower case.
    headers: dict[str, str]


class ProxyRefused(Exception):
    """The proxy answered CONNECT with something else than a tunnel."""


class Closed(Exception):
    """The other side closed the connection before it answered."""


class Connection:
    """An open connection; one request at a time."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, forward: Proxy | None = None
    ) -> None:
        """forward: the proxy at the other end, where requests are passed on by it as they are (http)."""
        self._reader = reader
        self._writer = writer
        self._forward = forward
        self._http = h11.Connection(h11.CLIENT)
        self._ready = True

    @property
    def ready(self) -> bool:
        """It can take a request, as far as this side knows."""
        return self._ready and not self._reader.at_eof() and not self._writer.is_closing()

    async def post(self, url: httpx.URL, headers: Sequence[Header], content: bytes) -> Response:
        """Raises Closed, OSError (ssl.SSLError is one), h11.RemoteProtocolError; h11.LocalProtocolError for headers that
        cannot be sent. headers: with Host. The answer's body is still to come: finish().
        """
        self._ready = False
        target = url.raw_path
        if self._forward is not None:
            target = url.raw_scheme + b"://" + url.netloc + target
            if self._forward.authorization:
                headers = [*headers, (b"proxy-authorization", self._forward.authorization)]
        length = (b"content-length", str(len(content)).encode())
        http = self._http
        sent = http.send(h11.Request(method=b"POST", target=target, headers=[*headers, length]))
        # In one write: a receiver that takes the parts of a request apart is not helped by two packets.
        self._writer.write(
            (sent or b"") + (http.send(h11.Data(data=content)) or b"") + (http.send(h11.EndOfMessage()) or b"")
        )
        response = await self._response()
        return Response(
            response.status_code,
            {name.decode("ascii").lower(): value.decode("latin-1") for name, value in response.headers},
        )

    async def finish(self) -> None:
        """Read what is left of the answer, so that the connection can serve another request.

        The status is known by now, and a body that is endless or broken does not take it back: nothing is raised.
        """
        with suppress(TimeoutError, OSError, h11.RemoteProtocolError, Closed):
            async with asyncio.timeout(_REST):
                self._ready = await self._drained()

    async def close(self) -> None:
        self.abort()
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_REST):
                await self._writer.wait_closed()

    def abort(self) -> None:
        """Lets go of the socket, whatever is on its way."""
        self._ready = False
        self._writer.transport.abort()

    async def _response(self) -> h11.Response:
        while True:
            event = await self._event()
            if isinstance(event, h11.Response):
                return event
            if not isinstance(event, h11.InformationalResponse):
                raise Closed("the connection was closed without an answer")

    async def _drained(self) -> bool:
        """Whether the answer was read to its end, and the connection may serve another request."""
        size = 0
        while True:
            event = await self._event()
            if isinstance(event, h11.Data):
                size += len(event.data)
                if size > _ANSWER_BYTES:
                    return False
            elif isinstance(event, h11.EndOfMessage):
                if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                    return False
                self._http.start_next_cycle()
                return True
            else:
                return False

    async def _event(self) -> object:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            data = await self._reader.read(_READ)
            if not data and self._http.their_state is h11.SEND_RESPONSE:
                raise Closed("the connection was closed without an answer")
            self._http.receive_data(data)


async def connect(
    origin: Origin,
    context: ssl.SSLContext,
    *,
    allowed: Sequence[IPNetwork],
    resolver: Resolver,
    proxy: Proxy | None,
    patience: float,
) -> Connection:
    """A connection to an address that may be reached, TLS and all. patience: seconds, shared among several addresses.

    context: for the receiver's TLS. Through a proxy it is the proxy that connects (quell.controller.receivers judges what
    it can before). Raises AddressRefused, OSError, UnicodeError, ProxyRefused, Closed, h11.RemoteProtocolError.
    """
    if proxy is None:
        reader, writer = await _opened(
            origin, context if origin.scheme == "https" else None, allowed=allowed, resolver=resolver, patience=patience
        )
        return Connection(reader, writer)
    # The proxy is the operator's: where it may lie is not judged, and its certificate is one that this machine trusts.
    own = await asyncio.to_thread(ssl.create_default_context) if proxy.origin.scheme == "https" else None
    reader, writer = await _opened(proxy.origin, own, allowed=EVERYWHERE, resolver=resolver, patience=patience)
    if origin.scheme == "http":
        return Connection(reader, writer, forward=proxy)
    try:
        await _tunnel(reader, writer, origin, proxy)
        await writer.start_tls(context, server_hostname=origin.host)
    except BaseException:
        writer.transport.abort()
        raise
    return Connection(reader, writer)


async def _opened(
    origin: Origin,
    context: ssl.SSLContext | None,
    *,
    allowed: Sequence[IPNetwork],
    resolver: Resolver,
    patience: float,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """To the first address that takes it; one that swallows packets costs its share of the time, not all of it."""
    loop = asyncio.get_running_loop()
    end = loop.time() + patience
    addresses = await permitted(origin.host, origin.port, allowed=allowed, resolver=resolver)
    name = origin.host if context is not None else None
    for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
        try:
            async with asyncio.timeout((end - loop.time()) / left):
                return await asyncio.open_connection(address, origin.port, ssl=context, server_hostname=name)
        except ssl.SSLError:
            raise  # it is there, and is not who it should be
        except OSError:  # TimeoutError is one
            if left == 1:
                raise
    raise AssertionError("permitted() gives at least one address")


async def _tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, origin: Origin, proxy: Proxy) -> None:
    authority = origin.authority.encode("ascii")
    headers = [(b"host", authority)]
    if proxy.authorization:
        headers.append((b"proxy-authorization", proxy.authorization))
    http = h11.Connection(h11.CLIENT)
    request = h11.Request(method=b"CONNECT", target=authority, headers=headers)
    writer.write((http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
    while True:
        event = http.next_event()
        if isinstance(event, h11.Response):
            break
        if event is h11.NEED_DATA:
            data = await reader.read(_READ)
            if not data:
                raise Closed("the proxy closed the connection")
            http.receive_data(data)
        elif not isinstance(event, h11.InformationalResponse):
            raise Closed("the proxy closed the connection")
    if not 200 <= event.status_code < 300:
        raise ProxyRefused(f"the proxy answered HTTP {event.status_code}")
