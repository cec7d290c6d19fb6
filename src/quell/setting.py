"""How a setting is declared: once, for file, environment, command line, API and docs. quell.settings has them all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from ipaddress import ip_network
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from quell.durations import parse_duration
from quell.secrets import HIDDEN

#: What an age may be instead of a duration.
FOREVER = "forever"
#: Of a Kubernetes namespace (RFC 1123).
_NAME = re.compile("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
#: A host's name or address.
_HOST = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9.]{0,252})|[0-9a-fA-F:]{2,39}")


class Unit(StrEnum):
    """What a value is measured in; durations, ages and budgets are texts whose form is checked."""

    SWITCH = "true or false"
    WORD = "word"
    ADDRESS = "address"
    PORT = "TCP port"
    URL = "URL"
    NAMES = "names"
    NETWORKS = "networks"
    HOSTS = "hosts"
    GROUPS = "groups"
    SCOPES = "scopes"
    CLAIM = "claim"
    LABEL = "label"
    FILE = "file"
    BYTES = "bytes"
    DURATION = "duration"
    AGE = "duration, or forever"
    BUDGET = "actions/window"
    EVENTS = "events/window"
    REQUESTS = "requests"
    RATE = "requests/s"
    CHARACTERS = "characters"
    FAILURES = "failures"
    PERCENT = "percent"
    OBSERVATIONS = "observations"
    DEVIATIONS = "deviations"
    FINGERPRINTS = "fingerprints"
    TRACES = "traces"


_EXAMPLES = {
    Unit.NAMES: "kube-system",
    Unit.NETWORKS: "10.0.0.0/8",
    Unit.HOSTS: "quell.example",
    Unit.GROUPS: "platform-oncall",
    Unit.SCOPES: "openid",
}


def setting(
    description: str,
    *,
    unit: Unit,
    reason: str,
    risk: str,
    live: bool = False,
    secret: bool = False,
    least: str = "",
    ge: int | None = None,
    le: int | None = None,
) -> Meta:
    """What is told of a field beside its type and default.

    reason: why the default is what it is. risk: what a wrong value does. live: may be changed while the controller runs.
    secret: its value is never shown. least: the shortest duration that is taken; ge and le bound a number.
    """
    told = {"unit": unit, "reason": reason, "risk": risk, "live": live, "secret": secret, "least": least}
    return Meta(description=description, extra=told, ge=ge, le=le)


class Setting(Struct, frozen=True, kw_only=True):
    """One field of one group, with all that is said of it."""

    group: str
    field: str
    type: Any
    default: Any
    description: str
    unit: Unit
    reason: str
    risk: str
    live: bool
    secret: bool
    least: str
    ge: int | None
    le: int | None

    @property
    def name(self) -> str:
        """As commands, the API and messages call it, such as safety.paused."""
        return f"{self.group}.{self.field}"

    @property
    def variable(self) -> str:
        """Of the environment."""
        return f"QUELL_{self.group}_{self.field}".upper()

    @property
    def expected(self) -> str:
        """What a value has to be, for messages."""
        if choices := _choices(self.type):
            return "one of " + ", ".join(choices)
        least = f" of at least {self.least}" if self.least else ""
        match self.unit:
            case Unit.SWITCH:
                return "true or false"
            case Unit.DURATION:
                return f"a duration{least}, such as {self.default or '30s'}"
            case Unit.AGE:
                return f"a duration{least} such as 365d, or {FOREVER}"
            case Unit.BUDGET | Unit.EVENTS:
                return f'a count and a window such as "{self.default}"'
            case Unit.NAMES | Unit.NETWORKS | Unit.HOSTS | Unit.GROUPS | Unit.SCOPES:
                example = _EXAMPLES[self.unit]
                return f"a list of {self.unit} such as {example} (commas between them where it is one text)"
        if self.type is int:
            bounds = [f"at least {self.ge}"] * (self.ge is not None) + [f"at most {self.le}"] * (self.le is not None)
            return f"a whole number of {self.unit}" + (f", {' and '.join(bounds)}" if bounds else "")
        return f"a text: {self.unit}"

    def read(self, value: object) -> Any:
        """A value of the file, or its text from environment, command line or API, as the engine's. ValueError."""
        if get_origin(self.type) is tuple and isinstance(value, str):
            value = [word.strip() for word in value.split(",") if word.strip()]
        try:
            taken = msgspec.convert(value, self.type, strict=False)
            if self.unit in (Unit.DURATION, Unit.AGE):
                self._check_duration(taken)
            elif self.unit in (Unit.BUDGET, Unit.EVENTS):
                read_budget(taken)
            elif self.unit is Unit.NETWORKS:
                list(map(ip_network, taken))
            elif (self.unit is Unit.NAMES and not all(map(_NAME.fullmatch, taken))) or (
                self.unit is Unit.HOSTS and not all(map(_HOST.fullmatch, taken))
            ):
                taken = None
        except (msgspec.ValidationError, ValueError):
            taken = None
        if taken is None or (self.ge is not None and taken < self.ge) or (self.le is not None and taken > self.le):
            raise ValueError(f"expected {self.expected}, got {self._said(value)}")
        return taken

    def shown(self, value: object) -> Any:
        """The value for people and programs: a secret only says whether there is one."""
        if self.secret and value:
            return HIDDEN
        return list(value) if isinstance(value, tuple) else value

    def _said(self, value: object) -> str:
        if self.secret:
            return HIDDEN
        try:
            return msgspec.json.encode(value).decode()
        except TypeError:
            return type(value).__name__

    def _check_duration(self, text: str) -> None:
        if self.unit is Unit.AGE and text == FOREVER:
            return
        seconds = parse_duration(text)
        if self.least and seconds < parse_duration(self.least):
            raise ValueError(text)


def declared(group: str, form: type[Struct]) -> Iterator[Setting]:
    """The settings of a group, from the annotations of its struct. TypeError: a field says nothing of itself."""
    hints = get_type_hints(form, include_extras=True)
    for field in msgspec.structs.fields(form):
        annotated = hints[field.name]
        meta = next((part for part in get_args(annotated)[1:] if isinstance(part, Meta)), None)
        if meta is None or meta.extra is None or meta.description is None:
            raise TypeError(f"{form.__name__}.{field.name} is not declared as a setting")
        yield Setting(
            group=group,
            field=field.name,
            type=get_args(annotated)[0],
            default=field.default,
            description=meta.description,
            ge=meta.ge if meta.ge is None else int(meta.ge),
            le=meta.le if meta.le is None else int(meta.le),
            **meta.extra,
        )


def read_age(text: str) -> float | None:
    """Seconds; None: forever. ValueError."""
    return None if text == FOREVER else parse_duration(text)


def read_budget(text: str) -> tuple[int, float]:
    """(actions, seconds) of a text such as "30/1m". ValueError."""
    count, separator, window = text.partition("/")
    if not separator or not count.strip().isdecimal():
        raise ValueError(f'expected a count and a window such as "30/1m", got "{text}"')
    return int(count), parse_duration(window.strip())


def _choices(form: Any) -> tuple[str, ...]:
    return get_args(form) if get_origin(form) is Literal else ()
