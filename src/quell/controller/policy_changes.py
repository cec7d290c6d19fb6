"""What becomes of single policies: switched on and off, audited or enforced, widened by deviations. Pure; each is a plan of
quell.controller.rulebook, under the same conditions as documents that are applied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from quell.controller.authorship import destructive
from quell.controller.rule_changes import Options
from quell.controller.rulebook import Application, Edition, Kept, Key, Plan, plan_apply
from quell.documents.load import Documents
from quell.errors import DocumentError, DocumentForbidden, Problem
from quell.guardian.merging import merge
from quell.guardian.ruleset_merging import merge_rulesets
from quell.model.details import Deviation
from quell.model.policy import Policy, Ruleset
from quell.model.rule import Mode


def plan_enable(things: Mapping[Key, Kept], name: str, *, on: bool, edition: Edition, options: Options) -> Plan:
    """A policy in force or out of it. KeyError: there is none. DocumentForbidden: an author enables a destructive one."""
    policy = policy_of(things, name)
    if on and not policy.enabled:
        _refuse_author(policy, edition, f"enable policy {name}")
    return _applied(things, [msgspec.structs.replace(policy, enabled=on)], edition, options)


def plan_mode(things: Mapping[Key, Kept], name: str, mode: Mode, edition: Edition, options: Options) -> Plan:
    """A policy that audits or enforces. As plan_enable; an author may neither switch a destructive one that is enabled."""
    policy = policy_of(things, name)
    if policy.enabled and policy.mode is not mode:
        _refuse_author(policy, edition, f"switch policy {name}, which is enabled, to {mode.value}")
    return _applied(things, [msgspec.structs.replace(policy, mode=mode)], edition, options)


def plan_merge(
    things: Mapping[Key, Kept], name: str, deviations: Sequence[Deviation], edition: Edition, options: Options
) -> Plan:
    """What deviated from a policy is expected from now on, by the policy itself or by its rulesets.

    KeyError: there is no such policy. DocumentError: one of the deviations has nothing that could be merged.
    DocumentForbidden: an author widens what is enabled and destructive.
    """
    policy = policy_of(things, name)
    if policy.enabled:
        _refuse_author(policy, edition, f"merge into policy {name}, which is enabled")
    own = [each for each in deviations if not each.addition.get("rules")]
    of_rulesets = [each for each in deviations if each.addition.get("rules")]
    try:
        changed: list[Policy | Ruleset] = [merge(policy, own)] if own or not of_rulesets else []
        if of_rulesets:
            there = [each for word in policy.rulesets if (each := _ruleset(things, word)) is not None]
            merged = merge_rulesets(there, of_rulesets)
            wider = [after for before, after in zip(there, merged, strict=True) if after != before]
            changed += wider or ([] if changed else merged[:1])
    except ValueError as error:
        raise DocumentError([Problem(file="", path="checksums", message=str(error))]) from error
    return _applied(things, changed, edition, options)


def _ruleset(things: Mapping[Key, Kept], name: str) -> Ruleset | None:
    kept = things.get(Key("Ruleset", name))
    return kept.thing if kept is not None and isinstance(kept.thing, Ruleset) else None


def policy_of(things: Mapping[Key, Kept], name: str) -> Policy:
    """KeyError: there is none."""
    thing = things[Key("Policy", name)].thing
    if not isinstance(thing, Policy):
        raise KeyError(name)
    return thing


def _applied(things: Mapping[Key, Kept], changed: list[Policy | Ruleset], edition: Edition, options: Options) -> Plan:
    documents = Documents(
        policies=tuple(thing for thing in changed if isinstance(thing, Policy)),
        rulesets=tuple(thing for thing in changed if isinstance(thing, Ruleset)),
    )
    wanted = Application(
        documents=documents,
        source=options.source,
        take_over=options.take_over,
        unquarantine=options.unquarantine,
    )
    return plan_apply(things, wanted, edition)


def _refuse_author(policy: Policy, edition: Edition, what: str) -> None:
    """Else it would be saved disabled, which is not what was asked for."""
    words = destructive(policy)
    if words and not edition.editor.operates:
        told = f"it takes an operator to {what}: it asks for {' and '.join(words)}"
        raise DocumentForbidden([Problem(file="", message=told)])
