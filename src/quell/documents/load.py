"""YAML text and files into the model: all documents, or everything that is wrong with any of them. SEMANTICS 0.3.

JSON is read the same way, as it is YAML too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from msgspec import Struct

from quell.documents import group, neuvector, policy, rule, ruleset, syslog, webhook
from quell.documents.document import Document
from quell.documents.nodes import Scalar, compose, from_value
from quell.documents.places import Places, places
from quell.documents.reader import NO_NAMES, Fields, Names, Report, Value, listed
from quell.errors import DocumentError, Problem
from quell.model.policy import Policy, Ruleset
from quell.model.rule import Group, Rule, Source, Webhook
from quell.model.syslog import Syslog

Thing = Rule | Group | Webhook | Syslog | Policy | Ruleset

OURS = "quell.dev/v1"
SPYDERBAT = "spyderbat/v1"
NEUVECTOR = "neuvector.com/v1"

#: apiVersion -> kind -> what reads such a document.
KINDS: Mapping[str, Mapping[str, Callable[[Document], Thing | None]]] = MappingProxyType(
    {
        OURS: {
            "ResponseRule": rule.read,
            "Group": group.read,
            "Webhook": webhook.read,
            "Syslog": syslog.read,
            "Policy": policy.read,
            "Ruleset": ruleset.read,
        },
        SPYDERBAT: {"SpyderbatPolicy": policy.read, "SpyderbatRuleset": ruleset.read},
        NEUVECTOR: {"NvResponseRuleSecurityRule": neuvector.read},
    }
)
#: Kinds that hold other documents in their items; "v1" is what kubectl writes.
_LISTS = {
    "v1": ("List",),
    OURS: ("List",),
    SPYDERBAT: ("List",),
    NEUVECTOR: ("List", "NvResponseRuleSecurityRuleList"),
}
#: Kinds of records, which are no documents to apply -> what they are, and what takes them.
_RECORDS: Mapping[str, str] = MappingProxyType(
    {
        "GuardianDeviation": (
            'a finding: "quell events send --from deviation" takes it, and "quell policies merge" adds it to its policy'
        ),
        "SpyderbatFingerprint": "what was seen of one workload",
        "FingerprintGroup": "what was seen of several workloads",
        "SpyderbatBaseline": "what was seen of a workload, with what it may do beside",
    }
)
#: Fields of our own metadata: every kind has a name, policies and rulesets have a type as well.
_METADATA = {"Policy": ("name", "type", "uid"), "Ruleset": ("name", "type", "uid")}
_SUFFIXES = (".yaml", ".yml")


class Documents(Struct, frozen=True, kw_only=True):
    """What was read, in the order in which it was written, and what is doubtful about it."""

    rules: tuple[Rule, ...] = ()
    groups: tuple[Group, ...] = ()
    webhooks: tuple[Webhook, ...] = ()
    syslogs: tuple[Syslog, ...] = ()
    policies: tuple[Policy, ...] = ()
    rulesets: tuple[Ruleset, ...] = ()
    warnings: tuple[Problem, ...] = ()
    #: Kind, name -> where rules and policies name others.
    places: Mapping[tuple[str, str], Places] = MappingProxyType({})


#: Things read, each with the document that it was read from.
_Found = list[tuple[Thing, Value]]


def load_text(text: str | bytes, file: str = "<text>", names: Names = NO_NAMES) -> Documents:
    """The documents of one text. file: what messages call it. DocumentError has every problem.

    names: of events that are known beside those that everybody knows, as somebody sent them.
    """
    report = Report(file, names)
    return _checked(_read_text(text, report), [report])


def load_values(values: Iterable[object], file: str = "<values>", names: Names = NO_NAMES) -> Documents:
    """Documents that are plain values already, such as those that write.to_document makes; read as text is."""
    report = Report(file, names)
    found: _Found = []
    for value in values:
        try:
            node = from_value(value)
        except ValueError as error:
            report.problems.append(Problem(file=file, message=str(error)))
        else:
            found += _read(Value(node, report))
    return _checked(found, [report])


def load_paths(paths: Sequence[Path], names: Names = NO_NAMES) -> Documents:
    """The documents of files, and of all *.yaml and *.yml files in folders and below them, each in the order of names."""
    reports: list[Report] = []
    found: _Found = []
    for path in paths:
        files = _files(path) if path.is_dir() else [path]
        if not files:
            report = Report(str(path))
            report.warnings.append(Problem(file=str(path), message="no *.yaml or *.yml file in this folder"))
            reports.append(report)
        for file in files:
            report = Report(str(file), names)
            reports.append(report)
            try:
                text = file.read_bytes()
            except OSError as error:
                report.problems.append(Problem(file=str(file), message=f"cannot be read: {error.strerror}"))
            else:
                found += _read_text(text, report)
    return _checked(found, reports)


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix in _SUFFIXES and file.is_file())


def _read_text(text: str | bytes, report: Report) -> _Found:
    nodes, problems = compose(text, report.file)
    found = [pair for node in nodes for pair in _read(Value(node, report))]
    report.problems += problems
    return found


def _read(value: Value) -> _Found:
    """One document, or those in a list of them."""
    if not value.is_mapping:
        value.wrong("a document with apiVersion, kind, metadata and spec")
        return []
    outer = value.entries()
    version, kind = _version_and_kind(value, outer)
    if kind in _LISTS.get(version, ()):
        fields = value.fields(("apiVersion", "kind", "items"), ("metadata",))
        items = fields["items"].items() if "items" in fields else []
        return [pair for item in items for pair in _read_item(item)]
    read = KINDS.get(version, {}).get(kind)
    if read is None:
        return []
    # What a controller says of a document when it shows it is no part of what somebody wants.
    fields = value.fields(("apiVersion", "kind", "metadata", "spec"), ("status",) if version == OURS else ())
    if "spec" not in fields:
        return []
    metadata_value = fields.get("metadata", value)
    metadata = Fields()
    if "metadata" in fields and version == OURS:
        metadata = metadata_value.fields((), _METADATA.get(kind, ("name",)))
    elif "metadata" in fields:
        metadata = metadata_value.entries()
    source = Source(file=value.report.file, line=value.node.line)
    thing = read(Document(metadata, metadata_value, fields["spec"], version != OURS, source))
    return [] if thing is None else [(thing, value)]


def _read_item(item: Value) -> _Found:
    kind = item.entries().get("kind") if item.is_mapping else None
    if kind is not None and isinstance(kind.node, Scalar) and kind.node.text.endswith("List"):
        kind.problem("a list within a list: write its items here", expected="a document", got=kind.node.text)
        return []
    return _read(item)


def _version_and_kind(value: Value, outer: Fields) -> tuple[str, str]:
    """What says how to read a document; "" after a problem."""
    if "schema" in outer and not outer.keys() & {"apiVersion", "kind"}:
        schema = outer["schema"]
        told = "a record, no document: documents have apiVersion and kind"
        schema.name_of_field.problem(told, expected="apiVersion and kind", got=schema.found.strip('"'))
        return "", ""
    for field in ("apiVersion", "kind"):
        if field not in outer:
            value.problem(f'missing field "{field}"', expected=listed(KINDS) if field == "apiVersion" else field)
    if "apiVersion" not in outer or "kind" not in outer:
        return "", ""
    version, kind = outer["apiVersion"].text(), outer["kind"].text()
    if version and version not in _LISTS:
        outer["apiVersion"].unknown("apiVersion", version, KINDS)
    elif version and kind:
        kinds = (*KINDS.get(version, ()), *_LISTS[version])
        if version in (OURS, SPYDERBAT) and kind in _RECORDS:
            outer["kind"].problem(f"a {kind} is no document but {_RECORDS[kind]}", expected=listed(kinds), got=kind)
        elif kind not in kinds:
            outer["kind"].unknown(f"kind of {version}", kind, kinds)
    return version, kind


def _checked(found: _Found, reports: list[Report]) -> Documents:
    _refuse_twins(found)
    problems = [problem for report in reports for problem in _in_order(report.problems)]
    if problems:
        raise DocumentError(problems)
    return Documents(
        rules=tuple(thing for thing, _ in found if isinstance(thing, Rule)),
        groups=tuple(thing for thing, _ in found if isinstance(thing, Group)),
        webhooks=tuple(thing for thing, _ in found if isinstance(thing, Webhook)),
        syslogs=tuple(thing for thing, _ in found if isinstance(thing, Syslog)),
        policies=tuple(thing for thing, _ in found if isinstance(thing, Policy)),
        rulesets=tuple(thing for thing, _ in found if isinstance(thing, Ruleset)),
        warnings=tuple(warning for report in reports for warning in _in_order(report.warnings)),
        places={
            ("ResponseRule" if isinstance(thing, Rule) else "Policy", thing.name): _places(value)
            for thing, value in found
            if isinstance(thing, Rule | Policy)
        },
    )


def _places(value: Value) -> Places:
    spec = value.entries()["spec"]
    nested = spec.entries().get("rule")  # NeuVector's resource holds one rule
    return places((nested or spec).node, (nested or spec).path)


def _in_order(problems: list[Problem]) -> list[Problem]:
    """By place, each once: a field may be looked at twice."""
    return list(dict.fromkeys(sorted(problems, key=lambda problem: (problem.line, problem.column))))


def _refuse_twins(found: _Found) -> None:
    """Two things of one kind and name, or two rules of one id."""
    names: dict[tuple[type, str], Source] = {}
    ids: dict[int, Rule] = {}
    for thing, value in found:
        first = names.setdefault((type(thing), thing.name), thing.source)
        if first is not thing.source and thing.name:
            value.problem(
                f'the name "{thing.name}" is taken by another {type(thing).__name__.lower()}{_place(first)}',
                got=thing.name,
                path="metadata.name",
            )
        if isinstance(thing, Rule) and thing.id:
            other = ids.setdefault(thing.id, thing)
            if other is not thing:
                value.problem(
                    f'the id {thing.id} is taken by rule "{other.name}"{_place(other.source)}',
                    got=str(thing.id),
                    path="spec.id",
                )


def _place(source: Source) -> str:
    return f" at {source.file}:{source.line}" if source.line else ""
