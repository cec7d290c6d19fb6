"""What an operator may set about traces; a group of quell.settings. docs/traces.md."""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct

from quell.setting import Unit, setting


class TraceSettings(Struct, frozen=True, forbid_unknown_fields=True):
    quiet: Annotated[
        str,
        setting(
            "How long no flag may join a trace before it is closed; what comes later opens another.",
            unit=Unit.DURATION,
            reason="Whoever is at work in a machine does something within the hour.",
            risk="Too high joins what has nothing to do with each other and keeps more in memory; too low tears one "
            "attack into several traces, each with a lower score.",
            least="1s",
        ),
    ] = "1h"
    most: Annotated[
        int,
        setting(
            "Open traces at once; beyond it the one that was quiet longest is closed.",
            unit=Unit.TRACES,
            reason="So many people can never look at; they take some 50 MB.",
            risk="Too high lets a flood of flags take memory; too low closes a slow attack's trace while it goes on.",
            ge=10,
            le=100_000,
        ),
    ] = 5000
