"""The files that browsers load: named by their content, so that they are kept for ever and never out of date.

Beside the console's own there is htmx, which the build puts into static/vendor (hatch_build.py). A page may bring a style
sheet or a script of its own: static/pages/NAME.css and NAME.js are loaded by the page NAME.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib import resources
from importlib.resources.abc import Traversable

from msgspec import Struct

from quell.api.asgi import Scope, Send, header, respond
from quell.api.problem import Refusal
from quell.console.page import ROOT

STATIC = f"{ROOT}/static/"

_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
_FOR_EVER = b"public, max-age=31536000, immutable"


class Asset(Struct, frozen=True):
    address: str
    kind: str
    content: bytes
    etag: bytes


@lru_cache(maxsize=1)
def assets() -> dict[str, Asset]:
    """By name, such as console.css or pages/rules.js."""
    found: dict[str, Asset] = {}
    _collect(resources.files("quell.console").joinpath("static"), "", found)
    return found


def _collect(folder: Traversable, prefix: str, found: dict[str, Asset]) -> None:
    for file in sorted(folder.iterdir(), key=lambda each: each.name):
        if file.is_dir():
            _collect(file, f"{prefix}{file.name}/", found)
            continue
        stem, _, ending = file.name.rpartition(".")
        if ending in _TYPES:
            content = file.read_bytes()
            digest = hashlib.sha256(content).hexdigest()[:16]
            name = f"{prefix}{file.name}"
            found[name] = Asset(f"{STATIC}{prefix}{stem}.{digest}.{ending}", _TYPES[ending], content, digest.encode())


@lru_cache(maxsize=1)
def _by_address() -> dict[str, Asset]:
    return {asset.address: asset for asset in assets().values()}


async def serve(scope: Scope, send: Send) -> None:
    """Open to everybody: the login form is drawn with them. Refusal 404."""
    asset = _by_address().get(scope["path"])
    if asset is None:
        raise Refusal(404, f"there is nothing at {scope['path'][:200]}")
    tag = b'"' + asset.etag + b'"'
    headers = [(b"cache-control", _FOR_EVER), (b"etag", tag), (b"x-content-type-options", b"nosniff")]
    if tag in (header(scope, b"if-none-match") or b""):
        await send({"type": "http.response.start", "status": 304, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
        return
    await respond(send, 200, asset.content, [*headers, (b"content-type", asset.kind.encode())])
