"""The documents in force, and how they are changed: one change after the other, each whole and in one transaction with
its audit entries. What a change is quell.controller.rulebook decides.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

import msgspec
import structlog
from msgspec import Struct

from quell.clock import Clock
from quell.controller.rule_changes import plan_first
from quell.controller.rulebook import (
    KINDS,
    Application,
    Edition,
    Editor,
    Holding,
    Kept,
    Key,
    Plan,
    Step,
    Verb,
    as_documents,
    in_order,
    plan_apply,
    plan_delete,
)
from quell.documents import hidden
from quell.documents.diff import unified
from quell.documents.load import Documents, Thing
from quell.documents.older import read_stored
from quell.documents.write import to_document
from quell.errors import DocumentError, QueueFull, StoreError
from quell.matching.index import Index
from quell.matching.index import compile as compile_index
from quell.model.audit import AuditEntry
from quell.model.rule import Source, Webhook
from quell.storage import audit, key_values
from quell.storage import documents as stored
from quell.storage.store import Store

#: Under which the store keeps how often the documents were changed, and whether it ever had the default rules.
_REVISION = "documents.revision"
_HAD_DEFAULTS = "rules.defaults"
_NOWHERE = Source()
_log = structlog.get_logger(__name__)
_AUDIT_VERBS = {
    Verb.CREATED: "create",
    Verb.CONFIGURED: "change",
    Verb.MOVED: "move",
    Verb.UNCHANGED: "change",
    Verb.DELETED: "delete",
}

#: What a change is, of the documents in force.
Make = Callable[[Mapping[Key, Kept], Edition], Plan]
#: Raises where the version that somebody read is not the one in force any more.
Expect = Callable[[], None]


class Change(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one document, or would."""

    kind: str
    name: str
    verb: Verb
    #: Of a rule.
    id: int | None = None
    #: Its version; 0 once it is deleted.
    revision: int = 0
    #: The source that it belongs to; absent: none.
    source: str = ""
    #: Unified, of what is written; of a dry run only.
    diff: str = ""
    warnings: tuple[str, ...] = ()
    #: Of a rule: where it stands among all of them, from 1 on; absent: it is none, or deleted.
    place: int | None = None
    #: Those that it holds while it does not act any more, and what becomes of them.
    quarantines: tuple[Holding, ...] = ()


class Changed(Struct, frozen=True, kw_only=True):
    """revision: of the documents as a whole, after it."""

    changes: list[Change]
    revision: int


class _Prepared(Struct, frozen=True):
    """index: None if what is decided does not change. kept: the documents in force afterwards."""

    plan: Plan
    told: list[Change]
    kept: Mapping[Key, Kept]
    documents: Documents
    index: Index | None = None
    put: tuple[stored.Document, ...] = ()
    #: (position, kind, name) of rules that only make room.
    shifted: tuple[tuple[int, str, str], ...] = ()
    entries: tuple[AuditEntry, ...] = ()


def _any_version() -> None:
    """No condition."""


def _untold(_editor: Editor, _changes: Sequence[Change], _revision: int) -> None:
    """Nobody wants to know."""


def _unheard(_editor: Editor, _error: DocumentError) -> None:
    """Nobody wants to know."""


class Editing:
    """On the event loop's thread. Held: holder -> the quarantines it holds. use: decide by these from now on. release:
    end the quarantines of a holder, for that reason. told: of each change in force, refused: of each that cannot be.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        held: Callable[[], Mapping[str, Sequence[str]]],
        use: Callable[[Documents, Index], None],
        release: Callable[[str, str], Awaitable[None]],
        told: Callable[[Editor, Sequence[Change], int], None] = _untold,
        refused: Callable[[Editor, DocumentError], None] = _unheard,
    ) -> None:
        self._store = store
        self._clock = clock
        self._held = held
        self._use = use
        self._release = release
        self._told = told
        self._refused = refused
        self._changing = asyncio.Lock()
        kept = {Key(document.kind, document.name): _kept(document) for document in store.read(stored.all_of)}
        #: By kind; rules as they stand, others by name.
        self.kept: Mapping[Key, Kept] = in_order(kept)
        self.revision = int(store.read(lambda connection: key_values.get(connection, _REVISION)) or b"0")
        if store.read(lambda connection: key_values.get(connection, _HAD_DEFAULTS)) is None:
            self._place_defaults()

    @property
    def documents(self) -> Documents:
        return as_documents(kept.thing for kept in self.kept.values())

    async def apply(
        self, wanted: Application, editor: Editor, *, dry_run: bool = False, expect: Expect = _any_version
    ) -> Changed:
        """All of it or nothing. DocumentError and those below it, StoreError, and what `expect` raises."""
        return await self.change(
            lambda kept, edition: plan_apply(kept, wanted, edition), editor, dry_run=dry_run, expect=expect
        )

    async def delete(
        self,
        key: Key,
        editor: Editor,
        *,
        force: bool = False,
        unquarantine: bool = False,
        dry_run: bool = False,
        expect: Expect = _any_version,
    ) -> Changed:
        """As `apply`. KeyError: there is none."""
        return await self.change(
            lambda kept, edition: plan_delete(kept, key, edition, force=force, unquarantine=unquarantine),
            editor,
            dry_run=dry_run,
            expect=expect,
        )

    async def change(
        self, make: Make, editor: Editor, *, dry_run: bool = False, expect: Expect = _any_version
    ) -> Changed:
        """What `make` plans, done whole. It runs in a thread. What it and `expect` raise, and StoreError."""
        async with self._changing:
            expect()
            edition = Edition(revision=self.revision + 1, time=self._clock(), editor=editor, held=self._held())
            kept = self.kept
            # Thousands of rules take seconds, and events go on to be decided meanwhile.
            try:
                prepared = await asyncio.to_thread(lambda: _prepare(make(kept, edition), edition, diffs=dry_run))
            except DocumentError as error:
                if not dry_run:
                    self._refused(editor, error)
                raise
            if dry_run:
                return Changed(changes=prepared.told, revision=self.revision)
            if prepared.entries:
                await asyncio.wrap_future(self._store.submit(_writing(prepared, edition), point="documents"))
            if prepared.plan.changes:
                self.kept = prepared.kept
                self.revision = edition.revision
            if prepared.index is not None:
                self._use(prepared.documents, prepared.index)
            if prepared.plan.changes:
                self._told(editor, prepared.told, edition.revision)
        failed = await self._let_go(prepared.plan)
        return Changed(changes=[_with(change, failed) for change in prepared.told], revision=self.revision)

    def _place_defaults(self) -> None:
        """Once, before anything is decided: deleted ones do not come back by themselves. StoreError."""
        edition = Edition(revision=self.revision + 1, time=self._clock())
        prepared = _prepare(plan_first(self.kept, edition), edition, diffs=False)
        write = _writing(prepared, edition)

        def first(connection: sqlite3.Connection) -> None:
            key_values.put(connection, _HAD_DEFAULTS, b"1")
            if prepared.plan.changes:
                write(connection)

        self._store.submit(first).result()
        if prepared.plan.changes:
            self.kept = prepared.kept
            self.revision = edition.revision

    async def _let_go(self, plan: Plan) -> dict[Key, str]:
        """What could not be released, by the document that held it."""
        failed: dict[Key, str] = {}
        for holder, key in plan.released:
            step = next(step for step in plan.steps if step.key == key)
            try:
                await self._release(holder, f"{key} was {'deleted' if step.verb is Verb.DELETED else 'disabled'}")
            except (QueueFull, StoreError) as error:
                failed[key] = f"what {holder} isolated could not be released ({error}): use quell quarantines release"
        return failed


def _writing(prepared: _Prepared, edition: Edition) -> Callable[[sqlite3.Connection], None]:
    gone = [step.key for step in prepared.plan.steps if step.verb is Verb.DELETED]

    def write(connection: sqlite3.Connection) -> None:
        for document in prepared.put:
            stored.put(connection, document)
        for key in gone:
            stored.delete(connection, *key)
        stored.reposition(connection, prepared.shifted)
        if prepared.plan.changes:
            key_values.put(connection, _REVISION, str(edition.revision).encode())
        for entry in prepared.entries:
            audit.append(connection, entry, edition.time)

    return write


def _prepare(plan: Plan, edition: Edition, *, diffs: bool) -> _Prepared:
    """Everything of a change that can go wrong but the writing. DocumentError."""
    kept = {key: _placeless(each) for key, each in in_order(plan.after).items()}
    places = {key: place for place, key in enumerate((key for key in kept if key.kind == "ResponseRule"), start=1)}
    told = [_told(step, places.get(step.key), diffs=diffs) for step in plan.steps]
    documents = as_documents(each.thing for each in kept.values())
    changes = plan.changes
    released = {key for _, key in plan.released}
    decides = any(step.verb is not Verb.MOVED for step in changes)
    return _Prepared(
        plan,
        told,
        kept,
        documents,
        compile_index(documents, revision=edition.revision) if decides else None,
        tuple(_stored(step.key, step.after) for step in changes if step.after is not None),
        tuple((plan.after[key].position, *key) for key in plan.shifted),
        tuple(
            _entry(step, edition, released)
            for step in plan.steps
            if step.verb is not Verb.UNCHANGED or step.key in released
        ),
    )


def _told(step: Step, place: int | None, *, diffs: bool) -> Change:
    thing = _thing(step.after or step.before)
    return Change(
        kind=step.key.kind,
        name=step.key.name,
        verb=step.verb,
        id=getattr(thing, "id", None),
        revision=step.after.revision if step.after else 0,
        source=step.after.source if step.after else "",
        diff=unified(_thing(step.before), _thing(step.after)) if diffs and step.verb is not Verb.UNCHANGED else "",
        warnings=step.warnings,
        place=place,
        quarantines=step.quarantines,
    )


def _entry(step: Step, edition: Edition, released: Collection[Key]) -> AuditEntry:
    before, after = _thing(step.before), _thing(step.after)
    notes = [f"source {kept.source}" for kept in (step.after or step.before,) if kept and kept.source]
    if step.before and step.after and step.before.source and step.before.source != step.after.source:
        notes.append(f"taken from source {step.before.source}")
    if isinstance(before, Webhook) and isinstance(after, Webhook) and (fields := hidden.changed(before, after)):
        notes.append(f"{', '.join(fields)} changed")
    if step.note:
        notes.append(step.note)
    if step.key in released:
        notes.append("its quarantines are ended")
    return AuditEntry(
        actor=edition.editor.actor,
        verb=_AUDIT_VERBS[step.verb],
        kind=step.key.kind,
        name=step.key.name,
        before=None if before is None else to_document(before),
        after=None if after is None else to_document(after),
        note="; ".join(notes),
    )


def _thing(kept: Kept | None) -> Thing | None:
    return None if kept is None else kept.thing


def _with(change: Change, failed: Mapping[Key, str]) -> Change:
    told = failed.get(Key(change.kind, change.name))
    return change if told is None else msgspec.structs.replace(change, warnings=(*change.warnings, told))


def _placeless(kept: Kept) -> Kept:
    """Where a document stood in a file says nothing once it is in force."""
    if kept.thing.source == _NOWHERE:
        return kept
    return msgspec.structs.replace(kept, thing=msgspec.structs.replace(kept.thing, source=_NOWHERE))


def _stored(key: Key, kept: Kept) -> stored.Document:
    return stored.Document(
        kind=key.kind,
        name=key.name,
        id=getattr(kept.thing, "id", 0),
        revision=kept.revision,
        body=msgspec.json.encode(_placeless(kept).thing),
        source=kept.source,
        created=kept.created,
        changed=kept.changed,
        changed_by=kept.changed_by,
        position=kept.position,
    )


def _kept(document: stored.Document) -> Kept:
    return _placeless(
        Kept(
            thing=_read(document),
            revision=document.revision,
            source=document.source,
            created=document.created,
            changed=document.changed,
            changed_by=document.changed_by,
            position=document.position,
        )
    )


def _read(document: stored.Document) -> Thing:
    if document.kind == "Policy":
        try:
            return read_stored(document.body)
        except DocumentError as error:
            _log.warning(
                "apply this policy again: what it expects cannot be read", policy=document.name, why=str(error)
            )
    thing: Thing = msgspec.json.decode(document.body, type=KINDS[document.kind])
    return thing
