"""Webhooks: endpoints and how it goes with them, writing one, a test, deliveries, and those that were given up."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from quell.api.problem import Refusal
from quell.api.roles import Permission
from quell.api.routes.documents import editing, refused
from quell.console.editing import all_new, same_version
from quell.console.forms import by_field
from quell.console.page import Call, Moved, Page, Query, Route, Section, View, address
from quell.controller.delivery import EndpointStatus
from quell.controller.rulebook import Application, Kept, Key
from quell.documents.hidden import hide
from quell.documents.load import load_values
from quell.documents.write import to_document
from quell.errors import DocumentError, Problem
from quell.model.event import Category, Level
from quell.model.rule import Webhook, WebhookType
from quell.secrets import HIDDEN
from quell.storage import dead_letters, deliveries
from quell.storage.dead_letters import DeadLetter

_ROWS = 50
#: Deliveries that the page of an endpoint shows.
_LATEST = 10
_TYPES = {
    WebhookType.JSON: "JSON",
    WebhookType.SLACK: "Slack",
    WebhookType.TEAMS: "Microsoft Teams",
    WebhookType.TEXT: "Text",
    WebhookType.CLOUD_EVENTS: "CloudEvents",
}
_SWITCHES = ("default", "use_proxy", "allow_http", "allow_private")
_FIELDS = ("name", "url", "type", "secret", "headers", "categories", "level", "flags", "ca_file", "verify_tls", "enable", *_SWITCHES)  # fmt: skip
_OUTCOMES = {"": None, "delivered": True, "failed": False}


class Listed(Struct, frozen=True, kw_only=True):
    """An endpoint with how it goes. kept: None: it was deleted."""

    status: EndpointStatus
    kept: Kept | None

    @property
    def is_enabled(self) -> bool:
        return self.kept is not None and bool(getattr(self.kept.thing, "enable", False))


async def show(call: Call) -> View:
    statuses = await _statuses(call)
    start = call.query.number("from", 0, least=0, most=10**6)
    text = call.query.one("text").casefold()
    found = [each for each in statuses if text in f"{each.name} {each.address}".casefold()]
    kept = call.services.controller.rulebook.kept
    values = {
        "endpoints": [
            Listed(status=each, kept=kept.get(Key("Webhook", each.name))) for each in found[start : start + _ROWS]
        ],
        "types": _TYPES,
        "found": len(found),
        "everything": len(statuses),
        "start": start,
        "rows": _ROWS,
        "query": call.query,
        "tabs": _tabs(statuses),
    }
    return View(template="pages/webhooks.html", values=values)


async def one(call: Call) -> View:
    return await _one(call)


async def test(call: Call) -> View:
    """What came of it is shown once, and is in the audit log."""
    try:
        tested = await call.services.controller.webhooks.test(call.path["name"], call.caller.actor)
    except KeyError:
        raise Refusal(404, f"there is no endpoint {call.path['name'][:200]}") from None
    return await _one(call, tested=tested)


async def new_form(call: Call) -> View:
    return _form(call, None, {"type": WebhookType.JSON.value, "enable": True, "verify_tls": True})


async def edit_form(call: Call) -> View:
    kept = _kept(call)
    return _form(call, kept, to_document(kept.thing)["spec"])


async def new(call: Call) -> View | Moved:
    return await _save(call, None)


async def edit(call: Call) -> View | Moved:
    return await _save(call, _kept(call))


async def switch_form(call: Call) -> View:
    kept = _kept(call)
    values = {"status": await _status(call), "enabled": _is_enabled(kept), "revision": kept.revision}
    return View(template="pages/webhooks_switch.html", values=values)


async def switch(call: Call) -> Moved:
    """Enable or disable, as the form says."""
    kept, wanted = _kept(call), call.form.one("enable") == "true"
    document = to_document(kept.thing)
    document["spec"]["enable"] = wanted
    try:
        await _apply(call, document, kept)
    except DocumentError as error:
        raise Refusal(422, str(error), problems=error.problems) from error
    name = call.path["name"]
    return Moved(to=address("webhooks", "of", name), told=f"{name} is {'enabled' if wanted else 'disabled'}.")


async def delete_form(call: Call) -> View:
    return View(template="pages/webhooks_delete.html", values={"status": await _status(call), "problems": []})


async def delete(call: Call) -> View | Moved:
    name = call.path["name"]
    try:
        await refused(call.services.controller.rulebook.delete(Key("Webhook", name), editing(call.caller)))
    except KeyError:
        raise Refusal(404, f"there is no endpoint {name[:200]}") from None
    except Refusal as error:
        if error.status != 409:
            raise
        values = {"status": await _status(call), "problems": error.problems}
        return View(template="pages/webhooks_delete.html", values=values, status=409)
    return Moved(to=PAGE.address, told=f"{name} was deleted.")


async def delivered(call: Call) -> View:
    query = call.query
    before = query.number("before", 0, least=0, most=999_999_999) or None
    outcome = _OUTCOMES.get(query.one("outcome"))
    store = call.services.controller.store
    found = await asyncio.to_thread(
        store.read,
        lambda connection: deliveries.paged(
            connection,
            _ROWS + 1,
            before,
            endpoint=query.one("endpoint") or None,
            event_id=query.one("event") or None,
            delivered=outcome,
        ),
    )
    statuses = await _statuses(call)
    values = {
        "deliveries": [delivery for _, delivery in found[:_ROWS]],
        "next": str(found[_ROWS - 1][0]) if len(found) > _ROWS else "",
        "query": query,
        "endpoints": _names(statuses, query.one("endpoint")),
        "filtered": any(query.one(name) for name in ("endpoint", "event", "outcome")),
        "tabs": _tabs(statuses),
    }
    return View(template="pages/webhooks_deliveries.html", values=values)


async def dead(call: Call) -> View:
    query = call.query
    before = query.number("before", 0, least=0, most=999_999_999) or None
    endpoint = query.one("endpoint")
    store = call.services.controller.store
    found = await asyncio.to_thread(
        store.read, lambda connection: dead_letters.paged(connection, _ROWS + 1, before, endpoint=endpoint or None)
    )
    statuses = await _statuses(call)
    values = {
        "letters": [letter for _, letter in found[:_ROWS]],
        "next": str(found[_ROWS - 1][0]) if len(found) > _ROWS else "",
        "query": query,
        "endpoints": _names(statuses, endpoint),
        "tabs": _tabs(statuses),
        "dead": {each.name: each.dead_letters for each in statuses if each.dead_letters},
    }
    return View(template="pages/webhooks_dead.html", values=values)


async def dead_one(call: Call) -> View:
    return View(template="pages/webhooks_letter.html", values={"letter": await _letter(call)})


async def replay(call: Call) -> Moved:
    letter, webhooks = await _letter(call), call.services.controller.webhooks
    if reason := webhooks.unavailable(letter.endpoint):
        raise Refusal(409, reason)
    if not await webhooks.replay(letter.item.id, call.caller.actor):
        raise Refusal(404, f"no dead letter {letter.item.id}")
    return Moved(to=f"{PAGE.address}/dead-letters", told=f"It is sent to {letter.endpoint} again.")


async def discard_form(call: Call) -> View:
    return View(template="pages/webhooks_discard.html", values={"letter": await _letter(call), "name": "", "count": 1})


async def discard(call: Call) -> Moved:
    await call.services.controller.webhooks.discard(call.path["id"], call.caller.actor)
    return Moved(to=f"{PAGE.address}/dead-letters", told="The dead letter was discarded.")


async def replay_all_form(call: Call) -> View:
    return View(template="pages/webhooks_replay.html", values={"status": await _status(call)})


async def replay_all(call: Call) -> Moved:
    name, webhooks = call.path["name"], call.services.controller.webhooks
    if reason := webhooks.unavailable(name):
        raise Refusal(409, reason)
    count = await webhooks.replay_all(name, call.caller.actor)
    return Moved(to=address("webhooks", "of", name), told=f"{count} dead letters are sent again, in order.")


async def discard_all_form(call: Call) -> View:
    status = await _status(call)
    values = {"letter": None, "name": status.name, "count": status.dead_letters}
    return View(template="pages/webhooks_discard.html", values=values)


async def discard_all(call: Call) -> Moved:
    count = await call.services.controller.webhooks.discard_all(call.path["name"], call.caller.actor)
    return Moved(to=f"{PAGE.address}/dead-letters", told=f"{count} dead letters were discarded.")


async def _one(call: Call, **more: Any) -> View:
    status = await _status(call)
    kept = call.services.controller.rulebook.kept.get(Key("Webhook", status.name))
    store = call.services.controller.store
    found = await asyncio.to_thread(
        store.read, lambda connection: deliveries.paged(connection, _LATEST, None, endpoint=status.name)
    )
    values: dict[str, Any] = {
        "status": status,
        "kept": kept,
        "spec": hide(kept.thing) if kept is not None and isinstance(kept.thing, Webhook) else None,
        "types": _TYPES,
        "deliveries": [delivery for _, delivery in found],
        "tested": None,
    }
    return View(template="pages/webhooks_one.html", values=values | more)


async def _save(call: Call, kept: Kept | None) -> View | Moved:
    document = _document(call.form, kept)
    name = document["metadata"]["name"]
    try:
        await _apply(call, document, kept)
    except DocumentError as error:
        return _form(call, kept, _refilled(call.form, document["spec"]), error.problems)
    except Refusal as error:
        if error.status not in (403, 409, 412):
            raise
        problems = error.problems or [Problem(file="", path="", message=error.detail)]
        return _form(call, kept, _refilled(call.form, document["spec"]), problems, error.status)
    told = f"{name} was {'created' if kept is None else 'changed'}. Send a test to see whether it is reached."
    return Moved(to=address("webhooks", "of", name), told=told)


async def _apply(call: Call, document: Mapping[str, Any], kept: Kept | None) -> None:
    """kept: what the form was made of; None: it is to be new. Refusal 403, 409; 412: somebody changed it. DocumentError."""
    rulebook = call.services.controller.rulebook
    documents = await asyncio.to_thread(load_values, [document], "")
    if kept is None:
        expect = all_new(rulebook, documents)
    else:
        expect = same_version(rulebook, Key("Webhook", call.path["name"]), call.form.one("revision"))
    await refused(rulebook.apply(Application(documents=documents), editing(call.caller), expect=expect))


def _document(form: Query, kept: Kept | None) -> dict[str, Any]:
    """What was filled in; an empty secret is the one in force."""
    name = form.one("name").strip() if kept is None else getattr(kept.thing, "name", "")
    before = {} if kept is None else to_document(kept.thing)["spec"]
    secret = form.one("secret").strip() or (HIDDEN if before.get("secret") and "no_secret" not in form else "")
    spec: dict[str, Any] = {
        "url": form.one("url").strip(),
        "type": form.one("type"),
        "enable": "enable" in form,
        "verify_tls": "verify_tls" in form,
        **{word: True for word in _SWITCHES if word in form},
    }
    spec |= {"secret": secret} if secret else {}
    headers = dict(_header(line) for line in form.one("headers").splitlines() if line.strip())
    spec |= {"headers": headers} if headers else {}
    spec |= {"ca_file": form.one("ca_file").strip()} if form.one("ca_file").strip() else {}
    chosen: dict[str, Any] = {}
    chosen |= {"categories": form.all("categories")} if form.all("categories") else {}
    chosen |= {"level": form.one("level")} if form.one("level") else {}
    chosen |= {"flags": True} if "flags" in form else {}
    spec |= {"filter": chosen} if chosen else {}
    return {"apiVersion": "quell.dev/v1", "kind": "Webhook", "metadata": {"name": name}, "spec": spec}


def _refilled(form: Query, spec: Mapping[str, Any]) -> dict[str, Any]:
    """For the form again. A secret that was typed is not sent back."""
    return {**spec, "secret": "", "typed_headers": form.one("headers"), "name": form.one("name")}


def _header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip(), value.strip()


def _form(
    call: Call, kept: Kept | None, spec: Mapping[str, Any], problems: Sequence[Problem] = (), status: int = 422
) -> View:
    errors, rest = by_field(problems, _FIELDS)
    written = "\n".join(f"{name}: {value}" for name, value in spec.get("headers", {}).items())
    values = {
        "name": spec.get("name", "") if kept is None else getattr(kept.thing, "name", ""),
        "is_new": kept is None,
        "revision": "" if kept is None else call.form.one("revision") or str(kept.revision),
        "source": "" if kept is None else kept.source,
        "has_secret": kept is not None and bool(getattr(kept.thing, "secret", "")),
        "spec": spec,
        "headers": spec.get("typed_headers", written),
        "chosen": spec.get("filter", {}),
        "types": [(word.value, told) for word, told in _TYPES.items()],
        "categories": [category.value for category in Category],
        "levels": [("", "Any level"), *((level.value, f"{level.value} and above") for level in Level)],
        "errors": errors,
        "problems": rest,
        "more_used": any(spec.get(word) for word in ("headers", "ca_file", "use_proxy", "allow_http", "allow_private"))
        or spec.get("verify_tls") is False
        or any(word in errors for word in ("headers", "ca_file", "allow_private")),
    }
    return View(template="pages/webhooks_form.html", values=values, status=status if problems else 200)


async def _statuses(call: Call) -> list[EndpointStatus]:
    # On this thread: it may start the line of an endpoint.
    return call.services.controller.webhooks.status()


async def _status(call: Call) -> EndpointStatus:
    """Refusal 404."""
    name = call.path["name"]
    for status in await _statuses(call):
        if status.name == name:
            return status
    raise Refusal(404, f"there is no endpoint {name[:200]}")


def _kept(call: Call) -> Kept:
    """Refusal 404."""
    kept = call.services.controller.rulebook.kept.get(Key("Webhook", call.path["name"]))
    if kept is None:
        raise Refusal(404, f"there is no endpoint {call.path['name'][:200]}")
    return kept


async def _letter(call: Call) -> DeadLetter:
    """Refusal 404."""
    identifier, store = call.path["id"], call.services.controller.store
    found = await asyncio.to_thread(store.read, lambda connection: dead_letters.get(connection, identifier))
    if found is None:
        raise Refusal(404, f"no dead letter {identifier[:300]}: it was sent again or discarded, or never was")
    return found


def _is_enabled(kept: Kept) -> bool:
    return bool(getattr(kept.thing, "enable", False))


def _names(statuses: list[EndpointStatus], value: str) -> list[tuple[str, str]]:
    """Options of a filter; a value that came in the address is one too."""
    names = [each.name for each in statuses]
    names += [] if not value or value in names else [value]
    return [("", "Any"), *((name, name) for name in names)]


def _tabs(statuses: list[EndpointStatus]) -> list[tuple[str, str, int]]:
    return [
        ("Endpoints", PAGE.address, len(statuses)),
        ("Deliveries", f"{PAGE.address}/deliveries", 0),
        ("Dead letters", f"{PAGE.address}/dead-letters", sum(each.dead_letters for each in statuses)),
    ]


def _pair(path: str, form: Any, done: Any, needs: Permission) -> tuple[Route, Route]:
    return Route(path=path, handler=form, needs=needs), Route(path=path, handler=done, method="POST", needs=needs)


PAGE = Page(
    name="webhooks",
    title="Webhooks",
    section=Section.RESPOND,
    routes=(
        Route(path="/webhooks", handler=show),
        Route(path="/webhooks/deliveries", handler=delivered),
        Route(path="/webhooks/dead-letters", handler=dead),
        Route(path="/webhooks/dead-letters/{id:path}", handler=dead_one),
        Route(path="/webhooks/replay/{id:path}", handler=replay, method="POST", needs=Permission.OPERATE),
        *_pair("/webhooks/discard/{id:path}", discard_form, discard, Permission.OPERATE),
        *_pair("/webhooks/replay-all/{name}", replay_all_form, replay_all, Permission.OPERATE),
        *_pair("/webhooks/discard-all/{name}", discard_all_form, discard_all, Permission.OPERATE),
        *_pair("/webhooks/new", new_form, new, Permission.RULES),
        *_pair("/webhooks/edit/{name}", edit_form, edit, Permission.RULES),
        *_pair("/webhooks/switch/{name}", switch_form, switch, Permission.RULES),
        *_pair("/webhooks/delete/{name}", delete_form, delete, Permission.RULES),
        Route(path="/webhooks/of/{name}", handler=one),
        Route(path="/webhooks/test/{name}", handler=test, method="POST", needs=Permission.OPERATE),
    ),
    key="h",
    icon="webhooks",
)
