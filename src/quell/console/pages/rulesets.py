"""Rulesets: what may run, by rules that policies share; written as YAML, and deleted."""

from __future__ import annotations

from typing import Any

from quell.api.roles import Permission
from quell.api.routes.documents import editing, refused
from quell.api.routes.rulesets import ruleset_named, shown, users_of
from quell.console.editing import Edited, in_force, same_version, saved, submitted
from quell.console.page import Call, Moved, Page, Route, Section, View
from quell.console.words import requirements
from quell.controller.rulebook import Key
from quell.documents.write import as_yaml, to_document
from quell.model.policy import Ruleset

_ROWS = 100
#: What a new one begins with.
_START = """\
apiVersion: quell.dev/v1
kind: Ruleset
metadata:
  name: my-ruleset
  type: cluster
spec:
  rules:
    - target: container::image
      verb: allow
      values: ["registry.example/*"]
"""


async def show(call: Call) -> View:
    query, things = call.query, call.services.controller.rulebook.kept
    text = query.one("text").casefold()
    everyone = [(kept.thing, kept) for kept in things.values() if isinstance(kept.thing, Ruleset)]
    chosen = [(ruleset, kept) for ruleset, kept in everyone if text in ruleset.name.casefold()]
    start = query.number("from", 0, least=0, most=10**6)
    values = {
        "rulesets": [
            shown(ruleset, kept, users_of(things, ruleset.name)) for ruleset, kept in chosen[start : start + _ROWS]
        ],
        "start": start,
        "rows": _ROWS,
        "found": len(chosen),
        "everyone": len(everyone),
        "query": query,
    }
    return View(template="pages/rulesets.html", values=values)


async def one(call: Call) -> View:
    things = call.services.controller.rulebook.kept
    ruleset, kept = ruleset_named(things, call.path["name"])
    told = shown(ruleset, kept, users_of(things, ruleset.name))
    values = {
        "ruleset": told,
        "scopes": [_scope(rule) for rule in told.rules],
        "yaml": as_yaml(to_document(ruleset)),
    }
    return View(template="pages/rulesets_one.html", values=values)


async def new(call: Call) -> View:
    return _text(call, None, _START, None)


async def save_new(call: Call) -> View | Moved:
    return await _save(call, None)


async def edit(call: Call) -> View:
    ruleset, _ = ruleset_named(call.services.controller.rulebook.kept, call.path["name"])
    return _text(call, ruleset, as_yaml(to_document(ruleset)), None)


async def save(call: Call) -> View | Moved:
    ruleset, _ = ruleset_named(call.services.controller.rulebook.kept, call.path["name"])
    return await _save(call, ruleset)


async def delete_form(call: Call) -> View:
    things = call.services.controller.rulebook.kept
    ruleset, kept = ruleset_named(things, call.path["name"])
    return View(
        template="pages/rulesets_delete.html", values={"ruleset": shown(ruleset, kept, users_of(things, ruleset.name))}
    )


async def delete(call: Call) -> Moved:
    rulebook, name = call.services.controller.rulebook, call.path["name"]
    ruleset_named(rulebook.kept, name)
    key = Key("Ruleset", name)
    await refused(
        rulebook.delete(key, editing(call.caller), expect=same_version(rulebook, key, call.form.one("revision")))
    )
    return Moved(to=PAGE.address, told=f"Ruleset {name} is deleted.")


async def _save(call: Call, ruleset: Ruleset | None) -> View | Moved:
    text, found = await submitted(call, None if ruleset is None else Key("Ruleset", ruleset.name))
    if call.form.one("do") == "look":
        return View(template="findings.html", values={"edited": found})
    done = saved(found, "Ruleset", "rulesets", "ruleset")
    return done or _text(call, ruleset, text, found, revision=call.form.one("revision"))


def _text(call: Call, ruleset: Ruleset | None, text: str, found: Edited | None, *, revision: str | None = None) -> View:
    """revision: as it was sent; None: the one in force."""
    name = "" if ruleset is None else ruleset.name
    kept = None if ruleset is None else ruleset_named(call.services.controller.rulebook.kept, name)[1]
    return View(
        template="pages/rulesets_text.html",
        values={**in_force(kept, name, revision), "text": text, "edited": found},
        status=422 if found is not None and found.count else 200,
    )


def _scope(rule: dict[str, Any]) -> list[str]:
    """Each requirement of a rule's selectors, as a line."""
    return [
        f"{kind.removesuffix('Selector')} {line}"
        for kind, selector in rule.items()
        if kind.endswith("Selector")
        for part in selector.values()
        for line in requirements(part)
    ]


_MAY = Permission.RULES
PAGE = Page(
    name="rulesets",
    title="Rulesets",
    section=Section.RESPOND,
    routes=(
        Route(path="/rulesets", handler=show),
        Route(path="/rulesets/new", handler=new, needs=_MAY),
        Route(path="/rulesets/new", handler=save_new, method="POST", needs=_MAY),
        Route(path="/rulesets/ruleset/{name:path}", handler=one),
        Route(path="/rulesets/text/{name:path}", handler=edit, needs=_MAY),
        Route(path="/rulesets/text/{name:path}", handler=save, method="POST", needs=_MAY),
        Route(path="/rulesets/delete/{name:path}", handler=delete_form, needs=_MAY),
        Route(path="/rulesets/delete/{name:path}", handler=delete, method="POST", needs=_MAY),
    ),
    icon="rulesets",
)
