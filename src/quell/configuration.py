"""The settings that a controller starts with, and where each comes from: default, file, environment, command line.

Everything wrong is told at once, by the name it has where it was written, with what was expected and the nearest word.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from quell.catalogue.words import nearest
from quell.errors import SettingError
from quell.setting import Setting
from quell.settings import SETTINGS, Settings

#: Variables of the same prefix that are no settings: where a client connects, where state lies, test fail-points.
OTHER_VARIABLES = frozenset(
    (
        "QUELL_URL",
        "QUELL_TOKEN",
        "QUELL_STATE",
        "QUELL_CONFIG",
        "QUELL_FAULT",
        "QUELL_JOIN_TOKEN",
        "QUELL_ADMIN_PASSWORD",
        "QUELL_ADMIN_PASSWORD_FILE",
    )
)

_GROUPS = tuple(field.name for field in msgspec.structs.fields(Settings))
#: What a program that this one starts need not know.
SECRET_VARIABLES = frozenset(one.variable for one in SETTINGS.values() if one.secret)
_VARIABLES = {one.variable: one for one in SETTINGS.values()}


class From(StrEnum):
    """The later wins; what is pinned by file, environment or command line cannot be changed while it runs."""

    DEFAULT = "default"
    RUN_TIME = "run time"
    FILE = "file"
    ENVIRONMENT = "environment"
    COMMAND_LINE = "command line"


class Origin(Struct, frozen=True):
    """Where a value comes from. where: the file's name and key, the variable, the option."""

    kind: From = From.DEFAULT
    where: str = ""

    @property
    def pinned(self) -> bool:
        return self.kind not in (From.DEFAULT, From.RUN_TIME)


class ShownSetting(Struct, frozen=True, kw_only=True):
    """A setting with all that is known of it. A secret's value only says whether there is one."""

    name: str
    value: Any
    default: Any
    origin: From
    #: File and key, variable or option; "" for a default and for what was set while running.
    where: str
    #: It may be changed while the controller runs, unless it is pinned.
    live: bool
    #: Set by file, environment or command line, and so to be changed there only.
    pinned: bool
    unit: str
    #: What a value has to be.
    expected: str
    description: str
    reason: str
    risk: str
    variable: str

    @classmethod
    def of(cls, one: Setting, value: object, origin: Origin) -> ShownSetting:
        return cls(
            name=one.name,
            value=one.shown(value),
            default=one.shown(one.default),
            origin=origin.kind,
            where=origin.where,
            live=one.live,
            pinned=origin.pinned,
            unit=one.unit,
            expected=one.expected,
            description=one.description,
            reason=one.reason,
            risk=one.risk,
            variable=one.variable,
        )


class Configuration(Struct, frozen=True, kw_only=True):
    settings: Settings = Settings()
    #: By name; what is not here is the default.
    origins: dict[str, Origin] = {}

    def overridden(self, name: str, value: object, option: str) -> Configuration:
        """With a value that the command line gives."""
        return Configuration(
            settings=self.settings.with_values({name: value}),
            origins=self.origins | {name: Origin(From.COMMAND_LINE, option)},
        )


def load_configuration(path: Path | None = None, environment: Mapping[str, str] | None = None) -> Configuration:
    """Defaults, then the TOML file, then the environment (None: this process's). SettingError tells all that is wrong."""
    given: list[tuple[Setting, object, Origin]] = []
    problems: list[str] = []
    if path is not None:
        _read_file(path, given, problems)
    _read_environment(os.environ if environment is None else environment, given, problems)
    values: dict[str, object] = {}
    origins: dict[str, Origin] = {}
    for one, value, origin in given:
        try:
            values[one.name] = one.read(value)
        except ValueError as error:
            problems.append(f"{origin.where}: {error}")
        origins[one.name] = origin
    settings = Settings().with_values(values)
    safety = settings.safety
    if not safety.protected_namespaces and not safety.allow_empty_protection:
        problems.append(
            f"{origins['safety.protected_namespaces'].where}: an empty list protects no namespace, kube-system neither;"
            " if that is meant, set safety.allow_empty_protection to true as well"
        )
    for name, problem in settings.oidc.problems(password_login=settings.accounts.password_login):
        problems.append(f"{origins[name].where if name in origins else name}: {problem}")
    if problems:
        raise SettingError("\n".join(problems))
    return Configuration(settings=settings, origins=origins)


def unknown(name: str) -> str:
    """What is said of a setting that is none."""
    near = nearest(name, SETTINGS)
    return f"there is no setting {name}" + (f"; did you mean {near}?" if near else "; `quell settings list` has all")


def _read_file(path: Path, given: list[tuple[Setting, object, Origin]], problems: list[str]) -> None:
    try:
        tables: dict[str, Any] = tomllib.loads(path.read_text())
    except OSError as error:
        raise SettingError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"{path}: not TOML: {error}") from error
    for group, fields in tables.items():
        if group not in _GROUPS:
            problems.append(f"{path}:{group}: there is no group {group}{_hint(group, _GROUPS)}")
        elif not isinstance(fields, dict):
            problems.append(f"{path}:{group}: expected a table [{group}], got {_kind(fields)}")
        else:
            for field, value in fields.items():
                name = f"{group}.{field}"
                if name in SETTINGS:
                    given.append((SETTINGS[name], value, Origin(From.FILE, f"{path}:{name}")))
                else:
                    known = [one.field for one in SETTINGS.values() if one.group == group]
                    problems.append(f"{path}:{name}: there is no setting {field} in {group}{_hint(field, known)}")


def _read_environment(
    environment: Mapping[str, str], given: list[tuple[Setting, object, Origin]], problems: list[str]
) -> None:
    for variable, text in environment.items():
        if not variable.startswith("QUELL_") or variable in OTHER_VARIABLES:
            continue
        if variable in _VARIABLES:
            given.append((_VARIABLES[variable], text, Origin(From.ENVIRONMENT, variable)))
        else:
            problems.append(f"{variable}: there is no such setting{_hint(variable, (*_VARIABLES, *OTHER_VARIABLES))}")


def _hint(word: str, words: tuple[str, ...] | list[str]) -> str:
    near = nearest(word, words)
    return f"; did you mean {near}?" if near else f"; there are {', '.join(sorted(words))}"


def _kind(value: object) -> str:
    return {list: "a list", str: "a text", bool: "true or false", int: "a number"}.get(type(value), "a value")
