"""A policy made of a trace hides that one, and not more than it says."""

from __future__ import annotations

import msgspec
import pytest

from quell.controller.suppressing import policy_for
from quell.documents.load import load_values
from quell.documents.write import to_document
from quell.matching.suppression import CompiledSuppression
from quell.model.action import Severity
from quell.model.policy import SelectorKind
from quell.model.subject import Subject
from quell.model.trace import Trace

TRACE = Trace(
    id="t1",
    trigger="e1/0",
    trigger_name="Host.Suspicious.Process",
    trigger_class="redflag/proc/host_suspicious_process/high_severity/nc",
    trigger_ancestors="systemd/backup.sh/nc",
    subject=Subject(node="db-1"),
    first=1.0,
    last=2.0,
    severities={Severity.HIGH: 2},
    classes=(
        "redflag/proc/host_suspicious_process/high_severity/nc",
        "redflag/proc/host_suspicious_process/high_severity/sh",
    ),
    scopes=(Subject(node="db-1", user="backup"), Subject(node="db-2", user="backup")),
)


def test_it_covers_the_trace_and_is_a_document_that_loads() -> None:
    policy = policy_for(TRACE, "", ())
    assert policy.name == "expected-Host.Suspicious.Process"
    assert CompiledSuppression(policy).covers(TRACE)
    [loaded] = load_values([to_document(policy)]).policies
    assert msgspec.structs.replace(loaded, source=policy.source) == policy


@pytest.mark.parametrize(
    "other",
    [
        {"classes": (*TRACE.classes, "redflag/proc/other/high_severity/x")},
        {"trigger_ancestors": "systemd/cron/nc"},
        {"scopes": (*TRACE.scopes, Subject(node="db-3", user="backup"))},
        {"scopes": (Subject(node="db-1", user="root"),)},
    ],
)
def test_it_covers_no_other_trace(other: dict[str, object]) -> None:
    policy = policy_for(TRACE, "", ())
    assert not CompiledSuppression(policy).covers(msgspec.structs.replace(TRACE, **other))


def test_what_not_everybody_says_narrows_nothing() -> None:
    policy = policy_for(
        msgspec.structs.replace(TRACE, scopes=(Subject(node="db-1", user="backup"), Subject(node="db-1"))), "", ()
    )
    assert [selector.kind for selector in policy.scope] == [SelectorKind.MACHINE, SelectorKind.TRACE]


def test_a_name_that_somebody_chose_does_not_become_a_glob() -> None:
    """Who calls a program * must not have other programs hidden."""
    odd = msgspec.structs.replace(
        TRACE, trigger_ancestors="systemd/*", classes=("redflag/proc/x/high_severity/[a-z]*",)
    )
    policy = policy_for(odd, "", ())
    compiled = CompiledSuppression(policy)
    assert compiled.covers(odd)
    assert not compiled.covers(msgspec.structs.replace(odd, trigger_ancestors="systemd/nc"))
    assert not compiled.covers(msgspec.structs.replace(odd, classes=("redflag/proc/x/high_severity/nc",)))


def test_a_name_that_is_taken_gets_a_number_and_one_that_is_given_stays() -> None:
    assert policy_for(TRACE, "", {"expected-Host.Suspicious.Process"}).name == "expected-Host.Suspicious.Process-2"
    assert policy_for(TRACE, "nightly backup", ()).name == "nightly backup"


def test_a_trace_with_more_flags_than_are_listed_cannot_be_hidden() -> None:
    with pytest.raises(ValueError, match="no policy can cover it"):
        policy_for(msgspec.structs.replace(TRACE, uncounted=True), "", ())
