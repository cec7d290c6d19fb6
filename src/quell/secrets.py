"""Secrets: a type that does not show itself, and what hides them in values and text on their way out.

Three nets, each for what slips through the other: by type (Secret), by the name of a field, and by what text looks like.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping
from typing import Any, Never

import msgspec

#: What stands in the place of a secret.
HIDDEN = "(secret)"

#: Names of fields, or the last word of one, whose values are secrets whatever they look like.
_WORDS = frozenset(
    [
        "authorization",
        "cookie",
        "credential",
        "credentials",
        "headers",
        "key",
        "passphrase",
        "passwd",
        "password",
        "pem",
        "secret",
        "token",
    ]
)
#: Not secrets, though their last word says so: what a thing is found by.
_PLAIN = frozenset(("public_key", "controller_key", "idempotency_key"))
#: Deeper structures are hidden whole; more characters of one text are cut.
_DEEPEST, _LONGEST = 8, 32_768

_NAME = r"(?:token|secret|passw(?:or)?d|passphrase|credentials?|(?:api|private|signing|access|account)[_-]?key)"
_HEADER = r"(?:(?:proxy-)?authorization|(?:set-)?cookie|x-(?:api|auth)-?(?:key|token))"
#: Parameters of a query: shorter names than elsewhere, since little else is called so there.
_PARAMETER = rf"(?:[\w.-]{{0,40}}(?:{_NAME}|key|code|sig|signature|auth|session))"
_QUOTED = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
_CHAT = r"(?:hooks\.slack\.com|discord(?:app)?\.com/api/webhooks|[\w-]{1,63}\.webhook\.office\.com|[\w.-]{1,80}\.logic\.azure\.com)"

#: What secrets look like, and what is left of each. Each is linear in the text: logs hold what attackers choose.
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, flags), left)
    for pattern, flags, left in (
        (
            r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----(?:(?!-----END).)*(?:-----END [A-Z ]{0,40}KEY-----)?",
            re.DOTALL,
            HIDDEN,
        ),
        # Quell's own tokens, cut ones too; a word such as quell_session or the name of a metric is none.
        (r"quell_(?=[\w-]{0,80}[A-Z0-9])[A-Za-z0-9_-]{8,}", 0, HIDDEN),
        (r"whsec_[A-Za-z0-9+/=_-]+", 0, HIDDEN),
        (r"(quell_session=)[^;\s\"']+", 0, rf"\1{HIDDEN}"),
        # Its first part is short; without a bound each of many beginnings would be followed to the end.
        (r"\beyJ[\w-]{8,2048}+\.[\w-]+(?:\.[\w-]*)?", 0, HIDDEN),
        (r"\$argon2[a-z]{1,2}\$[^\s\"']+", 0, HIDDEN),
        (rf"\b({_HEADER}['\"]?\s*[:=,]\s*b?)({_QUOTED}|[^\r\n\"']+)", re.IGNORECASE, rf"\1{HIDDEN}"),
        (r"\b(bearer\s+)[\w.~+/=-]{8,}", re.IGNORECASE, rf"\1{HIDDEN}"),
        (r"\b((?i:basic)\s+)(?=[\w+/=-]{0,80}[A-Z0-9=])[\w+/=-]{6,}", 0, rf"\1{HIDDEN}"),
        (r"(://)[^/?#\s\"'<>]+@", 0, rf"\1{HIDDEN}@"),
        (rf"([?&]{_PARAMETER}=)[^&#\s\"'<>]+", re.IGNORECASE, rf"\1{HIDDEN}"),
        (rf"(https://{_CHAT}/)[^\s\"'<>]+", re.IGNORECASE, rf"\1{HIDDEN}"),
        # What providers mark their keys with: AWS, GitHub, GitLab, Slack, Google, Stripe and others.
        (r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b", 0, HIDDEN),
        (r"\b(?:gh[opusr]_|github_pat_|glpat-|xox[abeoprs]-|AIza|sk-|[srp]k_(?:live|test)_)[\w-]{16,}", 0, HIDDEN),
        (rf"({_NAME}['\"]\s*[:,]\s*b?){_QUOTED}", re.IGNORECASE, rf"\1{HIDDEN}"),
        (rf"({_NAME}=)(?:{re.escape(HIDDEN)}|{_QUOTED}|[^\s&;,)\]}}\"']+)", re.IGNORECASE, rf"\1{HIDDEN}"),
        # A line of YAML.
        (rf"^([ \t-]{{0,80}}[\w-]{{0,40}}{_NAME}:[ \t]+)\S.*$", re.IGNORECASE | re.MULTILINE, rf"\1{HIDDEN}"),
    )
)


class Secret:
    """A text that shows itself to reveal() only: neither printed, nor formatted, compared by time, or pickled."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text, for the one who sends or checks it."""
        return self._text

    def __repr__(self) -> str:
        return HIDDEN

    __str__ = __repr__

    def __format__(self, _form: str) -> str:
        return HIDDEN

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> Never:
        raise TypeError("a secret is not written down")


def is_secret_name(name: str) -> bool:
    """Whether a field of this name holds a secret: join_token does, token_name does not."""
    plain = name.lower().replace("-", "_")
    return plain not in _PLAIN and plain.rpartition("_")[2] in _WORDS


def redact(value: Any, name: str = "", *, depth: int = 0) -> Any:
    """The value of a field with every secret in it hidden, as plain data. Numbers are no secrets, whatever the name."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Secret) or is_secret_name(name) or depth > _DEEPEST:
        return HIDDEN
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, bytes | bytearray):
        return redact_text(value.decode("utf-8", "backslashreplace"))
    if isinstance(value, msgspec.Struct):
        value = msgspec.structs.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): redact(inner, str(key), depth=depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(inner, depth=depth + 1) for inner in value]
    return redact_text(f"{type(value).__name__}: {value}" if isinstance(value, BaseException) else repr(value))


#: In the name of a variable of an environment: its value is a secret, whatever it looks like.
_VARIABLE = re.compile(
    r"token|secret|passw|passphrase|pass(?:_|$)|pwd$|connection_?string|key(?!board)|credential|cookie|session|auth(?!or)|signature|private|dsn$|^aws_",
    re.IGNORECASE,
)
#: They are called so, and say nothing secret.
_PLAIN_VARIABLES = frozenset(
    [
        "PWD",
        "OLDPWD",
        "XDG_SESSION_ID",
        "XDG_SESSION_TYPE",
        "XDG_SESSION_CLASS",
        "SSH_AUTH_SOCK",
        "XAUTHORITY",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "DBUS_SESSION_BUS_ADDRESS",
        "DESKTOP_SESSION",
        "XKB_DEFAULT_LAYOUT",
    ]
)
#: An option by itself whose value is the argument after it, and an assignment or an option with its value.
_OPTION = re.compile(r"--?[A-Za-z][\w-]*")
_ASSIGNMENT = re.compile(r"(-{0,2}([A-Za-z_][\w.-]*)[=:])(?=.)", re.DOTALL)
#: Options whose value is a name and a password.
_NAMED_USERS = frozenset(("-u", "-U", "--user", "--proxy-user"))


def redact_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables of a process, without the values of those that hold secrets or look like it."""
    return {
        name: HIDDEN if value and _is_secret_variable(name) else redact_text(value) for name, value in variables.items()
    }


def redact_arguments(arguments: Iterable[str]) -> list[str]:
    """A command line without its secrets: --password X, --token=X, TOKEN=X, -u name:X, and what looks like one."""
    shown: list[str] = []
    before = ""
    for argument in arguments:
        assigned = _ASSIGNMENT.match(argument)
        if before and _is_secret_option(before) and not _OPTION.fullmatch(argument):
            shown.append(HIDDEN)
        elif before in _NAMED_USERS and ":" in argument:
            shown.append(f"{argument.partition(':')[0]}:{HIDDEN}")
        elif assigned and _is_secret_option(assigned[2]):
            shown.append(assigned[1] + HIDDEN)
        else:
            shown.append(redact_text(argument))
        before = argument if _OPTION.fullmatch(argument) else ""
    return shown


def _is_secret_option(option: str) -> bool:
    name = option.lstrip("-")
    return is_secret_name(name) or _is_secret_variable(name)


def _is_secret_variable(name: str) -> bool:
    return name not in _PLAIN_VARIABLES and _VARIABLE.search(name) is not None


def redact_text(text: str) -> str:
    """The text without what looks like a secret; the end of a very long one is cut."""
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}... ({len(text) - _LONGEST} more characters)"
    for pattern, left in _PATTERNS:
        text = pattern.sub(left, text)
    return text
