"""The list of programs that should not run unseen: a TOML file, and what of it an execution meets.

The file's own head (data/watchlist.toml) describes the form. An unknown word in it is an error, and all errors of a
file are reported at once (SEMANTICS section 0.3).
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
import tomllib
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
from msgspec import Struct

from quell.agent.contents import Contents, Executable
from quell.errors import DocumentError, Problem

_T = TypeVar("_T")
_FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
#: Programs whose first plain argument says what really runs.
_INTERPRETER = re.compile(
    r"(python|pypy|perl|ruby|node|nodejs|php|lua|luajit|tclsh|bash|dash|ash|zsh|ksh|mksh|sh|busybox|toybox)[\d.]*(-static)?"
)
#: Their options that take the next argument, and those after which there is no script.
_OPTIONS_WITH_VALUE = {
    "-W",
    "-X",
    "-r",
    "-I",
    "-o",
    "-O",
    "-d",
    "-F",
    "--require",
    "--import",
    "--rcfile",
    "--init-file",
}
_NO_SCRIPT = {"-c", "-e", "-E", "--eval", "-p", "--print", "-s"}
_SCRIPT_SUFFIX = re.compile(r"\.(py|pyc|pyz|pl|rb|js|mjs|cjs|php|lua|tcl|sh|bash|zsh)$")


class Allow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An exception: what is given must hold, all of it."""

    exe: str | None = None
    user: str | int | None = None
    parent: str | None = None
    same_as: tuple[str, ...] = ()


class Watch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    description: str = ""
    names: tuple[str, ...] = ()
    exe: tuple[str, ...] = ()
    content: tuple[Literal["memfd", "deleted"], ...] = ()
    copies: bool = True
    allow: tuple[Allow, ...] = ()


class Execution(Struct, frozen=True, kw_only=True):
    """What of a process the watch list looks at."""

    exe: str
    #: /proc/PID/comm.
    name: str
    arguments: tuple[str, ...]
    #: memfd, deleted or None: an ordinary file.
    content: str | None
    #: None: its file system tells this agent nothing of it, as FUSE does with users other than its own.
    file: Executable | None


class Circumstances(Struct, frozen=True, kw_only=True):
    """What exceptions ask for beside the execution itself; read only when something is met."""

    uid: int
    user: str | None
    parent_name: str | None
    parent_exe: str | None


class Hit(Struct, frozen=True, kw_only=True):
    watch: Watch
    #: Which of the entry's criteria was met, and on what: "name nc", "copy of /usr/bin/nc.openbsd".
    why: str


class WatchList:
    """A compiled list. Cheap for what is not on it: a few look-ups in sets and one pattern an entry."""

    def __init__(self, watches: Sequence[Watch], allow: Sequence[Allow] = ()) -> None:
        self._allow = tuple(allow)
        self._compiled = [_Compiled(watch) for watch in watches]
        copied = _pattern([name for watch in watches if watch.copies for name in watch.names])
        self._contents = Contents(_installed(copied) if copied else ())

    @classmethod
    def load(cls, path: Path | None = None) -> WatchList:
        """The list in a file, or the one that comes with Quell. Raises DocumentError with all problems, OSError."""
        if path is None:
            text = resources.files("quell.agent").joinpath("data/watchlist.toml").read_text("utf-8")
            return cls.parse(text, "watchlist.toml")
        return cls.parse(path.read_text("utf-8"), str(path))

    @classmethod
    def parse(cls, text: str, file: str = "<text>") -> WatchList:
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise DocumentError([Problem(file=file, message=f"not TOML: {error}")]) from error
        problems = [
            Problem(file=file, path=key, message="unknown table", expected="watch or allow")
            for key in document
            if key not in {"watch", "allow"}
        ]
        watches = _entries(document, "watch", Watch, file, problems)
        allow = _entries(document, "allow", Allow, file, problems)
        problems += _empty(watches, allow, file)
        if problems:
            raise DocumentError(problems)
        return cls(watches, allow)

    def find(self, execution: Execution) -> list[Hit]:
        """Every entry that the execution meets, in the file's order, exceptions not yet looked at."""
        names = _names_of(execution)
        original = None if execution.file is None else self._contents.original(execution.file)
        hits = []
        for compiled in self._compiled:
            why = compiled.meets(execution, names)
            if why is None and original is not None and compiled.is_original(original):
                why = f"copy of {original}"
            if why is not None:
                hits.append(Hit(watch=compiled.watch, why=why))
        return hits

    def is_allowed(self, hit: Hit, execution: Execution, circumstances: Circumstances) -> bool:
        return any(self._holds(allow, execution, circumstances) for allow in (*hit.watch.allow, *self._allow))

    def _holds(self, allow: Allow, execution: Execution, circumstances: Circumstances) -> bool:
        if allow.exe is not None and not fnmatch.fnmatchcase(execution.exe, allow.exe):
            return False
        if allow.user is not None and str(allow.user) not in {circumstances.user, str(circumstances.uid)}:
            return False
        if allow.parent is not None:
            parent = circumstances.parent_exe if "/" in allow.parent else circumstances.parent_name
            if parent is None or not fnmatch.fnmatchcase(parent, allow.parent):
                return False
        if not allow.same_as:
            return True
        return execution.file is not None and self._contents.equals_one(execution.file, allow.same_as)


class _Compiled:
    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self._names = _pattern(watch.names)
        self._exe = _pattern(watch.exe)
        self._plain = frozenset(name for name in watch.names if not _is_glob(name))
        self._globs = _pattern([name for name in watch.names if _is_glob(name)])

    def meets(self, execution: Execution, names: Sequence[str]) -> str | None:
        for name in names:
            if name in self._plain or (self._globs and self._globs.fullmatch(name)):
                return f"name {name}"
        if self._exe and self._exe.fullmatch(execution.exe):
            return f"executable {execution.exe}"
        if execution.content is not None and execution.content in self.watch.content:
            return {"memfd": "runs from memory", "deleted": "its file is deleted"}[execution.content]
        return None

    def is_original(self, path: str) -> bool:
        """Whether copies of this executable are watched for by this entry."""
        return self.watch.copies and self._names is not None and bool(self._names.fullmatch(_base(path)))


def _names_of(execution: Execution) -> list[str]:
    """Every name an execution goes by, the most telling first, none twice."""
    program = _base(execution.exe).removeprefix("memfd:")
    names = [program, execution.name]
    if execution.arguments:
        # A login shell's name starts with a dash.
        first = _base(execution.arguments[0]).lstrip("-")
        names.append(first)
        if _INTERPRETER.fullmatch(program) or _INTERPRETER.fullmatch(first):
            names += _script_names(execution.arguments)
    return list(dict.fromkeys(name for name in names if name))


def _script_names(arguments: Sequence[str]) -> Iterable[str]:
    rest = iter(arguments[1:])
    for argument in rest:
        if argument in _NO_SCRIPT:
            return
        if argument in _OPTIONS_WITH_VALUE:
            next(rest, None)
        elif argument == "-m":
            yield next(rest, "").rpartition(".")[2]
            return
        elif not argument.startswith("-"):
            name = _base(argument)
            yield name
            yield _SCRIPT_SUFFIX.sub("", name)
            return


def _installed(names: re.Pattern[str]) -> Iterable[Path]:
    """Executables of these names on this machine, links followed.

    A link to a program of another name (nc to busybox) does not make that program's content telling.
    """
    for folder in {os.path.realpath(folder) for folder in _FOLDERS}:
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(folder):  # noqa: PTH208 - thousands of names, of which a few become paths
                if names.fullmatch(name):
                    target = Path(folder, name).resolve()
                    if target.is_file() and names.fullmatch(target.name):
                        yield target


def _entries(document: dict[str, object], key: str, form: type[_T], file: str, problems: list[Problem]) -> list[_T]:
    entries = document.get(key, [])
    if not isinstance(entries, list):
        problems.append(Problem(file=file, path=key, message=f"expected [[{key}]], got [{key}]"))
        return []
    good = []
    for position, entry in enumerate(entries):
        try:
            good.append(msgspec.convert(entry, form))
        except msgspec.ValidationError as error:
            message, _, path = str(error).partition(" - at `$")
            problems.append(Problem(file=file, path=f"{key}[{position}]{path.rstrip('`')}", message=message))
    return good


def _empty(watches: Sequence[Watch], allow: Sequence[Allow], file: str) -> Iterable[Problem]:
    """An entry that nothing meets, and an exception that everything meets, are mistakes."""
    for watch in watches:
        if not (watch.names or watch.exe or watch.content):
            yield Problem(file=file, path=f"watch {watch.name!r}", message="needs names, exe or content")
    for exception in (*allow, *(inner for watch in watches for inner in watch.allow)):
        if exception == Allow():
            yield Problem(file=file, path="allow", message="an exception needs exe, user, parent or same_as")


def _base(path: str) -> str:
    return path.rpartition("/")[2]


def _is_glob(text: str) -> bool:
    return any(character in text for character in "*?[")


def _pattern(globs: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(fnmatch.translate(glob) for glob in globs)) if globs else None
