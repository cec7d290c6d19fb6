"""Every error Quell raises for a caller to catch, drawn as a tree.

QuellError
├── DocumentError      one or more problems in documents; nothing of them was applied
│   ├── DocumentConflict   what is in force stands against it: it is referred to, or belongs to another source
│   └── DocumentForbidden  it takes a role that may have destructive rules in force
├── NoSuchRule         no rule has this id
├── SettingError       an unknown setting or a value outside its range
│   └── SettingFixed   a setting that cannot be changed while running, or is set elsewhere
├── EventError         bytes that are no event
├── FilterError        a search for events that asks for what there is not
├── LinkError          the agent link: a refused handshake, signature or message
├── StoreError         the store cannot take a write
│   └── StoreFull      no room on the disk
├── QueueFull          too much waits to be written
├── Unreachable        the controller does not answer
└── ApiError           the controller's API answered with a problem
"""

from __future__ import annotations

from msgspec import Struct


class QuellError(Exception):
    """The root of all errors a caller may want to catch."""


class Problem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing wrong in a document. line and column count from 1; 0: unknown."""

    file: str
    line: int = 0
    column: int = 0
    #: Where in the document, such as spec.criteria[0].
    path: str = ""
    message: str
    #: What was expected, what was found, and the nearest valid word, each "" if it does not apply.
    expected: str = ""
    got: str = ""
    nearest: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}: " if self.line else (f"{self.file}: " if self.file else "")
        path = f"{self.path}: " if self.path else ""
        expected = f": expected {self.expected}" if self.expected and self.expected not in self.message else ""
        hint = f" (did you mean {self.nearest}?)" if self.nearest else ""
        return f"{where}{path}{self.message}{expected}{hint}"


class DocumentError(QuellError):
    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class DocumentConflict(DocumentError):
    pass


class DocumentForbidden(DocumentError):
    pass


class NoSuchRule(QuellError):
    """No rule has this id."""

    def __init__(self, number: int) -> None:
        super().__init__(f"there is no rule {number}")
        self.number = number


class SettingError(QuellError):
    """problems: what is wrong with a change that was asked for, each with its place in the request."""

    def __init__(self, message: str, problems: list[Problem] | None = None) -> None:
        super().__init__(message)
        self.problems = problems or []


class SettingFixed(SettingError):
    pass


class EventError(QuellError):
    """Bytes that are no event. position: byte offset of the fault, None if unknown."""

    def __init__(self, message: str, position: int | None = None) -> None:
        super().__init__(message)
        self.position = position


class FilterError(QuellError):
    """What is wrong with a search, each thing with the filter's name as its path."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = problems


class LinkError(QuellError):
    pass


class StoreError(QuellError):
    pass


class StoreFull(StoreError):
    pass


class QueueFull(QuellError):
    """Too much waits to be written. retry_after: seconds."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unreachable(QuellError):
    pass


class ApiError(QuellError):
    """The controller's API answered with a problem (RFC 9457)."""

    def __init__(self, status: int, title: str, detail: str = "", problems: list[Problem] | None = None) -> None:
        super().__init__(f"{title} ({status})" + (f": {detail}" if detail else ""))
        self.status = status
        self.title = title
        self.detail = detail
        self.problems = problems or []
