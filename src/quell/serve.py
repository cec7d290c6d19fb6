"""The composition root: builds a controller with its API, and `quell up`, which adds an agent on the same machine."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import ipaddress
import os
import secrets
import signal
import sqlite3
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from pathlib import Path

import structlog
import uvicorn
import uvloop

from quell.api.accounts.first import first_login
from quell.api.app import create_app
from quell.configuration import SECRET_VARIABLES, Origin
from quell.console.console import Console
from quell.controller import certificates
from quell.controller.controller import Controller
from quell.controller.kubernetes.credentials import configured
from quell.controller.kubernetes.watch import KubernetesWatch
from quell.errors import QuellError
from quell.model.audit import QUELL, AuditEntry
from quell.settings import Server as ServerSettings
from quell.settings import Settings
from quell.storage import audit, join_tokens, tokens

#: Seconds a joining agent of `quell up` has.
_JOIN_TTL = 300.0
#: Seconds before an agent that ended is started again, doubled each time up to the last.
_RESTART, _RESTART_MAX = 0.5, 30.0

#: Seconds between two looks at whether the certificate is to be renewed, or was.
_LOOK_AT_CERTIFICATE = 3600.0

#: Allocations between two looks of the collector, and the looks before an older generation's turn. The default of 700
#: means a look every seven events.
_COLLECT = (20_000, 20, 20)

#: mallopt(3): a block up to this size comes from the heap, and this much of it is kept when it is free.
_M_TRIM_THRESHOLD, _TRIM_BYTES = -1, 128 << 20
_M_MMAP_THRESHOLD, _MMAP_BYTES = -3, 16 << 20

_log = structlog.get_logger(__name__)


class Running:
    """A controller that answers. url: of the API, with the port that was really taken."""

    def __init__(self, controller: Controller, url: str, first: str, authority: Path | None = None) -> None:
        """first: the path of the link of the first start; "": there are users. authority: whom to trust for https."""
        self.controller = controller
        self.url = url
        self.authority = authority
        self.first_link = f"{url}{first}" if first else ""


@contextlib.asynccontextmanager
async def serving(
    folder: Path, settings: Settings, origins: Mapping[str, Origin] | None = None
) -> AsyncIterator[Running]:
    """A controller with its API, for as long as the block lasts. StoreError, LinkError, OSError (port taken).

    origins: where settings that are no defaults come from (quell.configuration).
    """
    files = _certificates(folder, settings.server)
    credentials = configured(settings.kubernetes, os.environ)
    controller = Controller.open(folder, settings, origins, credentials)
    kubernetes = KubernetesWatch(settings.kubernetes, controller.take_sightings, credentials=credentials)
    try:
        await _first_tokens(controller)
        controller.start()
        kubernetes.start()
        app = create_app(controller)
        console = Console(app.services)
        app.show(console)
        first_link = await first_login(app.accounts, controller.store, os.environ)
        config = uvicorn.Config(
            app,
            host=settings.server.host,
            port=settings.server.port,
            http="httptools",
            ws="websockets-sansio",
            lifespan="off",
            access_log=False,
            proxy_headers=False,
            log_config=None,
            ws_max_size=1 << 20,
            ws_per_message_deflate=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=5,
        )
        config.load()
        if files is not None:
            config.ssl = certificates.context(files)
            app.trust(files.authority)
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup()
        keeping = asyncio.create_task(app.accounts.run())
        renewing = asyncio.create_task(_renew(folder, settings.server, config.ssl))
        try:
            port = server.servers[0].sockets[0].getsockname()[1]
            scheme = "http" if files is None else "https"
            url = f"{scheme}://{_host(settings.server.host)}:{port}"
            yield Running(controller, url, first_link, None if files is None else files.authority)
        finally:
            controller.stopping()
            console.close()
            await server.shutdown()
            keeping.cancel()
            renewing.cancel()
            await asyncio.gather(keeping, renewing, return_exceptions=True)
            app.accounts.close()
    finally:
        await kubernetes.stop()
        await controller.stop()


def run(
    folder: Path,
    settings: Settings,
    *,
    origins: Mapping[str, Origin] | None = None,
    agent: bool = False,
    agent_arguments: tuple[str, ...] = (),
    on_ready: Callable[[Running], None] = lambda _running: None,
) -> int:
    """Serve until SIGTERM or SIGINT; with `agent`, keep one running beside it. Returns the exit code."""
    gc.set_threshold(*_COLLECT)
    _keep_heap()
    return uvloop.run(_run(folder, settings, origins, agent, agent_arguments, on_ready))


async def _run(
    folder: Path,
    settings: Settings,
    origins: Mapping[str, Origin] | None,
    agent: bool,
    agent_arguments: tuple[str, ...],
    on_ready: Callable[[Running], None],
) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)
    async with serving(folder, settings, origins) as running:
        beside = asyncio.create_task(_keep_agent(running, folder / "agent", agent_arguments)) if agent else None
        on_ready(running)
        await stop.wait()
        if beside is not None:
            beside.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beside
    return 0


async def _keep_agent(running: Running, folder: Path, arguments: tuple[str, ...]) -> None:
    """Run an agent, and again when it ends. It goes down with this process's block."""
    pause = _RESTART
    while True:
        environment = {name: value for name, value in os.environ.items() if name not in SECRET_VARIABLES}
        if not (folder / "agent.json").exists():
            secret = await _join_token(running.controller)
            authority = running.authority
            environment["QUELL_JOIN_TOKEN"] = join_tokens.shown(
                secret, "" if authority is None else certificates.fingerprint(authority)
            )
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "quell.agent", "--url", running.url, "--state", str(folder)),
            *("--protect-pid", str(os.getpid()), *arguments),
            env=environment,
        )
        started = time.monotonic()
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            process.terminate()
            await process.wait()
            raise
        pause = _RESTART if time.monotonic() - started > _RESTART_MAX else min(pause * 2, _RESTART_MAX)
        _log.warning("the agent ended; it is started again", exit_code=code, seconds=pause)
        await asyncio.sleep(pause)


async def _join_token(controller: Controller) -> str:
    secret = tokens.new_secret()
    now = time.time()
    await asyncio.wrap_future(
        controller.store.submit(
            lambda connection: join_tokens.put(connection, secret, name="up", created=now, expires=now + _JOIN_TTL)
        )
    )
    return secret


def _certificates(folder: Path, server: ServerSettings) -> certificates.Files | None:
    """What to serve with; None: without TLS. SettingError, OSError."""
    if server.tls == "off" or (server.tls == "auto" and _is_loopback(server.host)):
        if not _is_loopback(server.host):
            _log.warning("served without TLS beyond this machine: server.tls is off", host=server.host)
        return None
    if server.certificate:
        return certificates.brought(server.certificate, server.certificate_key, server.authority)
    machine = os.uname().nodename
    told = (machine, "localhost", "127.0.0.1", "::1", *server.names)
    listening = () if server.host in ("0.0.0.0", "::") else (server.host,)  # noqa: S104 - compared, not bound
    return certificates.own(folder, tuple(dict.fromkeys((*told, *listening))), certificates.utc_now())


async def _renew(folder: Path, server: ServerSettings, serving_with: ssl.SSLContext | None) -> None:
    """What has been renewed, by Quell or by the operator, is served with from the next connection on."""
    while serving_with is not None:
        await asyncio.sleep(_LOOK_AT_CERTIFICATE)
        try:
            files = await asyncio.to_thread(_certificates, folder, server)
            if files is not None:
                certificates.load(serving_with, files)
        except (QuellError, OSError) as error:
            _log.error("the certificate could not be renewed; the one before is used", error=str(error))


async def _first_tokens(controller: Controller) -> None:
    """At the first start there is a token of each role that a new user needs, in files only the owner may read."""
    for role in ("admin", "ingest"):
        path = controller.folder / f"{role}.token"
        if path.exists():
            continue
        secret = tokens.new_secret()
        token = tokens.Token(name=f"first-{role}", role=role, created=time.time())
        await asyncio.wrap_future(controller.store.submit(partial(_put_first, secret=secret, token=token)))
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secret + "\n")
        fresh.replace(path)


def _put_first(connection: sqlite3.Connection, *, secret: str, token: tokens.Token) -> None:
    before = tokens.get(connection, token.name)
    tokens.put(connection, secret, token)
    verb = "create" if before is None else "replace"
    note = "its file was not there"
    audit.append(
        connection, AuditEntry(actor=QUELL, verb=verb, kind="token", name=token.name, note=note), token.created
    )


def _keep_heap() -> None:
    """Keep freed memory for the next request instead of giving it back: bodies of 100 KB and more else cost 20,000 page
    faults a second, a quarter of the throughput. Only glibc knows these two.
    """
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else {"0.0.0.0": "127.0.0.1"}.get(host, host)  # noqa: S104 - to dial, not to bind
