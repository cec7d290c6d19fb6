"""Whether what deviated from a policy once still would. SEMANTICS section 5; pure.

Asked again whenever a policy or one of its rulesets changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from quell.guardian.guard import Guard
from quell.guardian.merging import merge
from quell.model.observation import Observation
from quell.model.policy import Policy, Ruleset
from quell.model.repeats import Repeated, Standing
from quell.model.subject import Subject


def standings(policy: Policy, rulesets: Sequence[Ruleset], found: Sequence[Repeated]) -> dict[str, Standing]:
    """By checksum, those that are other than before. The policy must be enabled and its rulesets there."""
    guard = Guard([policy], rulesets)
    changed: dict[str, Standing] = {}
    for each in found:
        deviates = _deviates(policy, guard, each)
        if deviates is None:
            continue
        after = Standing.OPEN if deviates else Standing.IRRELEVANT
        if deviates is not (each.status is Standing.OPEN):
            changed[each.checksum] = after
    return changed


def _deviates(policy: Policy, guard: Guard, repeated: Repeated) -> bool | None:
    """None: it cannot be told."""
    if repeated.example is not None:
        return _compared(guard, repeated.example)
    if repeated.deviation.what == "container":
        return _container(guard, repeated.subject)
    try:
        return merge(policy, [repeated.deviation]) != policy
    except ValueError:
        return None


def _compared(guard: Guard, observation: Observation) -> bool:
    watches = guard.watches(msgspec.structs.replace(observation.subject, process=None))
    return any(watch.compare(observation) is not None for watch in watches)


def _container(guard: Guard, subject: Subject) -> bool:
    return any(watch.compare_container(subject) is not None for watch in guard.watches(subject))
