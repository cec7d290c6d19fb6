"""Deviations: what policies do not allow, once each with how often it came; chosen ones are merged after a look at the diff."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from quell.api.pages import number, page
from quell.api.problem import Refusal
from quell.api.roles import Permission
from quell.api.routes.deviations import ShownDeviation, deviation_named, kept, moment, shown
from quell.api.routes.documents import editing
from quell.api.routes.policies import Merged, chosen, merged, policy_named
from quell.console.forms import by_field
from quell.console.page import Call, Moved, Page, Query, Route, Section, View, address
from quell.console.pages.notifications import flat
from quell.controller.controller import Controller
from quell.controller.editing import Change
from quell.controller.rule_changes import Options
from quell.controller.rulebook import Key
from quell.documents.write import as_yaml
from quell.errors import DocumentError, FilterError, Problem
from quell.model.repeats import Standing
from quell.storage.deviations import Wanted

_ROWS = 50
#: At most so many are merged in one go, as POST /v1/policies/{name}/merge takes them.
_MOST = 1000
_WHATS = ("process", "ingress", "egress", "container")
_SINCE = (("", "Any time"), ("1h", "1 hour"), ("24h", "24 hours"), ("7d", "7 days"), ("30d", "30 days"))
#: What the message says of it is enough.
_LINEAGE = "process.lineage"
#: Between a policy's name and a checksum, in the value of a check box: neither has it.
_APART = "\n"


class Merge(Struct, frozen=True, kw_only=True):
    """What would become of one policy's deviations that were chosen."""

    policy: str
    deviations: list[ShownDeviation]
    changes: list[Change]
    problems: list[Problem]
    #: Of the policy and its rulesets, as they were shown.
    version: str
    source: str


async def show(call: Call) -> View:
    query, controller = call.query, call.services.controller
    errors: dict[str, str] = {}
    problems: list[Problem] = []
    items: list[ShownDeviation] = []
    following: str | None = None
    status = _status(query)
    try:
        wanted = Wanted(
            policies=query.all("policy"),
            whats=query.all("what"),
            statuses=[] if status is None else [status],
            checksums=query.all("checksum"),
            since=moment(query.one("since")) if query.one("since") else None,
        )
        found = await kept(controller, wanted, _ROWS + 1, number(query.one("cursor") or None))
        one = page(found, _ROWS, lambda item: str(item[0]))
        items, following = [shown(each) for _, each in one.items], one.next
    except FilterError as error:
        errors, problems = by_field(error.problems, ("since",))
    totals = controller.guardian.deviations.totals()
    counted = query.all("policy") or list(totals)
    known = sorted({key.name for key in controller.rulebook.kept if key.kind == "Policy"} | set(totals))
    since = query.one("since")
    values = {
        "items": items,
        "next": following,
        "query": query,
        "errors": errors,
        "problems": problems,
        "status": "any" if status is None else status.value,
        "statuses": [*((each.value, each.value) for each in Standing), ("any", "any")],
        "whats": [("", "Any"), *_WHATS],
        "since": [*_SINCE, *([] if since in dict(_SINCE) else [(since, since)])],
        "policies": [("", "Any"), *known],
        "known": {key.name for key in controller.rulebook.kept if key.kind == "Policy"},
        "unique": sum(totals.get(name, (0, 0))[0] for name in counted),
        "total": sum(totals.get(name, (0, 0))[1] for name in counted),
        "filtered": any(query.one(name) for name in ("policy", "what", "checksum", "since"))
        or status is not Standing.OPEN,
        "apart": _APART,
    }
    return View(template="pages/deviations.html", values=values, status=400 if errors or problems else 200)


async def one(call: Call) -> View:
    controller = call.services.controller
    repeated = await deviation_named(controller, call.query.one("policy"), call.query.one("checksum"))
    told = shown(repeated)
    values = {
        "deviation": told,
        "known": Key("Policy", told.policy) in controller.rulebook.kept,
        "subject": [(name, value) for name, value in flat(told.subject) if name != _LINEAGE],
        "connection": flat(told.connection or {}),
        "addition": as_yaml(told.addition) if told.addition else "",
        "apart": _APART,
    }
    return View(template="pages/deviations_one.html", values=values)


async def merge_form(call: Call) -> View:
    """The diffs of all policies whose deviations were chosen; each is applied by itself."""
    wanted = _chosen(call.query)
    if not wanted:
        raise Refusal(400, "No deviation was chosen: go back, and mark those that are to be expected from now on")
    merges = [await _preview(call, policy, checksums) for policy, checksums in wanted.items()]
    return View(template="pages/deviations_merge.html", values={"merges": merges, "apart": _APART})


async def merge(call: Call) -> View | Moved:
    controller, form = call.services.controller, call.form
    wanted = _chosen(form)
    if len(wanted) != 1:
        raise Refusal(400, f"deviations of one policy are merged at once, got those of {len(wanted)}")
    [(policy, checksums)] = wanted.items()

    def check() -> None:
        if form.one("version") != _version(controller, policy):
            raise Refusal(412, f"policy {policy} or its rulesets were changed in the meantime: look at the diff again")

    try:
        await merged(
            controller,
            policy,
            Merged(checksums=checksums),
            editing(call.caller),
            options=Options(take_over="take_over" in form),
            dry_run=False,
            expect=check,
        )
    except (DocumentError, Refusal) as error:
        preview = await _preview(call, policy, checksums)
        problems = _problems(error)
        told = msgspec.structs.replace(preview, problems=problems)
        status = error.status if isinstance(error, Refusal) else 422
        return View(template="pages/deviations_merge.html", values={"merges": [told], "apart": _APART}, status=status)
    number_ = f"{len(checksums)} deviation{'s' if len(checksums) != 1 else ''}"
    return Moved(to=address("deviations", policy=policy), told=f"Policy {policy} expects {number_} more from now on.")


async def _preview(call: Call, policy: str, checksums: list[str]) -> Merge:
    controller = call.services.controller
    _, known = policy_named(controller, policy)
    deviations = [shown(each) for each in await chosen(controller, policy, Merged(checksums=checksums))]
    changes: list[Change] = []
    problems: list[Problem] = []
    version = _version(controller, policy)
    try:
        done = await merged(
            controller,
            policy,
            Merged(checksums=checksums),
            editing(call.caller),
            options=Options(take_over=True),
            dry_run=True,
            expect=lambda: None,
        )
        changes = done.changes
    except (DocumentError, Refusal) as error:
        problems = _problems(error)
    return Merge(
        policy=policy,
        deviations=deviations,
        changes=changes,
        problems=problems,
        version=version,
        source=next((each.source for each in _documents(controller, policy) if each.source), known.source),
    )


def _chosen(given: Query) -> dict[str, list[str]]:
    """Policy -> checksums. Refusal 400."""
    found: dict[str, list[str]] = {}
    values = list(dict.fromkeys(given.all("deviation")))
    if len(values) > _MOST:
        raise Refusal(400, f"at most {_MOST} deviations are merged at once")
    for value in values:
        # A form sends a line break as two characters.
        policy, apart, checksum = value.replace("\r\n", _APART).partition(_APART)
        if not apart:
            raise Refusal(400, f"deviation: expected a policy and a checksum, got {value[:80]}")
        found.setdefault(policy, []).append(checksum)
    return found


def _documents(controller: Controller, policy: str) -> list[Any]:
    """What is in force of a policy and its rulesets."""
    thing, _ = policy_named(controller, policy)

    keys = [Key("Policy", policy), *(Key("Ruleset", name) for name in thing.rulesets)]
    return [each for key in keys if (each := controller.rulebook.kept.get(key)) is not None]


def _version(controller: Controller, policy: str) -> str:
    return ".".join([str(each.revision) for each in _documents(controller, policy)])


def _problems(error: DocumentError | Refusal) -> list[Problem]:
    return list(error.problems) or [Problem(file="", message=str(error))]


def _status(query: Query) -> Standing | None:
    """Open ones, unless others are asked for. Refusal 400."""
    word = query.one("status", Standing.OPEN.value)
    if word == "any":
        return None
    try:
        return Standing(word)
    except ValueError as error:
        raise Refusal(400, f"status: expected open, merged, irrelevant or any, got {word[:40]}") from error


PAGE = Page(
    name="deviations",
    title="Deviations",
    section=Section.WATCH,
    routes=(
        Route(path="/deviations", handler=show),
        Route(path="/deviations/deviation", handler=one),
        Route(path="/deviations/merge", handler=merge_form, needs=Permission.RULES),
        Route(path="/deviations/merge", handler=merge, method="POST", needs=Permission.RULES),
    ),
    key="d",
    icon="deviations",
)
