"""The controller as it is reached from here: settings, port, readiness, token, clock, and this machine's agent."""

from __future__ import annotations

import errno
import socket
import time
from pathlib import Path
from typing import Literal

import httpx
import msgspec
from msgspec import Struct

from quell.client import Client
from quell.client.session import trust
from quell.configuration import load_configuration
from quell.doctor.finding import Case, Found, Role, missing, ok, warning
from quell.errors import ApiError, SettingError, Unreachable

_TIMEOUT = 1.5
#: Seconds; the default of safety.clock_skew.
_SKEW = 5.0

_UNSEEN = "cannot be known: no controller answers"


class _Alive(Struct):
    status: Literal["alive"]
    time: float


class _Check(Struct):
    name: str
    ok: bool
    detail: str = ""


class _Ready(Struct):
    status: Literal["ready", "not ready"]
    checks: list[_Check] = []


class _Enrolled(Struct):
    agent: str
    node: str


def settings(case: Case) -> Found:
    why = "A controller does not start with a setting that is wrong or unknown"
    try:
        load_configuration(case.config)
    except SettingError as error:
        return missing(" ".join(str(error).split()), f"{why}: correct the file or the variable.")
    return ok(str(case.config or "defaults and environment"), f"{why}.")


def port(case: Case) -> Found:
    why = "API, agents and page are served there"
    try:
        server = load_configuration(case.config).settings.server
    except SettingError:
        return warning("not known: the settings are wrong", f"{why}: correct the settings.")
    where = f"{server.host}:{server.port}"
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            line.bind((server.host, server.port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
        else:
            return ok(f"{where} is free", f"{why}.")
    if not taken:
        return missing(
            f"{where} cannot be listened on", f"{why}: choose another address or port (server.host, server.port)."
        )
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)  # noqa: S104 - to dial, not to bind
    dialled = f"[{host}]" if ":" in host else host
    own = case.state / "ca.crt"
    authority = case.ca_file or (own if own.is_file() else None)
    if any(_alive(f"{scheme}://{dialled}:{server.port}", authority) for scheme in ("http", "https")):
        return ok(f"a controller listens on {where}", f"{why}.")
    holder = _holder(server.port)
    by = f" by {holder}" if holder else ""
    return missing(f"{where} is taken{by}", f"{why}: end that program, or choose another port (server.port).")


def controller(case: Case) -> Found:
    why = "Agents, detectors and this command line speak to it"
    try:
        answer = httpx.get(f"{case.url}/readyz?verbose", timeout=_TIMEOUT, verify=trust(case.ca_file))
        told = msgspec.json.decode(answer.content, type=_Ready)
    except httpx.HTTPError as error:
        # A machine that is to be a controller may be looked at before its first start.
        verdict = missing if Role.AGENT in case.roles else warning
        return verdict(f"{case.url} does not answer: {error}", f"{why}: start it (`quell controller`), or give --url.")
    except msgspec.MsgspecError:
        return missing(f"what answers at {case.url} is no controller of Quell", f"{why}: give its address (--url).")
    wrong = [f"{check.name}: {check.detail}" for check in told.checks if not check.ok]
    if wrong:
        return missing(f"{case.url} is not ready: {'; '.join(wrong)}", f"{why}: its log says more.")
    return ok(f"{case.url} is ready", f"{why}.")


def token(case: Case) -> Found:
    why = "Commands other than this one need a token"
    if not case.token:
        return warning("none found", f"{why}: --token, QUELL_TOKEN, or --state with the controller's folder.")
    try:
        with Client(case.url, case.token.reveal(), timeout=_TIMEOUT, ca_file=case.ca_file) as client:
            version = client.version()
    except Unreachable:
        return warning(_UNSEEN, f"{why}.")
    except ApiError as error:
        if error.status == 403:
            return warning("valid, but it may not read (of role ingest?)", f"{why}; this one only sends events.")
        if error.status == 401:
            return missing("unknown, expired or withdrawn", f"{why}: make a new one with `quell tokens create`.")
        return warning(f"cannot be known: {error}", f"{why}.")
    return ok(f"valid, the controller is version {version}", f"{why}.")


def webhooks(case: Case) -> Found:
    why = "What rules tell a webhook endpoint waits until it takes it, and is given up in the end"
    if not case.token:
        return warning("cannot be known without a token", f"{why}: give --token.")
    try:
        with Client(case.url, case.token.reveal(), timeout=_TIMEOUT, ca_file=case.ca_file) as client:
            found = client.webhooks.all()
    except Unreachable:
        return warning(_UNSEEN, f"{why}.")
    except ApiError as error:
        return warning(f"cannot be known: {error}", f"{why}: give another --token.")
    failing = [f"{one.name} fails ({one.last_error})" for one in found if one.state == "failing"]
    letters = sum(one.dead_letters for one in found)
    given_up = [f"{letters} deliveries were given up"] if letters else []
    if failing or given_up:
        return warning("; ".join(failing + given_up), f"{why}: `quell webhooks status`, test and replay.")
    disabled = sum(one.state == "disabled" for one in found)
    told = f", {disabled} of them disabled" if disabled else ""
    return ok(f"{len(found)} endpoints{told}, none of them failing", f"{why}.")


def skew(case: Case) -> Found:
    why = f"Events that seem to come from more than {_SKEW:g} s ahead, or from long ago, kill nothing"
    before = time.time()
    alive = _alive(case.url, case.ca_file)
    after = time.time()
    if alive is None:
        return warning(_UNSEEN, f"{why}.")
    # It looked at its clock at some moment between the two.
    apart = max(before - alive.time, alive.time - after, 0.0)
    told = f"{apart:.2f} s between the controller's clock and this one"
    if apart > _SKEW:
        return missing(told, f"{why}: synchronise both by NTP.")
    if apart > _SKEW / 5:
        return warning(told, f"{why}: synchronise both by NTP.")
    return ok(told, f"{why}.")


def link(case: Case) -> Found:
    why = "What rules decide for this machine is done by its agent"
    try:
        mine = msgspec.json.decode((case.agent_state / "agent.json").read_bytes(), type=_Enrolled)
    except FileNotFoundError:
        return warning(
            f"no agent has enrolled from {case.agent_state}", f"{why}: `quell agents join-token`, then `quell agent`."
        )
    except (OSError, msgspec.MsgspecError) as error:
        return warning(f"{case.agent_state / 'agent.json'} cannot be read: {error}", f"{why}: run this as its owner.")
    if not case.token:
        return warning(f"{mine.node} is enrolled; its link cannot be known without a token", f"{why}: give --token.")
    try:
        with Client(case.url, case.token.reveal(), timeout=_TIMEOUT, ca_file=case.ca_file) as client:
            known = {str(agent.get("id")): agent for agent in client.agents.all()}
    except Unreachable:
        return warning(f"{mine.node} is enrolled; its link {_UNSEEN}", f"{why}.")
    except ApiError as error:
        return warning(f"{mine.node} is enrolled; its link cannot be known: {error}", f"{why}: give another --token.")
    if mine.agent not in known:
        return missing(
            f"the controller at {case.url} does not know agent {mine.agent}",
            f"{why}: enrol it anew (remove {case.agent_state}), or give the address of its own controller.",
        )
    if not known[mine.agent].get("connected"):
        return missing(f"agent {mine.node} is enrolled and not linked", f"{why}: start it, and look at its log.")
    return ok(f"agent {mine.node} is linked", f"{why}.")


def _alive(url: str, ca_file: Path | None) -> _Alive | None:
    try:
        answer = httpx.get(f"{url}/healthz?verbose", timeout=_TIMEOUT, verify=trust(ca_file))
        return msgspec.json.decode(answer.content, type=_Alive)
    except (httpx.HTTPError, msgspec.MsgspecError):
        return None


def _holder(port: int) -> str:
    """Which process listens on a port, as "name (pid)"; "" if that cannot be seen."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            # 0A is LISTEN (net/tcp_states.h).
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            if any(str(file.readlink()) in inodes for file in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} ({process.name})"
        except OSError:
            continue  # it ended meanwhile, or is another user's
    return ""
