"""The documents in force, and how they are changed: one change after the other, each whole and in one transaction with
its audit entries. What a change is quell.controller.rulebook decides.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

import msgspec
from msgspec import Struct

from quell.clock import Clock
from quell.controller.rulebook import (
    KINDS,
    Application,
    Edition,
    Editor,
    Kept,
    Key,
    Plan,
    Step,
    Verb,
    as_documents,
    plan_apply,
    plan_delete,
)
from quell.documents import hidden
from quell.documents.diff import unified
from quell.documents.load import Documents, Thing
from quell.documents.write import to_document
from quell.errors import DocumentError, QueueFull, StoreError
from quell.matching.index import Index
from quell.matching.index import compile as compile_index
from quell.model.audit import AuditEntry
from quell.model.rule import Source, Webhook
from quell.storage import audit, key_values
from quell.storage import documents as stored
from quell.storage.store import Store

#: Under which the store keeps how often the documents were changed.
_REVISION = "documents.revision"
_NOWHERE = Source()
_AUDIT_VERBS = {Verb.CREATED: "create", Verb.CONFIGURED: "change", Verb.DELETED: "delete"}

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


class Changed(Struct, frozen=True, kw_only=True):
    """revision: of the documents as a whole, after it."""

    changes: list[Change]
    revision: int


class _Prepared(Struct, frozen=True):
    """index: None if nothing changes. kept: the documents in force afterwards."""

    plan: Plan
    told: list[Change]
    kept: Mapping[Key, Kept]
    documents: Documents
    index: Index | None = None
    put: tuple[stored.Document, ...] = ()
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
        #: In the order of kinds and names.
        self.kept: Mapping[Key, Kept] = dict(sorted(kept.items()))
        self.revision = int(store.read(lambda connection: key_values.get(connection, _REVISION)) or b"0")

    @property
    def documents(self) -> Documents:
        return as_documents(kept.thing for kept in self.kept.values())

    async def apply(
        self, wanted: Application, editor: Editor, *, dry_run: bool = False, expect: Expect = _any_version
    ) -> Changed:
        """All of it or nothing. DocumentError and those below it, StoreError, and what `expect` raises."""
        return await self._change(
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
        return await self._change(
            lambda kept, edition: plan_delete(kept, key, edition, force=force, unquarantine=unquarantine),
            editor,
            dry_run=dry_run,
            expect=expect,
        )

    async def _change(
        self, make: Callable[[Mapping[Key, Kept], Edition], Plan], editor: Editor, *, dry_run: bool, expect: Expect
    ) -> Changed:
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
            if dry_run or prepared.index is None:
                return Changed(changes=prepared.told, revision=self.revision)
            await self._write(prepared, edition)
            self.kept = prepared.kept
            self.revision = edition.revision
            self._use(prepared.documents, prepared.index)
            self._told(editor, prepared.told, edition.revision)
        failed = await self._let_go(prepared.plan)
        return Changed(changes=[_with(change, failed) for change in prepared.told], revision=edition.revision)

    async def _write(self, prepared: _Prepared, edition: Edition) -> None:
        gone = [step.key for step in prepared.plan.steps if step.verb is Verb.DELETED]

        def write(connection: sqlite3.Connection) -> None:
            for document in prepared.put:
                stored.put(connection, document)
            for key in gone:
                stored.delete(connection, *key)
            key_values.put(connection, _REVISION, str(edition.revision).encode())
            for entry in prepared.entries:
                audit.append(connection, entry, edition.time)

        await asyncio.wrap_future(self._store.submit(write, point="documents"))

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


def _prepare(plan: Plan, edition: Edition, *, diffs: bool) -> _Prepared:
    """Everything of a change that can go wrong but the writing. DocumentError."""
    told = [_told(step, diffs=diffs) for step in plan.steps]
    kept = {key: _placeless(plan.after[key]) for key in sorted(plan.after)}
    documents = as_documents(each.thing for each in kept.values())
    if not plan.changes:
        return _Prepared(plan, told, kept, documents)
    return _Prepared(
        plan,
        told,
        kept,
        documents,
        compile_index(documents, revision=edition.revision),
        tuple(_stored(step.key, step.after) for step in plan.changes if step.after is not None),
        tuple(_entry(step, edition, {key for _, key in plan.released}) for step in plan.changes),
    )


def _told(step: Step, *, diffs: bool) -> Change:
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
    )


def _entry(step: Step, edition: Edition, released: Collection[Key]) -> AuditEntry:
    before, after = _thing(step.before), _thing(step.after)
    notes = [f"source {kept.source}" for kept in (step.after or step.before,) if kept and kept.source]
    if step.before and step.after and step.before.source and step.before.source != step.after.source:
        notes.append(f"taken from source {step.before.source}")
    if isinstance(before, Webhook) and isinstance(after, Webhook) and (fields := hidden.changed(before, after)):
        notes.append(f"{', '.join(fields)} changed")
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
    )


def _kept(document: stored.Document) -> Kept:
    return _placeless(
        Kept(
            thing=msgspec.json.decode(document.body, type=KINDS[document.kind]),
            revision=document.revision,
            source=document.source,
            created=document.created,
            changed=document.changed,
            changed_by=document.changed_by,
        )
    )
