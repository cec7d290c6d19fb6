"""One conversation with a controller: requests out, answers and problems back."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.request import getproxies

import httpx
import msgspec
from msgspec import Struct

from quell.errors import ApiError, Problem, Unreachable

Answer = TypeVar("Answer")

JSON = {"Content-Type": "application/json"}
YAML = {"Content-Type": "application/yaml"}
#: Items asked for at once when all of a list are wanted.
_PAGE = 1000
#: Who is trusted where nobody is to be asked for a certificate: should one show one all the same, it is refused.
_NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Session:
    """timeout: seconds for each request. Every call raises Unreachable, and ApiError for an answer that is a problem."""

    def __init__(self, url: str, token: str, *, timeout: float = 30.0, ca_file: Path | None = None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        # The system's list of authorities takes longer to read than most answers take to come.
        plain = url.startswith("http:") and ca_file is None and not getproxies()
        verify = _NOBODY if plain else trust(ca_file)
        self.http = httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=timeout, verify=verify)

    @property
    def url(self) -> str:
        return str(self.http.base_url).rstrip("/")

    def ask(self, answer: type[Answer], method: str, path: str, **request: Any) -> Answer:
        """The answer's JSON, as this type. request: what httpx.Client.request takes; params that are None are left out."""
        return self._decoded(answer, self.do(method, path, **request))

    def do(self, method: str, path: str, **request: Any) -> httpx.Response:
        if "params" in request:
            request["params"] = given(**request["params"])
        try:
            response = self.http.request(method, path, **request)
        except httpx.TransportError as error:
            raise Unreachable(f"no controller answers at {self.http.base_url}: {error}") from error
        if response.is_error:
            raise problem(response)
        return response

    def items(self, item: type[Answer], path: str, limit: int | None = None, **params: Any) -> list[Answer]:
        """At most `limit` items of a list, None: all, over as many pages as that takes."""
        found: list[Answer] = []
        for page in self._pages(item, path, limit, params):
            found += page
            if limit is not None and len(found) >= limit:
                return found[:limit]
        return found

    def _pages(
        self, item: type[Answer], path: str, limit: int | None, params: dict[str, Any]
    ) -> Iterator[list[Answer]]:
        cursor = params.pop("cursor", None)
        before = params.pop("before", None)
        size = _PAGE if limit is None else min(limit, _PAGE)
        while True:
            asked = {**params, "limit": size, "cursor": cursor, "before": before}
            page = self.ask(_Page[item], "GET", path, params=asked)  # type: ignore[valid-type]
            yield page.items
            cursor, before = page.next, None
            if cursor is None:
                return

    @staticmethod
    def _decoded(answer: type[Answer], response: httpx.Response) -> Answer:
        try:
            return msgspec.json.decode(response.content, type=answer)
        except msgspec.MsgspecError as error:
            raise ApiError(response.status_code, "not an answer of a Quell controller", str(error)) from error


def trust(ca_file: Path | None) -> ssl.SSLContext | bool:
    """What httpx takes as `verify`. Unreachable: the file cannot be read."""
    if ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise Unreachable(f"--ca-file {ca_file}: expected certificates in PEM: {error}") from error


def problem(response: httpx.Response) -> ApiError:
    """What an answer of 400 and above says."""
    try:
        body = msgspec.json.decode(response.content, type=_ProblemBody)
    except msgspec.MsgspecError:
        body = _ProblemBody(detail=response.text[:200])
    return ApiError(response.status_code, body.title or response.reason_phrase, body.detail, body.problems)


def given(**parameters: Any) -> dict[str, Any]:
    """Query parameters as they are written; those that are None are left out."""
    written = {True: "true", False: "false"}
    return {
        name: written[value] if isinstance(value, bool) else value
        for name, value in parameters.items()
        if value is not None
    }


def if_match(version: int | None) -> dict[str, str]:
    """The header of a change that is for one version; None: for any."""
    return {} if version is None else {"If-Match": f'"{version}"'}


class _Page(Struct, Generic[Answer]):
    items: list[Answer]
    next: str | None = None


class _ProblemBody(Struct):
    title: str = ""
    detail: str = ""
    problems: list[Problem] = []
