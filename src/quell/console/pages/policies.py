"""Policies: what each does and finds; written, switched after a look at what that would do, made of what was seen, deleted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from quell.api.problem import Refusal
from quell.api.roles import Permission
from quell.api.routes import fingerprints
from quell.api.routes.deviations import kept as known_deviations
from quell.api.routes.documents import editing, refused
from quell.api.routes.policies import (
    ShownPolicy,
    Simulation,
    policy_named,
    rulesets_of,
    showing,
    simulated,
    standing,
)
from quell.console.editing import Edited, edited, in_force, same_version, saved, submitted
from quell.console.page import Call, Moved, Page, Query, Route, Section, View, address
from quell.console.policy_form import PolicyForm, document_of, form_of, options_of, read_form, unfit
from quell.console.words import requirements
from quell.controller.policy_changes import plan_enable, plan_mode
from quell.controller.rule_changes import Options
from quell.controller.rulebook import Kept, Key
from quell.documents.write import SEPARATOR, as_yaml, to_document
from quell.guardian.fingerprint import Kind
from quell.matching.policies import PolicyStatus
from quell.matching.policies import status as policy_status
from quell.model.policy import Policy, PolicyType
from quell.model.repeats import Standing
from quell.model.rule import Mode
from quell.storage.deviations import Wanted

_ROWS = 100
#: Deviations that a policy's page shows, and lines of a simulation.
_DEVIATIONS, _DIFFERENCES = 10, 200
_SORTS = ("name", "type", "status", "deviations", "changed")
#: What a new policy begins with, by type.
_STARTS: Mapping[PolicyType, Mapping[str, Any]] = {
    PolicyType.CONTAINER: {"containerSelector": {"matchFields": {"image": "registry.example/shop/web:*"}}},
    PolicyType.LINUX_SERVICE: {"serviceSelector": {"matchFields": {"name": "web.service"}}},
    PolicyType.CLUSTER: {"clusterSelector": {"matchFields": {"name": "prod"}}, "rulesets": []},
    PolicyType.TRACE: {"traceSelector": {"matchFields": {"triggerClass": "redflag/proc/*"}}, "allowedFlags": []},
}


class Shown(Struct, frozen=True, kw_only=True):
    """A line of the list."""

    policy: ShownPolicy
    scope: list[str]
    #: Words of its actions.
    actions: list[str]


async def show(call: Call) -> View:
    query, controller = call.query, call.services.controller
    everyone = standing(controller)
    known = rulesets_of(controller)
    text, type_, status = query.one("text").casefold(), query.one("type"), query.one("status")
    chosen = [
        (policy, kept)
        for policy, kept in everyone
        if text in policy.name.casefold()
        and type_ in ("", policy.type.value)
        and status in ("", policy_status(policy, known).value)
    ]
    column, falling = _order(query.one("sort", "name"))
    key = _sort_key(column, known, controller.guardian.deviations.totals() if column == "deviations" else {})
    chosen.sort(key=lambda one: one[0].name.casefold())
    chosen.sort(key=key, reverse=falling)
    start = query.number("from", 0, least=0, most=10**6)
    tell = showing(controller)
    values = {
        # Only these are written out: with thousands of policies all of them would take long.
        "policies": [_line(policy, tell(policy, kept)) for policy, kept in chosen[start : start + _ROWS]],
        "start": start,
        "rows": _ROWS,
        "found": len(chosen),
        "everyone": len(everyone),
        "types": [("", "Any"), *(each.value for each in PolicyType)],
        "statuses": [("", "Any"), *(each.value for each in PolicyStatus)],
        "query": query,
        "sort": f"-{column}" if falling else column,
    }
    return View(template="pages/policies.html", values=values)


async def one(call: Call) -> View:
    controller = call.services.controller
    policy, kept = policy_named(controller, call.path["name"])
    wanted = Wanted(policies=[policy.name], statuses=[Standing.OPEN])
    deviations = [each for _, each in await known_deviations(controller, wanted, _DEVIATIONS)]
    document = to_document(policy)
    spec = document["spec"]
    response = spec.get("response", {})
    values = {
        "policy": showing(controller)(policy, kept),
        "scope": scope_of(policy),
        "response": {where: [_entry(each) for each in response.get(where, ())] for where in ("actions", "default")},
        "expects": _expects(spec),
        "allowed": list(policy.allowed_flags),
        "deviations": deviations,
        "rulesets": rulesets_of(controller),
        "yaml": as_yaml(document),
    }
    return View(template="pages/policies_one.html", values=values)


# ---- written


async def new(call: Call) -> View:
    """An empty form of a type; or, of what was seen, its text."""
    query = call.query
    images, services, cluster = query.all("image"), query.all("service"), query.one("cluster")
    if images or services or cluster:
        made = fingerprints.made(call.services.controller, images, services, cluster or None, None)
        text = SEPARATOR.join(as_yaml(each) for each in made.documents)
        return _text(call, None, text, None, made_of=made.fingerprints)
    type_ = _type(query.one("type", PolicyType.CONTAINER.value))
    spec: dict[str, Any] = {"mode": "audit", **_STARTS[type_]}
    if type_ is not PolicyType.TRACE:
        spec["response"] = {"default": [{"makeRedFlag": {"severity": "high"}}], "actions": []}
    document = {
        "apiVersion": "quell.dev/v1",
        "kind": "Policy",
        "metadata": {"name": "" if query.one("as") != "yaml" else "my-policy", "type": type_.value},
        "spec": spec,
    }
    if query.one("as") == "yaml":
        return _text(call, None, as_yaml(document), None)
    return _form(call, None, form_of(document), None)


async def save_new(call: Call) -> View | Moved:
    if "text" in call.form:
        return await _save_text(call, None)
    return await _save_form(call, None)


async def edit(call: Call) -> View:
    policy, _ = policy_named(call.services.controller, call.path["name"])
    document = to_document(policy)
    form = form_of(document)
    if why := await asyncio.to_thread(unfit, form, document):
        return _text(call, policy, as_yaml(document), None, no_form=why)
    return _form(call, policy, form, None)


async def save(call: Call) -> View | Moved:
    policy, _ = policy_named(call.services.controller, call.path["name"])
    return await _save_form(call, policy)


async def text_form(call: Call) -> View:
    policy, _ = policy_named(call.services.controller, call.path["name"])
    return _text(call, policy, as_yaml(to_document(policy)), None)


async def save_text(call: Call) -> View | Moved:
    policy, _ = policy_named(call.services.controller, call.path["name"])
    return await _save_text(call, policy)


async def _save_text(call: Call, policy: Policy | None) -> View | Moved:
    text, found = await submitted(call, None if policy is None else Key("Policy", policy.name))
    if call.form.one("do") == "look":
        return View(template="findings.html", values={"edited": found})
    return _saved(found) or _text(call, policy, text, found, revision=call.form.one("revision"))


async def _save_form(call: Call, policy: Policy | None) -> View | Moved:
    base = {} if policy is None else to_document(policy)
    filled = read_form(call.form, base)
    do = call.form.one("do")
    if do not in ("save", "review"):
        return _form(call, policy, filled.after(do), None, revision=call.form.one("revision"))
    document = document_of(filled, base)
    found = await edited(
        call,
        as_yaml(document),
        None if policy is None else Key("Policy", policy.name),
        call.form.one("revision"),
        save=do == "save",
        take_over="take_over" in call.form,
    )
    return _saved(found) or _form(call, policy, filled, found, revision=call.form.one("revision"))


def _saved(found: Edited) -> Moved | None:
    return saved(found, "Policy", "policies", "policy")


def _text(
    call: Call,
    policy: Policy | None,
    text: str,
    found: Edited | None,
    *,
    revision: str | None = None,
    made_of: Sequence[Any] = (),
    no_form: str = "",
) -> View:
    return View(
        template="pages/policies_text.html",
        values={
            **_about(call, policy, revision),
            "text": text,
            "edited": found,
            "made_of": made_of,
            "no_form": no_form,
        },
        status=422 if found is not None and found.count else 200,
    )


def _form(
    call: Call, policy: Policy | None, form: PolicyForm, found: Edited | None, *, revision: str | None = None
) -> View:
    controller = call.services.controller
    return View(
        template="pages/policies_form.html",
        values={
            **_about(call, policy, revision),
            "form": form,
            "options": options_of(form.type),
            "types": [each.value for each in PolicyType],
            "rulesets": sorted(rulesets_of(controller)),
            "edited": found,
        },
        status=422 if found is not None and found.count else 200,
    )


def _about(call: Call, policy: Policy | None, revision: str | None) -> dict[str, Any]:
    """revision: as it was sent; None: the one in force."""
    name = "" if policy is None else policy.name
    return in_force(None if policy is None else policy_named(call.services.controller, name)[1], name, revision)


# ---- made of what was seen


async def observed(call: Call) -> View:
    query, controller = call.query, call.services.controller
    text = query.one("text")
    found = [each for each in controller.guardian.learning.all() if text in each.name]
    policies = [policy for policy, _ in standing(controller)]
    start = query.number("from", 0, least=0, most=10**6)
    clusters = sorted(
        {each.cluster for each in fingerprints.running(controller) if each.cluster is not None and each.image}
    )
    values = {
        "found": [fingerprints.listed(each) for each in found[start : start + _ROWS]],
        "start": start,
        "rows": _ROWS,
        "count": len(found),
        "query": query,
        "clusters": clusters,
        "policies": len(policies),
        "image": Kind.IMAGE.value,
    }
    return View(template="pages/policies_observed.html", values=values)


# ---- switched and deleted


async def switch_form(call: Call) -> View:
    """What the other mode would do about what was seen, before it is chosen."""
    controller = call.services.controller
    policy, kept = policy_named(controller, call.path["name"])
    mode = _mode(call.query)
    told: Simulation | None = None
    if policy.type is not PolicyType.TRACE:
        told = await simulated(controller, policy, mode, 0.0)
    values = {
        "policy": showing(controller)(policy, kept),
        "mode": mode.value,
        "simulation": told,
        "shown": [] if told is None else told.differences[:_DIFFERENCES],
        "revision": kept.revision,
    }
    return View(template="pages/policies_switch.html", values=values)


async def switch(call: Call) -> Moved:
    mode = _mode(call.form)
    name = call.path["name"]
    return await _changed(
        call,
        lambda kept, edition, options: plan_mode(kept, name, mode, edition, options),
        f"Policy {name} is in {mode.value} mode.",
    )


async def enable_form(call: Call) -> View:
    return _ask(call, "pages/policies_enable.html")


async def enable(call: Call) -> Moved:
    return await _switched(call, on=True)


async def disable_form(call: Call) -> View:
    return _ask(call, "pages/policies_disable.html")


async def disable(call: Call) -> Moved:
    return await _switched(call, on=False)


async def delete_form(call: Call) -> View:
    return _ask(call, "pages/policies_delete.html")


def _ask(call: Call, template: str) -> View:
    """Before it is done."""
    policy, kept = policy_named(call.services.controller, call.path["name"])
    told = showing(call.services.controller)(policy, kept)
    return View(template=template, values={"policy": told, "revision": kept.revision})


async def _switched(call: Call, *, on: bool) -> Moved:
    name = call.path["name"]
    return await _changed(
        call,
        lambda kept, edition, options: plan_enable(kept, name, on=on, edition=edition, options=options),
        f"Policy {name} is {'enabled' if on else 'disabled'}.",
    )


async def delete(call: Call) -> Moved:
    rulebook, name = call.services.controller.rulebook, call.path["name"]
    policy_named(call.services.controller, name)
    key = Key("Policy", name)
    await refused(
        rulebook.delete(
            key,
            editing(call.caller),
            unquarantine="unquarantine" in call.form,
            expect=same_version(rulebook, key, call.form.one("revision")),
        )
    )
    return Moved(to=PAGE.address, told=f"Policy {name} is deleted.")


async def _changed(call: Call, make: Any, told: str) -> Moved:
    """Refusal 403, 404, 409, 412."""
    rulebook, name = call.services.controller.rulebook, call.path["name"]
    policy_named(call.services.controller, name)
    options = Options(take_over="take_over" in call.form, unquarantine="unquarantine" in call.form)
    done = await refused(
        rulebook.change(
            lambda kept, edition: make(kept, edition, options),
            editing(call.caller),
            expect=same_version(rulebook, Key("Policy", name), call.form.one("revision")),
        )
    )
    warnings = [warning for each in done.changes for warning in each.warnings]
    return Moved(to=address("policies", "policy", name), told=" ".join([told, *warnings]))


# ---- told


def scope_of(policy: Policy) -> list[str]:
    """Each requirement of its selectors as a line: container image docker.io/library/nginx:*."""
    lines = []
    for selector in policy.scope:
        kind = selector.kind.value.removesuffix("Selector")
        for one in selector.requirements:
            operator = {"In": "", "NotIn": " not", "Exists": " is there", "DoesNotExist": " is not there"}[
                one.operator.value
            ]
            lines.append(f"{kind} {one.key}{operator} {' or '.join(one.values)}".rstrip())
    return lines


def _line(policy: Policy, shown: ShownPolicy) -> Shown:
    response = shown.policy.get("response", {})
    entries = [*response.get("actions", ()), *response.get("default", ())]
    return Shown(
        policy=shown,
        scope=scope_of(policy),
        actions=list(dict.fromkeys(word for entry in entries for word in entry)),
    )


def _entry(entry: dict[str, dict[str, Any]]) -> dict[str, Any]:
    [(word, given)] = entry.items()
    parameters, conditions = {}, []
    for name, value in given.items():
        if name.endswith("Selector"):
            conditions += [
                f"{name.removesuffix('Selector')} {line}" for part in value.values() for line in requirements(part)
            ]
        elif name != "enabled":
            parameters[name] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return {
        "action": word,
        "enabled": given.get("enabled", True),
        "parameters": parameters,
        "conditions": conditions,
    }


def _expects(spec: dict[str, Any]) -> str:
    """What it expects of its workload, as it is written; "": it says nothing of that."""
    names = ("processPolicy", "networkPolicy", "disableProcesses", "disableConnections",
             "disablePrivateConnections", "disablePublicConnections")  # fmt: skip
    written = {name: spec[name] for name in names if name in spec}
    return as_yaml(written) if written else ""


def _sort_key(
    column: str, rulesets: set[str], deviations: Mapping[str, tuple[int, int]]
) -> Callable[[tuple[Policy, Kept]], Any]:
    def key(one: tuple[Policy, Kept]) -> Any:
        policy, kept = one
        match column:
            case "type":
                return policy.type.value
            case "status":
                return policy_status(policy, rulesets).value
            case "deviations":
                return deviations.get(policy.name, (0, 0))
            case "changed":
                return kept.changed or 0.0
            case _:
                return policy.name.casefold()

    return key


def _order(written: str) -> tuple[str, bool]:
    column = written.removeprefix("-")
    return (column, written.startswith("-")) if column in _SORTS else ("name", False)


def _mode(given: Query) -> Mode:
    """Refusal 400."""
    word = given.one("mode", Mode.ENFORCE.value)
    try:
        return Mode(word)
    except ValueError as error:
        raise Refusal(400, f"mode: expected audit or enforce, got {word[:40]}") from error


def _type(word: str) -> PolicyType:
    """Refusal 400."""
    try:
        return PolicyType(word)
    except ValueError as error:
        told = ", ".join(each.value for each in PolicyType)
        raise Refusal(400, f"type: expected one of {told}, got {word[:40]}") from error


_MAY = Permission.RULES
PAGE = Page(
    name="policies",
    title="Policies",
    section=Section.RESPOND,
    routes=(
        Route(path="/policies", handler=show),
        Route(path="/policies/new", handler=new, needs=_MAY),
        Route(path="/policies/new", handler=save_new, method="POST", needs=_MAY),
        Route(path="/policies/observed", handler=observed),
        Route(path="/policies/policy/{name:path}", handler=one),
        Route(path="/policies/edit/{name:path}", handler=edit, needs=_MAY),
        Route(path="/policies/edit/{name:path}", handler=save, method="POST", needs=_MAY),
        Route(path="/policies/text/{name:path}", handler=text_form, needs=_MAY),
        Route(path="/policies/text/{name:path}", handler=save_text, method="POST", needs=_MAY),
        Route(path="/policies/switch/{name:path}", handler=switch_form, needs=_MAY),
        Route(path="/policies/switch/{name:path}", handler=switch, method="POST", needs=_MAY),
        Route(path="/policies/enable/{name:path}", handler=enable_form, needs=_MAY),
        Route(path="/policies/enable/{name:path}", handler=enable, method="POST", needs=_MAY),
        Route(path="/policies/disable/{name:path}", handler=disable_form, needs=_MAY),
        Route(path="/policies/disable/{name:path}", handler=disable, method="POST", needs=_MAY),
        Route(path="/policies/delete/{name:path}", handler=delete_form, needs=_MAY),
        Route(path="/policies/delete/{name:path}", handler=delete, method="POST", needs=_MAY),
    ),
    key="y",
    icon="policies",
)
