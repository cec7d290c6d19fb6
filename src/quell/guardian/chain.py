"""The processes of a workload that led to one of them, outermost first. SEMANTICS section 5, processPolicy."""

from __future__ import annotations

from typing import NamedTuple

from quell.model.subject import Process

#: Of a longer chain only the innermost so many are compared, as if nobody had seen the others.
LIMIT = 128

#: Name, executable and effective user of a process; None: nobody saw it.
Step = tuple[str | None, str | None, str | None]


class Chain(NamedTuple):
    #: The process itself is the last.
    steps: tuple[Step, ...]
    #: False: what ran before the first step is not known.
    is_whole: bool


def chain_of(process: Process, inside: int) -> Chain:
    """inside: how many of the lineage, from the parent up, are in the workload.

    The workload begins below the first ancestor outside of it; a lineage without one does not say where that is.
    """
    lineage = process.lineage
    is_whole = 0 <= inside < len(lineage)
    if inside >= LIMIT:
        inside, is_whole = LIMIT - 1, False
    own = (process.name, process.exe, process.user)
    if not inside:
        return Chain((own,), is_whole)
    above = [(each.name, each.exe, each.user) for each in lineage[:inside]]
    above.reverse()
    return Chain((*above, own), is_whole)


def forked(before: Step, step: Step) -> bool:
    """Whether it may be a copy of the process before it that executed nothing."""
    name, exe, _ = step
    return name is not None and exe is not None and name == before[0] and exe == before[1]


def maybe_forked(before: Step, step: Step) -> bool:
    """The same where facts are missing: whether it could be one, were they known."""
    return (step[0] is None or before[0] is None or step[0] == before[0]) and (
        step[1] is None or before[1] is None or step[1] == before[1]
    )


def folded(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Without those that are in all three as the one before them."""
    return tuple(step for place, step in enumerate(steps) if not place or step != steps[place - 1])


def gap(chain: Chain) -> str:
    """The first thing that nobody saw of it, as a clause; "": everything is known."""
    if not chain.is_whole:
        return f"what started {_called(chain.steps[0])} is not known"
    for name, exe, user in chain.steps:
        if name is None:
            return "a process's name is not known"
        if exe is None:
            return f"the executable of {name} is not known"
        if user is None:
            return f"the user of {name} is not known"
    return ""


def _called(step: Step) -> str:
    return step[0] or step[1] or "the process"
