"""What a stolen token of each role can do: every route is tried with every role, and the page of docs is that table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from live import Live, live

from quell.api.ingest import ROUTES
from quell.api.observing import PATH as OBSERVATIONS

PAGE = Path(__file__).parents[2] / "docs/roles.md"
ROLES = ("viewer", "author", "operator", "admin", "ingest")
#: The proof is in the body, whoever sends it.
OPEN = "open"
REFUSED = (401, 403)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("permissions") / "s") as running:
        yield running


def operations(server: Live) -> list[tuple[str, str, str]]:
    """Method, path and permission of every route that is described."""
    with server.client("admin") as admin:
        paths = admin.get("/v1/openapi.json").raise_for_status().json()["paths"]
    return sorted(
        (method.upper(), path, operation["x-permission"])
        for path, methods in paths.items()
        for method, operation in methods.items()
    )


@pytest.fixture
def anybody(server: Live) -> Iterator[httpx.Client]:
    """Without a token: each request says whose it is."""
    with server.client("") as client:
        yield client


def tokens(server: Live) -> dict[str, str]:
    with server.client("admin") as admin:
        made = {
            role: admin.post("/v1/tokens", json={"role": role, "name": f"stolen-{role}", "replace": True})
            .raise_for_status()
            .json()
            for role in ROLES
        }
    return {role: answer["token"] for role, answer in made.items()}


def test_every_route_with_every_role(server: Live, anybody: httpx.Client) -> None:
    secrets, rows = tokens(server), []
    for method, path, permission in operations(server):
        if permission == OPEN:
            continue
        target = server.url + re.sub(r"\{[^}]+\}", "x", path)
        nobody = anybody.request(method, target)
        assert nobody.status_code == 401, (method, path)
        wrong = anybody.request(method, target, headers={"Authorization": "Bearer quell_guess"})
        assert wrong.status_code in (401, 429), (method, path)
        may = {}
        # The admin last: what it deletes on the way, the others were asked about before.
        for role in sorted(ROLES, key=lambda role: role == "admin"):
            answer = anybody.request(method, target, headers={"Authorization": f"Bearer {secrets[role]}"})
            may[role] = answer.status_code not in REFUSED
        rows.append(f"| `{method} {path}` | " + " | ".join("yes" if may[role] else "" for role in ROLES) + " |")
    told = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert rows == told, "docs/roles.md is not what was found:\n" + "\n".join(rows)


def test_what_an_ingest_token_may(server: Live, anybody: httpx.Client) -> None:
    secret = tokens(server)["ingest"]
    allowed = {
        (method, path)
        for method, path, permission in operations(server)
        if permission != OPEN
        and anybody.request(
            method, server.url + re.sub(r"\{[^}]+\}", "x", path), headers={"Authorization": f"Bearer {secret}"}
        ).status_code
        not in REFUSED
    }
    assert allowed == {("POST", path) for path in (*ROUTES, OBSERVATIONS)}
    for path in ("/", "/metrics", "/console/overview", "/console/nothing"):
        assert anybody.get(server.url + path, headers={"Authorization": f"Bearer {secret}"}).status_code == 403, path
