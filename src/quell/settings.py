"""What an operator may set, in typed groups: a TOML file, then the environment (QUELL_<GROUP>_<FIELD>).

An unknown group, field or variable is an error. Each field says its unit and what it risks.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from quell.durations import parse_duration
from quell.errors import SettingError
from quell.response.state import Safety

#: Variables of the same prefix that are no settings: where a client connects, where state lies, test fail-points.
OTHER_VARIABLES = ("QUELL_URL", "QUELL_TOKEN", "QUELL_STATE", "QUELL_CONFIG", "QUELL_FAULT", "QUELL_JOIN_TOKEN")

KIB = 1024
MIB = 1024 * KIB


class Server(Struct, frozen=True, forbid_unknown_fields=True):
    host: Annotated[str, Meta(description="Address the API listens on. Anything but loopback needs TLS before it.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Meta(ge=0, le=65535, description="TCP port of API, agent link and page; 0: any.")] = 7341


class Ingest(Struct, frozen=True, forbid_unknown_fields=True):
    max_body: Annotated[int, Meta(ge=KIB, description="Bytes of a request as sent; more is answered 413.")] = 16 * MIB
    max_unpacked: Annotated[int, Meta(ge=KIB, description="Bytes a compressed body may unpack to; more: 413.")] = (
        64 * MIB
    )
    max_event: Annotated[int, Meta(ge=KIB, description="Bytes of one event; a longer one is rejected.")] = MIB
    queue_bytes: Annotated[
        int, Meta(ge=MIB, description="Bytes of events waiting for the disk; above it 429. Costs that much memory.")
    ] = 64 * MIB


class Journal(Struct, frozen=True, forbid_unknown_fields=True):
    max_bytes: Annotated[int, Meta(ge=16 * MIB, description="Size of the journal on disk; the oldest goes first.")] = (
        1024 * MIB
    )
    max_age: Annotated[str, Meta(description="Age after which an event is forgotten, such as 30d.")] = "30d"


class SafetySettings(Struct, frozen=True, forbid_unknown_fields=True):
    """SEMANTICS section 8. Raising any of these lets Quell do more harm if a rule is wrong."""

    paused: Annotated[bool, Meta(description="Nothing destructive is done while true.")] = False
    budget_engine: Annotated[str, Meta(description="Destructive actions in a window, in all.")] = "30/1m"
    budget_rule: Annotated[str, Meta(description="Destructive actions in a window, by one rule.")] = "10/1m"
    budget_namespace: Annotated[str, Meta(description="Destructive actions in a window, in one namespace.")] = "10/1m"
    max_age_kill: Annotated[str, Meta(description="Age of an event beyond which nothing is killed.")] = "60s"
    max_age_quarantine: Annotated[
        str, Meta(description="Age of a security event beyond which nothing is isolated.")
    ] = "10m"
    max_age_report: Annotated[str, Meta(description="Age of a report beyond which nothing is isolated.")] = "24h"
    clock_skew: Annotated[str, Meta(description="How far a detector's clock may be ahead.")] = "5s"
    command_ttl: Annotated[str, Meta(description="How long a command may wait for its agent.")] = "30s"
    protected_namespaces: Annotated[
        tuple[str, ...], Meta(description="Kubernetes namespaces that are never touched.")
    ] = ("kube-system", "quell")

    def safety(self) -> Safety:
        """The engine's form of these settings; SettingError for a malformed one."""
        return Safety(
            paused=self.paused,
            budget_engine=_budget("safety.budget_engine", self.budget_engine),
            budget_rule=_budget("safety.budget_rule", self.budget_rule),
            budget_namespace=_budget("safety.budget_namespace", self.budget_namespace),
            max_age_kill=_duration("safety.max_age_kill", self.max_age_kill),
            max_age_quarantine=_duration("safety.max_age_quarantine", self.max_age_quarantine),
            max_age_report=_duration("safety.max_age_report", self.max_age_report),
            clock_skew=_duration("safety.clock_skew", self.clock_skew),
            command_ttl=_duration("safety.command_ttl", self.command_ttl),
            protected_namespaces=self.protected_namespaces,
        )


class WebhookSettings(Struct, frozen=True, forbid_unknown_fields=True):
    allow_private: Annotated[
        bool,
        Meta(description="Endpoints may resolve to loopback, link-local and metadata addresses. Opens SSRF."),
    ] = False
    timeout: Annotated[str, Meta(description="How long an endpoint may take to answer.")] = "5s"
    allow_networks: Annotated[
        tuple[str, ...],
        Meta(description="Networks such as 127.0.0.0/8 that endpoints may resolve to beside the usual ones."),
    ] = ()
    give_up_after: Annotated[str, Meta(description="Age at which a delivery becomes a dead letter.")] = "24h"
    proxy: Annotated[
        str, Meta(description="URL of an HTTP proxy for endpoints with use_proxy. It decides where they lead.")
    ] = ""


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    server: Server = Server()
    ingest: Ingest = Ingest()
    journal: Journal = Journal()
    safety: SafetySettings = SafetySettings()
    webhooks: WebhookSettings = WebhookSettings()


def load_settings(path: Path | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """Defaults, then the TOML file, then the environment. SettingError names the field, what was expected and found."""
    values: dict[str, dict[str, Any]] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text())
        except OSError as error:
            raise SettingError(f"{path}: cannot be read: {error.strerror}") from error
        except tomllib.TOMLDecodeError as error:
            raise SettingError(f"{path}: not TOML: {error}") from error
    for variable, text in (os.environ if environment is None else environment).items():
        if variable.startswith("QUELL_") and variable not in OTHER_VARIABLES:
            group, field = _setting_of(variable)
            values.setdefault(group, {})[field] = _split(text) if _is_list(group, field) else text
    try:
        settings = msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise SettingError(f"{path or 'environment'}: {error}") from error
    settings.safety.safety()
    return settings


def _setting_of(variable: str) -> tuple[str, str]:
    words = variable.removeprefix("QUELL_").lower()
    for group in Settings.__struct_fields__:
        if words.startswith(group + "_"):
            field = words.removeprefix(group + "_")
            if field in _group(group).__struct_fields__:
                return group, field
    known = ", ".join(
        f"QUELL_{group}_{field}".upper()
        for group in Settings.__struct_fields__
        for field in _group(group).__struct_fields__
    )
    raise SettingError(f"{variable}: no such setting; there are {known}")


def _group(name: str) -> Struct:
    group = getattr(Settings(), name)
    assert isinstance(group, Struct)  # noqa: S101 - Settings holds nothing else
    return group


def _is_list(group: str, field: str) -> bool:
    return isinstance(getattr(_group(group), field), tuple)


def _split(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _duration(field: str, text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise SettingError(f"{field}: {error}") from error


def _budget(field: str, text: str) -> tuple[int, float]:
    count, separator, window = text.partition("/")
    if not separator or not count.strip().isdigit():
        raise SettingError(f'{field}: expected a count and a window such as "30/1m", got "{text}"')
    return int(count), _duration(field, window.strip())
