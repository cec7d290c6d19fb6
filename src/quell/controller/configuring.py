"""The Configuration.* events: documents applied or deleted, exports and backups, and what of these was refused.

An import that is refused can be tried without end, by a webhook that leads back here for instance, so refusals are
counted: the first is told at once, more of the same caller together a minute later. One that changes nothing is none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from quell.clock import Clock
from quell.controller.editing import Change
from quell.controller.rulebook import Editor, Verb
from quell.controller.telling import Teller
from quell.errors import DocumentError, Problem
from quell.model.audit import Actor
from quell.model.subject import Subject
from quell.tally import Tally

#: Seconds over which refusals are counted together.
_REFUSALS = 60.0
#: Documents that a message names.
_NAMED = 5

_OTHERS = Actor(kind="user", name="(others)")


class Configuring:
    """On the event loop's thread only."""

    def __init__(self, teller: Teller, clock: Clock) -> None:
        self._teller = teller
        self._clock = clock
        self._refused: dict[str, Tally[Actor]] = {
            name: Tally(_REFUSALS, others=_OTHERS)
            for name in ("Configuration.Import.Failed", "Configuration.Export.Failed")
        }

    def changed(self, editor: Editor, changes: Iterable[Change], revision: int) -> None:
        """What an application or deletion did. revision: of the documents, after it."""
        changed = [change for change in changes if change.verb is not Verb.UNCHANGED]
        if not changed:
            return
        actor = editor.actor
        counts = Counter(change.verb.value for change in changed)
        told = ", ".join(f"{count} {verb}" for verb, count in sorted(counts.items()))
        named = ", ".join(f"{change.kind} {change.name}" for change in changed[:_NAMED])
        more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
        source = ", ".join(sorted({change.source for change in changed if change.source}))
        self._teller.tell(
            "Configuration.Import",
            _user(actor),
            f"documents changed by {actor}{f' for source {source}' if source else ''}: {told} ({named}{more})",
            identifier=f"documents/{revision}/import",
            facts={"by": str(actor), "revision": str(revision)}
            | {verb: str(count) for verb, count in counts.items()}
            | ({"source": source} if source else {}),
        )

    def exported(self, actor: Actor, what: str, *, secrets: bool) -> None:
        """what: such as "142 documents" or "a backup"."""
        self._teller.tell(
            "Configuration.Export",
            _user(actor),
            f"{what} exported by {actor}, {'with' if secrets else 'without'} secrets",
            facts={"by": str(actor), "secrets": "yes" if secrets else "no"},
        )

    def refused(self, editor: Editor, error: DocumentError) -> None:
        """What was read, but cannot be in force."""
        self.import_refused(editor.actor, error.problems)

    def import_refused(self, actor: Actor, problems: Sequence[Problem]) -> None:
        """The first problem is told, and how many there are."""
        first = problems[0].message if problems else ""
        self._refuse("Configuration.Import.Failed", actor, len(problems), first)

    def export_failed(self, actor: Actor, why: str) -> None:
        self._refuse("Configuration.Export.Failed", actor, 1, why)

    def restored(self, backup: str, note: str) -> None:
        """At the first start after a backup was put back."""
        self._teller.tell(
            "Configuration.Restore",
            Subject(),
            f"the configuration was restored {note}",
            identifier=f"restore/{backup}",
        )

    def tick(self) -> None:
        now = self._clock()
        for name, tally in self._refused.items():
            for actor, count in tally.due(now):
                what = "applications" if name == "Configuration.Import.Failed" else "exports"
                self._teller.tell(
                    name,
                    _user(actor),
                    f"{count} more {what} by {actor} refused or failed within a minute",
                    facts={"by": str(actor), "times": str(count)},
                )

    def _refuse(self, name: str, actor: Actor, problems: int, first: str) -> None:
        told = self._refused[name].add(actor, self._clock(), told=True)
        if told is None:
            return
        count = f"{problems} problem{'s' if problems != 1 else ''}"
        what = "documents of" if name == "Configuration.Import.Failed" else "an export for"
        self._teller.tell(
            name,
            _user(told),
            f"{what} {told} {'refused' if name == 'Configuration.Import.Failed' else 'failed'}, {count}: {first[:300]}",
            facts={"by": str(told), "problems": str(problems)},
        )


def _user(actor: Actor) -> Subject:
    return Subject(user=actor.name if actor.kind == "user" else str(actor))
