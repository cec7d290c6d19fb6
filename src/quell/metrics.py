"""What this process counts as it happens, after Prometheus's conventions. What can be asked for is in quell.api.metrics.

Whatever does the thing calls the function here that counts it: `metrics.login_failed("password")`. Labels only take
words of our own and names of documents, so that an attacker cannot make series. An event that nothing answers passes
none of these: it is counted by the store, a commit at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from msgspec import Struct
from prometheus_client import Counter, Histogram, disable_created_metrics

from quell.model.action import Action, word
from quell.model.decision import Command, Decision, Flag, Outcome, OutcomeStatus, Reason, Status
from quell.model.event import Category, Event


class Declared(Struct, frozen=True, kw_only=True):
    """A family of series, for the reference."""

    name: str
    #: counter, gauge or histogram.
    kind: str
    labels: tuple[str, ...] = ()
    text: str


#: Of everything below, filled as it is made.
DECLARED: list[Declared] = []

#: Seconds. A kill takes milliseconds; a command that waits for its agent's link takes until it expires.
_RESPONSE = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_COMMIT = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)

# The client would write a second series beside each, with the time it was made.
disable_created_metrics()  # type: ignore[no-untyped-call] # the client leaves it untyped


def _counter(name: str, text: str, *labels: str) -> Counter:
    DECLARED.append(Declared(name=f"{name}_total", kind="counter", labels=labels, text=text))
    return Counter(name, text, labels)


def _histogram(name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
    DECLARED.append(Declared(name=name, kind="histogram", labels=labels, text=text))
    return Histogram(name, text, labels, buckets=buckets)


_DECISIONS = _counter(
    "quell_decisions",
    "Decisions that led to more than keeping the event.",
    "source",
    "category",
)
_ACTIONS = _counter(
    "quell_actions",
    "Actions that rules and policies asked for, by what was decided: granted, refused or held, and why.",
    "action",
    "status",
    "reason",
)
_FLAGS = _counter("quell_flags", "Flags raised.", "class", "severity")
_COMMANDS = _counter(
    "quell_commands",
    "Commands to agents and to clusters' APIs that have come to their end, by outcome and reason.",
    "action",
    "status",
    "reason",
)
_COMMAND_SECONDS = _histogram(
    "quell_command_duration_seconds",
    "From the decision to the outcome being on disk, of commands that did not expire.",
    _RESPONSE,
    "action",
)
_WEBHOOK_ATTEMPTS = _histogram(
    "quell_webhook_attempt_duration_seconds",
    "Attempts to deliver a webhook: how long each took. result: delivered, again or never.",
    _RESPONSE,
    "endpoint",
    "result",
)
_WEBHOOKS = _counter(
    "quell_webhook_deliveries",
    "Deliveries that have come to their end: done, or failed and kept as dead letters.",
    "endpoint",
    "status",
)
_SYSLOG_SENT = _counter("quell_syslog_messages", "Messages sent to a syslog receiver.", "receiver")
_SYSLOG_FAILED = _counter(
    "quell_syslog_failures", "Connections to a syslog receiver that failed or broke, and refused datagrams.", "receiver"
)
_SYSLOG_LOST = _counter(
    "quell_syslog_lost",
    "Events and flags that a syslog receiver will never get: deleted by retention before they could be sent.",
    "receiver",
)
_LOGINS_FAILED = _counter(
    "quell_logins_failed", "Proofs of who somebody is that were none: tokens, passwords, login links.", "method"
)
_OWN_EVENTS_LOST = _counter(
    "quell_own_events_lost", "Events of Quell's own that were given up, because too many waited for the journal."
)
_OBSERVATIONS = _counter("quell_observations", "Executions, sockets and connections of workloads that were compared.")
_OBSERVATIONS_LOST = _counter(
    "quell_observations_lost",
    "Those that were not, because too many came at once. by: controller, or the agents.",
    "by",
)
_OBSERVATIONS_REFUSED = _counter(
    "quell_observations_refused", "Those that an agent told of another machine than its own."
)
_DEVIATIONS = _counter(
    "quell_deviations", "Deviations that the guardian found, each process or container once.", "what"
)
_DEVIATIONS_OMITTED = _counter(
    "quell_deviations_omitted",
    "Deviations that were only counted because too many of one kind or policy came at once.",
)
_COMMIT_SECONDS = _histogram(
    "quell_store_commit_duration_seconds", "How long a transaction of the store took.", _COMMIT
)


# Found by the client each series costs some microseconds, and this is passed by every event that a rule answers.
@cache
def _decisions(source: str, category: Category) -> Counter:
    return _DECISIONS.labels(source, category.value)


@cache
def _actions(action: type[Action], status: Status, reason: Reason | None) -> Counter:
    return _ACTIONS.labels(word(action), status.value, "" if reason is None else reason.value)


def decided(event: Event, decision: Decision, flags: Sequence[Flag]) -> None:
    """A decision that is more than bare is on its way to the disk."""
    _decisions(event.source, event.category).inc()
    for record in decision.actions:
        _actions(type(record.action), record.status, record.reason).inc()
    for flag in flags:
        flagged(flag)


def flagged(flag: Flag) -> None:
    _FLAGS.labels(flag.flag_class.value, flag.severity.value).inc()


def command_ended(command: Command, outcome: Outcome, now: float) -> None:
    """The outcome of a command is on disk. now: epoch seconds, of the clock that issued it."""
    action = word(command.action)
    _COMMANDS.labels(action, outcome.status.value, "" if outcome.reason is None else outcome.reason.value).inc()
    if outcome.status is not OutcomeStatus.EXPIRED:
        _COMMAND_SECONDS.labels(action).observe(max(0.0, now - command.issued))


def webhook_attempted(endpoint: str, result: str, seconds: float) -> None:
    _WEBHOOK_ATTEMPTS.labels(endpoint, result).observe(seconds)


def webhook_ended(endpoint: str, status: OutcomeStatus) -> None:
    _WEBHOOKS.labels(endpoint, status.value).inc()


def syslog_sent(receiver: str, messages: int) -> None:
    _SYSLOG_SENT.labels(receiver).inc(messages)


def syslog_failed(receiver: str) -> None:
    _SYSLOG_FAILED.labels(receiver).inc()


def syslog_lost(receiver: str, messages: int) -> None:
    _SYSLOG_LOST.labels(receiver).inc(messages)


def login_failed(method: str) -> None:
    """method: token, password, link or another word of the code's own, never the caller's."""
    _LOGINS_FAILED.labels(method).inc()


def own_event_lost() -> None:
    _OWN_EVENTS_LOST.inc()


def observed(count: int) -> None:
    _OBSERVATIONS.inc(count)


def observations_lost(by: str, count: int) -> None:
    """by: controller or agents."""
    _OBSERVATIONS_LOST.labels(by).inc(count)


def observations_refused(count: int) -> None:
    _OBSERVATIONS_REFUSED.inc(count)


def deviated(what: str) -> None:
    """what: as in quell.model.details.Deviation."""
    _DEVIATIONS.labels(what).inc()


def deviation_omitted() -> None:
    _DEVIATIONS_OMITTED.inc()


def committed(seconds: float) -> None:
    _COMMIT_SECONDS.observe(seconds)
