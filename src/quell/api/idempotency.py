"""Idempotency-Key: a POST that is sent again under the same key is answered as it was, and nothing is done twice.

draft-ietf-httpapi-idempotency-key-header. A key belongs to its caller and is good for a day. An answer that shows a
secret is remembered in memory only and for a short time: no secret is ever on disk.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from quell.api.asgi import Message, Receive, Scope, Send, header
from quell.api.auth import Caller
from quell.api.problem import Refusal
from quell.clock import Clock
from quell.storage import idempotency
from quell.storage.idempotency import Answered
from quell.storage.store import Store

HEADER = b"idempotency-key"
_MAX_KEY = 255
_MAX_BODY = 32 << 20
#: Seconds and answers kept in memory, where they show a secret.
_SECRET_SECONDS, _SECRETS = 600.0, 1000

App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Idempotency:
    """Around an ASGI application whose scope's state has the caller."""

    def __init__(self, app: App, store: Store, clock: Clock = time.time) -> None:
        self._app = app
        self._store = store
        self._clock = clock
        #: What is being done at the moment.
        self._running: set[tuple[str, str]] = set()
        self._secret: OrderedDict[tuple[str, str], tuple[float, Answered]] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refusal 400 for a key that is none, 409 while the first is being done, 422 for another request under it."""
        key = header(scope, HEADER) if scope["method"] == "POST" else None
        caller = scope.get("state", {}).get("caller")
        if key is None or caller is None:
            await self._app(scope, receive, send)
            return
        await self._once((_owner(caller), _checked(key)), scope, receive, send)

    async def _once(self, key: tuple[str, str], scope: Scope, receive: Receive, send: Send) -> None:
        if key in self._running:
            raise Refusal(409, "a request under this Idempotency-Key is being carried out", retry_after=1.0)
        self._running.add(key)
        try:
            body = await _read(receive)
            request = _digest(scope, body)
            known = await self._known(key)
            if known is None:
                answered, is_secret = await self._done(scope, body, receive, request)
                # Kept before it is sent: whoever has the answer finds it again.
                await self._keep(key, answered, is_secret=is_secret)
                await _send(answered, send)
            elif known.request != request:
                raise Refusal(
                    422, "this Idempotency-Key was used for another request; take a new one for a new request"
                )
            else:
                await _send(known, send, replayed=True)
        finally:
            self._running.discard(key)

    async def _known(self, key: tuple[str, str]) -> Answered | None:
        kept = self._secret.get(key)
        if kept is not None:
            return kept[1] if kept[0] > self._clock() else None
        now = self._clock()
        return await asyncio.to_thread(self._store.read, lambda connection: idempotency.find(connection, *key, now))

    async def _done(self, scope: Scope, body: bytes, receive: Receive, request: bytes) -> tuple[Answered, bool]:
        status = 500
        headers: list[tuple[bytes, bytes]] = []
        parts: list[bytes] = []
        given = False

        async def again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def noted(message: Message) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status, headers = message["status"], list(message["headers"])
            elif message["type"] == "http.response.body":
                parts.append(message.get("body", b""))

        await self._app(scope, again, noted)
        handler = scope.get("route_handler")
        is_secret = handler is not None and bool(handler.opt.get("secret"))
        return Answered(request=request, status=status, headers=headers, body=b"".join(parts)), is_secret

    async def _keep(self, key: tuple[str, str], answered: Answered, *, is_secret: bool) -> None:
        """What failed for a passing reason may be tried again under the same key."""
        if answered.status >= 500 or answered.status in (401, 403, 408, 409, 412, 429):
            return
        now = self._clock()
        if is_secret:
            self._secret[key] = (now + _SECRET_SECONDS, answered)
            while len(self._secret) > _SECRETS:
                self._secret.popitem(last=False)
            return
        await asyncio.wrap_future(
            self._store.submit(lambda connection: idempotency.put(connection, *key, answered, now))
        )


def _owner(caller: Caller) -> str:
    return str(caller.actor)


def _checked(key: bytes) -> str:
    text = key.decode("latin-1").strip()
    if not text or len(text) > _MAX_KEY or not text.isascii() or not text.isprintable():
        raise Refusal(400, f"Idempotency-Key: expected 1 to {_MAX_KEY} printable ASCII characters, such as a UUID")
    return text


def _digest(scope: Scope, body: bytes) -> bytes:
    asked = b"\0".join((scope["method"].encode(), scope["path"].encode(), scope["query_string"], body))
    return hashlib.sha256(asked).digest()


async def _read(receive: Receive) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Refusal(400, "the request ended before its body did")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > _MAX_BODY:
            raise Refusal(413, f"a body of more than {_MAX_BODY} bytes")
        if not message.get("more_body"):
            return b"".join(parts)


async def _send(answered: Answered, send: Send, *, replayed: bool = False) -> None:
    headers = [*answered.headers, (b"idempotency-replayed", b"true")] if replayed else answered.headers
    await send({"type": "http.response.start", "status": answered.status, "headers": headers})
    await send({"type": "http.response.body", "body": answered.body})
