"""Response rules: the table in its order, a rule, the form, and what asks before something is done."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from msgspec import Struct

from quell.api.problem import Refusal
from quell.api.roles import Permission
from quell.api.routes.documents import editing, refused
from quell.api.rule_list import (
    ShownRule,
    Standing,
    keeping,
    number_of,
    options,
    showing,
    standing,
)
from quell.api.rule_trial import Trial, tried
from quell.api.search import filters
from quell.api.services import Services
from quell.console import rule_form
from quell.console.entrance import own_address
from quell.console.page import Call, Moved, Page, Route, Section, View, address
from quell.console.rule_form import EVENTS, RuleForm
from quell.controller import notifications
from quell.controller.authorship import destructive
from quell.controller.editing import Change, Changed
from quell.controller.isolation import Listed
from quell.controller.rule_changes import Options, plan_edit, plan_insert, plan_move, plan_restore, plan_switch, spec_of
from quell.controller.rulebook import Edition, Kept, Key, Plan, plan_delete, rule_of
from quell.documents.single import read_rule
from quell.documents.write import dump_yaml
from quell.errors import DocumentConflict, DocumentError, DocumentForbidden, NoSuchRule, Problem
from quell.model.event import Category
from quell.model.notification import NotificationList

_ROWS = 50
#: Of the rule's own page: the latest events that it matched.
_LATEST = 10
_STATES = (("", "Any"), ("true", "Enabled"), ("false", "Disabled"))
_EVENTS = (
    ("", "Any"),
    *((each.value, each.value.replace("-", " ").capitalize()) for each in Category),
    *((each, f"{each.capitalize()}s only") for each in EVENTS if each not in tuple(Category)),
)
#: In which list of notifications the events of a category are.
_LISTS = {Category.EVENT: NotificationList.EVENTS} | dict.fromkeys(
    (Category.SECURITY_EVENT, Category.DEVIATION), NotificationList.SECURITY_EVENTS
)

#: Stands for the actions of a rule that has none yet, when it is tried.
_HARMLESS = {"makeOpsFlag": {"severity": "info"}}

_Make = Callable[[Mapping[Key, Kept], Edition], Plan]


class Line(Struct, frozen=True, kw_only=True):
    """A row of the table. up, down: below or above which rule it would stand, as the API's `after`; "": it cannot."""

    rule: ShownRule
    up: str
    down: str
    criteria: list[str]
    actions: list[str]
    #: Words of its actions that take an operator.
    destructive: list[str]
    #: Where the events are that it matched.
    events: str


async def show(call: Call) -> View:
    query = call.query
    controller = call.services.controller
    errors: dict[str, str] = {}
    event, state = query.one("event"), query.one("enabled")
    keep = None
    try:
        keep = keeping(
            controller,
            event or None,
            query.one("group") or None,
            None,
            query.one("text") or None,
            enabled={"true": True, "false": False}.get(state),
        )
    except Refusal as refused_filter:
        errors["event"] = refused_filter.detail
    every = standing(controller)
    found = [] if keep is None else await asyncio.to_thread(lambda: [each for each in every if keep(each)])
    start = query.number("from", 0, least=0, most=10**6)
    shows = await showing(call.services)
    values = {
        "lines": _lines(found, start, shows),
        "found": len(found),
        "every": len(every),
        "enabled": sum(not each.rule.disabled for each in every),
        "start": start,
        "rows": _ROWS,
        "query": query,
        "errors": errors,
        "events": [*_EVENTS, *([] if event in dict(_EVENTS) else [(event, event)])],
        "states": _STATES,
        "filtered": any(query.one(name) for name in ("text", "event", "group", "enabled")),
        "answered": (await asyncio.to_thread(call.services.overviews.matches)).of_events,
    }
    return View(template="pages/rules.html", values=values, status=400 if errors else 200)


async def one(call: Call) -> View:
    each = _standing(call)
    services = call.services
    line = _line(each, await showing(services))
    values = {
        "line": line,
        "rule": line.rule,
        "of": len(standing(services.controller)),
        "document": dump_yaml([each.rule]),
        "held": _held(services, line.rule.quarantines),
    }
    return View(template="pages/rules_one.html", values=values)


async def latest(call: Call) -> View:
    """The newest events that a rule matched: a part of its page, which is asked for once that is there."""
    rule = _standing(call).rule
    wanted = filters(rule=[str(rule.id)], include_suppressed=True)
    searching = call.services.searching
    found = await searching.page(searching.query(wanted.filter), notifications.told, limit=_LATEST, cursor=None)
    return View(template="pages/rules_latest.html", values={"found": found, "enabled": not rule.disabled})


# ---- the form


async def new(call: Call) -> View:
    """below: a rule's id, or 0 for the top. from: an event that the rule is made for."""
    form, event = rule_form.blank(), None
    if event_id := call.query.one("from"):
        event = await asyncio.to_thread(call.services.controller.explain, event_id)
        if event is None:
            raise Refusal(404, f"no event {event_id[:200]}: it never came, or is no longer kept")
        form = rule_form.of_event(event)
    after = call.query.one("below", "0")
    return await _form(call, form, after=after, about=None if event is None else event.event)


async def insert(call: Call) -> View | Moved:
    form, after = RuleForm(call.form), call.form.one("after")
    if call.form.one("do") != "save":
        return await _form(call, form, after=after)
    names = call.services.controller.names.words
    try:
        place = _number(after, "after")
        given = await asyncio.to_thread(lambda: read_rule(form.fields(), names=names))
        done = await _changed(call, lambda kept, edition: plan_insert(kept, [given], place, edition, Options()))
    except DocumentError as error:
        return await _form(call, form, after=after, error=error)
    except NoSuchRule as error:
        return await _form(call, form, after="0", error=DocumentError([Problem(file="", message=str(error))]))
    [change] = done.changes
    return Moved(to=f"{PAGE.address}#rule-{change.id}", told=_told(change, "was inserted"))


async def edit_form(call: Call) -> View:
    each = _standing(call)
    return await _form(call, rule_form.of_rule(spec_of(each.rule)), of=each)


async def edit(call: Call) -> View | Moved:
    each, form = _standing(call), RuleForm(call.form)
    if call.form.one("do") != "save":
        return await _form(call, form, of=each)
    number, names = each.rule.id, call.services.controller.names.words
    wanted = Options(take_over="take_over" in call.form)
    try:
        done = await _changed(
            call,
            lambda kept, edition: plan_edit(kept, number, form.changes(), edition, wanted, names),
            of=number,
        )
    except DocumentError as error:
        return await _form(call, form, of=each, error=error)
    [change] = done.changes
    return Moved(to=f"{PAGE.address}#rule-{number}", told=_told(change, "was changed"))


async def check(call: Call) -> View:
    """What is doubtful about the form as it is now, and what the rule would have matched: a part of the page."""
    form = RuleForm(call.form)
    of = _number(call.form.one("of"), "of")
    return View(template="pages/rules_check.html", values=await _checked(call, form, of))


_UNCHECKED: Mapping[str, Any] = {
    "trial": None,
    "errors": {},
    "problems": [],
    "doubts": {},
    "warnings": [],
    "begun": True,
    "places": [],
    "live": False,
}


async def _checked(call: Call, form: RuleForm, of: int | None) -> dict[str, Any]:
    trial: Trial | None = None
    errors: dict[str, str] = {}
    problems: list[Problem] = []
    doubts: dict[str, str] = {}
    warnings: list[str] = []
    fields = form.fields() if of is None else form.changes()
    begun = bool(fields["actions"])
    if not begun:
        # What a rule matches can be said before it is chosen what it does.
        fields["actions"] = [_HARMLESS]
    try:
        trial = await tried(call.services, editing(call.caller), fields, of=of)
    except DocumentError as error:
        errors, problems = form.told(error.problems)
    except NoSuchRule as error:
        problems = [Problem(file="", message=str(error))]
    for warning in () if trial is None else trial.warnings:
        place, separator, message = warning.partition(": ")
        place = form.place(place) if separator and " " not in place else ""
        if place:
            doubts[place] = f"{doubts[place]}; {message}" if place in doubts else message
        else:
            warnings.append(warning)
    return {
        "trial": trial,
        "errors": errors,
        "problems": problems,
        "doubts": doubts,
        "warnings": warnings,
        "begun": begun,
        "places": form.places(new=of is None),
        "live": True,
    }


async def _form(
    call: Call,
    form: RuleForm,
    *,
    after: str = "",
    of: Standing | None = None,
    about: Mapping[str, Any] | None = None,
    error: DocumentError | None = None,
) -> View:
    controller = call.services.controller
    told = options(controller, form.category)
    if call.scope["method"] == "POST":
        checked = await _checked(call, form, None if of is None else of.rule.id)
    else:
        # The page asks for it as soon as it is there.
        checked = dict(_UNCHECKED)
    if error is not None:
        checked["errors"], checked["problems"] = form.told(error.problems)
    every = standing(controller)
    below = next((each for each in every if str(each.rule.id) == after), None)
    positions = [("0", "At the top"), ("", "At the end")]
    if below is not None:
        positions.insert(0, (after, f"Below rule {below.rule.id}, {below.rule.name}"))
    rule_of_form = None if of is None else (await showing(call.services))(of)
    values = {
        **checked,
        "live": False,
        "unchecked": call.scope["method"] != "POST",
        "form": form,
        "filled": form.filled,
        "rule": rule_of_form,
        "revision": call.form.one("revision") or (str(of.kept.revision) if of else ""),
        "take_over": "take_over" in call.form,
        "after": after,
        "positions": positions,
        "event_options": _EVENTS[1:],
        "category": told.categories[0],
        "completions": rule_form.completions(told, form.event),
        "groups": told.groups,
        "webhooks": told.webhooks,
        "more_rows": call.form.one("do") == "row",
        "more_used": any(form.filled.one(name) for name in ("mode", "cooldown", "limit", "max_age", *rule_form.FLAGS)),
        "flags": rule_form.MORE_FLAGS,
        "about": about,
        "about_groups": _groups_of(call.services, about),
    }
    return View(template="pages/rules_form.html", values=values, status=_status(error))


def _status(error: DocumentError | None) -> int:
    match error:
        case None:
            return 200
        case DocumentForbidden():
            return 403
        case DocumentConflict():
            return 409
        case _:
            return 422


def _groups_of(services: Services, event: Mapping[str, Any] | None) -> list[str]:
    """The groups that the container of an event is in."""
    if event is None:
        return []
    inventory = services.controller.inventory
    known = inventory.find(event.get("subject", {}).get("container", {}).get("id", ""))
    return [] if known is None else list(inventory.listed(known).groups)


# ---- what asks before it is done, and what is done at once


async def delete_form(call: Call) -> View:
    return await _ask(call, "delete")


async def delete(call: Call) -> Moved:
    number = _standing(call).rule.id
    unquarantine = "unquarantine" in call.form
    changes = await _done(
        call,
        lambda kept, edition: plan_delete(kept, rule_of(kept, number), edition, unquarantine=unquarantine),
        of=number,
    )
    [change] = changes
    return Moved(to=_back(call), told=_told(change, "was deleted"))


async def disable_form(call: Call) -> View:
    return await _ask(call, "disable")


async def disable(call: Call) -> Moved:
    wanted = Options(unquarantine="unquarantine" in call.form)
    return await _switch(call, wanted, on=False)


async def enable(call: Call) -> Moved:
    return await _switch(call, Options(), on=True)


async def _switch(call: Call, wanted: Options, *, on: bool) -> Moved:
    number = _standing(call).rule.id
    changes = await _done(
        call,
        lambda kept, edition: plan_switch(kept, number, on=on, edition=edition, options=wanted),
        of=number,
    )
    [change] = changes
    return Moved(to=_back(call), told=_told(change, "was enabled" if on else "was disabled"))


async def move_form(call: Call) -> View:
    each = _standing(call)
    of = len(standing(call.services.controller))
    values = {"rule": each.rule, "place": each.place, "of": of, "back": _back(call)}
    return View(template="pages/rules_move.html", values=values)


async def move(call: Call) -> Moved:
    """after: as the API takes it; or place: from 1 on."""
    each = _standing(call)
    number = each.rule.id
    if "place" in call.form:
        others = [other.rule.id for other in standing(call.services.controller) if other.rule.id != number]
        place = call.form.number("place", 1, most=len(others) + 1)
        after: int | None = others[place - 2] if place > 1 else 0
    else:
        after = _number(call.form.one("after"), "after")
    changes = await _done(call, lambda kept, edition: plan_move(kept, number, after, edition), of=number)
    [change] = changes
    of = len(standing(call.services.controller))
    return Moved(to=_back(call), told=f"Rule {number}, {change.name}, stands at place {change.place} of {of}.")


async def restore_form(call: Call) -> View:
    rulebook = call.services.controller.rulebook
    edition = Edition(revision=rulebook.revision + 1, time=time.time(), editor=editing(call.caller))
    try:
        plans = [plan_restore(rulebook.kept, edition, Options(take_over=True), reset=reset) for reset in (False, True)]
    except DocumentConflict as error:
        raise Refusal(409, "; ".join(problem.message for problem in error.problems)) from error
    lacking, every = ([step.key.name for step in plan.steps] for plan in plans)
    other = [name for name in every if name not in lacking]
    return View(template="pages/rules_restore.html", values={"lacking": lacking, "other": other})


async def restore(call: Call) -> Moved:
    reset = "reset" in call.form
    changes = await _done(call, lambda kept, edition: plan_restore(kept, edition, Options(), reset=reset))
    names = ", ".join(change.name for change in changes)
    return Moved(to=PAGE.address, told=f"Restored: {names}." if names else "The default rules are all there.")


async def _ask(call: Call, what: str) -> View:
    shown = (await showing(call.services))(_standing(call))
    held = _held(call.services, shown.quarantines)
    alone = [quarantine for quarantine in held if len(quarantine.holders) == 1]
    values = {
        "rule": shown,
        "what": what,
        "alone": alone,
        "shared": [quarantine for quarantine in held if quarantine not in alone],
        "back": _back(call),
        "holder": f"rule/{shown.id}",
    }
    return View(template="pages/rules_ask.html", values=values)


def held_by(services: Services, holders: list[str]) -> list[Listed]:
    """The quarantines of these holders, each once."""
    held = services.controller.holdings()
    return _held(services, list(dict.fromkeys(key for holder in holders for key in held.get(holder, ()))))


def _held(services: Services, keys: list[str]) -> list[Listed]:
    found = (services.controller.isolation.one(key) for key in keys)
    return [each for each in found if each is not None]


async def _done(call: Call, make: _Make, *, of: int | None = None) -> list[Change]:
    """As `_changed`. Refusal 403, 409; NoSuchRule."""
    done = await refused(_changed(call, make, of=of))
    return done.changes


async def _changed(call: Call, make: _Make, *, of: int | None = None) -> Changed:
    """The change in force. DocumentError, NoSuchRule; of a form for another version of rule `of`: DocumentConflict."""
    rulebook = call.services.controller.rulebook
    version = call.form.one("revision")

    def expect() -> None:
        if version and of is not None:
            kept = rulebook.kept[rule_of(rulebook.kept, of)]
            if str(kept.revision) != version:
                told = f"it was changed in the meantime by {kept.changed_by}: open it anew, and change it then"
                raise DocumentConflict([Problem(file="", message=told)])

    return await rulebook.change(make, editing(call.caller), expect=expect)


def _told(change: Change, done: str) -> str:
    """What was done, with what there is to say about it."""
    released = [each.key for each in change.quarantines if each.released]
    told = f"Rule {change.id}, {change.name}, {done}."
    if released:
        told += f" {len(released)} released from quarantine."
    others = [warning for warning in change.warnings if "is released from quarantine" not in warning]
    return " ".join([told, *(f"{warning[0].upper()}{warning[1:]}." for warning in others)])


def _standing(call: Call) -> Standing:
    """The rule of the address. Refusal 404."""
    number = number_of(call.services.controller, call.path["id"])
    for each in standing(call.services.controller):
        if each.rule.id == number:
            return each
    raise Refusal(404, f"there is no rule {number}")


def _number(written: str, name: str) -> int | None:
    """A rule's id, or minus one. Refusal 400."""
    if not written:
        return None
    if re.fullmatch(r"-?[0-9]{1,10}", written) is None:
        raise Refusal(400, f"{name}: expected a rule's id, or minus one, got {written[:40]}")
    return int(written)


def _back(call: Call) -> str:
    """The list as it was filtered."""
    here = call.form.one("back") or call.query.one("back")
    return own_address(here) if here.startswith(PAGE.address) else PAGE.address


def _lines(found: list[Standing], start: int, shows: Callable[[Standing], ShownRule]) -> list[Line]:
    shown = found[start : start + _ROWS]
    ids = [each.rule.id for each in found[max(0, start - 1) : start + _ROWS + 1]]
    first = 1 if start else 0
    return [_line(each, shows, ids, place) for place, each in enumerate(shown, start=first)]


def _line(each: Standing, shows: Callable[[Standing], ShownRule], ids: list[int] | None = None, place: int = 0) -> Line:
    """ids: those of the rules around it, itself at `place`."""
    rule = shows(each)
    around = ids or [each.rule.id]
    which = _LISTS.get(each.rule.category, NotificationList.RISK_REPORTS)
    return Line(
        rule=rule,
        up=str(-around[place - 1]) if place > 0 else "",
        down=str(around[place + 1]) if place + 1 < len(around) else "",
        criteria=[rule_form.criterion_text(criterion) for criterion in rule.rule.get("criteria", ())],
        actions=[rule_form.action_text(action) for action in rule.rule["actions"]],
        destructive=destructive(each.rule),
        events=address("notifications", which.value, rule=str(each.rule.id), include_suppressed="true"),
    )


def _changing(path: str, handler: Callable[[Call], Awaitable[View | Moved]], method: str = "GET") -> Route:
    return Route(path=path, handler=handler, method=method, needs=Permission.RULES)


PAGE = Page(
    name="rules",
    title="Response rules",
    section=Section.RESPOND,
    routes=(
        Route(path="/rules", handler=show),
        _changing("/rules/new", new),
        _changing("/rules/new", insert, "POST"),
        _changing("/rules/check", check, "POST"),
        _changing("/rules/restore", restore_form),
        _changing("/rules/restore", restore, "POST"),
        Route(path="/rules/{id}", handler=one),
        Route(path="/rules/{id}/latest", handler=latest),
        _changing("/rules/{id}/edit", edit_form),
        _changing("/rules/{id}/edit", edit, "POST"),
        _changing("/rules/{id}/delete", delete_form),
        _changing("/rules/{id}/delete", delete, "POST"),
        _changing("/rules/{id}/disable", disable_form),
        _changing("/rules/{id}/disable", disable, "POST"),
        _changing("/rules/{id}/enable", enable, "POST"),
        _changing("/rules/{id}/move", move_form),
        _changing("/rules/{id}/move", move, "POST"),
    ),
    key="r",
    icon="rules",
)
