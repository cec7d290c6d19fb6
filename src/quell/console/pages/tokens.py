"""Tokens: for programs. Made with a secret that is shown once, rotated, and withdrawn."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec

from quell.api.accounts.tokens import rights_of
from quell.api.ingest import ROUTES
from quell.api.problem import Refusal
from quell.api.roles import Permission, Role
from quell.api.routes.accounts import Rotation, TokenRequest
from quell.console.page import Call, Moved, Page, Query, Route, Section, View
from quell.durations import parse_duration
from quell.storage import tokens
from quell.storage.tokens import Binding, Token

_ROWS = 100
_ROLES = {
    Role.INGEST: "send events, nothing else",
    Role.VIEWER: "look",
    Role.AUTHOR: "documents; destructive rules stay disabled",
    Role.OPERATOR: "documents, quarantine, approvals, pause",
    Role.ADMIN: "everything, accounts and settings too",
}
_TTLS = (("90d", "90 days"), ("30d", "30 days"), ("7d", "7 days"), ("1d", "1 day"), ("365d", "1 year"), ("", "Until it is withdrawn"))  # fmt: skip
_GRACES = (("", "Not at all"), ("15m", "15 minutes"), ("1h", "1 hour"), ("24h", "1 day"), ("7d", "7 days"))


async def show(call: Call) -> View:
    text, role = call.query.one("text").casefold(), call.query.one("role")
    every = await asyncio.to_thread(call.services.controller.store.read, tokens.all_of)
    found = [
        token
        for token in every
        if text in f"{token.name} {token.owner}".casefold() and (not role or role == token.role)
    ]
    start = call.query.number("from", 0, least=0, most=10**6)
    values = {
        "tokens": found[start : start + _ROWS],
        "found": len(found),
        "everything": len(every),
        "start": start,
        "rows": _ROWS,
        "query": call.query,
        "roles": [("", "Any"), *(each.value for each in _ROLES)],
        "now": time.time(),
    }
    return View(template="pages/tokens.html", values=values)


async def new_form(call: Call) -> View:
    return _new(call)


async def new(call: Call) -> View:
    """Like a join token: the answer is no redirect, for the secret is shown once and kept nowhere."""
    try:
        wanted = _wanted(call.form)
        secret, token = await call.services.accounts.tokens.create(
            call.caller,
            wanted.name,
            wanted.role,
            ttl=wanted.ttl,
            binding=Binding(
                detectors=tuple(wanted.detectors), clusters=tuple(wanted.clusters), nodes=tuple(wanted.nodes)
            ),
        )
    except Refusal as error:
        return _new(call, error)
    return View(template="pages/tokens_secret.html", values={"secret": secret, "token": token, "made": True})


async def rotate_form(call: Call) -> View:
    return await _rotate(call)


async def rotate(call: Call) -> View:
    try:
        wanted = msgspec.convert({"grace": _seconds(call.form.one("grace")) or 0.0}, Rotation)
        secret, token = await call.services.accounts.tokens.rotate(
            call.caller, call.path["name"], wanted.grace, lambda _: None
        )
    except Refusal as error:
        if error.status == 404:
            raise
        return await _rotate(call, error)
    except msgspec.ValidationError as error:
        return await _rotate(call, Refusal(422, str(error)))
    return View(template="pages/tokens_secret.html", values={"secret": secret, "token": token, "made": False})


async def withdraw_form(call: Call) -> View:
    return View(template="pages/tokens_withdraw.html", values={"token": await _token(call)})


async def withdraw(call: Call) -> Moved:
    name = call.path["name"]
    await call.services.accounts.tokens.delete(call.caller.actor, name, lambda _: None)
    return Moved(to=PAGE.address, told=f"Token {name} was withdrawn.")


def _wanted(form: Query) -> TokenRequest:
    """What POST /v1/tokens takes. Refusal 422."""
    given: dict[str, Any] = {
        "name": form.one("name").strip(),
        "role": form.one("role"),
        "ttl": _seconds(form.one("ttl")),
        "detectors": form.all("detectors"),
        **{name: form.one(name).replace(",", " ").split() for name in ("clusters", "nodes")},
    }
    try:
        return msgspec.convert(given, TokenRequest)
    except msgspec.ValidationError as error:
        if "$.name" in str(error):
            told = "name: expected 1 to 200 letters, digits, blanks and . _ : @ + -, the first a letter or digit"
            raise Refusal(422, told) from error
        raise Refusal(422, str(error)) from error


def _seconds(written: str) -> float | None:
    """None: nothing is written there. Refusal 422."""
    try:
        return parse_duration(written) if written else None
    except ValueError as error:
        raise Refusal(422, str(error)) from error


def _new(call: Call, refused: Refusal | None = None) -> View:
    form = call.form
    values = {
        "name": form.one("name"),
        "role": form.one("role", Role.INGEST.value),
        "ttl": form.one("ttl", "90d") if form.one("name") or refused is None else form.one("ttl"),
        "chosen": form.all("detectors"),
        "clusters": form.one("clusters"),
        "nodes": form.one("nodes"),
        "roles": [(role.value, f"{role.value}: {may}") for role, may in _ROLES.items()],
        "ttls": _TTLS,
        "detectors": sorted(detector.name for detector in ROUTES.values()),
        "refused": "" if refused is None else refused.detail,
    }
    return View(template="pages/tokens_new.html", values=values, status=200 if refused is None else refused.status)


async def _rotate(call: Call, refused: Refusal | None = None) -> View:
    token = await _token(call)
    values = {
        "token": token,
        "rights": sorted(right.value for right in rights_of(token)),
        "graces": _GRACES,
        "refused": "" if refused is None else refused.detail,
    }
    return View(template="pages/tokens_rotate.html", values=values, status=200 if refused is None else refused.status)


async def _token(call: Call) -> Token:
    """Refusal 404."""
    name = call.path["name"]
    token = await asyncio.to_thread(call.services.controller.store.read, lambda held: tokens.get(held, name))
    if token is None:
        raise Refusal(404, f"no token {name[:200]}")
    return token


PAGE = Page(
    name="tokens",
    title="Tokens",
    section=Section.ADMINISTER,
    needs=Permission.ADMIN,
    routes=tuple(
        Route(path=path, handler=handler, method=method, needs=Permission.ADMIN)
        for path, handler, method in (
            ("/tokens", show, "GET"),
            ("/tokens/new", new_form, "GET"),
            ("/tokens/new", new, "POST"),
            ("/tokens/rotate/{name}", rotate_form, "GET"),
            ("/tokens/rotate/{name}", rotate, "POST"),
            ("/tokens/withdraw/{name}", withdraw_form, "GET"),
            ("/tokens/withdraw/{name}", withdraw, "POST"),
        )
    ),
    key="k",
    icon="tokens",
)
