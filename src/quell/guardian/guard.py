"""Observations compared with policies. SEMANTICS section 5, processPolicy to disablePublicConnections and rulesets.

What is listed is expected and everything else deviates. Where it deviates only because a fact is missing, the deviation
says so (`unproven`), and nothing destructive follows from it (SEMANTICS section 0, principle 2).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from quell.guardian.comparison import Comparison
from quell.guardian.room import Room
from quell.guardian.rulesets import CONTAINER
from quell.guardian.scope import Scopes
from quell.model.details import Deviation
from quell.model.observation import Observation
from quell.model.policy import Policy, PolicyType, Ruleset
from quell.model.subject import Subject

_TYPES = (PolicyType.CONTAINER, PolicyType.LINUX_SERVICE, PolicyType.CLUSTER)
_EVENT_NAMES = {"ingress": "Network.Violation", "egress": "Network.Violation", "container": "Container.Image.Deviation"}


class Guard:
    """The policies that compare. What it remembers between observations are only answers it would give again."""

    def __init__(self, policies: Sequence[Policy], rulesets: Sequence[Ruleset]) -> None:
        """Disabled ones are left out, and so are those that name a ruleset that is not there.

        ValueError: a pattern or a network cannot be read.
        """
        named = {ruleset.name: ruleset for ruleset in rulesets}
        room = Room()
        comparing = [
            Comparison(policy, [rule for name in policy.rulesets for rule in named[name].rules], room)
            for policy in policies
            if policy.enabled and policy.type in _TYPES and all(name in named for name in policy.rulesets)
        ]
        self._scopes = Scopes(
            (each.policy, (Watch(each, is_proved=True), Watch(each, is_proved=False))) for each in comparing
        )

    def watches(self, subject: Subject) -> tuple[Watch, ...]:
        """One for each policy whose scope takes this workload, or may take it, were more known of the workload.

        It costs some microseconds a policy: ask once a workload and again when something is learned of it.
        """
        return tuple(proved if truth else unproved for (proved, unproved), truth in self._scopes.taking(subject))


class Watch:
    """One policy as it looks at a workload."""

    __slots__ = ("_comparison", "_is_proved", "policy")

    def __init__(self, comparison: Comparison, *, is_proved: bool) -> None:
        """is_proved: False: the workload does not say enough for the policy's scope."""
        self._comparison = comparison
        self._is_proved = is_proved
        self.policy = comparison.policy

    def compare(self, observation: Observation) -> Deviation | None:
        """What one process did. None: it is expected, or nothing is said about such things."""
        return self._marked(self._comparison.compare(observation))

    def compare_container(self, subject: Subject) -> Deviation | None:
        """A container that was seen, with the rules about containers."""
        return self._marked(self._comparison.compare_rules(CONTAINER, subject))

    def _marked(self, deviation: Deviation | None) -> Deviation | None:
        if deviation is None or self._is_proved or deviation.unproven:
            return deviation
        return msgspec.structs.replace(
            deviation, unproven=f"it is not known whether policy {self.policy.name} is for it"
        )


def event_name(deviation: Deviation) -> str:
    """The catalogue name of the event that tells of it (SEMANTICS section 1)."""
    if deviation.what in _EVENT_NAMES:
        return _EVENT_NAMES[deviation.what]
    is_of_host = deviation.policy_type == PolicyType.LINUX_SERVICE.value
    return "Host.Process.Violation" if is_of_host else "Process.Profile.Violation"
