"""How long a delivery waits for its next attempt, and which endpoints a flag goes to."""

from __future__ import annotations

import pytest

from quell.controller.delivery import Pace, pause
from quell.model.action import Severity
from quell.model.decision import Flag, FlagClass
from quell.model.event import Level
from quell.model.rule import Webhook, WebhookFilter
from quell.response.endpoints import subscribers, unheard

PACE = Pace(first_wait=0.5, longest_wait=30.0)


@pytest.mark.parametrize(("attempts", "longest"), [(1, 0.5), (2, 1.0), (3, 2.0), (6, 16.0), (7, 30.0), (5000, 30.0)])
def test_waits_double_up_to_a_bound_and_are_spread(attempts: int, longest: float) -> None:
    waits = [pause(PACE, attempts, None) for _ in range(200)]
    assert all(longest / 2 <= wait <= longest for wait in waits)
    assert max(waits) - min(waits) > longest / 8


def test_what_a_receiver_asks_for_is_kept_up_to_an_hour_and_shortens_nothing() -> None:
    assert pause(PACE, 1, 120.0) == 120.0
    assert pause(PACE, 1, 86_400.0) == 3600.0
    assert pause(PACE, 7, 0.0) >= 15.0


def flag(severity: Severity = Severity.HIGH, **fields: object) -> Flag:
    told = {"id": "f", "flag_class": FlagClass.RED, "severity": severity, "name": "n", "time": 1.0, **fields}
    return Flag(**told)  # type: ignore[arg-type]


def endpoint(name: str, *, enable: bool = True, flags: bool = False, level: Level | None = None) -> Webhook:
    return Webhook(name=name, url="https://x.example/", enable=enable, filter=WebhookFilter(flags=flags, level=level))


def test_a_flag_goes_to_whom_it_names_and_to_who_subscribes_each_once() -> None:
    known = {
        one.name: one for one in (endpoint("a", flags=True), endpoint("b"), endpoint("off", enable=False, flags=True))
    }
    assert subscribers(flag(), known) == ["a"]
    assert subscribers(flag(webhooks=("b", "a", "gone", "off")), known) == ["b", "a"]
    assert subscribers(flag(webhooks=("b",), silent=True), known) == []


def test_why_an_endpoint_does_not_hear_of_a_flag_is_said() -> None:
    known = {one.name: one for one in (endpoint("loud", level=Level.ERROR), endpoint("off", enable=False))}
    assert unheard("loud", Severity.HIGH, known) == ""
    assert unheard("loud", Severity.MEDIUM, known) == "endpoint loud takes flags from level Error on"
    assert unheard("off", Severity.HIGH, known) == "endpoint off is disabled"
    assert unheard("gone", Severity.HIGH, known) == "there is no endpoint gone"
