"""One kind of object, listed and then watched, for as long as its task runs. Kubernetes API concepts: "Efficient
detection of changes", "Retrieving large results sets in chunks".
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Generic, Protocol, TypeVar

import httpx
import msgspec
import structlog
from msgspec import Struct

from quell.controller.kubernetes.answers import STATUS, Refused, refused
from quell.controller.kubernetes.credentials import Access, Credentials, CredentialsError
from quell.controller.kubernetes.objects import Metadata, Namespace, Node, Pod, Service
from quell.model.sighting import Gone, Sighting

#: Objects of a page: 250 pods hold the event loop for about 5 ms.
PAGE = 250
#: A watch that ends sooner and has brought nothing counts as a failure.
_SHORT = 1.0
#: Times in a row that the API may have forgotten the version of the list just taken, before that is a fault.
_EXPIRE = 3

_log = structlog.get_logger(__name__)


class Pace(Struct, frozen=True, kw_only=True):
    """Seconds between attempts, spread at random so that many controllers do not come at once."""

    #: After the first failure, doubled each time up to the longest.
    first: float = 0.5
    longest: float = 30.0
    #: After a permission was refused.
    denied: float = 60.0
    #: How long the API is asked to keep one watch open.
    watch: float = 300.0


class Object(Protocol):
    @property
    def metadata(self) -> Metadata: ...

    def key(self) -> str: ...

    def seen(self) -> Sighting: ...


T = TypeVar("T", bound=Object)


class _ListMetadata(Struct, frozen=True, rename="camel"):
    resource_version: str = ""
    # The word is Python's, so the field has another name.
    rest: str | None = msgspec.field(default=None, name="continue")


class _Page(Struct, Generic[T], frozen=True):
    metadata: _ListMetadata
    items: list[T] | None


class _Bookmark(Struct, frozen=True):
    metadata: Metadata


class _Event(Struct, frozen=True):
    type: str
    object: msgspec.Raw


class Kind(Generic[T]):
    """A kind to watch. resource: as in the API's paths; tag: of its sightings."""

    def __init__(self, resource: str, tag: str, form: type[T]) -> None:
        self.resource = resource
        self.tag = tag
        self.path = f"/api/v1/{resource}"
        # Subscripting with a value is what makes the decoder; no type checker follows that.
        self.page: msgspec.json.Decoder[_Page[T]] = msgspec.json.Decoder(_Page[form])  # type: ignore[valid-type]
        self.object: msgspec.json.Decoder[T] = msgspec.json.Decoder(form)


KINDS: tuple[Kind[Any], ...] = (
    Kind("nodes", "node", Node),
    Kind("namespaces", "namespace", Namespace),
    Kind("pods", "pod", Pod),
    Kind("services", "service", Service),
)

_EVENT = msgspec.json.Decoder(_Event)
_BOOKMARK = msgspec.json.Decoder(_Bookmark)


class _Fault(Exception):
    """What should not happen."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"an error of Quell's own: {error!r}")


class Told(Struct, frozen=True, kw_only=True):
    """What an answer said. complete: of this kind there is nothing else."""

    access: Access
    kind: Kind[Any]
    seen: tuple[Sighting, ...] = ()
    gone: tuple[Gone, ...] = ()
    complete: bool = False


class KindStatus(Struct, kw_only=True):
    """How it goes with one kind."""

    resource: str
    #: The last attempt brought an answer that was of use.
    connected: bool = False
    #: What went wrong since; "" while connected.
    problem: str = ""
    #: Epoch seconds of the last answer of use.
    last_contact: float | None = None
    lists: int = 0
    events: int = 0
    #: Times the API no longer had what happened since, so that all was listed again.
    expired: int = 0
    failures: int = 0


class Reflector(Generic[T]):
    def __init__(
        self,
        kind: Kind[T],
        credentials: Credentials,
        take: Callable[[Told], None],
        *,
        pace: Pace,
        page: int,
        clock: Callable[[], float],
    ) -> None:
        """page: objects of one request. clock: epoch seconds."""
        self._kind = kind
        self._credentials = credentials
        self._take = take
        self._pace = pace
        self._page = page
        self._clock = clock
        #: Where to watch on from; "": list first.
        self._version = ""
        #: Failures since the API last brought something.
        self._failures = 0
        self.status = KindStatus(resource=kind.resource)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            access = None
            try:
                access = await self._credentials.current()
                async with access.client() as client:
                    while True:
                        if not self._version:
                            await self._list(client, access)
                        await self._watch(client, access)
            except Refused as error:
                if error.status.code == 401 and access is not None:
                    self._credentials.refused(access)
                await self._pause(error)
            except (CredentialsError, httpx.HTTPError, httpx.InvalidURL, msgspec.MsgspecError, OSError) as error:
                await self._pause(error)
            except Exception as error:  # noqa: BLE001 - told as a fault; it must not end the watch for good
                _log.exception("an error of the Kubernetes watch's own", resource=self._kind.resource)
                await self._pause(_Fault(error))

    async def _list(self, client: httpx.AsyncClient, access: Access) -> None:
        seen: list[Sighting] = []
        parameters = {"limit": str(self._page)}
        while True:
            request = client.build_request("GET", self._kind.path, params=parameters, extensions=access.extensions())
            response = await client.send(request)
            if response.status_code != 200:
                raise refused("list", self._kind.resource, response, relist=True)
            page = self._kind.page.decode(response.content)
            seen.extend(one.seen() for one in page.items or ())
            self._in_contact()
            if not page.metadata.rest:
                break
            parameters["continue"] = page.metadata.rest
        self.status.lists += 1
        self._version = page.metadata.resource_version
        self._take(Told(access=access, kind=self._kind, seen=tuple(seen), complete=True))

    async def _watch(self, client: httpx.AsyncClient, access: Access) -> None:
        """One request, until the API ends it. What it brings is handed over as it comes."""
        seconds = max(1, round(self._pace.watch * random.uniform(0.8, 1.0)))  # noqa: S311 - spreads load
        parameters = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(seconds),
        }
        request = client.build_request(
            "GET",
            self._kind.path,
            params=parameters,
            extensions=access.extensions(),
            timeout=httpx.Timeout(seconds + 30.0, connect=10.0),
        )
        began = time.monotonic()
        brought = False
        response = await client.send(request, stream=True)
        try:
            if response.status_code != 200:
                await response.aread()
                relist = response.status_code not in (401, 429, 503)
                raise refused("watch", self._kind.resource, response, relist=relist)
            self._in_contact()
            async for lines in _lines(response):
                brought = True
                self._failures = 0
                self._in_contact()
                self._handle(lines, access)
        finally:
            await response.aclose()
        if not brought and time.monotonic() - began < min(_SHORT, seconds):
            raise httpx.RemoteProtocolError("the API ends each watch at once", request=request)
        self._failures = 0

    def _handle(self, lines: Iterable[bytes], access: Access) -> None:
        """Events in the order in which they came; of each object only the last one counts. Refused for an ERROR."""
        last: dict[str, Sighting | Gone] = {}
        try:
            for line in lines:
                event = _EVENT.decode(line)
                if event.type == "BOOKMARK":
                    self._version = _BOOKMARK.decode(event.object).metadata.resource_version
                    continue
                if event.type == "ERROR":
                    raise Refused("watch", self._kind.resource, STATUS.decode(event.object), relist=True)
                thing = self._kind.object.decode(event.object)
                key = thing.key()
                last[key] = Gone(kind=self._kind.tag, key=key) if event.type == "DELETED" else thing.seen()
                self._version = thing.metadata.resource_version
                self.status.events += 1
        finally:
            if last:
                self._take(
                    Told(
                        access=access,
                        kind=self._kind,
                        seen=tuple(one for one in last.values() if not isinstance(one, Gone)),
                        gone=tuple(one for one in last.values() if isinstance(one, Gone)),
                    )
                )

    def _in_contact(self) -> None:
        if self.status.problem:
            _log.info("the Kubernetes API answers again", resource=self._kind.resource)
        self.status.connected, self.status.problem = True, ""
        self.status.last_contact = self._clock()

    async def _pause(self, error: Exception) -> None:
        """Note what went wrong, and wait as long as it calls for."""
        self._failures += 1
        pause = min(self._pace.longest, self._pace.first * 2.0 ** min(self._failures - 1, 16))
        least = 0.0
        problem = str(error) or type(error).__name__
        if isinstance(error, Refused):
            if error.relist:
                self._version = ""
            if error.status.code == 410:
                self.status.expired += 1
                if self._failures <= _EXPIRE:
                    await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load
                    return
            if error.status.code == 403:
                pause = self._pace.denied
                problem = (
                    f"permission to {error.verb} {self._kind.resource}: the role needs list and watch on "
                    f"{self._kind.resource} ({error.status.message})"
                )
            least = error.retry_after or 0.0
        elif isinstance(error, msgspec.MsgspecError):
            self._version = ""
            problem = f"{self._kind.resource}: an answer that is not of the form of the Kubernetes API: {error}"
        elif isinstance(error, _Fault):
            self._version = ""
            problem = f"{self._kind.resource}: {error}"
        elif not isinstance(error, CredentialsError):
            problem = f"{self._kind.resource}: no answer from the API: {type(error).__name__}: {error}"
        self.status.failures += 1
        if problem != self.status.problem:
            _log.warning("the Kubernetes watch misses something", missing=problem, seconds=pause)
        self.status.connected, self.status.problem = False, problem
        await asyncio.sleep(max(least, pause * random.uniform(0.5, 1.0)))  # noqa: S311 - spreads load


async def _lines(response: httpx.Response) -> AsyncIterator[list[bytes]]:
    """The whole lines of each piece that arrives. What is left when the connection ends was cut short and is dropped."""
    rest = b""
    async for piece in response.aiter_raw():
        head, end, tail = piece.rpartition(b"\n")
        if not end:
            rest += piece
            continue
        lines = (rest + head).split(b"\n")
        rest = tail
        yield [line for line in lines if line]
