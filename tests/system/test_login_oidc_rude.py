"""A provider of logins that says of itself what none should say: nobody is sent anywhere, and people are told why."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from live import Live, live
from running import wait_for

from quell.api.accounts import provider
from quell.configuration import Configuration
from quell.settings import Settings


class Rude:
    """Answers every request with the same status and body."""

    def __init__(self) -> None:
        self.answer: tuple[int, bytes] = (200, b"{}")
        self.asked = 0
        rude = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                rude.asked += 1
                status, body = rude.answer
                self.send_response(status)
                self.send_header("location", "http://127.0.0.1:9/elsewhere")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def says(self, **changed: Any) -> None:
        right = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/auth?tenant=7",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/jwks",
        }
        self.answer = (200, json.dumps({**right, **changed}).encode())

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def rude() -> Iterator[Rude]:
    provider = Rude()
    yield provider
    provider.close()


@pytest.fixture(scope="module")
def server(rude: Rude, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    given = {
        "oidc.issuer": rude.issuer,
        "oidc.client_id": "quell",
        "oidc.public_url": "https://quell.shop.example",
        "oidc.default_role": "viewer",
    }
    folder: Path = tmp_path_factory.mktemp("rude") / "s"
    with live(folder, configuration=Configuration(settings=Settings().with_values(given))) as running:
        yield running


def told(server: Live, words: str) -> None:
    """Until it is asked anew: after a failure a provider is left alone for a moment."""

    def is_told() -> bool:
        answer = httpx.get(f"{server.url}/login/oidc", timeout=30)
        assert answer.status_code == 502, answer.headers
        assert "set-cookie" not in answer.headers
        return words in answer.text

    wait_for(is_told, what=words)


def test_what_it_says_of_itself_is_checked(server: Live, rude: Rude) -> None:
    for changed, words in (
        ({"issuer": "https://login.evil.example"}, "calls itself https://login.evil.example"),
        ({"token_endpoint": "http://login.shop.example/token"}, "names addresses that are not https"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "names addresses that are not https"),
        ({"end_session_endpoint": "ftp://login.shop.example"}, "names addresses that are not https"),
        ({"jwks_uri": 7}, "is not understood"),
    ):
        rude.says(**changed)
        told(server, words)
    for status, body, words in (
        (200, b"<html>", "is not understood"),
        (302, b"", "answered 302"),
        (503, b"{}", "answered 503"),
        (200, b" " * (2 << 20), "sends more than"),
    ):
        rude.answer = (status, body)
        told(server, words)


def test_one_that_fails_is_not_asked_by_everybody(server: Live, rude: Rude) -> None:
    rude.answer = (503, b"{}")
    told(server, "answered 503")
    before, began = rude.asked, time.monotonic()
    with ThreadPoolExecutor(20) as people:
        answers = people.map(lambda _: httpx.get(f"{server.url}/login/oidc", timeout=60).status_code, range(40))
        assert set(answers) == {502}
    # Once, and once more for each pause that is over meanwhile.
    assert rude.asked - before <= 1 + (time.monotonic() - began) / provider._PAUSE
    rude.says()

    def leads_there() -> bool:
        answer = httpx.get(f"{server.url}/login/oidc", timeout=30)
        return answer.headers.get("location", "").startswith(f"{rude.issuer}/auth?tenant=7&response_type=code&")

    wait_for(leads_there, what="the provider's address")
    # What a proxy says of the way here makes the cookie stricter, and nothing else.
    answer = httpx.get(f"{server.url}/login/oidc", headers={"x-forwarded-proto": "https"}, timeout=30)
    assert answer.headers["set-cookie"].startswith("__Host-quell_login=")
    assert "; Secure" in answer.headers["set-cookie"]
    assert httpx.get(f"{server.url}/login/oidc/logout", timeout=30).status_code == 404
