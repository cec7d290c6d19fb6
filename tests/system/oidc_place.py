"""A provider of logins in a process of its own, and a browser that goes through its pages."""

from __future__ import annotations

import contextlib
import html
import itertools
import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx
import pytest
from tests.system.running import Quell, free_port, wait_for

PLACE = Path(__file__).resolve().parent / "oidc_provider"
SECRET = "a secret of the tests that both sides have"
CALLBACK = "/login/oidc/callback"
ACCOUNTS: dict[str, dict[str, Any]] = {
    "id-of-ann": {"preferred_username": "Ann", "groups": ["everybody", "quell-admins", "oncall"]},
    "id-of-bob": {"preferred_username": "bob", "groups": ["everybody", "oncall"]},
    "id-of-eve": {"preferred_username": "eve", "groups": ["everybody"]},
}
GROUPS = {
    "QUELL_OIDC_ADMIN_GROUPS": "quell-admins",
    "QUELL_OIDC_OPERATOR_GROUPS": "oncall,sre",
    "QUELL_OIDC_VIEWER_GROUPS": "auditors",
}
#: Addresses of loopback, one for each browser, since failures are counted by address.
_ADDRESSES = (f"127.0.{third}.{last}" for third, last in itertools.product(range(1, 255), range(1, 255)))


def _is_there() -> bool:
    """The provider's program, and a Node.js that is new enough for it."""
    node = shutil.which("node")
    if node is None or not (PLACE / "node_modules").is_dir():
        return False
    version = subprocess.run([node, "--version"], check=False, capture_output=True, text=True).stdout
    return int(version.removeprefix("v").partition(".")[0] or 0) >= 18


needs_provider = pytest.mark.skipif(
    not _is_there(),
    reason="needs Node.js 18 and what deploy/setup.sh test installs for the provider of logins",
)


class Provider:
    """oidc-provider on a port that stays the same when it starts anew, with other keys then."""

    def __init__(self, redirect: str, log: Path, **more: Any) -> None:
        """more: of the program's argument, such as algorithm."""
        self.port = free_port()
        self.issuer = f"http://127.0.0.1:{self.port}"
        self._log = log
        self._given = {
            "port": self.port,
            "client": "quell",
            "secret": SECRET,
            "redirect": redirect,
            "accounts": ACCOUNTS,
            **more,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        with self._log.open("w") as file:
            command = ["node", str(PLACE / "provider.mjs"), json.dumps(self._given)]
            self._process = subprocess.Popen(command, stdout=file, stderr=file)
        wait_for(lambda: "ready" in self._log.read_text() or self._ended, 60, "the provider")
        assert not self._ended, self._log.read_text()

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait(20)

    def freeze(self) -> None:
        """It takes connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def spoil(self, **how: Any) -> None:
        """The next ID token."""
        httpx.post(f"{self.issuer}/test/next", json=how, timeout=20).raise_for_status()

    def has(self, accounts: dict[str, dict[str, Any]]) -> None:
        httpx.post(f"{self.issuer}/test/accounts", json=accounts, timeout=20).raise_for_status()

    def asked(self) -> list[str]:
        """What Quell asked for since the last time."""
        found: list[str] = httpx.get(f"{self.issuer}/test/asked", timeout=20).raise_for_status().json()
        return found

    @property
    def _ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None


class Browser:
    """Follows redirects by itself as far as the provider's; those of Quell are the test's."""

    def __init__(self, quell: Quell) -> None:
        self._quell = quell
        # No connection is kept, so that nothing is left open when the test is over.
        limits = httpx.Limits(max_keepalive_connections=0)
        transport = httpx.HTTPTransport(local_address=next(_ADDRESSES), limits=limits)
        self.http = httpx.Client(timeout=30, transport=transport)

    def begin(self) -> str:
        """Where the button leads."""
        answer = self.http.get(f"{self._quell.url}/login/oidc")
        assert answer.status_code == 303, answer.text
        return answer.headers["location"]

    def way_back(self, account: str) -> str:
        """The address that the provider sends the browser back to after a login there."""
        return self.through(self.begin(), account)

    def through(self, address: str, account: str) -> str:
        back = f"{self._quell.url}{CALLBACK}"
        answer = self.http.get(address)
        for _ in range(12):
            if answer.is_redirect:
                address = urljoin(str(answer.url), answer.headers["location"])
                if address.startswith(back):
                    return address
                answer = self.http.get(address)
            else:
                assert answer.status_code == 200, answer.text
                action = re.search(r'<form[^>]* action="([^"]+)"', answer.text)
                prompt = re.search(r'name="prompt" value="([^"]+)"', answer.text)
                assert action is not None, answer.text
                assert prompt is not None
                fields = {"prompt": prompt[1], "login": account, "password": "not asked"}
                answer = self.http.post(urljoin(str(answer.url), html.unescape(action[1])), data=fields)
        raise AssertionError(f"the provider does not come to an end: {answer.text}")

    def log_in(self, account: str) -> httpx.Response:
        """Quell's answer to what the provider sends back."""
        return self.http.get(self.way_back(account))

    def myself(self) -> dict[str, Any]:
        """Whom Quell takes this browser for; {}: nobody."""
        answer = self.http.get(f"{self._quell.url}/v1/sessions/current")
        return answer.json() if answer.is_success else {}


def settings(quell: Quell, provider: Provider, **more: str) -> dict[str, str]:
    """Of a controller that takes logins of this provider."""
    return {
        "QUELL_OIDC_ISSUER": provider.issuer,
        "QUELL_OIDC_CLIENT_ID": "quell",
        "QUELL_OIDC_CLIENT_SECRET": SECRET,
        "QUELL_OIDC_PUBLIC_URL": quell.url,
        **GROUPS,
        **more,
    }


def parameters(address: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}


@contextlib.contextmanager
def placed(folder: Path, more: dict[str, str] | None = None, **of_provider: Any) -> Iterator[tuple[Quell, Provider]]:
    """A controller and its provider."""
    quell = Quell(folder)
    provider = Provider(f"{quell.url}{CALLBACK}", folder / "provider.log", **of_provider)
    try:
        quell.start_controller(settings=settings(quell, provider, **(more or {})))
        assert not quell.controller_ended(), quell.log()
        yield quell, provider
    finally:
        provider.stop()
        quell.close()
