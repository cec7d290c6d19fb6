"""Flags as people see them: what became of one since it was raised, and what can be searched for. docs/flags.md."""

from __future__ import annotations

from msgspec import Struct

from quell.model.decision import Flag
from quell.model.subject import Subject


class Acknowledgement(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """Somebody has seen to a flag."""

    #: Such as user/ada.
    by: str
    #: Epoch seconds.
    time: float
    note: str = ""


class KeptFlag(Struct, frozen=True, gc=False, kw_only=True):
    """A flag with what became of it."""

    #: Its number: later ones have higher ones.
    n: int
    flag: Flag
    acknowledged: Acknowledgement | None = None
    #: The trace that it is in; "": none.
    trace: str = ""


class FlagShown(Struct, frozen=True, kw_only=True):
    """A flag as the API shows it. Times in epoch seconds."""

    id: str
    #: red or ops.
    flag_class: str
    #: As policies of type trace name it.
    class_path: str
    severity: str
    name: str
    description: str
    impact: str
    #: Markdown, as it was written, and as HTML that is safe to show.
    content: str
    content_html: str
    subject: Subject
    #: Rules and policies.
    asked_by: tuple[str, ...]
    event_id: str
    time: float
    #: As it was raised: what it stands for, with what came before it.
    count: int
    #: How often it would have been raised again since, and when last.
    repeats: int
    last: float | None
    #: The endpoints that its action names.
    webhooks: tuple[str, ...]
    #: Its event is suppressed: nobody was told.
    silent: bool
    acknowledged: Acknowledgement | None
    #: The id of the trace that it is in; null: none.
    trace: str | None


class PlaceFilter(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Of a search: whom something is about. Globs."""

    node: tuple[str, ...] = ()
    namespace: tuple[str, ...] = ()
    #: Its name or uid.
    pod: tuple[str, ...] = ()
    #: The beginning of a container's id, or its name.
    container: tuple[str, ...] = ()
    image: tuple[str, ...] = ()


class FlagFilter(PlaceFilter, frozen=True, kw_only=True, omit_defaults=True):
    """What is searched for. All that is given must hold; of several values of one filter, any.

    Times are of when a flag was raised, in epoch seconds, since included, until not.
    """

    since: float | None = None
    until: float | None = None
    #: red, ops, or a class path; globs.
    flag_class: tuple[str, ...] = ()
    #: A severity, or >= and a severity.
    severity: tuple[str, ...] = ()
    name: tuple[str, ...] = ()
    #: Id, reference or name of a rule or policy that asked for it.
    rule: tuple[str, ...] = ()
    event: tuple[str, ...] = ()
    trace: tuple[str, ...] = ()
    #: Words that must all be there; of one in double quotes, spaces too.
    text: tuple[str, ...] = ()
    acknowledged: bool | None = None
