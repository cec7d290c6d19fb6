"""What an operator may set about syslog receivers; a group of quell.settings."""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct

from quell.setting import Unit, setting


class SyslogSettings(Struct, frozen=True, forbid_unknown_fields=True):
    allow_private: Annotated[
        bool,
        setting(
            "Receivers may resolve to loopback, link-local and metadata addresses.",
            unit=Unit.SWITCH,
            reason="Whoever may write a receiver must not reach what only this machine can.",
            risk="Opens this machine's own services to the bytes of messages (SSRF).",
        ),
    ] = False
    allow_networks: Annotated[
        tuple[str, ...],
        setting(
            "Networks such as 127.0.0.0/8 that receivers may resolve to beside the usual ones.",
            unit=Unit.NETWORKS,
            reason="None is needed for receivers on the internet or in private networks.",
            risk="As of allow_private, for these networks.",
        ),
    ] = ()
    timeout: Annotated[
        str,
        setting(
            "How long a receiver may take to accept a connection, and to take what is sent, before it counts as failing.",
            unit=Unit.DURATION,
            reason="Longer than a busy receiver pauses.",
            risk="Too high shows a dead receiver late; too low breaks connections to a slow one, which then gets some "
            "messages twice.",
            least="1s",
        ),
    ] = "10s"
