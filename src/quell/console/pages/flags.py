"""Flags: what rules and policies want people to look at; searched for, acknowledged one or many, shown with their text."""

from __future__ import annotations

from typing import Any

import msgspec
from markupsafe import Markup

from quell.api.problem import Refusal
from quell.api.roles import Permission
from quell.api.routes.flags import (
    FlagsChosen,
    acknowledge,
    filters,
    flag_named,
    found,
    take_back,
)
from quell.console.forms import by_field, with_value
from quell.console.page import Call, Moved, Page, Query, Route, Section, View, address
from quell.console.pages.notifications import flat
from quell.errors import FilterError, Problem
from quell.model.action import Severity
from quell.model.flag import FlagShown
from quell.model.notification import SearchPage

_ROWS = 50
#: At most so many are acknowledged at once, as POST /v1/flags/acknowledge takes them; characters of a note.
_MOST, _NOTE = 1000, 1000
#: Filters that take several values, as the query of GET /v1/flags has them.
_SEVERAL = (
    "flag_class", "severity", "name", "rule", "event", "node", "namespace", "pod", "container", "image", "trace", "text",
)  # fmt: skip
#: Those that the form always shows.
_FIRST = ("text", "severity", "flag_class")
#: The chain of processes: its trace draws it.
_LINEAGE = "process.lineage"
_LABELS = {"rule": "Rule or policy", "event": "Event's id", "trace": "Trace's id"}
_SEVERITIES = (
    ("", "Any"),
    *((f">={each.value}", f"{each.value} and above") for each in list(Severity)[:4]),
    *((each.value, each.value) for each in Severity),
)
_CLASSES = (("", "Any"), ("red", "red: security"), ("ops", "ops: operations"))
_SEEN = (("", "Any"), ("false", "not acknowledged"), ("true", "acknowledged"))


async def show(call: Call) -> View:
    query = call.query
    errors: dict[str, str] = {}
    problems: list[Problem] = []
    some: SearchPage[FlagShown] | None = None
    oldest_first = query.one("order") == "oldest"
    try:
        some = await found(
            call.services, _wanted(query), newer=oldest_first, limit=_ROWS, cursor=query.one("cursor") or None
        )
    except FilterError as error:
        errors, problems = by_field(error.problems, ("since", "until", *_SEVERAL))
    more = [name for name in ("since", "until", *_SEVERAL) if name not in _FIRST]
    values = {
        "found": some,
        "query": query,
        "errors": errors,
        "problems": problems,
        "severities": with_value(_SEVERITIES, query.one("severity")),
        "classes": with_value(_CLASSES, query.one("flag_class")),
        "seen": _SEEN,
        "more": [(name, _LABELS.get(name, name.capitalize())) for name in more],
        "more_used": any(query.one(name) for name in more),
        "filtered": any(query.one(name) for name in ("since", "until", "acknowledged", *_SEVERAL)),
        "oldest_first": oldest_first,
        # Filters and order go into the file too, the place in the list does not.
        "exported": query.changed(cursor=None),
        "rows": _ROWS,
    }
    return View(template="pages/flags.html", values=values, status=400 if errors or problems else 200)


async def one(call: Call) -> View:
    flag = await flag_named(call.services, call.path["id"])
    values = {
        "flag": flag,
        # quell.controller.markdown made it, and cleaned it.
        "content": Markup(flag.content_html),  # noqa: S704
        "subject": [(name, value) for name, value in flat(msgspec.to_builtins(flag.subject)) if name != _LINEAGE],
        "askers": [_asker(each) for each in flag.asked_by],
    }
    return View(template="pages/flags_one.html", values=values)


async def acknowledge_form(call: Call) -> View:
    return View(template="pages/flags_acknowledge.html", values=await _chosen(call, back=False))


async def acknowledge_them(call: Call) -> Moved:
    wanted = _filled(call.form)
    done = await acknowledge(call.services, wanted, call.caller.actor)
    others = len(wanted.ids) - len(done.changed)
    told = f"{_number(len(done.changed))} acknowledged"
    return Moved(to=_after(call.form, wanted), told=f"{told}; {others} had been before." if others else f"{told}.")


async def take_back_form(call: Call) -> View:
    return View(template="pages/flags_acknowledge.html", values=await _chosen(call, back=True))


async def take_them_back(call: Call) -> Moved:
    wanted = _filled(call.form)
    done = await take_back(call.services, wanted, call.caller.actor)
    return Moved(to=_after(call.form, wanted), told=f"{_number(len(done.changed))} not acknowledged any more.")


async def _chosen(call: Call, *, back: bool) -> dict[str, Any]:
    """Refusal 400, 404."""
    ids = list(dict.fromkeys(call.query.all("id")))
    if not ids:
        raise Refusal(400, "No flag was chosen: go back, and mark those that somebody has seen to")
    if len(ids) > _MOST:
        raise Refusal(400, f"at most {_MOST} flags are acknowledged at once")
    return {
        "flags": [await flag_named(call.services, each) for each in ids],
        "back": back,
        "to": address("flags", ids[0]) if "one" in call.query else PAGE.address,
        "one": "one" in call.query,
        "note": _NOTE,
    }


def _filled(form: Query) -> FlagsChosen:
    """Refusal 400, 422."""
    ids, note = form.all("id"), form.one("note").strip()
    if not 1 <= len(ids) <= _MOST:
        raise Refusal(400, f"id: expected 1 to {_MOST} flags, got {len(ids)}")
    if len(note) > _NOTE:
        raise Refusal(422, f"note: expected at most {_NOTE} characters, got {len(note)}")
    return FlagsChosen(ids=ids, note=note)


def _after(form: Query, wanted: FlagsChosen) -> str:
    return address("flags", wanted.ids[0]) if "one" in form else PAGE.address


def _wanted(query: Query) -> Any:
    """FilterError."""
    seen = query.one("acknowledged")
    return filters(
        query.one("since") or None,
        query.one("until") or None,
        acknowledged=None if seen not in ("true", "false") else seen == "true",
        **{name: query.all(name) for name in _SEVERAL},
    )


def _asker(reference: str) -> tuple[str, str]:
    """(reference, name of the policy that it is of; "": it is a rule's): policy/NAME/default."""
    kind, _, rest = reference.partition("/")
    return reference, rest.rpartition("/")[0] or rest if kind == "policy" else ""


def _number(flags: int) -> str:
    return f"{flags} flag{' is' if flags == 1 else 's are'}"


_MAY = Permission.OPERATE
PAGE = Page(
    name="flags",
    title="Flags",
    section=Section.WATCH,
    routes=(
        Route(path="/flags", handler=show),
        Route(path="/flags/acknowledge", handler=acknowledge_form, needs=_MAY),
        Route(path="/flags/acknowledge", handler=acknowledge_them, method="POST", needs=_MAY),
        Route(path="/flags/take-back", handler=take_back_form, needs=_MAY),
        Route(path="/flags/take-back", handler=take_them_back, method="POST", needs=_MAY),
        Route(path="/flags/{id:path}", handler=one),
    ),
    key="f",
    icon="flags",
)
