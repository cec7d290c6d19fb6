"""What an operator may set about watching workloads at work; a group of quell.settings. docs/deviations.md."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Struct

from quell.setting import Unit, setting


class GuardianSettings(Struct, frozen=True, forbid_unknown_fields=True):
    observe: Annotated[
        Literal["on", "policies", "off"],
        setting(
            "What agents tell of containers and services at work. on: always, so that policies can be made from it; "
            "policies: only while a policy compares it; off: nothing.",
            unit=Unit.WORD,
            reason="A policy is made from what was seen before there was one.",
            risk="off: policies find nothing by themselves, and only deviations that others send count. on: names of "
            "programs and addresses of peers are kept in the fingerprints.",
        ),
    ] = "on"
    sockets: Annotated[
        str,
        setting(
            "How often an agent looks at the sockets of its containers and services.",
            unit=Unit.DURATION,
            reason="A look takes some milliseconds, and most connections that matter last longer.",
            risk="Too high misses short connections; too low costs processor time on machines with many sockets.",
            least="1s",
        ),
    ] = "10s"
    queue: Annotated[
        int,
        setting(
            "Observations that wait to be compared; above it the oldest of whoever sent most are dropped, and counted.",
            unit=Unit.OBSERVATIONS,
            reason="A second of 20,000 executions on all machines together.",
            risk="Costs about 2 KiB each; too low misses deviations in a burst.",
            ge=1000,
            le=1_000_000,
        ),
    ] = 20_000
    events_checksum: Annotated[
        str,
        setting(
            "Events in a window that repeats of one deviation may become where something is done to each process; more "
            "are only counted.",
            unit=Unit.EVENTS,
            reason="More than the budgets of safety let one policy do.",
            risk="Too low leaves processes alone that the policy would stop; too high lets one loop of starts fill the "
            "journal.",
        ),
    ] = "60/1m"
    events_policy: Annotated[
        str,
        setting(
            "Events in a window that all deviations from one policy may become; more are only counted.",
            unit=Unit.EVENTS,
            reason="A policy that was forgotten after an update names a few hundred processes at once.",
            risk="As of events_checksum, for one policy.",
        ),
    ] = "600/1m"
    deviations: Annotated[
        int,
        setting(
            "Different deviations that are kept of one policy; the one not seen for longest goes first. Of all policies "
            "together twenty times as many.",
            unit=Unit.DEVIATIONS,
            reason="Nobody reads more before making the policy anew.",
            risk="What went is counted anew when it comes again, and can no longer be merged; its events stay.",
            ge=10,
            le=100_000,
        ),
    ] = 1000
    deviations_age: Annotated[
        str,
        setting(
            "How long a deviation is kept that does not come again.",
            unit=Unit.AGE,
            reason="What a monthly job does is still there the month after the next.",
            risk="Too low counts anew what comes seldom.",
            least="1h",
        ),
    ] = "90d"
    fingerprints: Annotated[
        int,
        setting(
            "Images and services whose work is remembered; the one not seen for longest goes first.",
            unit=Unit.FINGERPRINTS,
            reason="More than most clusters run.",
            risk="Each costs some KiB of memory; too low forgets an image before a policy is made of it.",
            ge=10,
            le=100_000,
        ),
    ] = 2000
    fingerprints_age: Annotated[
        str,
        setting(
            "How long the work of an image or service is remembered that does not run any more.",
            unit=Unit.AGE,
            reason="A policy is made within weeks of what it is for.",
            risk="Too high keeps addresses of peers and names of programs longer than needed.",
            least="1h",
        ),
    ] = "30d"
