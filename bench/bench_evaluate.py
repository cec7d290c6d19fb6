"""CPU time of evaluate() for one event against so many rules, beside a linear scan over all of them in the same run.

Each rule takes one event in a thousand: by name, image, namespace, label, process, node, level and group in turns.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from msgspec import Struct

from quell.evaluate import evaluate
from quell.matching import index as indexes
from quell.model.action import SuppressLog
from quell.model.event import Category, Event, Kind, Level
from quell.model.policy import Policy
from quell.model.rule import Criterion, Group, GroupCriterion, Rule, Webhook
from quell.model.subject import Container, Pod, Process, Subject
from quell.response.state import State

RULES = int(os.environ.get("BENCH_RULES", "1000"))
PROFILES = 1000
#: Few enough to stay in the processor's cache, as an event does that was just decoded; of as many profiles.
BATCH = 256
#: Microseconds of CPU an event, on a machine that sums the first 100 numbers in PACE microseconds; on a slower or a
#: busy one the bounds grow with what that sum takes there.
BOUND_NONE, BOUND_ONE, PACE = 4.0, 8.0, 0.6
NOW = 1_790_000_000.0

_NAMES = (
    "Terminal shell in container",
    "Read sensitive file untrusted",
    "Drop and execute new binary in container",
    "Contact K8S API Server From Container",
    "Run shell untrusted",
)
_PROCESSES = ("bash", "sh", "nc", "curl", "python3", "xmrig", "socat", "nmap")
_LEVELS = (Level.CRITICAL, Level.ERROR, Level.WARNING, Level.NOTICE)


class Documents(Struct, frozen=True):
    rules: tuple[Rule, ...] = ()
    groups: tuple[Group, ...] = ()
    webhooks: tuple[Webhook, ...] = ()
    policies: tuple[Policy, ...] = ()


class Figures(NamedTuple):
    """Microseconds an event."""

    none: float
    one: float
    linear: float
    pace: float


def profile_event(profile: int, serial: int = 0) -> Event:
    process = _PROCESSES[profile % len(_PROCESSES)]
    return Event(
        id=f"0199{serial:08x}-{profile}",
        time=NOW - 0.01,
        received=NOW,
        source="falco",
        category=Category.SECURITY_EVENT,
        name=_NAMES[profile % len(_NAMES)],
        catalogue_name="Container.Suspicious.Process",
        level=_LEVELS[profile % len(_LEVELS)],
        kind=Kind.INCIDENT,
        subject=Subject(
            node=f"node-{profile % 20}",
            namespace=f"team-{profile % 50}",
            pod=Pod(name=f"app-{profile}-x", uid=f"uid-{profile}", labels={"app": f"app-{profile}", "tier": "web"}),
            container=Container(id=f"{profile:012x}", name=f"app-{profile}"),
            image=f"registry.example.com/team-{profile % 50}/app-{profile}:1.{profile % 20}",
            service=f"svc-{profile}",
            process=Process(pid=1000 + serial, start_ticks=serial, name=process, exe=f"/usr/bin/{process}"),
        ),
        raw=b"{}",
    )


def documents(count: int) -> Documents:
    """So many rules, each met by the events of the profile of its number (of PROFILES)."""
    rules = []
    for number in range(count):
        event = profile_event(number % PROFILES)
        subject = event.subject
        image, namespace, process = subject.image or "", subject.namespace or "", subject.process or Process()
        app = f"app-{number % PROFILES}"
        written = (
            (("name", event.name), ("image", image)),
            (("namespace", namespace), ("label:app", app), ("level", f">={event.level}")),
            (("image", image), ("process", process.name or ""), ("kind", "incident")),
            (("name", "Container.Suspicious.Process"), ("namespace", namespace), ("image", f"*/{app}:*")),
            (("level", event.level), ("node", subject.node or ""), ("process", process.exe or ""), ("image", image)),
            (("name", event.name), ("group", f"nv.{subject.service}.{namespace}")),
            (("source", "falco"), ("group", f"group-{app}"), ("level", ">=Notice")),
        )[number % 7]
        criteria = tuple(Criterion(type=type_, values=(value,)) for type_, value in written if type_ != "group")
        group = next((value for type_, value in written if type_ == "group"), "")
        rules.append(
            Rule(
                id=8 + number,
                name=f"bench-{number}",
                category=Category.SECURITY_EVENT,
                group=group,
                criteria=criteria,
                actions=(SuppressLog(),),
            )
        )
    groups = tuple(
        Group(name=f"group-app-{app}", criteria=(GroupCriterion(key="app", op="=", value=f"app-{app}"),))
        for app in sorted({number % PROFILES for number in range(6, count, 7)})
    )
    return Documents(rules=tuple(rules), groups=groups)


def linear(event: Event, index: indexes.Index, state: State) -> list[str]:
    """The refs of the rules that match, found by asking every rule of the category."""
    misses = {miss.ref for miss in index.near_misses(event, state, NOW)}
    return [f"rule/{rule.id}" for rule in index.rules if f"rule/{rule.id}" not in misses]


def measure(count: int = RULES, runs: int = 60, checked: int = 50) -> Figures:
    """CPU time of one evaluation without and with a match; AssertionError: index and linear scan disagree."""
    index, state = indexes.compile(documents(count)), State()
    chance = random.Random(1)
    taken = range(min(count, PROFILES))
    matching = [profile_event(chance.choice(taken), serial) for serial in range(BATCH)]
    others = [profile_event(PROFILES + chance.randrange(PROFILES), serial) for serial in range(BATCH)]
    for event in [*matching[:checked], *others[:checked]]:
        found = [match.ref for match in evaluate(event, index, state, NOW).matches]
        assert found == linear(event, index, state), event.id

    def timed(batch: Sequence[Event], call: Callable[[Event], object], runs: int) -> float:
        """The best run's: what others do on the machine only ever adds."""
        best = float("inf")
        for _ in range(runs):
            began = time.process_time()
            for event in batch:
                call(event)
            best = min(best, (time.process_time() - began) / len(batch) * 1e6)
        return best

    def decide(event: Event) -> object:
        return evaluate(event, index, state, NOW)

    return Figures(
        timed(others, decide, runs),
        timed(matching, decide, runs),
        timed(matching[:2], lambda event: linear(event, index, state), 3),
        timed(matching, lambda _: sum(range(100)), runs),
    )


def main() -> bool:
    figures = measure()
    slow = max(figures.pace / PACE, 1.0)
    print(
        f"evaluate against {RULES:,} rules, CPU time an event (this machine's pace: {slow:.2f} times the usual time):"
    )
    print(f"  no rule matches      {figures.none:8.2f} us  (bound {BOUND_NONE * slow:.1f})")
    print(f"  one rule matches     {figures.one:8.2f} us  (bound {BOUND_ONE * slow:.1f})")
    print(f"  linear scan          {figures.linear:8.2f} us  ({figures.linear / figures.one:.0f} times)")
    return figures.none <= BOUND_NONE * slow and figures.one <= BOUND_ONE * slow


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
