"""From a detector's own rule names to catalogue names. SEMANTICS section 1, "Catalogue".

The data is one YAML file a detector (data/mappings); an operator adds or replaces entries with a file of the same form.
An entry's key is a rule's name; `like:GLOB` stands for every name that the glob finds, whatever its case; other words
with a colon are what the detector knows of a rule beside its name (Suricata: `sid:NUMBER`, `category:TEXT`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from collections.abc import Mapping as MappingType
from fnmatch import translate
from importlib import resources
from pathlib import Path

import yaml
from msgspec import Struct

from quell.catalogue.names import NAMES, resolve
from quell.catalogue.words import nearest
from quell.errors import SettingError
from quell.model.event import Kind


class Mapping(Struct, frozen=True):
    """The catalogue name of a detector's rule, and the kind of security event it is."""

    name: str
    kind: Kind


#: What alerts of one rule are, of a container and of a host.
_Pair = tuple[Mapping, Mapping]


#: Opens the key of an entry for all names that a glob finds.
LIKE = "like:"


def catalogue_name(detector: str, rule_name: str, container: bool, beside: Iterable[str] = ()) -> Mapping | None:
    """What an alert of this rule is in the catalogue; None where no mapping is known.

    beside: other keys it may be listed under, the surest first. The name itself goes before these, and a glob after.
    """
    for key in (rule_name, *beside):
        pair = _TABLE.get((detector, key))
        if pair is not None:
            return pair[0] if container else pair[1]
    for glob, pair in _GLOBS.get(detector, {}).values():
        if glob.match(rule_name) is not None:
            return pair[0] if container else pair[1]
    return None


def rule_names(detector: str | None = None) -> tuple[str, ...]:
    """The rules with a mapping, of one detector or of all."""
    named = (rule for known, rule in _TABLE if detector in (None, known))
    return tuple(rule for rule in named if _BESIDE.match(rule) is None)


def names(detector: str) -> frozenset[str]:
    """The catalogue names that a detector's rules are mapped to."""
    exact = (pair for (known, _), pair in _TABLE.items() if known == detector)
    globs = (pair for _, pair in _GLOBS.get(detector, {}).values())
    return frozenset(one.name for pair in (*exact, *globs) for one in pair)


def load(path: Path) -> None:
    """Add the entries of a file; they replace those of the same rule. For start-up, before events flow.

    The form is {detector: {rule name: catalogue name}}; see data/mappings/falco.yaml. SettingError names the file, the
    rule, what was expected and found; nothing of such a file is taken.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"{path}: cannot be read: {error}") from error
    _take(_read(str(path), text))


def _read(file: str, text: str) -> dict[tuple[str, str], _Pair]:
    try:
        data = yaml.load(text, Loader=yaml.CSafeLoader)
    except yaml.YAMLError as error:
        raise SettingError(f"{file}: not YAML: {error}") from error
    table: dict[tuple[str, str], _Pair] = {}
    for detector, rules in _items(file, "the file", data):
        for rule, target in _items(file, f"detector {detector}", rules):
            table[detector, rule] = _pair(file, rule, target)
    return table


def _pair(file: str, rule: str, target: object) -> _Pair:
    if isinstance(target, str):
        target = {"container": target.replace("*", "Container", 1), "host": target.replace("*", "Host", 1)}
    sides = dict(_items(file, f'rule "{rule}"', target))
    if set(sides) != {"container", "host"}:
        raise SettingError(
            f'{file}: rule "{rule}": expected a catalogue name or both of container and host, got {sorted(sides)}'
        )
    return _mapping(file, rule, sides["container"]), _mapping(file, rule, sides["host"])


def _mapping(file: str, rule: str, name: object) -> Mapping:
    canonical = resolve(str(name))
    kind = NAMES[canonical].kind if canonical else None
    if canonical is None or kind is None:
        near = nearest(str(name), (entry.name for entry in NAMES.values() if entry.kind))
        raise SettingError(
            f'{file}: rule "{rule}": expected the catalogue name of a security event, got "{name}"'
            + (f" (did you mean {near}?)" if near else "")
        )
    return Mapping(canonical, kind)


def _items(file: str, where: str, value: object) -> list[tuple[str, object]]:
    if not isinstance(value, MappingType):
        raise SettingError(f"{file}: {where}: expected a mapping, got {type(value).__name__}")
    return [(str(key), item) for key, item in value.items()]


def _take(entries: dict[tuple[str, str], _Pair]) -> None:
    """Entries into the tables; the globs of a later file are asked before those of an earlier one."""
    found: dict[str, dict[str, tuple[re.Pattern[str], _Pair]]] = {}
    for (detector, key), pair in entries.items():
        if key.startswith(LIKE):
            glob = key.removeprefix(LIKE)
            found.setdefault(detector, {})[glob] = (re.compile(translate(glob), re.IGNORECASE), pair)
        else:
            _TABLE[detector, key] = pair
    for detector, globs in found.items():
        _GLOBS[detector] = globs | {key: each for key, each in _GLOBS.get(detector, {}).items() if key not in globs}


def _stock() -> None:
    for file in resources.files("quell.catalogue").joinpath("data/mappings").iterdir():
        if file.name.endswith(".yaml"):
            _take(_read(file.name, file.read_text(encoding="utf-8")))


_TABLE: dict[tuple[str, str], _Pair] = {}
#: By detector, then by glob.
_GLOBS: dict[str, dict[str, tuple[re.Pattern[str], _Pair]]] = {}
#: Keys that are no rule's name.
_BESIDE = re.compile(r"sid:\d|category:")
_stock()
