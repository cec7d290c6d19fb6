"""The life of a quarantine as a table: which way leads from which phase to which. SEMANTICS section 4.

quell.response.state makes the steps; each way here has a test of its name (tests/unit/test_quarantine_lifecycle.py), and
docs/quarantine.md shows this table and its drawing.
"""

from __future__ import annotations

from typing import NamedTuple

from quell.response.facts import Phase


class Way(NamedTuple):
    """before, after: None: there is no quarantine under this key. says: the event that tells of it; "": none."""

    before: Phase | None
    name: str
    after: Phase | None
    what: str
    says: str = ""


_ASKED, _ISOLATED, _RELEASING = Phase.ASKED, Phase.ISOLATED, Phase.RELEASING

WAYS = (
    Way(None, "asked", _ASKED, "a rule, a policy or a person is granted it; a command goes to the agent"),
    Way(None, "refused", None, "something stands against it; the record says what"),
    Way(_ASKED, "confirmed", _ISOLATED, "the agent has isolated it", "Container.Quarantined"),
    Way(_ASKED, "failed", None, "the agent refuses it or cannot do it; the holders have nothing"),
    Way(_ASKED, "expired", None, "no outcome came in time, as from an agent that is away"),
    Way(_ASKED, "target gone", None, "the agent finds no such process, container or namespace any more"),
    Way(_ASKED, "joined while asked", _ASKED, "another holder asks for no more than the first; no further command"),
    Way(_ASKED, "let go while asked", _RELEASING, "the last holder lets go before the agent has answered"),
    Way(None, "late", _ISOLATED, "the agent did it after all, and says so late", "Container.Quarantined"),
    Way(_ISOLATED, "joined", _ISOLATED, "another holder asks for what is there; the record says so, no event"),
    Way(_ISOLATED, "renewed", _ISOLATED, "new evidence makes a lease longer; a command, no event"),
    Way(_ISOLATED, "made strict", _ISOLATED, "a holder asks for more; a command, no event"),
    Way(_ISOLATED, "not made strict", _ISOLATED, "that command fails; it stays as it was"),
    Way(_ISOLATED, "others let in", _ISOLATED, "a holder asks for other investigators; a command, no event"),
    Way(_ISOLATED, "others not let in", _ISOLATED, "that command fails; it is ordered again, after 1, 2, 4 … 300 s"),
    Way(_ISOLATED, "one lets go", _ISOLATED, "others hold it still; the record names them, no event"),
    Way(_ISOLATED, "its investigator goes", _ISOLATED, "one lets go, and a command takes away whom it let in"),
    Way(_ISOLATED, "last lets go", _RELEASING, "a rule goes with the unquarantine option, a person releases"),
    Way(_ISOLATED, "lease over", _RELEASING, "the last holder's time is over, without new evidence"),
    Way(_ISOLATED, "gone", None, "the agent finds that the namespace is no more", "Quarantine.Ended"),
    Way(
        _ISOLATED,
        "opened by the agent",
        None,
        "a lease ran out while the link was down, or somebody ran `quell agent release --all`",
        "Quarantine.Ended, Container.Unquarantined",
    ),
    Way(_RELEASING, "released", None, "the agent has opened it", "Container.Unquarantined"),
    Way(_RELEASING, "gone while releasing", None, "there is nothing left to open"),
    Way(_RELEASING, "release failed", _RELEASING, "it is ordered again, after 1, 2, 4 … 300 s"),
    Way(_RELEASING, "asked again", _ASKED, "new evidence: a new quarantine, with a command of its own"),
)
