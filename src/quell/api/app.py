"""One ASGI application: ingest and the agents' link bare, the console's pages, and REST through Litestar. DESIGN, server.

Who is asking is settled here, before anything is looked up, so a path that nobody thought of is closed; what the caller
may do is said by each route (quell.api.roles).
"""

from __future__ import annotations

import time
from pathlib import Path

from quell.api.accounts import Accounts
from quell.api.accounts.watch import watched
from quell.api.asgi import Pages, Receive, Scope, Send, respond
from quell.api.health import Health
from quell.api.idempotency import Idempotency
from quell.api.ingest import ROUTES, Ingest
from quell.api.limits import RateLimit
from quell.api.link import AgentLinks
from quell.api.metrics import Metrics
from quell.api.observing import PATH as OBSERVATIONS
from quell.api.observing import Observing
from quell.api.problem import Refusal, refusal
from quell.api.rest import SCHEMA_PATH, rest
from quell.api.roles import Permission
from quell.api.routes import sessions
from quell.api.search import Searching
from quell.api.services import Services
from quell.channel.messages import JOIN_PATH, LINK_PATH, Pause, Welcome
from quell.controller.certificates import fingerprint
from quell.controller.controller import Controller
from quell.controller.key_rotation import statements
from quell.controller.overview import Overviews
from quell.durations import parse_duration
from quell.errors import QuellError

#: Needs no token: its body holds the proof.
_OPEN = frozenset((("POST", JOIN_PATH), ("POST", sessions.PATH)))
#: Close code of a WebSocket to a path that has none (RFC 6455: policy).
_NO_SUCH = 1008


class App:
    """The ASGI application of a controller. accounts: for whoever starts it."""

    def __init__(self, controller: Controller) -> None:
        self.accounts = Accounts(controller, controller.settings.accounts, oidc=controller.settings.oidc)
        self.auth = self.accounts.auth
        own = controller.settings.own_events
        succession = controller.store.read(statements)
        self.links = AgentLinks(
            controller,
            clock=time.time,
            welcome=lambda: Welcome(
                paused=controller.settings.safety.paused,
                keys=succession,
                memory_threshold=own.memory_threshold,
                memory_pause=parse_duration(own.memory_pause),
                observe=controller.guardian.wanted,
            ),
        )
        controller.guardian.subscribe(self.links.tell)
        controller.live.subscribe(lambda settings: self.links.tell(Pause(paused=settings.safety.paused)))
        self._ingest = Ingest(controller, self.auth, controller.settings.ingest)
        self._observing = Observing(controller, self.auth, controller.settings.ingest)
        self._health = Health(controller)
        self._metrics = Metrics(controller, self.links)
        server = controller.settings.server
        self.services = Services(
            controller=controller,
            auth=self.auth,
            accounts=self.accounts,
            links=self.links,
            searching=Searching(controller),
            overviews=Overviews(controller, time.time),
            limit=RateLimit(server.rate_limit, server.rate_burst),
        )
        self._rest = rest(self.services)
        self._pages: Pages | None = None
        self._authority = b""
        # Litestar has names of its own for the same types.
        self._once = Idempotency(self._rest, controller.store)  # type: ignore[arg-type]

    def show(self, pages: Pages) -> None:
        """What answers people; without it there is the API only."""
        self._pages = pages

    def trust(self, authority: Path | None) -> None:
        """Agents are told to trust this authority. SettingError: it is no certificate."""
        if authority is not None:
            self._authority = authority.read_bytes()
            self.links.fingerprint = fingerprint(authority)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            if scope["method"] == "POST" and scope["path"] in ROUTES:
                await self._ingest(scope, receive, send)
            elif scope["method"] == "POST" and scope["path"] == OBSERVATIONS:
                await self._observing(scope, receive, send)
            else:
                await self._http(scope, receive, send)
        elif kind == "websocket":
            await self._websocket(scope, receive, send)
        elif kind == "lifespan":
            await _lifespan(receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if self._pages is not None and self._pages.answers(path):
            await self._pages(scope, receive, send)
            return
        try:
            match path:
                case "/healthz":
                    await self._health.alive(scope, send)
                case "/v1/ca.pem" if self._authority:
                    # Public, and proved to an agent by the fingerprint in its join token.
                    await respond(send, 200, self._authority, [(b"content-type", b"application/x-pem-file")])
                case "/readyz":
                    await self._health.ready(scope, send)
                case "/metrics":
                    self.auth.require(scope, Permission.READ)
                    await self._metrics(scope, send)
                case _ if path.startswith(SCHEMA_PATH):
                    raise Refusal(404, f"there is nothing at {path}; the API's description is at /v1/openapi.json")
                case _:
                    send = watched(scope, send, self.accounts.told)
                    if (scope["method"], path) not in _OPEN:
                        caller = scope.setdefault("state", {})["caller"] = self.auth.identify(scope)
                        caller.need(Permission.READ)
                        self.services.limit.take(str(caller.actor))
                    await self._once(scope, receive, send)
        except QuellError as error:
            await refusal(error).send(send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == LINK_PATH:
            await self.links(scope, receive, send)
            return
        await receive()
        await send({"type": "websocket.close", "code": _NO_SUCH, "reason": f"the agents' link is at {LINK_PATH}"})


def create_app(controller: Controller) -> App:
    """The application that serves this controller."""
    return App(controller)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
