"""The documents in force, and what an application or a deletion changes about them. Pure; quell.controller.editing stores."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import chain, count
from typing import NamedTuple

import msgspec
from msgspec import Struct

from quell.controller.authorship import enabled, restrained, taken_along, widened
from quell.controller.numbering import numbered
from quell.controller.rule_order import index_of, place
from quell.documents.hidden import restore
from quell.documents.load import Documents, Thing
from quell.documents.references import KINDS as REFERRED
from quell.documents.references import check, references, silenced, untold
from quell.errors import DocumentConflict, DocumentError, DocumentForbidden, NoSuchRule, Problem
from quell.model.audit import QUELL, Actor
from quell.model.policy import Policy, Ruleset
from quell.model.rule import Group, Rule, Source, Webhook
from quell.model.syslog import Syslog

KINDS: dict[str, type[Thing]] = {
    "ResponseRule": Rule,
    "Group": Group,
    "Webhook": Webhook,
    "Syslog": Syslog,
    "Policy": Policy,
    "Ruleset": Ruleset,
}
_SHORT = {"rule": "ResponseRule", "policies": "Policy"}
#: The name of a source, such as git/prod.
SOURCE = "^[A-Za-z0-9][A-Za-z0-9._/@:+-]{0,199}$"
_NOWHERE = Source()


class Key(NamedTuple):
    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class Verb(StrEnum):
    CREATED = "created"
    CONFIGURED = "configured"
    #: A rule stands elsewhere among the others; nothing else of it is changed.
    MOVED = "moved"
    UNCHANGED = "unchanged"
    DELETED = "deleted"


class Kept(Struct, frozen=True, kw_only=True):
    """A document in force, and what the store knows of it."""

    thing: Thing
    #: Of the documents as a whole, when this one was changed last: its version.
    revision: int = 0
    #: Which named source applied it; "": none.
    source: str = ""
    #: Epoch seconds; 0: unknown.
    created: float = 0.0
    changed: float = 0.0
    #: As the audit log names them, such as user/ann.
    changed_by: str = ""
    #: Of a rule: where it stands (quell.controller.rule_order); 0 otherwise.
    position: int = 0


class Editor(Struct, frozen=True, kw_only=True):
    """Who changes documents. operates: may have destructive rules in force, and end quarantines."""

    actor: Actor = QUELL
    operates: bool = True


class Edition(Struct, frozen=True, kw_only=True):
    """What a change is stamped with. held: holder -> the quarantines that it holds now."""

    revision: int
    time: float
    editor: Editor = Editor()
    held: Mapping[str, Sequence[str]] = msgspec.field(default_factory=dict)


class Application(Struct, frozen=True, kw_only=True):
    """What somebody wants in force.

    source: by what name all of it is applied. prune: delete what was applied by that name and is not here any more.
    take_over: also what belongs to other sources. unquarantine: end the quarantines of what is deleted or disabled.
    after: where rules stand that are new, as quell.controller.rule_order.index_of takes it; the others stay in place. A
    rule without a name is a new one, and gets one from its id.
    """

    documents: Documents
    source: str = ""
    prune: bool = False
    take_over: bool = False
    unquarantine: bool = False
    after: int | None = None


class Holding(Struct, frozen=True, kw_only=True):
    """A quarantine that a rule or policy holds, which does not act after the change, and what becomes of it."""

    key: str
    #: It ends with the change; if not, `holders` go on holding it.
    released: bool
    holders: tuple[str, ...] = ()


class Step(Struct, frozen=True, kw_only=True):
    """What becomes of one document. None: there was or is none."""

    key: Key
    verb: Verb
    before: Kept | None = None
    after: Kept | None = None
    warnings: tuple[str, ...] = ()
    quarantines: tuple[Holding, ...] = ()
    #: For the audit log.
    note: str = ""


class Plan(Struct, frozen=True, kw_only=True):
    steps: tuple[Step, ...]
    #: Rules of which nothing but the position changed, to make room for others.
    shifted: tuple[Key, ...] = ()
    #: All documents in force afterwards.
    after: Mapping[Key, Kept]
    #: Holders whose quarantines end, with the document that held them.
    released: tuple[tuple[str, Key], ...] = ()

    @property
    def changes(self) -> tuple[Step, ...]:
        """The steps that change anything."""
        return tuple(step for step in self.steps if step.verb is not Verb.UNCHANGED)


def kind_of(word: str) -> str:
    """The kind a word means: ResponseRule for rules, rule, responserules. KeyError if none."""
    lower = word.lower()
    if lower in _SHORT:
        return _SHORT[lower]
    for kind in KINDS:
        if lower in (kind.lower(), kind.lower() + "s", kind.lower().removeprefix("response") + "s"):
            return kind
    raise KeyError(word)


def name_of(thing: Thing) -> Key:
    return Key(next(kind for kind, struct in KINDS.items() if isinstance(thing, struct)), thing.name)


def in_order(things: Mapping[Key, Kept]) -> dict[Key, Kept]:
    """By kind; rules as they stand, others by name."""
    return dict(sorted(things.items(), key=_standing))


def rules_in_order(things: Mapping[Key, Kept]) -> list[tuple[Key, Kept]]:
    return sorted(((key, kept) for key, kept in things.items() if key.kind == "ResponseRule"), key=_standing)


def rule_of(things: Mapping[Key, Kept], number: int) -> Key:
    """NoSuchRule."""
    for key, kept in things.items():
        if isinstance(kept.thing, Rule) and kept.thing.id == number:
            return key
    raise NoSuchRule(number)


def _standing(item: tuple[Key, Kept]) -> tuple[str, int, int, str]:
    key, kept = item
    return key.kind, kept.position, getattr(kept.thing, "id", 0), key.name


def as_documents(things: Iterable[Thing], written: Documents | None = None) -> Documents:
    """written: the documents among them that come from a text, with the places of what they name in it."""
    things = list(things)
    return Documents(
        rules=tuple(sorted((t for t in things if isinstance(t, Rule)), key=lambda rule: rule.id)),
        groups=tuple(t for t in things if isinstance(t, Group)),
        webhooks=tuple(t for t in things if isinstance(t, Webhook)),
        syslogs=tuple(t for t in things if isinstance(t, Syslog)),
        policies=tuple(t for t in things if isinstance(t, Policy)),
        rulesets=tuple(t for t in things if isinstance(t, Ruleset)),
        places=written.places if written else {},
    )


def alone(documents: Documents) -> Documents:
    """The documents as they would be in a controller that has no others. DocumentError."""
    rules = numbered(documents.rules, {}, {})
    check(msgspec.structs.replace(documents, rules=rules))
    return msgspec.structs.replace(documents, rules=rules)


def refuse_nothing(documents: Documents) -> None:
    """DocumentError where there is no document: what is meant for a folder was given another, or an empty one."""
    if not any(
        (
            documents.rules,
            documents.groups,
            documents.webhooks,
            documents.syslogs,
            documents.policies,
            documents.rulesets,
        )
    ):
        raise DocumentError([Problem(file="", message="there is no document in the input")])


def plan_apply(things: Mapping[Key, Kept], wanted: Application, edition: Edition) -> Plan:
    """What an application does. DocumentError, DocumentConflict, DocumentForbidden, NoSuchRule: nothing is to be done."""
    given = _given(things, wanted, edition)
    gone = _pruned(things, wanted, given)
    after = {key: kept for key, kept in things.items() if key not in gone}
    steps = [_step(things.get(key), key, thing, wanted, edition) for key, thing in given.items()]
    _refuse_foreign(steps, wanted)
    steps, shifted = _placed(after, steps, wanted.after)
    after |= shifted
    steps += [Step(key=key, verb=Verb.DELETED, before=things[key]) for key in gone]
    after |= {step.key: step.after for step in steps if step.after is not None}
    _refuse_used(gone, after)
    pending = check(as_documents((kept.thing for kept in after.values()), wanted.documents))
    warned: dict[Key, list[str]] = {}
    for policy, problem in pending:
        warned.setdefault(name_of(policy), []).append(problem.message)
    for key, said in _unheard(after, steps):
        warned.setdefault(key, []).append(said)
    steps = [_warned(step, warned.get(step.key, ())) for step in steps]
    plan = finished(things, after, steps, edition, unquarantine=wanted.unquarantine)
    return msgspec.structs.replace(plan, shifted=tuple(shifted)) if shifted else plan


def _unheard(after: Mapping[Key, Kept], steps: Iterable[Step]) -> Iterator[tuple[Key, str]]:
    """What is to tell somebody and tells nobody: among what is written, and what endpoints that are changed leave so."""
    known = {kept.thing.name: kept.thing for kept in after.values() if isinstance(kept.thing, Webhook)}
    for step in steps:
        if step.after is not None and (said := untold(step.after.thing, known)):
            yield step.key, said
        was, now = step.before and step.before.thing, known.get(step.key.name)
        if not isinstance(was, Webhook) or (now and now.enable and now.default is was.default):
            continue
        left = [str(name_of(thing)) for thing in silenced(_things(after).values(), {**known, was.name: was}, known)]
        if left:
            some = ", ".join(left[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
            yield step.key, f"nobody is told any more by {some} (no-endpoint)"


def plan_delete(
    things: Mapping[Key, Kept], key: Key, edition: Edition, *, force: bool = False, unquarantine: bool = False
) -> Plan:
    """As plan_apply. KeyError: there is none. force: what refers to a group is deleted with it."""
    before = things[key]
    gone = [key]
    if force and key.kind == "Group":
        gone += sorted(other for other, kept in things.items() if key in _referred(kept.thing))
        problems = taken_along((things[other].thing for other in gone[1:]), before.thing)
        if problems and not edition.editor.operates:
            raise DocumentForbidden(problems)
    after = {other: kept for other, kept in things.items() if other not in gone}
    _refuse_used(gone, after, "or force it to delete them too" if key.kind == "Group" else "")
    steps = []
    for other in gone:
        source = things[other].source
        again = (f"it belongs to source {source}, which may apply it again",) if source else ()
        steps.append(Step(key=other, verb=Verb.DELETED, before=things[other], warnings=again))
    for other, said in _unheard(after, steps):
        steps = [_warned(step, [said]) if step.key == other else step for step in steps]
    if key.kind == "Ruleset":
        users = [str(other) for other, kept in after.items() if key in _referred(kept.thing)]
        if users:
            steps[0] = _warned(steps[0], [f"{', '.join(users)} named it and is Pending without it"])
    return finished(things, after, steps, edition, unquarantine=unquarantine)


def _given(things: Mapping[Key, Kept], wanted: Application, edition: Edition) -> dict[Key, Thing]:
    """The documents of the input, complete: rules with their ids, webhooks with the secrets that they kept."""
    refuse_nothing(wanted.documents)
    documents = wanted.documents
    problems: list[Problem] = []
    if wanted.source and not re.fullmatch(SOURCE, wanted.source):
        problems.append(
            Problem(
                file="",
                message=f'"{wanted.source}" is no name of a source',
                expected="letters, digits and . _ / @ : + -, at most 200, such as git/prod",
                got=wanted.source,
            )
        )
    webhooks = []
    for webhook in documents.webhooks:
        before = things.get(Key("Webhook", webhook.name))
        whole, lacking = restore(webhook, before.thing if before and isinstance(before.thing, Webhook) else None)
        webhooks.append(whole)
        problems += lacking
    named = _provisional(documents.rules)
    keys = {name_of(rule) for rule in named}
    rules = {key: kept.thing for key, kept in things.items() if isinstance(kept.thing, Rule)}
    pruned = {key for key in rules if wanted.prune and things[key].source == wanted.source}
    others = {rule.id: rule.name for key, rule in rules.items() if key not in keys and key not in pruned}
    ids = {rule.name: rule.id for rule in rules.values()}
    # A new rule that got one of these by itself would hold the quarantines of the rule that goes, or is gone.
    spent = [rules[key].id for key in pruned] + [int(number) for number in _held_by_rules(edition.held)]
    try:
        given = _named(numbered(named, others, ids, spent), {name for _, name in things})
    except DocumentError as error:
        raise DocumentError([*problems, *error.problems]) from error
    if problems:
        raise DocumentError(problems)
    rest: tuple[Thing, ...] = (*documents.syslogs, *documents.rulesets, *documents.policies)
    parts: tuple[Thing, ...] = (*documents.groups, *webhooks, *rest, *given)
    return {name_of(thing): thing for thing in parts}


def _provisional(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """Rules that have no name get one that no document can have, until they have an id."""
    return tuple(
        rule if rule.name else msgspec.structs.replace(rule, name=f"\n{serial}") for serial, rule in enumerate(rules)
    )


def _named(rules: Sequence[Rule], taken: set[str]) -> tuple[Rule, ...]:
    """With names like rule-12 for those that have none."""
    found = []
    for rule in rules:
        if rule.name.startswith("\n"):
            names = chain((f"rule-{rule.id}",), (f"rule-{rule.id}-{more}" for more in count(2)))
            name = next(each for each in names if each not in taken)
            rule = msgspec.structs.replace(rule, name=name)  # noqa: PLW2901 - from here on it is the rule
        taken.add(rule.name)
        found.append(rule)
    return tuple(found)


def _placed(things: Mapping[Key, Kept], steps: list[Step], after: int | None) -> tuple[list[Step], dict[Key, Kept]]:
    """The steps with places for rules that are new, and the rules that make room for them. NoSuchRule."""
    new = [step.key for step in steps if step.verb is Verb.CREATED and step.key.kind == "ResponseRule"]
    if not new and after is None:
        return steps, {}
    standing = rules_in_order(things)
    index = index_of([kept.thing.id for _, kept in standing if isinstance(kept.thing, Rule)], after)
    placed = place([kept.position for _, kept in standing], index, len(new))
    positions = dict(zip(new, placed.newcomers, strict=True))
    shifted = {
        key: msgspec.structs.replace(kept, position=position)
        for (key, kept), position in zip(standing, placed.others or (), strict=False)
        if kept.position != position
    }
    return [_at(step, positions, shifted) for step in steps], shifted


def _at(step: Step, positions: Mapping[Key, int], shifted: dict[Key, Kept]) -> Step:
    """A step with the position that its rule gets; one that changes is stored as a whole, so that it is shifted with it."""
    if step.after is None:
        return step
    moved = shifted.get(step.key) if step.verb is Verb.UNCHANGED else shifted.pop(step.key, None)
    position = positions.get(step.key) if moved is None else moved.position
    if position is None:
        return step
    return msgspec.structs.replace(step, after=msgspec.structs.replace(step.after, position=position))


def _pruned(things: Mapping[Key, Kept], wanted: Application, given: Collection[Key]) -> list[Key]:
    if not wanted.prune:
        return []
    if not wanted.source:
        message = "prune needs the name of a source: only what was applied by that name is deleted"
        raise DocumentError([Problem(file="", message=message)])
    return [key for key, kept in sorted(things.items()) if kept.source == wanted.source and key not in given]


def _step(before: Kept | None, key: Key, thing: Thing, wanted: Application, edition: Edition) -> Step:
    why = ""
    if not edition.editor.operates:
        thing, why = restrained(None if before is None else before.thing, thing)
    warnings: tuple[str, ...] = (why,) if why else ()
    same = before is not None and _same(before.thing, thing)
    if before is not None and same and (before.source == wanted.source or not (wanted.source or wanted.take_over)):
        return Step(key=key, verb=Verb.UNCHANGED, before=before, after=before, warnings=warnings)
    if before is not None and before.source != wanted.source:
        warnings += (_passes(before.source, wanted.source),)
    after = Kept(
        thing=thing,
        revision=edition.revision,
        source=wanted.source,
        created=edition.time if before is None else before.created,
        changed=edition.time,
        changed_by=str(edition.editor.actor),
        position=0 if before is None else before.position,
    )
    verb = Verb.CREATED if before is None else Verb.CONFIGURED
    return Step(key=key, verb=verb, before=before, after=after, warnings=warnings)


def _passes(before: str, after: str) -> str:
    if not before:
        return f"belongs to source {after} from now on"
    return f"passes from source {before} to {f'source {after}' if after else 'no source'}"


def _refuse_foreign(steps: Iterable[Step], wanted: Application) -> None:
    """What another source owns is its to change."""
    if wanted.take_over:
        return
    problems = [
        Problem(
            file=step.after.thing.source.file,
            line=step.after.thing.source.line,
            path="metadata.name",
            message=f"{step.key} belongs to source {step.before.source}: apply it there, or take it over",
            got=wanted.source,
        )
        for step in steps
        if step.verb is Verb.CONFIGURED and step.before and step.after
        if step.before.source and step.before.source != wanted.source
    ]
    if problems:
        raise DocumentConflict(problems)


def _refuse_used(gone: Collection[Key], after: Mapping[Key, Kept], instead: str = "") -> None:
    """What something in force refers to stays; a ruleset may go, its policies then wait for it."""
    if not gone:
        return
    users: dict[Key, list[str]] = {}
    for key, kept in after.items():
        for referred in _referred(kept.thing):
            number = f" (rule {kept.thing.id})" if isinstance(kept.thing, Rule) else ""
            users.setdefault(referred, []).append(f"{key}{number}")
    problems = [
        Problem(
            file="",
            message=f"{key} is used by {', '.join(users[key])}: change or delete these first"
            + (f", {instead}" if instead else ""),
        )
        for key in gone
        if key in users and key.kind != "Ruleset"
    ]
    if problems:
        raise DocumentConflict(problems)


def finished(
    things: Mapping[Key, Kept],
    after: Mapping[Key, Kept],
    steps: Sequence[Step],
    edition: Edition,
    *,
    unquarantine: bool,
) -> Plan:
    """The plan, once it is known what it means for quarantines and that the editor may make it."""
    if not edition.editor.operates:
        if problems := widened(_things(things), _things(after)):
            raise DocumentForbidden(problems)
        if unquarantine:
            raise DocumentForbidden([Problem(file="", message="it takes an operator to end quarantines")])
    acting = {holder for kept in after.values() if enabled(kept.thing) and (holder := _holder(kept.thing))}
    idle = {
        step.key: holder
        for step in steps
        if step.before and (holder := _holder(step.before.thing)) in edition.held and holder not in acting
    }
    leaving = frozenset(idle.values()) if unquarantine else frozenset()
    holders: dict[str, list[str]] = {}
    for holder, keys in edition.held.items() if idle else ():
        for key in keys:
            holders.setdefault(key, []).append(holder)
    done = [
        _with_quarantines(step, idle[step.key], edition.held[idle[step.key]], holders, leaving)
        if step.key in idle
        else step
        for step in steps
    ]
    released = tuple((holder, key) for key, holder in idle.items()) if unquarantine else ()
    return Plan(steps=tuple(done), after=after, released=released)


def _with_quarantines(
    step: Step, holder: str, keys: Sequence[str], holders: Mapping[str, Sequence[str]], leaving: Collection[str]
) -> Step:
    """The step with what becomes of the quarantines of its holder. leaving: the holders that let go."""
    found: list[Holding] = []
    told: list[str] = []
    for key in keys:
        remaining = tuple(sorted(each for each in holders[key] if each not in leaving))
        found.append(Holding(key=key, released=not remaining, holders=remaining))
        if not remaining:
            told.append(f"{key} is released from quarantine")
        elif step.verb is not Verb.UNCHANGED or leaving:
            by = holder if holder in remaining else ", ".join(remaining)
            told.append(f"{key} stays in quarantine, held by {by}")
    return msgspec.structs.replace(_warned(step, told), quarantines=tuple(found))


def _things(documents: Mapping[Key, Kept]) -> dict[tuple[str, str], Thing]:
    return {key: kept.thing for key, kept in documents.items()}


def _holder(thing: Thing) -> str:
    """By what name a rule or policy holds quarantines; "": such a thing holds none."""
    match thing:
        case Rule():
            return f"rule/{thing.id}"
        case Policy():
            return f"policy/{thing.name}"
        case _:
            return ""


def _held_by_rules(held: Iterable[str]) -> Iterator[str]:
    """The ids of the rules that hold quarantines."""
    for holder in held:
        kind, _, number = holder.partition("/")
        if kind == "rule" and number.isdecimal():
            yield number


def _warned(step: Step, more: Collection[str]) -> Step:
    return msgspec.structs.replace(step, warnings=(*step.warnings, *more)) if more else step


def _referred(thing: Thing) -> set[Key]:
    return {Key(REFERRED[reference.what], reference.name) for reference in references(thing)}


def _same(before: Thing, after: Thing) -> bool:
    """Where a document stands in its file changes nothing."""
    return bool(msgspec.structs.replace(before, source=_NOWHERE) == msgspec.structs.replace(after, source=_NOWHERE))
