"""Groups: whose events rules are for. The reserved, learned and defined ones, who is in them, and the form of one."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
from msgspec import Struct

from quell.api.problem import Refusal
from quell.api.roles import Permission
from quell.api.routes.documents import editing, refused
from quell.console.editing import all_new, same_version
from quell.console.forms import with_value
from quell.console.page import Call, Moved, Page, Query, Route, Section, View, address
from quell.console.pages.rules import held_by
from quell.controller.inventory import GroupListed
from quell.controller.rulebook import Application, Edition, Kept, Key, Plan, plan_apply
from quell.documents.group import KEYS, Op
from quell.documents.load import OURS, Documents, load_values
from quell.documents.write import dump_yaml
from quell.errors import DocumentConflict, DocumentError, DocumentForbidden, Problem
from quell.model.rule import Group, Rule

_ROWS, _MEMBERS = 100, 100
_KINDS = (("", "Any"), ("defined", "Defined"), ("learned", "Learned"), ("reserved", "Reserved"))
#: Rows of criteria at most, and empty ones below those that are filled in.
_CRITERIA, _SPARE = 50, 1
#: Whom the groups hold that are always there.
_RESERVED = {
    "containers": "every container or pod",
    "nodes": "the hosts: host incidents, scans and benchmarks",
    "external": "what is not managed: no workload",
    "all": "everything",
}


class Row(Struct, frozen=True, kw_only=True):
    """A criterion of the form."""

    id: str
    key: str
    op: str
    value: str

    @property
    def filled(self) -> bool:
        return bool(self.key.strip() or self.value.strip())


class Shown(Struct, frozen=True, kw_only=True):
    """A group with what defines it. kept: None of one that no document defines. about: of such a one, whom it holds."""

    listed: GroupListed
    kept: Kept | None
    criteria: list[str]
    about: str

    @property
    def source(self) -> str:
        return "" if self.kept is None else self.kept.source


class GroupForm:
    """What is filled in."""

    def __init__(self, filled: Query) -> None:
        self.filled = filled

    @property
    def name(self) -> str:
        return self.filled.one("name").strip()

    def rows(self, more: int = 0) -> list[Row]:
        found = self._rows()
        while found and not found[-1].filled:
            found.pop()
        for place in range(len(found), min(len(found) + _SPARE + more, max(_CRITERIA, len(found)))):
            found.append(Row(id=f"criterion-{place}", key="", op=Op.EQUALS.value, value=""))
        return found

    def document(self, name: str) -> dict[str, Any]:
        spec: dict[str, Any] = {}
        if comment := self.filled.one("comment").strip():
            spec["comment"] = comment
        criteria = [
            {"key": row.key.strip(), "op": row.op, "value": row.value.strip()} for row in self._rows() if row.filled
        ]
        if criteria:
            spec["criteria"] = criteria
        return {"apiVersion": OURS, "kind": "Group", "metadata": {"name": name}, "spec": spec}

    def places(self) -> list[str]:
        """Ids of all places at which something can be wrong, of the form that was sent."""
        named = ["name"] if "name" in dict(iter(self.filled)) else []
        return [*named, "comment", "criteria", *(row.id for row in self._rows())]

    def told(self, problems: list[Problem]) -> tuple[dict[str, str], list[Problem]]:
        """Problems by the id of their field, and those that are of none."""
        filled = [row.id for row in self._rows() if row.filled]
        found: dict[str, str] = {}
        rest: list[Problem] = []
        for problem in problems:
            place = _place(problem.path, filled)
            if not place:
                rest.append(problem)
                continue
            message = problem.message + (f"; did you mean {problem.nearest}?" if problem.nearest else "")
            found[place] = f"{found[place]}; {message}" if place in found else message
        return found, rest

    def _rows(self) -> list[Row]:
        values = dict(iter(self.filled))
        return [
            Row(id=f"criterion-{place}", key=key, op=op, value=value)
            for place, (key, op, value) in enumerate(
                zip(values.get("key", ()), values.get("op", ()), values.get("value", ()), strict=False)
            )
        ]


async def show(call: Call) -> View:
    query = call.query
    text, kind = query.one("text").casefold(), query.one("kind")
    every = await asyncio.to_thread(call.services.controller.inventory.groups)
    found = [
        group
        for group in every
        if (not kind or group.kind == kind) and text in f"{group.name} {group.comment}".casefold()
    ]
    start = query.number("from", 0, least=0, most=10**6)
    values = {
        "groups": [_shown(call, group) for group in found[start : start + _ROWS]],
        "found": len(found),
        "every": len(every),
        "defined": sum(group.kind == "defined" for group in every),
        "start": start,
        "rows": _ROWS,
        "query": query,
        "kinds": with_value(_KINDS, kind),
        "filtered": bool(text or kind),
    }
    return View(template="pages/groups.html", values=values)


async def one(call: Call) -> View:
    shown = await _named(call)
    inventory = call.services.controller.inventory
    ids = await asyncio.to_thread(inventory.members, shown.listed.name) or []
    start = call.query.number("from", 0, least=0, most=10**6)
    values = {
        "group": shown,
        "members": [inventory.member(each) for each in ids[start : start + _MEMBERS]],
        "found": len(ids),
        "start": start,
        "rows": _MEMBERS,
        "query": call.query,
        "rules": _using(call, shown.listed.name),
        "document": "" if shown.kept is None else dump_yaml([shown.kept.thing]),
    }
    return View(template="pages/groups_one.html", values=values)


# ---- the form


async def new(call: Call) -> View:
    return await _form(call, GroupForm(Query({})))


async def make(call: Call) -> View | Moved:
    form = GroupForm(call.form)
    if call.form.one("do") != "save":
        return await _form(call, form)
    return await _save(call, form, form.name, None)


async def edit_form(call: Call) -> View:
    shown = await _defined(call)
    return await _form(call, _of_group(shown), of=shown)


async def edit(call: Call) -> View | Moved:
    shown, form = await _defined(call), GroupForm(call.form)
    if call.form.one("do") != "save":
        return await _form(call, form, of=shown)
    return await _save(call, form, shown.listed.name, shown)


async def check(call: Call) -> View:
    """What is wrong with the form as it is now, and doubtful: a part of the page."""
    form = GroupForm(call.form)
    name = call.form.one("of") or form.name
    return View(template="pages/groups_check.html", values=await _checked(call, form, name))


async def _save(call: Call, form: GroupForm, name: str, of: Shown | None) -> View | Moved:
    rulebook = call.services.controller.rulebook
    key = Key("Group", name)
    try:
        documents = await asyncio.to_thread(load_values, [form.document(name)], "")
        wanted = Application(documents=documents, take_over="take_over" in call.form)
        revision = call.form.one("revision")
        expect = all_new(rulebook, documents) if of is None else same_version(rulebook, key, revision)
        done = await rulebook.apply(wanted, editing(call.caller), expect=expect)
    except DocumentError as error:
        return await _form(call, form, of=of, error=error)
    except Refusal as refusal:
        return await _form(call, form, of=of, error=DocumentConflict([Problem(file="", message=refusal.detail)]))
    [change] = done.changes
    told = f"Group {name} was {'made' if of is None else 'changed'}."
    for warning in (*(warned.message for warned in documents.warnings), *change.warnings):
        told += f" {warning[0].upper()}{warning[1:]}."
    return Moved(to=address("groups", "of", name), told=told)


async def _checked(call: Call, form: GroupForm, name: str) -> dict[str, Any]:
    rulebook = call.services.controller.rulebook
    edition = Edition(revision=rulebook.revision + 1, time=time.time(), editor=editing(call.caller))
    errors: dict[str, str] = {}
    doubts: dict[str, str] = {}
    problems: list[Problem] = []
    warnings: list[str] = []

    def planned() -> tuple[Documents, Plan]:
        documents = load_values([form.document(name or "unnamed")], "")
        kept = rulebook.kept.get(Key("Group", name))
        source = "" if kept is None else kept.source
        return documents, plan_apply(rulebook.kept, Application(documents=documents, source=source), edition)

    try:
        documents, plan = await asyncio.to_thread(planned)
    except DocumentError as error:
        errors, problems = form.told(error.problems)
    else:
        doubts, rest = form.told(list(documents.warnings))
        warnings = [problem.message for problem in rest] + [each for step in plan.steps for each in step.warnings]
    return {
        "errors": errors,
        "doubts": doubts,
        "problems": problems,
        "warnings": warnings,
        "places": form.places(),
        "live": True,
    }


async def _form(call: Call, form: GroupForm, *, of: Shown | None = None, error: DocumentError | None = None) -> View:
    name = form.name if of is None else of.listed.name
    checked = await _checked(call, form, name)
    if error is not None:
        checked["errors"], checked["problems"] = form.told(error.problems)
    elif not any(row.filled for row in form.rows()):
        # Who has not begun need not be told that there is nothing yet.
        checked |= {"errors": {}, "doubts": {}, "problems": [], "warnings": []}
    values = {
        **checked,
        "live": False,
        "form": form,
        "filled": form.filled,
        "group": of,
        "rules": [] if of is None else _using(call, name),
        "revision": call.form.one("revision") or (str(of.kept.revision) if of and of.kept else ""),
        "take_over": "take_over" in call.form,
        "keys": (*KEYS, "ns:"),
        "operators": tuple(Op),
        "more_rows": call.form.one("do") == "row",
    }
    match error:
        case None:
            status = 200
        case DocumentForbidden():
            status = 403
        case DocumentConflict():
            status = 409
        case _:
            status = 422
    return View(template="pages/groups_form.html", values=values, status=status)


# ---- deleting


async def delete_form(call: Call) -> View:
    shown = await _defined(call)
    rules = _using(call, shown.listed.name)
    values = {
        "group": shown,
        "rules": rules,
        "held": held_by(call.services, [f"rule/{rule.id}" for rule, _ in rules]),
    }
    return View(template="pages/groups_delete.html", values=values)


async def delete(call: Call) -> Moved:
    shown = await _defined(call)
    name = shown.listed.name
    force, unquarantine = "force" in call.form, "unquarantine" in call.form
    rulebook = call.services.controller.rulebook
    done = await refused(
        rulebook.delete(Key("Group", name), editing(call.caller), force=force, unquarantine=unquarantine)
    )
    others = [change.name for change in done.changes if change.kind != "Group"]
    told = f"Group {name} was deleted" + (f", with {', '.join(others)}." if others else ".")
    for warning in (warning for change in done.changes for warning in change.warnings):
        told += f" {warning[0].upper()}{warning[1:]}."
    return Moved(to=PAGE.address, told=told)


def _using(call: Call, name: str) -> list[tuple[Rule, Kept]]:
    """The rules that apply to it, as they stand."""
    kept = call.services.controller.rulebook.kept.values()
    return [(each.thing, each) for each in kept if isinstance(each.thing, Rule) and each.thing.group == name]


async def _named(call: Call) -> Shown:
    """The group of the address. Refusal 404."""
    name = call.path["name"]
    for group in await asyncio.to_thread(call.services.controller.inventory.groups):
        if group.name == name:
            return _shown(call, group)
    raise Refusal(404, f"no group {name[:200]}")


async def _defined(call: Call) -> Shown:
    """Refusal 404, 409."""
    shown = await _named(call)
    if shown.kept is None:
        raise Refusal(409, f"{shown.listed.name} is a {shown.listed.kind} group: nobody writes it")
    return shown


def _shown(call: Call, group: GroupListed) -> Shown:
    kept = call.services.controller.rulebook.kept.get(Key("Group", group.name)) if group.kind == "defined" else None
    thing = None if kept is None else kept.thing
    criteria = thing.criteria if isinstance(thing, Group) else ()
    about = _RESERVED.get(group.name, "") if group.kind == "reserved" else ""
    if group.kind == "learned":
        about = "every workload that was seen of this service"
    return Shown(
        listed=group,
        kept=kept,
        criteria=[f"{each.key} {each.op} {each.value}" for each in criteria],
        about=about,
    )


def _of_group(shown: Shown) -> GroupForm:
    thing = None if shown.kept is None else shown.kept.thing
    criteria = thing.criteria if isinstance(thing, Group) else ()
    filled = {"name": [shown.listed.name], "comment": [shown.listed.comment]}
    filled |= {field: [msgspec.to_builtins(each)[field] for each in criteria] for field in ("key", "op", "value")}
    return GroupForm(Query(filled))


def _place(path: str, filled: list[str]) -> str:
    """The id of the field that a problem is of: spec.criteria[0].op, metadata.name; "": of none."""
    path = path.removeprefix("spec.")
    if path.startswith("criteria["):
        index = path[len("criteria[") :].partition("]")[0]
        return filled[int(index)] if index.isdigit() and int(index) < len(filled) else "criteria"
    return {"metadata.name": "name", "comment": "comment", "criteria": "criteria"}.get(path, "")


def _changing(path: str, handler: Any, method: str = "GET") -> Route:
    return Route(path=path, handler=handler, method=method, needs=Permission.RULES)


PAGE = Page(
    name="groups",
    title="Groups",
    section=Section.RESPOND,
    routes=(
        Route(path="/groups", handler=show),
        Route(path="/groups/of/{name:path}", handler=one),
        _changing("/groups/new", new),
        _changing("/groups/new", make, "POST"),
        _changing("/groups/check", check, "POST"),
        _changing("/groups/edit/{name:path}", edit_form),
        _changing("/groups/edit/{name:path}", edit, "POST"),
        _changing("/groups/delete/{name:path}", delete_form),
        _changing("/groups/delete/{name:path}", delete, "POST"),
    ),
    key="u",
    icon="groups",
)
