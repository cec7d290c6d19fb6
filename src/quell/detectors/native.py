"""Quell's own event format (quell.detectors.form): what any program can post, what the agent's sensor sends."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from quell.catalogue.names import NAMES, CatalogueName, resolve
from quell.catalogue.words import nearest
from quell.detectors.form import (
    ID,
    AncestorForm,
    ContainerForm,
    EndpointForm,
    EventForm,
    PodForm,
    ProcessForm,
    SecurityForm,
    SubjectForm,
    seconds,
)
from quell.detectors.line import read
from quell.detectors.sections import (
    Section,
    details_of,
    is_content_threat,
    is_managed_client,
    read_section,
    same_container,
)
from quell.errors import EventError
from quell.ids import uuid7
from quell.model.details import Details
from quell.model.event import Category, Event, Kind, Level
from quell.model.subject import Ancestor, Container, Pod, Process, Subject

_decoder = msgspec.json.Decoder(EventForm)

#: Words that mean a category, the mission document's and the three kinds included (SEMANTICS section 1).
_CATEGORIES: dict[str, tuple[Category, Kind | None]] = {
    **{category.value: (category, None) for category in Category},
    **{kind.value: (Category.SECURITY_EVENT, kind) for kind in Kind},
    "security event": (Category.SECURITY_EVENT, None),
    "cve report": (Category.CVE_REPORT, None),
    "benchmark": (Category.COMPLIANCE, None),
    "admission": (Category.ADMISSION_CONTROL, None),
    "events": (Category.EVENT, None),
}
_LEVELS = {level.value.lower(): level for level in Level}
_SEVERITY_LEVELS = {
    "critical": Level.CRITICAL,
    "high": Level.ERROR,
    "medium": Level.WARNING,
    "low": Level.NOTICE,
    "info": Level.INFO,
}
_EMPTY = SubjectForm()


class Native:
    name = "native"

    def decode(self, line: bytes, *, id: str | None, received: float) -> Event:  # noqa: A002 - the word of the model
        return decode(line, id=id, received=received, source=self.name)


def decode(
    line: bytes,
    *,
    id: str | None,  # noqa: A002 - the word of the model
    received: float,
    source: str,
    id_given: bool = False,
) -> Event:
    """One native event. EventError says what is expected where. id_given: all events of this source come with an id.

    The details are read here, so that nothing fails later, and thrown away: a rule that asks for them reads them again.
    """
    form = read(_decoder, line)
    if form.source is not None and form.source != source:
        raise EventError(f"Expected `{source}`, through which it came, got `{form.source}` - at `$.source`")
    entry = _entry_of(form.name)
    category, kind = _category_of(form, entry)
    section = read_section(form.details, category)
    subject = subject_of(form.subject or _EMPTY)
    if section is not None:
        name = entry.name if entry else form.name
        details_of(section, name, kind, _container_id(form))
        if isinstance(section, SecurityForm):
            subject = _sided(subject, section, kind)
    return Event(
        id=id or _id_of(form),
        id_given=id_given or form.id is not None,
        time=seconds(form.time),
        received=received,
        source=source,
        category=category,
        kind=kind,
        name=form.name,
        catalogue_name=entry.name if entry else None,
        level=_level_of(form, entry, category, kind, section),
        subject=subject,
        raw=line,
        decode=None if section is None else details,
    )


def details(line: bytes) -> Details | None:
    """The details of a native event's line (Event.decode)."""
    form = read(_decoder, line)
    entry = _entry_of(form.name)
    category, kind = _category_of(form, entry)
    section = read_section(form.details, category)
    if section is None:
        return None
    return details_of(section, entry.name if entry else form.name, kind, _container_id(form))


@lru_cache(maxsize=4096)
def _entry_of(name: str) -> CatalogueName | None:
    canonical = resolve(name)
    return None if canonical is None else NAMES.get(canonical)


def _category_of(form: EventForm, entry: CatalogueName | None) -> tuple[Category, Kind | None]:
    kind = None if form.kind is None else Kind(form.kind)
    implied: Kind | None = None
    if form.category is not None:
        word = form.category.lower()
        if word not in _CATEGORIES:
            hint = nearest(word, list(_CATEGORIES))
            raise EventError(
                f"Expected one of {', '.join(_CATEGORIES)}, got `{form.category}` - at `$.category`"
                + (f" (did you mean {hint}?)" if hint else "")
            )
        category, implied = _CATEGORIES[word]
    elif entry is not None:
        category = entry.category
    elif is_content_threat(form.name) or kind is not None:
        category = Category.SECURITY_EVENT
    else:
        hint = nearest(form.name, list(NAMES))
        raise EventError(
            f"`{form.name}` is not in the catalogue, so `category` is needed: one of"
            f" {', '.join(Category)} - at `$.category`" + (f" (or is the name {hint}?)" if hint else "")
        )
    if category is not Category.SECURITY_EVENT:
        if kind is not None:
            raise EventError(f"Expected no kind for category {category}, got `{kind}` - at `$.kind`")
        return category, None
    if implied is not None and kind is not None and implied is not kind:
        raise EventError(f"Expected `{implied}` as in the category, got `{kind}` - at `$.kind`")
    known = entry.kind if entry else Kind.THREAT if is_content_threat(form.name) else None
    return category, implied or kind or known or Kind.INCIDENT


def _level_of(
    form: EventForm, entry: CatalogueName | None, category: Category, kind: Kind | None, section: Section | None
) -> Level:
    if form.level is not None:
        level = _LEVELS.get(form.level.lower())
        if level is None:
            raise EventError(f"Expected one of {', '.join(Level)}, got `{form.level}` - at `$.level`")
        return level
    if kind is Kind.THREAT and isinstance(section, SecurityForm) and section.severity:
        known = _SEVERITY_LEVELS.get(section.severity.lower())
        if known is not None:
            return known
    if entry is not None:
        return entry.level
    return Level.INFO if category is Category.EVENT else Level.WARNING


def _id_of(form: EventForm) -> str:
    if form.id is None:
        return uuid7()
    if ID.fullmatch(form.id) is None:
        raise EventError("Expected at most 200 printable ASCII characters without space and slash - at `$.id`")
    return form.id


def _container_id(form: EventForm) -> str | None:
    return form.subject.container.id if form.subject is not None and form.subject.container is not None else None


def subject_of(form: SubjectForm) -> Subject:
    container = form.container
    image = form.image or None
    if container is not None and container.image:
        if image is not None and image != container.image:
            raise EventError(
                f"Expected `{image}` as in subject.image, got `{container.image}` - at `$.subject.container.image`"
            )
        image = container.image
    return Subject(
        cluster=form.cluster or None,
        cluster_uid=form.cluster_uid or None,
        node=form.node or None,
        machine_id=form.machine_id or None,
        machine_uid=form.machine_uid or None,
        source_name=form.source_name or None,
        namespace=form.namespace or None,
        namespace_labels=form.namespace_labels,
        pod=None if form.pod is None else _pod(form.pod),
        container=None if container is None else _container(container),
        image=image,
        service=form.service or None,
        service_cgroup=form.service_cgroup or None,
        process=None if form.process is None else process_of(form.process),
        user=form.user or None,
        group=form.group or None,
    )


def _pod(form: PodForm) -> Pod:
    return Pod(name=form.name or None, uid=form.uid or None, labels=form.labels)


def _container(form: ContainerForm) -> Container:
    return Container(id=form.id, name=form.name or None, image_id=form.image_id or None, host_network=form.host_network)


def process_of(form: ProcessForm) -> Process:
    return Process(
        pid=form.pid,
        start_ticks=form.start_ticks,
        start_time=seconds(form.start_time),
        boot_id=form.boot_id or None,
        name=form.name or None,
        exe=form.exe or None,
        cmdline=form.cmdline,
        cwd=form.cwd or None,
        ppid=form.ppid,
        pgid=form.pgid,
        uid=form.uid,
        user=form.user or None,
        ancestors=form.ancestors or tuple([each.name for each in form.lineage]),
        lineage=tuple([_ancestor(each) for each in form.lineage]) if form.lineage else (),
        content=form.content or None,
        netns=form.netns,
    )


def _ancestor(form: AncestorForm) -> Ancestor:
    return Ancestor(form.name, form.exe or None, form.user or None, form.pid, form.start_ticks)


def _sided(subject: Subject, section: SecurityForm, kind: Kind | None) -> Subject:
    """The subject whose membership counts (SEMANTICS section 2).

    Of a threat it is the reporting side, of a violation the client if that is managed, otherwise the server.
    """
    connection = section.connection
    if connection is None:
        return subject
    endpoint: EndpointForm | None = None
    if kind is Kind.THREAT and not subject.is_workload and section.reporter is not None:
        endpoint = connection.client if section.reporter == "client" else connection.server
    elif kind is Kind.VIOLATION:
        endpoint = connection.client if is_managed_client(connection) else connection.server
    if endpoint is None or not endpoint.workload:
        return subject
    here = subject.container.id if subject.container is not None else None
    if same_container(here, endpoint.workload) or (here is None and subject.pod is not None):
        return subject
    if here is not None:
        # The detector spoke of the other side: nothing it said of that one holds for this one.
        subject = Subject(cluster=subject.cluster, cluster_uid=subject.cluster_uid)
    return msgspec.structs.replace(
        subject,
        container=Container(id=endpoint.workload, name=endpoint.name or None),
        image=endpoint.image or subject.image,
        namespace=endpoint.namespace or subject.namespace,
        service=endpoint.service or subject.service,
    )
