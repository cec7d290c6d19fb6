"""What an operator may set about the events that Quell makes of itself; a group of quell.settings. docs/own-events.md."""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct

from quell.setting import Unit, setting


class OwnEventSettings(Struct, frozen=True, forbid_unknown_fields=True):
    reconnect_grace: Annotated[
        str,
        setting(
            "How long after its own start the controller waits for agents before it says that one is missing.",
            unit=Unit.DURATION,
            reason="Agents dial again within 10 seconds; some machines start slowly after a power failure.",
            risk="Too low reports agents that are on their way; too high is late about one that went meanwhile.",
            least="1s",
        ),
    ] = "1m"
    lost_after: Annotated[
        str,
        setting(
            "How long an agent may be away before its containers count as unsecured.",
            unit=Unit.DURATION,
            reason="A reboot is shorter.",
            risk="Too low tells of every container of a machine that reboots; too high is silent about a gap.",
            least="1s",
        ),
    ] = "10m"
    containers: Annotated[
        str,
        setting(
            "Events of containers in a window, of one machine; more are counted and told in one event. Of one service on "
            "it a quarter.",
            unit=Unit.BUDGET,
            reason="A machine that is drained and filled again fits; a crash loop does not fill the journal.",
            risk="Too high lets a crash loop crowd out what matters; too low leaves out starts that a rule waits for.",
        ),
    ] = "120/1m"
    memory_threshold: Annotated[
        int,
        setting(
            "Share of the memory that controller or agent may use, or their machine, from which on it is pressure.",
            unit=Unit.PERCENT,
            reason="Leaves some minutes to act before the kernel kills something.",
            risk="Too low cries wolf; too high is told too late, or by the kernel.",
            ge=1,
            le=100,
        ),
    ] = 90
    memory_pause: Annotated[
        str,
        setting(
            "How long after telling of memory pressure the same controller or agent tells of it again at the earliest.",
            unit=Unit.DURATION,
            reason="Whoever was told once needs time to act.",
            risk="Too low repeats itself.",
            least="1s",
        ),
    ] = "10m"
