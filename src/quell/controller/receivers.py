"""One endpoint's HTTP: a request to an address that may be reached, and what its answer means for the delivery.

SEMANTICS section 7. The body is sent with httpcore, whose network can be given from outside: that is where addresses
are judged (quell.controller.addresses). No environment variable (proxy, .netrc, certificates) has a say.
"""

from __future__ import annotations

import asyncio
import email.utils
import ssl
import time
from collections.abc import Sequence
from enum import StrEnum
from urllib.parse import urlsplit

import httpcore
import httpx
from msgspec import Struct

import quell
from quell.controller import signatures
from quell.controller.addresses import EVERYWHERE, AddressRefused, CheckedNetwork, IPNetwork, permitted
from quell.controller.bodies import content_type
from quell.model.rule import Webhook

#: 307 and 308 repeat the request as it is; the others would turn it into a GET.
_FOLLOWED = (307, 308)
_HOPS = 3
_TRY_AGAIN = (408, 425, 429)
#: Bytes of an answer that are read, so that the connection can serve the next delivery.
_ANSWER_BYTES = 65_536
_OURS = frozenset({"host", "content-length", "transfer-encoding", "connection", "content-type", "user-agent"})


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


class Receiver:
    """Connections to one endpoint, as it is configured now."""

    def __init__(
        self, endpoint: Webhook, *, timeout: float, allowed: Sequence[IPNetwork] = (), proxy: str = ""
    ) -> None:
        """timeout: seconds for a whole attempt. allowed: networks open beside the usual ones. proxy: a URL, used if
        the endpoint says so.
        """
        self.endpoint = endpoint
        self._timeout = timeout
        self._allowed = EVERYWHERE if endpoint.allow_private else tuple(allowed)
        self._proxy = proxy if endpoint.use_proxy else ""
        self._pool: httpcore.AsyncConnectionPool | None = None
        self._key: bytes | None = None

    async def post(self, identifier: str, content: bytes, now: float) -> Answer:
        """One attempt. Never raises, except when cancelled. now: epoch seconds, signed."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout):
                answer = await self._exchange(identifier, content, now)
        except (_Impossible, AddressRefused, httpcore.UnsupportedProtocol, httpcore.LocalProtocolError) as error:
            answer = Answer(verdict=Verdict.NEVER, explanation=str(error))
        except (TimeoutError, httpcore.TimeoutException):
            answer = Answer(verdict=Verdict.AGAIN, explanation=f"no answer within {self._timeout:g} s")
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError) as error:
            answer = Answer(verdict=Verdict.AGAIN, explanation=f"{type(error).__name__}: {error}")
        return Answer(
            verdict=answer.verdict,
            status=answer.status,
            explanation=answer.explanation,
            retry_after=answer.retry_after,
            duration=time.monotonic() - started,
        )

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.aclose()
        self._pool = None

    async def _exchange(self, identifier: str, content: bytes, now: float) -> Answer:
        pool = await self._opened()
        url = _parsed(self.endpoint.url)
        own = {name: value for name, value in self.endpoint.headers.items() if name.lower() not in _OURS}
        headers = {
            "content-type": content_type(content),
            "user-agent": f"quell/{quell.__version__}",
            **signatures.headers(identifier, now, content, self._key),
        }
        for _ in range(_HOPS + 1):
            await self._judge(url)
            sent = {name: value for name, value in own.items() if name.lower() not in headers} | headers
            sent["host"] = url.netloc.decode("ascii")
            target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
            try:
                encoded = [(name.encode("ascii"), value.encode("latin-1")) for name, value in sent.items()]
            except UnicodeEncodeError as error:
                raise _Impossible(f"a header cannot be sent: {error.reason}") from error
            timeouts = dict.fromkeys(("connect", "read", "write", "pool"), self._timeout)
            async with pool.stream(
                "POST", target, headers=encoded, content=content, extensions={"timeout": timeouts}
            ) as response:
                answered = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
                await _drain(response)
            if response.status not in _FOLLOWED or "location" not in answered:
                return _judged(response.status, answered, now)
            try:
                there = _parsed(str(url.join(answered["location"])))
            except httpx.InvalidURL as error:
                raise _Impossible("redirected to something that is no address") from error
            if (there.scheme, there.host, there.port) != (url.scheme, url.host, url.port):
                own = {}  # what authorises at one host is not shown to another
            url = there
        raise _Impossible(f"redirected more than {_HOPS} times")

    async def _opened(self) -> httpcore.AsyncConnectionPool:
        if self._pool is None:
            secret = self.endpoint.secret
            try:
                self._key = signatures.secret_key(secret) if secret else None
                # Reading a system's certificates takes tens of milliseconds: not on the loop that kills depend on.
                context = await asyncio.to_thread(_context, self.endpoint)
            except ValueError as error:
                raise _Impossible(str(error)) from error
            except OSError as error:  # ssl.SSLError is one
                raise _Impossible(f"the CA file cannot be used: {error.strerror or error}") from error
            if self._proxy:
                self._pool = httpcore.AsyncHTTPProxy(
                    self._proxy, ssl_context=context, network_backend=CheckedNetwork(EVERYWHERE), max_connections=2
                )
            else:
                self._pool = httpcore.AsyncConnectionPool(
                    context, network_backend=CheckedNetwork(self._allowed), max_connections=2, keepalive_expiry=60.0
                )
        return self._pool

    async def _judge(self, url: httpx.URL) -> None:
        if url.scheme not in ("http", "https") or not url.host:
            raise _Impossible(f"expected an https address, got {url.scheme or 'none'}")
        if url.scheme == "http" and not self.endpoint.allow_http:
            raise _Impossible("http is not encrypted: use https, or set allow_http on the endpoint")
        if url.userinfo:
            raise _Impossible("a name and password in the address would be shown: put them in a header")
        if self._proxy:
            # The proxy connects; what this host can resolve is judged here, the rest is the proxy's to guard.
            try:
                await permitted(url.host, url.port or 443, allowed=self._allowed)
            except (OSError, UnicodeError):
                return


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


async def _drain(response: httpcore.Response) -> None:
    size = 0
    async for chunk in response.aiter_stream():
        size += len(chunk)
        if size > _ANSWER_BYTES:
            return


def _judged(status: int, headers: dict[str, str], now: float) -> Answer:
    explanation = f"HTTP {status}"
    if 200 <= status < 300:
        return Answer(verdict=Verdict.DELIVERED, status=status)
    if status in _TRY_AGAIN or status >= 500:
        wait = _retry_after(headers.get("retry-after", ""), now)
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
