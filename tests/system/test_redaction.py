"""Secrets of every kind are planted in a running Quell, much is asked of it that fails, and then they are looked for in
all that came out: logs, answers, the command line's output, command lines of processes, files that others may read.

A secret is looked for as it is, in base64 and as a URL writes it. What a request itself said may come back to whoever
said it, and a secret is shown once where it is made; nothing else is let pass.
"""

from __future__ import annotations

import base64
import http.server
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from msgspec import Struct
from running import Victim, free_port, wait_for


class Leak(Struct, frozen=True, order=True):
    secret: str
    where: str


class Lookout:
    """What is secret, and what came out."""

    def __init__(self) -> None:
        self.planted: dict[str, str] = {}
        self._came_out: list[tuple[str, bytes]] = []
        #: Processes whose command lines are read, with those of their children.
        self.processes: list[int] = []
        self.logs: list[Path] = []
        self.folders: list[Path] = []

    def plant(self, name: str, secret: str = "") -> str:
        """A secret of at least 16 random characters; made here unless it is given."""
        secret = secret or secrets.token_urlsafe(24)
        assert len(secret) >= 16
        self.planted[name] = secret
        return secret

    def saw(self, where: str, content: bytes, *, said: bytes = b"") -> None:
        """said: what the one who gets this has sent before."""
        for secret in self.planted.values():
            if secret.encode() in said:
                content = content.replace(secret.encode(), b"")
        self._came_out.append((where, content))

    def leaks(self) -> set[Leak]:
        """Which secret is where it must not be."""
        outputs = [*self._came_out, *self._command_lines(), *self._readable()]
        outputs += [(path.name, path.read_bytes()) for path in self.logs]
        return {
            Leak(name, where)
            for name, secret in self.planted.items()
            for where, content in outputs
            if any(form in content for form in _forms(secret))
        }

    def _command_lines(self) -> list[tuple[str, bytes]]:
        found = []
        waiting = list(self.processes)
        while waiting:
            pid = waiting.pop()
            try:
                found.append(("command line", Path(f"/proc/{pid}/cmdline").read_bytes()))
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
            except OSError:
                continue
            waiting += map(int, children.split())
        return found

    def _readable(self) -> list[tuple[str, bytes]]:
        return [
            (f"file {path.name}", path.read_bytes())
            for folder in self.folders
            for path in folder.rglob("*")
            if path.is_file() and path.stat().st_mode & 0o044
        ]


def _forms(secret: str) -> set[bytes]:
    raw = secret.encode()
    # In base64 a text looks in three ways, by where it begins; the ends depend on what stands beside it.
    shifted = {base64.b64encode(bytes(n) + raw)[4 : len(raw) * 4 // 3 // 4 * 4] for n in range(3)}
    return {raw, quote(secret, safe="").encode(), json.dumps(secret)[1:-1].encode(), *shifted}


class Spiteful(http.server.BaseHTTPRequestHandler):
    """A webhook's receiver that fails and says back all that it was told."""

    heard: list[dict[str, str]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.heard.append({"path": self.path, **{name.lower(): value for name, value in self.headers.items()}})
        said = f"{self.path} {self.headers} ".encode() + body
        self.send_response(400, " ".join(self.path.split())[:200])
        self.send_header("X-Echo", " ".join(self.headers.values()).replace("\n", " "))
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parameter's name in the library
        pass


class Site:
    """`quell up` with its agent, in processes of its own, all of whose output is kept."""

    def __init__(self, folder: Path, look: Lookout, receiver: str) -> None:
        self.look = look
        self.state = folder / "state"
        self.receiver = receiver
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "log"
        look.logs.append(self.log)
        look.folders.append(self.state)
        proxy = f"http://quell:{look.plant('password of the proxy')}@127.0.0.1:9"
        self.environment = os.environ | {
            "QUELL_LOG_LEVEL": "debug",
            "QUELL_WEBHOOKS_ALLOW_PRIVATE": "true",
            "QUELL_WEBHOOKS_PROXY": proxy,
            "QUELL_ADMIN_PASSWORD": look.plant("password of the first admin"),
            # So many requests are no attack here.
            "QUELL_SERVER_RATE_LIMIT": "100000",
            "QUELL_SERVER_RATE_BURST": "100000",
        }
        self._http = httpx.Client(base_url=self.url, timeout=30)
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "quell", "up", "--port", str(self.port), "--state", str(self.state)],
                env=self.environment,
                stdout=file,
                stderr=file,
            )
        look.processes.append(self.process.pid)
        wait_for(self._ready, what=f"quell up\n{self.log.read_text()}")
        self.admin = look.plant("admin token", (self.state / "admin.token").read_text().strip())
        self.ingest = look.plant("ingest token", (self.state / "ingest.token").read_text().strip())

    def ask(self, method: str, path: str, token: str | None, *, shown: bool = False, **options: Any) -> httpx.Response:
        """shown: the answer shows a secret, this once."""
        headers = dict(options.pop("headers", {}))
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        self._http.cookies.clear()
        request = self._http.build_request(method, path, headers=headers, **options)
        answer = self._http.send(request)
        if not shown:
            heard = b"\n".join(b"%b: %b" % pair for pair in answer.headers.raw) + b"\n" + answer.content
            self.look.saw(f"{method} {path[:40]}", heard, said=str(request.url).encode() + request.content)
        return answer

    def quell(self, *arguments: str, token: str, code: int | None = 0) -> str:
        """The command line; the token in its environment."""
        environment = {name: value for name, value in self.environment.items() if not name.startswith("QUELL_")}
        environment |= {"QUELL_URL": self.url, "QUELL_TOKEN": token, "QUELL_STATE": str(self.state)}
        done = subprocess.run(
            [sys.executable, "-m", "quell", *arguments], env=environment, capture_output=True, check=False, timeout=60
        )
        assert code is None or done.returncode == code, done.stderr.decode()
        self.look.saw(f"quell {' '.join(arguments)[:60]}", done.stdout + done.stderr, said=" ".join(arguments).encode())
        return done.stdout.decode()

    def linked(self) -> bool:
        return any(agent["connected"] for agent in self.ask("GET", "/v1/agents", self.admin).json()["items"])

    def close(self) -> None:
        self._http.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)

    def _ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5).is_success
        except httpx.HTTPError:
            return False


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    heard: list[dict[str, str]] = []
    handler = type("Handler", (Spiteful,), {"heard": heard})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    look = Lookout()
    running = Site(tmp_path_factory.mktemp("site"), look, f"http://127.0.0.1:{server.server_port}")
    try:
        wait_for(running.linked, what="the agent's link")
        _plant_keys(running)
        _plant_people(running)
        _plant_documents(running)
        _fail_in_every_way(running, heard)
        yield running
    finally:
        running.close()
        server.shutdown()
        thread.join()
        server.server_close()


def _plant_keys(site: Site) -> None:
    look = site.look
    look.plant("key of the controller", _body_of_key(site.state / "controller.key"))
    look.plant("key of the agent", _body_of_key(site.state / "agent" / "key"))
    # What `quell up` gave its agent: in its environment, which only its own user may read.
    [agent] = [
        pid for pid in _children(site.process.pid) if b"quell.agent" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    variables = dict(pair.split(b"=", 1) for pair in Path(f"/proc/{agent}/environ").read_bytes().split(b"\0") if pair)
    look.plant("join token of quell up", variables[b"QUELL_JOIN_TOKEN"].decode())
    token = site.ask("POST", "/v1/agents/join-tokens", site.admin, json={"ttl": 600}, shown=True).json()["token"]
    look.plant("join token", token)
    viewer = {"role": "viewer", "name": "viewer"}
    look.plant("viewer token", site.ask("POST", "/v1/tokens", site.admin, json=viewer, shown=True).json()["token"])
    for name in ("login code", "used login code"):
        path = site.ask("POST", "/v1/login-links", site.admin, shown=True).json()["path"]
        look.plant(name, path.partition("code=")[2])
    answer = site.ask("GET", f"/login?code={look.planted['used login code']}", None, shown=True)
    look.plant("session", _cookie(answer))


def _plant_people(site: Site) -> None:
    """Passwords that are right, wrong, refused and misplaced; sessions of a program and of a browser."""
    look = site.look
    password, other = look.plant("password"), look.plant("new password")
    user = {"name": "ada", "role": "author", "password": password}
    site.ask("POST", "/v1/users", site.admin, json=user).raise_for_status()
    site.ask("POST", "/v1/users", site.admin, json=user)
    site.ask("POST", "/v1/users", site.admin, json={**user, "name": "bob", "role": "king"})
    site.ask("POST", "/v1/users", site.admin, json={**user, "name": password, "colour": password})
    login = {"name": "ada", "password": password}
    session = site.ask("POST", "/v1/sessions", None, json=login, shown=True).raise_for_status().json()["token"]
    look.plant("session of a program", session)
    browser = site.ask("POST", "/v1/sessions", None, json={**login, "cookie": True}, shown=True).raise_for_status()
    look.plant("session of a browser", _cookie(browser))
    for wrong in (f"{password[:-4]}AAAA", password.upper()):
        look.plant(f"wrong password {len(look.planted)}", wrong)
        site.ask("POST", "/v1/sessions", None, json={**login, "password": wrong})
    # Who mistakes the one field for the other.
    site.ask("POST", "/v1/sessions", None, json={"name": look.plant("password as a name"), "password": "x"})
    site.ask("POST", "/login", None, data={"name": "ada", "password": look.plant("password in a form")})
    site.ask("POST", "/v1/sessions", None, content=json.dumps(login)[:-3].encode())
    site.ask("PUT", "/v1/users/ada/password", session, json={"password": other, "old_password": f"{password}x"})
    site.ask("PUT", "/v1/users/ada/password", site.admin, json={"password": other})


def _cookie(answer: httpx.Response) -> str:
    return answer.headers["set-cookie"].partition("=")[2].partition(";")[0]


def _body_of_key(path: Path) -> str:
    assert path.stat().st_mode & 0o077 == 0
    return path.read_text().splitlines()[1]


def _children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def _plant_documents(site: Site) -> None:
    """Endpoints that fail, each with secrets of its own kind, and a rule that tells them of what happens here."""
    look = site.look
    look.plant("webhook secret", base64.b64encode(secrets.token_bytes(24)).decode())
    for name in ("in an authorization", "in a header", "in a query", "in an address", "in an unreachable address"):
        look.plant(name)
    planted = look.planted
    documents = f"""
apiVersion: quell.dev/v1
kind: Webhook
metadata: {{name: failing}}
spec:
  url: "{site.receiver}/hook?token={planted["in a query"]}"
  secret: "whsec_{planted["webhook secret"]}"
  headers: {{Authorization: "Bearer {planted["in an authorization"]}", X-Custom: "{planted["in a header"]}"}}
  allow_http: true
  allow_private: true
---
apiVersion: quell.dev/v1
kind: Webhook
metadata: {{name: chat}}
spec: {{url: "{site.receiver}/services/{planted["in an address"]}", type: Slack, allow_http: true, allow_private: true}}
---
apiVersion: quell.dev/v1
kind: Webhook
metadata: {{name: unreachable}}
spec:
  url: "http://127.0.0.1:9/services/{planted["in an unreachable address"]}"
  type: Slack
  allow_http: true
  allow_private: true
  use_proxy: true
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {{name: tell}}
spec:
  event: security-event
  criteria: ["name:Host.Suspicious.Process"]
  actions: [webhook, agentKillProcess, {{makeRedFlag: {{severity: high}}}}]
  webhooks: [failing, chat, unreachable]
"""
    site.ask("POST", "/v1/documents", site.admin, content=documents).raise_for_status()


def _fail_in_every_way(site: Site, heard: list[dict[str, str]]) -> None:
    look, planted = site.look, site.look.planted
    victim = Victim("redaction:1")
    # This agent is the node that the machine is called; the event is of another, so nothing is killed.
    site.ask("POST", "/v1/events", site.ingest, content=victim.event()).raise_for_status()
    victim.close()
    wait_for(lambda: len({one["path"] for one in heard}) >= 2, what="both deliveries")
    # The receiver got what was meant for it: else nothing would have been at stake.
    said = str(heard)
    for name in ("in an authorization", "in a header", "in a query", "in an address"):
        assert planted[name] in said

    for token in (site.admin, site.ingest, planted["viewer token"], planted["join token"], planted["login code"]):
        unknown = f"{token[:-4]}AAAA"
        look.plant(f"unknown token {len(look.planted)}", unknown)
        for shown in (token, unknown):
            for method, path in (
                ("GET", "/v1/events"),
                ("POST", "/v1/events"),
                ("GET", "/metrics"),
                ("PUT", "/v1/tokens"),
            ):
                site.ask(method, path, shown)
                site.ask(method, path, None, headers={"Authorization": f"Token {shown}"})
                site.ask(
                    method, path, None, headers={"X-Api-Key": shown, "Cookie": f"quell_session={shown}; a={shown}"}
                )
                site.ask(method, path, None, headers={"User-Agent": shown, "Referer": f"http://x/?code={shown}"})
                site.ask(method, f"{path}?token={shown}&access_token={shown}", None)
                site.ask(method, f"{path}/{shown}", site.admin)
                basic = base64.b64encode(f"quell:{shown}".encode()).decode()
                site.ask(method, path, None, headers={"Authorization": f"Basic {basic}"})
            site.ask("GET", f"/login?code={shown}", None, shown=shown == planted["login code"])
            site.ask("POST", "/v1/agents/join", None, json={"token": shown, "name": "x"})
            _malformed(site, shown)
    join = {"name": "x", "public_key": "ed25519:AAAA", "node": "x", "machine_id": ""}
    site.ask("POST", "/v1/agents/join", None, json={**join, "token": f"{planted['join token']}x"})
    url = f"https://u:{look.plant('password in a url')}@example.org/"
    bad = f"apiVersion: quell.dev/v1\nkind: Webhook\nmetadata: {{name: bad}}\nspec: {{url: '{url}'}}\n"
    site.ask("POST", "/v1/documents", site.admin, content=bad)


def _malformed(site: Site, token: str) -> None:
    """What is no HTTP, with a token in it."""
    for said in (
        f"{token}\r\n\r\n",
        f"GET / HTTP/1.1\r\nAuthorization: Bearer {token}\r\nContent-Length: {token}\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", site.port), timeout=10) as line:
            line.sendall(said.encode())
            line.shutdown(socket.SHUT_WR)
            while line.recv(4096):
                pass


#: The command line asks the same paths as the test itself; these print in ways of their own.
ASKED = (
    ("get", "webhooks"),
    ("explain", "redaction:1"),
    ("export",),
    ("audit", "list"),
    ("settings", "list"),
    ("webhooks", "deliveries"),
    ("webhooks", "dead-letters"),
    ("tokens", "list"),
    ("users", "list"),
)


@pytest.fixture(scope="module")
def asked(site: Site) -> Site:
    """All is asked that can be: every path of the API, the page, metrics and the command line, by two roles."""
    planted = site.look.planted
    for token in (planted["viewer token"], site.admin):
        paths = site.ask("GET", "/v1/openapi.json", token).json()["paths"]
        plain = [path for path, methods in paths.items() if "get" in methods and "{" not in path]
        assert len(plain) > 8
        for path in [*plain, "/metrics", "/healthz?verbose", "/readyz?verbose", "/v1/events/redaction:1"]:
            # A backup has it all, and is for the admin alone.
            if "backup" not in path:
                assert site.ask("GET", path, token).status_code != 429
        site.quell("get", "webhooks", "-o", "yaml", token=token)
    for path in (
        "/",
        "/console/overview",
        "/console/notifications/events",
        "/console/notifications/event/redaction:1",
        "/v1/events",
    ):
        site.ask("GET", path, None, headers={"Cookie": f"quell_session={planted['session']}"})
    for arguments in ASKED:
        site.quell(*arguments, token=site.admin)
    site.quell("doctor", "-o", "json", token=site.admin, code=None)
    return site


def test_nothing_that_is_secret_comes_out(asked: Site) -> None:
    assert asked.look.leaks() == set()


def test_enough_was_planted_and_the_log_tells_of_what_failed(asked: Site) -> None:
    assert len(asked.look.planted) >= 30
    log = asked.log.read_text()
    for said in ("a webhook failed", "a webhook was given up", "Invalid HTTP request received", "agent connected"):
        assert said in log


def test_a_document_that_was_shown_can_be_recognised_without_its_secrets(asked: Site) -> None:
    for token in (asked.look.planted["viewer token"], asked.admin):
        shown = asked.quell("get", "webhooks", "-o", "yaml", token=token)
        assert shown.count("kind: Webhook") == 3
        assert "127.0.0.1" in shown
        assert "X-Custom" in shown


def test_what_only_proves_who_somebody_is_is_in_no_file_but_its_own(asked: Site) -> None:
    """Tokens, codes and sessions are kept by their hashes; keys in files of their own."""
    planted = asked.look.planted
    own = {"admin token": "admin.token", "ingest token": "ingest.token", "key of the controller": "controller.key"}
    own["key of the agent"] = "key"
    proofs = [name for name in planted if "token" in name or "code" in name or name in own or name == "session"]
    assert len(proofs) >= 8
    found = {
        (name, path.name)
        for path in asked.state.rglob("*")
        if path.is_file()
        for content in [path.read_bytes()]
        for name in proofs
        if planted[name].encode() in content
    }
    assert found == set(own.items())


def test_a_start_that_fails_tells_no_secret(asked: Site, tmp_path: Path) -> None:
    """Wrong settings, a key file that is none, a state of another: the errors that end a process."""
    look = asked.look
    proxy = f"http://quell:{look.plant('password of a wrong proxy')}@[::1"
    key = tmp_path / "wrong" / "controller.key"
    key.parent.mkdir(mode=0o700)
    text = (asked.state / "controller.key").read_text()
    key.write_text(text.replace("-----END", "--END"))
    key.chmod(0o600)
    for state, more in ((tmp_path / "other", {"QUELL_WEBHOOKS_PROXY": proxy}), (key.parent, {}), (asked.state, {})):
        log = tmp_path / f"{state.name}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "quell", "controller", "--port", "0", "--state", str(state)],
                env=asked.environment | more,
                stdout=file,
                stderr=file,
            )
        # A setting may be taken as it is until it is used.
        wait_for(lambda p=process, f=log: p.poll() is not None or "Quell is ready" in f.read_text(), what="a start")
        process.terminate()
        process.wait(20)
        look.saw(f"start in {state.name}", log.read_bytes())
    assert {leak for leak in look.leaks() if leak.where.startswith("start")} == set()


def _leak_by_log(site: Site, token: str) -> None:
    with site.log.open("a") as log:
        log.write(f"deliberately: {token}\n")


def _leak_by_answer(site: Site, token: str) -> None:
    # An event's id is shown to whoever may read.
    event = {"id": token, "name": "Container.Suspicious.Process"}
    site.ask("POST", "/v1/events", site.ingest, json=event).raise_for_status()
    site.ask("GET", "/v1/events", site.admin)


def _leak_by_command_line(site: Site, token: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)", token])
    site.look.processes.append(process.pid)
    wait_for(lambda: token.encode() in Path(f"/proc/{process.pid}/cmdline").read_bytes(), what="its command line")
    try:
        assert any(leak.where == "command line" for leak in site.look.leaks())
    finally:
        process.kill()
        process.wait()


def _leak_by_file(site: Site, token: str) -> None:
    file = site.state / "left-open"
    file.write_text(token)
    file.chmod(0o644)


def _leak_in_base64(site: Site, token: str) -> None:
    with site.log.open("a") as log:
        log.write(base64.b64encode(f"quell:{token}".encode()).decode())


@pytest.mark.parametrize(
    ("leak", "where"),
    [
        (_leak_by_log, "log"),
        (_leak_in_base64, "log"),
        (_leak_by_answer, "GET /v1/events"),
        (_leak_by_file, "file left-open"),
        (_leak_by_command_line, ""),
    ],
)
def test_a_deliberate_leak_is_found(asked: Site, leak: Callable[[Site, str], None], where: str) -> None:
    """Comes last: from here on the log and the answers are not clean."""
    name = f"leaked on purpose {time.monotonic_ns()}"
    token = asked.look.plant(name)
    leak(asked, token)
    found = {one.where for one in asked.look.leaks() if one.secret == name}
    assert not where or where in found
