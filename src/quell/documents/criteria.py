"""Criteria as rules write them: "cve-high:5", {type: cve-high, value: 5} or {cve-high: 5}; a list as value is any of it.

SEMANTICS section 3, the table of criteria. Names and levels are stored in their canonical spelling.
"""

from __future__ import annotations

from itertools import combinations

from msgspec import Struct

from quell.catalogue.forms import KINDS, REPORTS, is_glob, levels, threshold
from quell.catalogue.mappings import rule_names
from quell.catalogue.names import NAMES, CatalogueName, covers, family, resolve
from quell.catalogue.table import CRITERIA, CriterionSpec, Form, criterion_spec
from quell.catalogue.words import nearest
from quell.documents.reader import Value, listed
from quell.model.event import Category, Kind, Level
from quell.model.rule import Criterion

#: An event has one of these, so that two different ones can never hold together.
_SINGLE = (Form.KIND, Form.REPORT, Form.TEXT, Form.PROCESS)


#: As messages name them.
_TYPES = {f"{type_}<key>" if type_.endswith(":") else type_: spec for type_, spec in CRITERIA.items()}


class Context(Struct, frozen=True):
    """The rule around criteria."""

    #: None: it is wrong, so that only the values can be checked.
    category: Category | None
    kind: Kind | None = None
    #: A bare count of vulnerabilities with a fix means "at least" in the document's own system (the reference); it is
    #: stored as >=N, which means that here.
    counts_at_least: bool = False


def read_criteria(value: Value, context: Context) -> tuple[Criterion, ...]:
    """The criteria of one rule, each fit for its category, and no two that contradict each other."""
    found: list[tuple[Criterion, Value]] = []
    for item in value.items():
        type_, values = _split(item)
        spec = criterion_spec(type_) if type_ else None
        if spec is None:
            continue
        if context.category is not None and context.category not in spec.categories:
            takes = [name for name, other in _TYPES.items() if context.category in other.categories]
            item.problem(
                f"{type_} does not apply to category {context.category}: none of its events has one",
                expected=listed(takes),
                got=type_,
            )
            continue
        texts = tuple(_read(spec, text, place, context) for text, place in values)
        if texts and all(texts):
            found.append((Criterion(type=type_, values=texts), item))
    _refuse_contradictions(found, context.kind)
    return tuple(criterion for criterion, _ in found)


def _split(item: Value) -> tuple[str, list[tuple[str, Value]]]:
    """The type and the texts of one criterion, each with its place; "" after a problem."""
    if item.is_mapping:
        entries = item.entries()
        if len(entries) == 1 and not entries.keys() & {"type", "value"}:
            [(type_, value)] = entries.items()
            place = value.name_of_field
        else:
            fields = item.fields(("type", "value"))
            if len(fields) < 2:
                return "", []
            type_, value, place = fields["type"].text(), fields["value"], fields["type"]
        if not _is_type(type_, place):
            return "", []
        places = value.items() if value.is_list else [value]
        if not places:
            value.wrong("at least one value", "an empty list")
        return type_, [(place.text(), place) for place in places]
    text = item.text()
    type_, colon, rest = text.partition(":")
    if type_ == "label":
        key, colon, rest = rest.partition(":")
        type_ = f"label:{key}"
    if not text:
        return "", []
    if not colon:
        written = f"name:{resolve(text)}" if resolve(text) else f"{text}:..." if text in CRITERIA else "type:value"
        item.problem(f'expected {written}, got "{text}"', expected=written, got=text)
        return "", []
    if not _is_type(type_, item):
        return "", []
    if not rest.strip():
        item.problem(f"{type_} needs a value: write {_example(type_)}", expected=_example(type_), got=text)
        return "", []
    return type_, [(rest.strip(), item)]


def _is_type(type_: str, place: Value) -> bool:
    if type_.startswith("label:"):
        if type_ == "label:":
            place.problem(
                "a label criterion needs a key: write label:app:web", expected="label:<key>:<value>", got=type_
            )
        return type_ != "label:"
    if type_ not in CRITERIA:
        place.unknown("criterion", type_, _TYPES)
        return False
    return True


def _example(type_: str) -> str:
    spec = criterion_spec(type_)
    return spec.example if spec else ""


def _read(spec: CriterionSpec, text: str, place: Value, context: Context) -> str:
    """The text as it is stored; "" after a problem."""
    match spec.form:
        case Form.NAME:
            return _name(text, place, context) if text else ""
        case Form.LEVEL:
            found = levels(text)
            if not found:
                place.unknown("level", text, Level)
                return ""
            return f">={found[-1]}" if text.startswith(">=") else found[0].value
        case Form.KIND | Form.REPORT:
            words = KINDS if spec.form is Form.KIND else REPORTS
            if text.lower() not in words:
                place.unknown(spec.type, text, words)
                return ""
            return text.lower()
        case Form.COUNT | Form.FIXED_COUNT:
            if threshold(spec.form, text) is None:
                form = (
                    "N, >N or >=N from 1 up" if spec.form is Form.COUNT else "N, >N or >=N, then /D for days if wanted"
                )
                place.problem(f'expected {form}, as in {spec.example}, got "{text}"', expected=form, got=text)
                return ""
            bare = spec.form is Form.FIXED_COUNT and not text.startswith(">")
            return f">={text}" if bare and context.counts_at_least else text
        case _:
            return text


def _name(text: str, place: Value, context: Context) -> str:
    """The canonical form of an event's name. Names are open: one that nobody knows is only doubtful."""
    category, kind = context.category, context.kind
    canonical = resolve(text)
    if canonical is None:
        seen = place.report.names
        if not _is_known(text, category) and text.casefold() not in seen:
            known = (entry.name for entry in NAMES.values() if not entry.pattern)
            near = nearest(text, (*known, *rule_names(), *seen.values()))
            place.warn(
                f'neither the catalogue nor a detector\'s rules have an event named "{text}"', got=text, near=near
            )
        return text
    entry = NAMES[canonical]
    if entry.pattern:
        place.warn(
            f"{canonical} stands for a family of names: write one of them, or a glob such as {entry.pattern}",
            expected=entry.pattern,
            got=text,
        )
    elif category is not None and not _meets(entry, category, kind):
        what = entry.kind if entry.category is Category.SECURITY_EVENT else entry.category
        place.warn(f"no {kind or category} is named {canonical}: it is a name of category {what}", got=text)
    return canonical


def _is_known(text: str, category: Category | None) -> bool:
    if is_glob(text) or family(text) is not None or text in rule_names():
        return True
    return category is Category.COMPLIANCE and any(character.isdigit() for character in text)


def _meets(entry: CatalogueName, category: Category, kind: Kind | None) -> bool:
    """Whether a rule of this category and kind can meet an event of that name."""
    if category is Category.DEVIATION:
        return entry.deviation or entry.category is category
    return category in (entry.category, *entry.also_category) and kind in (None, entry.kind)


def _refuse_contradictions(found: list[tuple[Criterion, Value]], kind: Kind | None) -> None:
    for (one, _), (other, place) in combinations(found, 2):
        if one.type == other.type and _exclude(one, other):
            values = dict.fromkeys((*one.values, *other.values))
            form = f"{{type: {one.type}, value: [{', '.join(values)}]}}"
            place.problem(
                f"{_told(one)} and {_told(other)} can never hold together: for either of them write {form}",
                expected=form,
                got=_told(other),
            )
    for criterion, place in found:
        if criterion.type == "kind" and kind is not None and kind not in criterion.values:
            place.problem(
                f"{_told(criterion)} and event: {kind} can never hold together: write event: security-event",
                expected="event: security-event",
                got=_told(criterion),
            )


def _exclude(one: Criterion, other: Criterion) -> bool:
    """Whether two criteria of one type can never hold for the same event."""
    spec = criterion_spec(one.type)
    if spec is None:
        return False
    if spec.form is Form.LEVEL:
        taken = [{level for text in criterion.values for level in levels(text)} for criterion in (one, other)]
        return taken[0].isdisjoint(taken[1])
    texts = (*one.values, *other.values)
    if spec.form is Form.NAME:
        if any(text not in NAMES or NAMES[text].pattern for text in texts):
            return False
        return not any(covers(a, b) or covers(b, a) for a in one.values for b in other.values)
    if spec.form not in _SINGLE or any(is_glob(text) for text in texts):
        return False
    # A process has both a name and a path: only two of a sort exclude each other.
    if spec.form is Form.PROCESS and len({"/" in text for text in texts}) > 1:
        return False
    return {text.casefold() for text in one.values}.isdisjoint(text.casefold() for text in other.values)


def _told(criterion: Criterion) -> str:
    return f"{criterion.type}:{' or '.join(criterion.values)}"
