"""From a detector's own rule names to catalogue names. SEMANTICS section 1, "Catalogue".

The data is one YAML file a detector (data/mappings); an operator adds or replaces entries with a file of the same form.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingType
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


def catalogue_name(detector: str, rule_name: str, container: bool) -> Mapping | None:
    """What an alert of this rule is in the catalogue; None where no mapping is known."""
    pair = _TABLE.get((detector, rule_name))
    if pair is None:
        return None
    return pair[0] if container else pair[1]


def rule_names(detector: str | None = None) -> tuple[str, ...]:
    """The rules with a mapping, of one detector or of all."""
    return tuple(rule for known, rule in _TABLE if detector in (None, known))


def names(detector: str) -> frozenset[str]:
    """The catalogue names that a detector's rules are mapped to."""
    return frozenset(one.name for (known, _), pair in _TABLE.items() if known == detector for one in pair)


def load(path: Path) -> None:
    """Add the entries of a file; they replace those of the same rule. For start-up, before events flow.

    The form is {detector: {rule name: catalogue name}}; see data/mappings/falco.yaml. SettingError names the file, the
    rule, what was expected and found; nothing of such a file is taken.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"{path}: cannot be read: {error}") from error
    _TABLE.update(_read(str(path), text))


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


def _stock() -> dict[tuple[str, str], _Pair]:
    table: dict[tuple[str, str], _Pair] = {}
    for file in resources.files("quell.catalogue").joinpath("data/mappings").iterdir():
        if file.name.endswith(".yaml"):
            table |= _read(file.name, file.read_text(encoding="utf-8"))
    return table


_TABLE = _stock()
