"""One event as criteria see it: each field's values, read when first asked for, and details decoded at most once.

SEMANTICS section 3. What the event does not have gives no value, and so meets nothing (section 0, principle 2).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Protocol

from msgspec import Struct

from quell.catalogue.names import NAMES, CatalogueName, resolve
from quell.model.details import AdmissionReview, ComplianceReport, CveReport, Details, Vulnerability
from quell.model.event import Category, Event
from quell.model.subject import Subject

DAY = 86400.0
_LETTERED = re.compile(r"[a-z]\.(\d.*)", re.DOTALL)


class World(Protocol):
    """What matching reads of the state (quell.response.state.State)."""

    def groups_of(self, workload: str) -> tuple[str, ...]: ...


class Identity(Struct, frozen=True):
    """What an event's names say: what `name` is compared with, whose rules it meets, and its kind."""

    keys: tuple[str, ...]
    #: Each key as it was written.
    written: dict[str, str]
    categories: tuple[Category, ...]
    kind: tuple[str, ...]
    #: The catalogue's name, else its own, with no case.
    name: str
    #: It is about the group that its subject names (Group.Auto.*).
    is_of_group: bool
    #: It lists the groups that it counts for (DLP.*).
    lists_groups: bool


@lru_cache(maxsize=8192)
def identity(category: Category, name: str, catalogue_name: str | None, kind: str | None) -> Identity:
    canonical = resolve(catalogue_name or name) or catalogue_name or name
    entry = NAMES.get(canonical)
    kind = kind or (entry.kind if entry else None)
    folded = canonical.casefold()
    written = {folded: canonical, (catalogue_name or name).casefold(): catalogue_name or name, name.casefold(): name}
    return Identity(
        keys=tuple(reversed(written)),
        written=written,
        categories=_categories(category, entry),
        kind=() if kind is None else (str(kind),),
        name=folded,
        is_of_group=folded.startswith("group.auto."),
        lists_groups=folded.startswith("dlp."),
    )


def _categories(category: Category, entry: CatalogueName | None) -> tuple[Category, ...]:
    if entry is None:
        return (category,)
    if category is Category.DEVIATION and entry.deviation:
        return (category, Category.SECURITY_EVENT)
    family = (entry.category, *entry.also_category)
    return tuple(dict.fromkeys((category, *family))) if category in family else (category,)


class Tally:
    """A scan's vulnerabilities, counted once for all criteria."""

    __slots__ = ("_counts", "_fixed", "names")

    def __init__(self, vulnerabilities: tuple[Vulnerability, ...]) -> None:
        #: Upper case to as written.
        self.names: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        self._fixed: dict[str, list[float | None]] = {}
        for vulnerability in vulnerabilities:
            severity = vulnerability.severity.casefold()
            self.names[vulnerability.name.upper()] = vulnerability.name
            self._counts[severity] = self._counts.get(severity, 0) + 1
            if vulnerability.has_fix:
                self._fixed.setdefault(severity, []).append(vulnerability.published)

    def count(self, severities: tuple[str, ...]) -> int:
        return sum(self._counts.get(severity, 0) for severity in severities)

    def fixable(self, severities: tuple[str, ...], days: int | None, now: float) -> int:
        """Those with a fix; with days, only those published more than so many days before now."""
        dates = [date for severity in severities for date in self._fixed.get(severity, ())]
        if days is None:
            return len(dates)
        return sum(1 for date in dates if date is not None and now - date > days * DAY)


class Reading:
    """values: field to its values so far; Field.read fills it."""

    __slots__ = ("_decoded", "_details", "_tally", "event", "identity", "now", "subject", "values", "world")

    def __init__(self, event: Event, identity: Identity, world: World, now: float) -> None:
        self.event = event
        self.identity = identity
        self.subject: Subject = event.subject
        self.world = world
        self.now = now
        self.values: dict[str, tuple[str, ...]] = {}
        self._decoded = False

    def details(self) -> Details | None:
        if not self._decoded:
            self._details = self.event.details()
            self._decoded = True
        return self._details

    def tally(self) -> Tally | None:
        """Of a scan report; None: the event is none."""
        details = self.details()
        if not isinstance(details, CveReport):
            return None
        if not hasattr(self, "_tally"):
            self._tally = Tally(details.vulnerabilities)
        return self._tally

    def failed_items(self) -> list[str]:
        """Numbers of the failed items of a compliance report."""
        details = self.details()
        return [item.number for item in details.items if item.failed] if isinstance(details, ComplianceReport) else []


Read = Callable[[Reading], tuple[str, ...]]


def _name(reading: Reading) -> tuple[str, ...]:
    if reading.event.category is Category.COMPLIANCE:
        return (*reading.identity.keys, *_number(reading))
    return reading.identity.keys


def _number(reading: Reading) -> tuple[str, ...]:
    keys: dict[str, None] = {}
    for number in reading.failed_items():
        folded = number.casefold()
        keys[folded] = None
        if lettered := _LETTERED.fullmatch(folded):
            keys[lettered[1]] = None
    return tuple(keys)


def _process(reading: Reading) -> tuple[str, ...]:
    """Its name and its executable's path; only the path has a slash, so that the two cannot be mistaken: in a name,
    such as kworker/0, a division slash (U+2215) stands for it, which globs take as any other character.
    """
    process = reading.subject.process
    if process is None:
        return ()
    name, exe = process.name, process.exe
    if name is not None and "/" in name:
        name = name.replace("/", "\u2215")
    if exe is not None and "/" in exe:
        return (exe,) if name is None else (name, exe)
    return () if name is None else (name,)


def _namespace(reading: Reading) -> tuple[str, ...]:
    value = reading.subject.namespace
    return () if value is None else (value,)


def _image(reading: Reading) -> tuple[str, ...]:
    value = reading.subject.image
    own = () if value is None else (value,)
    if reading.event.category is Category.ADMISSION_CONTROL:
        # The object may have several containers, and its subject can name only one image.
        details = reading.details()
        return tuple(dict.fromkeys((*own, *details.images))) if isinstance(details, AdmissionReview) else own
    return own


def _node(reading: Reading) -> tuple[str, ...]:
    value = reading.subject.node
    return () if value is None else (value,)


def _report(reading: Reading) -> tuple[str, ...]:
    details = reading.details()
    return (details.report.casefold(),) if isinstance(details, CveReport) else ()


def _label(key: str) -> Read:
    def read(reading: Reading) -> tuple[str, ...]:
        pod, container = reading.subject.pod, reading.subject.container
        labels = pod.labels if pod is not None else container.labels if container is not None else None
        if labels is None:
            return ()
        value = labels.get(key)
        return () if value is None else (value,)

    return read


READS: Mapping[str, Read] = {
    "name": _name,
    "level": lambda reading: (reading.event.level,),
    "kind": lambda reading: reading.identity.kind,
    "process": _process,
    "number": _number,
    "report": _report,
    "namespace": _namespace,
    "image": _image,
    "node": _node,
    "source": lambda reading: (reading.event.source,),
}


def reads(field: str) -> Read:
    """How a field of a criterion is read; KeyError: there is no such field."""
    return _label(field.removeprefix("label:")) if field.startswith("label:") else READS[field]


def is_deep(field: str, category: Category) -> bool:
    """Whether reading it decodes the event's details."""
    return (
        field in ("number", "report")
        or (field == "name" and category is Category.COMPLIANCE)
        or (field == "image" and category is Category.ADMISSION_CONTROL)
    )


#: Fields whose values have lost their case, or a number its letter.
FOLDED = ("name", "number")


def shown(reading: Reading, field: str, key: str) -> str:
    """The event's value as it came, for one of its values in a folded field."""
    if field == "name" and (name := reading.identity.written.get(key)) is not None:
        return name
    if field in FOLDED:
        for number in reading.failed_items():
            folded = number.casefold()
            if folded == key or folded.endswith(f".{key}"):
                return number
    return key
