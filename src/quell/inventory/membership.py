"""Groups' members and workloads' groups, asked again only for what changed. SEMANTICS section 2.

Events are not decided by this: an event's groups are asked of the event itself, enriched (quell.matching.groups). This
says the same of the workloads, for people.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import islice

from quell.matching.groups import ALL, CONTAINERS, LEARNED, Groups
from quell.response.facts import Workload

#: Seconds for which a learned group is listed after its last member is gone; as long as a rule refers to it, in any case.
LEARNED_KEPT = 7 * 86_400.0
#: Learned groups without a member, at most; those whose members went first are forgotten first.
MAX_LEFT = 20_000
#: Learned groups forgotten in one go.
_DROPPED = 100
_EVERY = frozenset((ALL, CONTAINERS))


class Membership:
    """workloads: the inventory's; one that is gone or stopped is in no group."""

    def __init__(self, workloads: Mapping[str, Workload], left: Mapping[str, float]) -> None:
        """left: learned groups that had no member when they were saved, and since when."""
        self._workloads = workloads
        self._groups = Groups(())
        self._referred: frozenset[str] = frozenset()
        self._of: dict[str, tuple[str, ...]] = {}
        self._members: dict[str, set[str]] = {}
        self._left = dict(left)
        self._waiting: dict[str, None] = dict.fromkeys(workloads)

    def use(self, groups: Groups, referred: Iterable[str]) -> None:
        """Other documents: all is asked again. referred: groups that rules name, which are kept."""
        self._groups = groups
        self._referred = frozenset(name for name in referred if name.startswith(LEARNED))
        self._waiting = dict.fromkeys((*self._of, *self._workloads))

    def changed(self, workloads: Iterable[str]) -> None:
        self._waiting.update(dict.fromkeys(workloads))

    def settle(self, now: float, limit: int | None = None) -> bool:
        """Ask again for up to `limit` of the workloads that wait for it. True: none waits any more."""
        for identifier in list(islice(self._waiting, limit)):
            del self._waiting[identifier]
            self._ask(identifier, now)
        return not self._waiting

    @property
    def waiting(self) -> int:
        """Workloads whose groups are to be asked again."""
        return len(self._waiting)

    def groups_of(self, identifier: str, now: float) -> tuple[str, ...]:
        """Of a workload by its full id, reserved groups first."""
        if identifier in self._waiting:
            del self._waiting[identifier]
            self._ask(identifier, now)
        return self._of.get(identifier, ())

    def members(self, group: str, now: float) -> Collection[str]:
        """Full ids, in no order."""
        self.settle(now)
        return self._of.keys() if group in _EVERY else self._members.get(group, frozenset())

    def learned(self, now: float) -> list[str]:
        """The learned groups, those included that have no member any more or none yet but a rule."""
        self.settle(now)
        names = (*self._members, *self._left, *self._referred)
        return sorted({name for name in names if name.startswith(LEARNED)})

    def expire(self, now: float) -> dict[str, float]:
        """Forget learned groups that have been empty for long and that no rule names, some at a time: which, since when."""
        idle = [name for name in self._left if name not in self._referred]
        over = [
            name
            for place, name in enumerate(idle)
            if self._left[name] <= now - LEARNED_KEPT or place < len(idle) - MAX_LEFT
        ]
        return {name: self._left.pop(name) for name in over[:_DROPPED]}

    @property
    def kept(self) -> frozenset[str]:
        """Learned groups that there are and that rules name, so that they are never forgotten."""
        return frozenset(name for name in self._referred if name in self._members or name in self._left)

    @property
    def left(self) -> Mapping[str, float]:
        """Learned groups without a member, and since when."""
        return self._left

    def _ask(self, identifier: str, now: float) -> None:
        known = self._workloads.get(identifier)
        before, after = self._of.get(identifier, ()), () if known is None else self._asked(known)
        if after == before:
            return
        if after:
            self._of[identifier] = after
        else:
            del self._of[identifier]
        for name in set(before).difference(after, _EVERY):
            ids = self._members[name]
            ids.discard(identifier)
            if not ids:
                del self._members[name]
                if name.startswith(LEARNED):
                    self._left[name] = now
        for name in set(after).difference(before, _EVERY):
            self._members.setdefault(name, set()).add(identifier)
            self._left.pop(name, None)

    def _asked(self, known: Workload) -> tuple[str, ...]:
        if known.gone is not None or not known.running or known.contested:
            return ()
        facts = (known.name, known.image, known.node, known.service, known.namespace)
        return self._groups.of(facts, known.labels, known.namespace_labels)
