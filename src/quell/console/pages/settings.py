"""Settings: the pause of all that is destructive, and what else can be changed while running, with what it means and risks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from quell.api import configuring
from quell.api.problem import Refusal
from quell.api.roles import Permission
from quell.configuration import ShownSetting, unknown
from quell.console.forms import text
from quell.console.page import Call, Moved, Page, Route, Section, View
from quell.controller.live_settings import Wanted

_PAUSED = "safety.paused"
_PROTECTED = "safety.protected_namespaces"
#: What guards against too much: a change of it is asked about once more.
_GUARDED = ("safety.protected", "safety.budget", "safety.breaker", "safety.max_age")
#: Groups of settings, with what they are called here; others are called as they are.
_GROUPS = {
    "safety": "Safety: what is protected, budgets, breaker, approvals",
    "journal": "Retention of events, flags and traces",
    "audit": "Retention of the audit log",
}


class Group(Struct, frozen=True, kw_only=True):
    name: str
    title: str
    settings: list[ShownSetting]


async def show(call: Call) -> View:
    live = call.services.controller.live
    words = call.query.one("text").casefold()
    only = call.query.one("only")
    found = [
        one
        for one in sorted(live.shown(), key=lambda one: one.name)
        if one.name != _PAUSED
        and words in f"{one.name} {one.description}".casefold()
        and (only != "live" or one.live)
        and (only != "changed" or one.value != one.default)
    ]
    groups: dict[str, list[ShownSetting]] = {}
    for one in found:
        groups.setdefault(one.name.partition(".")[0], []).append(one)
    order = [*_GROUPS, *sorted(set(groups) - set(_GROUPS))]
    values = {
        "groups": [Group(name=name, title=_title(name), settings=groups[name]) for name in order if name in groups],
        "pause": live.pause,
        "query": call.query,
        "filtered": bool(words or only),
        "protected": live.settings.safety.protected_namespaces,
    }
    return View(template="pages/settings.html", values=values)


async def pause_form(call: Call) -> View:
    return _pause(call)


async def pause(call: Call) -> View | Moved:
    wanted = call.form.one("paused") == "true"
    given = Wanted(set={_PAUSED: wanted}, reason=text(call.form, "reason"))
    try:
        await configuring.change(call.services, given, call.caller.actor, lambda: None)
    except Refusal as error:
        return _pause(call, error)
    told = "Responses are paused: nothing destructive is done." if wanted else "Responses go on."
    return Moved(to=PAGE.address, told=told)


async def edit_form(call: Call) -> View:
    one = _one(call)
    return _edit(call, one, _written(one.value))


async def edit(call: Call) -> View | Moved:
    """A change of what guards against too much is shown once more before it counts."""
    one, form = _one(call), call.form
    unset, value = "unset" in form, form.one("value").strip()
    if one.name.startswith(_GUARDED) and "sure" not in form:
        return _ask(call, one, unset=unset, value=value)
    wanted = Wanted(
        set={} if unset else {one.name: value},
        unset=[one.name] if unset else [],
        reason=text(form, "reason"),
        allow_empty="allow_empty" in form,
    )
    try:
        await configuring.change(call.services, wanted, call.caller.actor, _expected(call))
    except Refusal as error:
        return _edit(call, one, value, error)
    now = _one(call)
    return Moved(to=PAGE.address, told=f"{one.name} is now {_written(now.value) or 'empty'}.")


def _ask(call: Call, one: ShownSetting, *, unset: bool, value: str) -> View:
    """What would be other than before; the form again if the value is none."""
    try:
        changed = Wanted(set={}, unset=[one.name]) if unset else Wanted(set={one.name: value})
        configuring.check(call.services, changed)
    except Refusal as error:
        return _edit(call, one, value, error)
    values = {
        "one": one,
        "before": _written(one.value),
        "after": value,
        "unset": unset,
        "reason": call.form.one("reason"),
        "version": call.form.one("version"),
        "empties": one.name == _PROTECTED and not unset and not value,
    }
    return View(template="pages/settings_sure.html", values=values)


def _edit(call: Call, one: ShownSetting, value: str, refused: Refusal | None = None) -> View:
    values = {
        "one": one,
        "value": value,
        "written_default": _written(one.default),
        "reason": call.form.one("reason"),
        "error": "" if refused is None else refused.detail,
        "version": call.form.one("version") or str(call.services.controller.live.version),
        "is_switch": one.unit == "true or false",
    }
    return View(template="pages/settings_edit.html", values=values, status=200 if refused is None else refused.status)


def _pause(call: Call, refused: Refusal | None = None) -> View:
    live = call.services.controller.live
    values = {
        "pause": live.pause,
        "refused": "" if refused is None else refused.detail,
        "waiting": len(call.services.controller.approvals.all()),
    }
    return View(template="pages/settings_pause.html", values=values, status=200 if refused is None else refused.status)


def _one(call: Call) -> ShownSetting:
    """Refusal 404."""
    name = call.path["name"]
    try:
        (found,) = call.services.controller.live.shown([name])
    except KeyError:
        raise Refusal(404, unknown(name)) from None
    return found


def _expected(call: Call) -> Callable[[], None]:
    def check() -> None:
        given = call.form.one("version")
        if given and given != str(call.services.controller.live.version):
            raise Refusal(412, "a setting was changed since this form was opened; look at how it is now")

    return check


def _written(value: Any) -> str:
    """As a value is typed."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def _title(group: str) -> str:
    return _GROUPS.get(group, group.replace("_", " ").capitalize())


PAGE = Page(
    name="settings",
    title="Settings",
    section=Section.ADMINISTER,
    routes=(
        Route(path="/settings", handler=show),
        Route(path="/settings/pause", handler=pause_form, needs=Permission.OPERATE),
        Route(path="/settings/pause", handler=pause, method="POST", needs=Permission.OPERATE),
        Route(path="/settings/edit/{name}", handler=edit_form, needs=Permission.ADMIN),
        Route(path="/settings/edit/{name}", handler=edit, method="POST", needs=Permission.ADMIN),
    ),
    key="s",
    icon="settings",
)
