"""One endpoint's HTTP: a request to an address that may be reached, and what its answer means for the delivery.

SEMANTICS section 7. Addresses are judged where connections are made (quell.controller.connections). No environment
variable (proxy, .netrc, certificates) has a say.
"""

from __future__ import annotations

import asyncio
import email.utils
import socket
import ssl
import time
from collections.abc import Sequence
from enum import StrEnum
from urllib.parse import urlsplit

import h11
import httpx
from msgspec import Struct

import quell
from quell.controller import signatures
from quell.controller.addresses import EVERYWHERE, AddressRefused, IPNetwork, Resolver, permitted
from quell.controller.bodies import content_type
from quell.controller.connections import Closed, Connection, Header, Origin, Proxy, ProxyRefused, Response, connect
from quell.model.rule import Webhook

#: 307 and 308 repeat the request as it is; the others would turn it into a GET.
_FOLLOWED = (307, 308)
_HOPS = 3
_TRY_AGAIN = (408, 425, 429)
#: Connections that are kept open: the endpoint's, and those it redirects to.
_KEPT = 4
#: Seconds for looking up here what a proxy will look up: where only the proxy reaches a name server, nobody answers.
_GLANCE = 1.0
_OURS = frozenset({"host", "content-length", "transfer-encoding", "connection", "content-type", "user-agent"})
_PORTS = {"http": 80, "https": 443}


class Verdict(StrEnum):
    DELIVERED = "delivered"
    #: Trying again can help.
    AGAIN = "again"
    #: Trying again cannot help until a person changes something.
    NEVER = "never"


class Answer(Struct, frozen=True, kw_only=True):
    """What came of one attempt. No URL is in it: the paths of chat services are secrets."""

    verdict: Verdict
    #: HTTP status; None if there was no answer.
    status: int | None = None
    explanation: str = ""
    #: Seconds the receiver asks to wait.
    retry_after: float | None = None
    #: Seconds the attempt took.
    duration: float = 0.0


class _Impossible(Exception):
    """The request cannot be made as the endpoint is configured."""


class _NotNow(Exception):
    """It cannot be made as the controller is configured; nothing is given up for that."""


class Receiver:
    """Connections to one endpoint, as it is configured now."""

    def __init__(
        self, endpoint: Webhook, *, timeout: float, allowed: Sequence[IPNetwork] = (), proxy: Proxy | None = None
    ) -> None:
        """timeout: seconds for a whole attempt. allowed: networks open beside the usual ones. proxy: used if the endpoint
        says so.
        """
        self.endpoint = endpoint
        self._timeout = timeout
        self._allowed = EVERYWHERE if endpoint.allow_private else tuple(allowed)
        self._proxy = proxy
        self._resolver = Resolver()
        self._connections: dict[Origin, Connection] = {}
        #: The one whose answer's body is still to be read.
        self._answered: tuple[Origin, Connection] | None = None
        self._url: httpx.URL | None = None
        self._context: ssl.SSLContext | None = None
        self._key: bytes | None = None

    async def post(self, identifier: str, content: bytes, now: float) -> Answer:
        """One attempt. Never raises, except when cancelled. now: epoch seconds, signed."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout):
                answer = await self._exchange(identifier, content, now)
        except (_Impossible, AddressRefused, h11.LocalProtocolError) as error:
            answer = Answer(verdict=Verdict.NEVER, explanation=str(error))
        except TimeoutError:
            answer = Answer(verdict=Verdict.AGAIN, explanation=f"no answer within {self._timeout:g} s")
        except (_NotNow, OSError, h11.RemoteProtocolError, ProxyRefused, Closed) as error:
            if isinstance(error, ssl.SSLError):
                self._context = None  # the CA file may be another by the next attempt
            answer = Answer(verdict=Verdict.AGAIN, explanation=_told(error))
        answer = Answer(
            verdict=answer.verdict,
            status=answer.status,
            explanation=answer.explanation,
            retry_after=answer.retry_after,
            duration=time.monotonic() - started,
        )
        await self._finished()
        return answer

    async def close(self) -> None:
        connections = list(self._connections.values())
        if self._answered is not None:
            connections.append(self._answered[1])
        self._connections.clear()
        await asyncio.gather(*(connection.close() for connection in connections))

    async def _exchange(self, identifier: str, content: bytes, now: float) -> Answer:
        context = await self._prepared()
        url = self._url = self._url or _parsed(self.endpoint.url)
        own = {name: value for name, value in self.endpoint.headers.items() if name.lower() not in _OURS}
        signed = signatures.headers(identifier, now, content, self._key)
        told = ""
        for _ in range(_HOPS + 1):
            self._judge(url)
            sent = {
                "host": url.netloc.decode("ascii"),
                "content-type": content_type(content),
                "user-agent": f"quell/{quell.__version__}",
                **signed,
            }
            sent = {name: value for name, value in own.items() if name.lower() not in sent} | sent
            response = await self._sent(url, context, _encoded(sent), content)
            if response.status not in _FOLLOWED or "location" not in response.headers:
                return _judged(response, now, told)
            try:
                there = _parsed(str(url.join(response.headers["location"])))
            except httpx.InvalidURL as error:
                raise _Impossible("redirected to something that is no address") from error
            if _origin(there) != _origin(url) and not _only_encrypts(url, there):
                # What authorises at one host, or proves to it who sent this, is not shown to another.
                own, signed = {}, signatures.headers(identifier, now, content, None)
                told = "after a redirect to another host, which gets neither headers nor signature"
            url = there
            await self._finished()
        raise _Impossible(f"redirected more than {_HOPS} times")

    async def _sent(
        self, url: httpx.URL, context: ssl.SSLContext, headers: Sequence[Header], content: bytes
    ) -> Response:
        origin = _origin(url)
        connection = self._connections.pop(origin, None)
        if connection is not None and connection.ready:
            try:
                return await self._posted(origin, connection, url, headers, content)
            except (Closed, ConnectionError):
                pass  # it had been idle, and the receiver let go of it just now: that is no failure
        elif connection is not None:
            connection.abort()
        return await self._posted(origin, await self._connected(origin, context), url, headers, content)

    async def _posted(
        self, origin: Origin, connection: Connection, url: httpx.URL, headers: Sequence[Header], content: bytes
    ) -> Response:
        try:
            response = await connection.post(url, headers, content)
        except BaseException:
            connection.abort()
            raise
        self._answered = (origin, connection)
        return response

    async def _finished(self) -> None:
        """The connection that gave an answer is kept if it can give another. The attempt's time does not count here."""
        if self._answered is None:
            return
        (origin, connection), self._answered = self._answered, None
        await connection.finish()
        if not connection.ready:
            connection.abort()
            return
        self._connections[origin] = connection
        while len(self._connections) > _KEPT:
            self._connections.pop(next(iter(self._connections))).abort()

    async def _connected(self, origin: Origin, context: ssl.SSLContext) -> Connection:
        proxy = self._proxy if self.endpoint.use_proxy else None
        if proxy is not None:
            # The proxy connects; what this host can resolve is judged here, the rest is the proxy's to guard.
            try:
                async with asyncio.timeout(min(_GLANCE, self._timeout / 4)):
                    await permitted(origin.host, origin.port, allowed=self._allowed, resolver=self._resolver)
            except (OSError, UnicodeError):  # TimeoutError is one
                pass
        try:
            return await connect(
                origin,
                context,
                allowed=self._allowed,
                resolver=self._resolver,
                proxy=proxy,
                patience=self._timeout,
            )
        except UnicodeError as error:
            raise _Impossible(f"{origin.host} is no name of a host") from error

    async def _prepared(self) -> ssl.SSLContext:
        if self.endpoint.use_proxy and self._proxy is None:
            raise _NotNow("the endpoint is to be reached through a proxy, and none is set (webhooks.proxy)")
        if self._context is None:
            secret = self.endpoint.secret
            try:
                self._key = signatures.secret_key(secret) if secret else None
                # Reading a system's certificates takes tens of milliseconds: not on the loop that kills depend on.
                self._context = await asyncio.to_thread(_context, self.endpoint)
            except ValueError as error:
                raise _Impossible(str(error)) from error
            except OSError as error:  # ssl.SSLError is one
                raise _Impossible(f"the CA file cannot be used: {error.strerror or error}") from error
        return self._context

    def _judge(self, url: httpx.URL) -> None:
        if url.scheme not in ("http", "https") or not url.host:
            raise _Impossible(f"expected an https address, got {url.scheme or 'none'}")
        if url.scheme == "http" and not self.endpoint.allow_http:
            raise _Impossible("http is not encrypted: use https, or set allow_http on the endpoint")
        if url.userinfo:
            raise _Impossible("a name and password in the address would be shown: put them in a header")


def shown(url: str) -> str:
    """As much of an endpoint's URL as may be shown: no path, query or password."""
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.hostname or ''}" + (f":{parts.port}" if parts.port else "")
    except ValueError:
        return ""


def _parsed(url: str) -> httpx.URL:
    try:
        return httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise _Impossible("the endpoint's url is no address") from error


def _context(endpoint: Webhook) -> ssl.SSLContext:
    """With a CA file only that authority counts; without, the system's."""
    context = ssl.create_default_context(cafile=endpoint.ca_file)
    if not endpoint.verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _origin(url: httpx.URL) -> Origin:
    # raw_host: as it is looked up and as certificates have it, without brackets and in ASCII.
    return Origin(url.scheme, url.raw_host.decode("ascii"), url.port or _PORTS[url.scheme])


def _only_encrypts(url: httpx.URL, there: httpx.URL) -> bool:
    """The redirect leads from http to https at the same host, each on the port it has by itself."""
    return (url.scheme, there.scheme, url.host) == ("http", "https", there.host) and url.port is None is there.port


def _encoded(headers: dict[str, str]) -> list[Header]:
    try:
        return [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]
    except UnicodeEncodeError as error:
        raise _Impossible(f"a header cannot be sent: {error.reason}") from error


def _told(error: Exception) -> str:
    """For people, without an address's path."""
    match error:
        case socket.gaierror():
            return f"its name does not resolve: {error.strerror}"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {error.verify_message}"
        case ssl.SSLError():
            return f"TLS failed: {error.reason or error}"
        case h11.RemoteProtocolError():
            return f"what answers does not speak HTTP: {error}"
        case ConnectionRefusedError():
            return "the connection was refused"
        case ConnectionResetError():
            return "the connection was reset"
        case OSError():
            return error.strerror or str(error) or type(error).__name__
        case _:
            return str(error)


def _judged(response: Response, now: float, told: str) -> Answer:
    """told: what is to be said of how it was reached, "": nothing."""
    status = response.status
    explanation = f"HTTP {status}" + (f" {told}" if told else "")
    if 200 <= status < 300:
        return Answer(verdict=Verdict.DELIVERED, status=status, explanation=told)
    if status in _TRY_AGAIN or status >= 500:
        wait = _retry_after(response.headers.get("retry-after", ""), now)
        return Answer(verdict=Verdict.AGAIN, status=status, explanation=explanation, retry_after=wait)
    if 300 <= status < 400:
        explanation += ": this redirect is not followed, set the endpoint's url to where it leads"
    return Answer(verdict=Verdict.NEVER, status=status, explanation=explanation)


def _retry_after(text: str, now: float) -> float | None:
    """Seconds from RFC 9110's Retry-After, a count or a date; None for neither."""
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError):
        return None
