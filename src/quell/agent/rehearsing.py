"""A dry run on the machine: the executor itself, on a kernel that only writes down what it is told. SEMANTICS section 8.

So that a dry run can say nothing else than what would happen, no check is made a second way. The ledger is one that is
only remembered: it begins with what the agent's own holds, and nothing of it is written.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from quell.agent.executor import Executor
from quell.agent.kernel import Kernel
from quell.agent.ledger import Imagined, Ledger
from quell.agent.pod import NotYet
from quell.agent.protected import Protected
from quell.agent.recording import RecordingKernel
from quell.channel.messages import Rehearsed
from quell.model.decision import Command, Outcome

#: Most deeds that are told.
_MOST_DEEDS = 256
#: Facts of an outcome that tell how the doing went, of which there was none.
_OF_DOING = frozenset(("seconds_to_gone", "rounds", "limits", "asked_at"))


class _Clock:
    """The wall's time, and what a dry run need not wait for."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def rehearse(
    command: Command,
    kernel: Kernel,
    ledger: Ledger,
    protected: Protected,
    *,
    kept: Callable[[int], int | None] = lambda _pid: None,
    paused: Callable[[], bool] = lambda: False,
) -> Rehearsed:
    """What would become of the command if it were executed now. kept, paused: as Executor's."""
    recording, clock = RecordingKernel(kernel), _Clock()
    # Evidence is gathered before a kill, and there is none.
    command = msgspec.structs.replace(command, evidence=None)
    executor = Executor(recording, Imagined(ledger), protected, clock, kept=kept, paused=paused)
    outcome = _executed(executor, command, clock)
    facts = {name: value for name, value in outcome.facts.items() if name not in _OF_DOING}
    return Rehearsed(outcome=msgspec.structs.replace(outcome, facts=facts), deeds=tuple(recording.deeds[:_MOST_DEEDS]))


def _executed(executor: Executor, command: Command, clock: _Clock) -> Outcome:
    """To its end: a grace period is taken to be over."""
    while True:
        try:
            return executor.execute(command)
        except NotYet as waiting:
            clock.ahead += waiting.seconds
