"""A document that is edited in the console: read, compared with what is in force, and saved for the version that was read.

What is wrong with its text is told at its lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct

from quell.api.problem import Refusal
from quell.api.routes.documents import editing, only, read, refused
from quell.console.page import Call, Moved, address
from quell.controller.editing import Change, Editing
from quell.controller.rulebook import Application, Kept, Key, name_of
from quell.documents.load import Documents, Thing
from quell.errors import DocumentConflict, DocumentError, Problem

#: Lines that are shown above and below one that something is wrong with.
_AROUND = 2


class Line(Struct, frozen=True, kw_only=True):
    """A line of a text, with what is wrong with it and what is doubtful."""

    number: int
    text: str
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


class Edited(Struct, frozen=True, kw_only=True):
    """What came of a text."""

    #: Parts of the text around what was found, each some lines.
    excerpts: tuple[tuple[Line, ...], ...] = ()
    #: What stands at no line of it.
    problems: tuple[Problem, ...] = ()
    #: How many problems there are in all; 0: it can be saved, or was.
    count: int = 0
    #: Of a text that can be saved: what it changes, with diffs unless it was saved.
    changes: tuple[Change, ...] = ()
    saved: bool = False


async def edited(
    call: Call, text: str, key: Key | None, revision: str, *, save: bool, take_over: bool = False
) -> Edited:
    """key: of the one document that is edited; None: a new one. revision: its version as it was read.

    Not saved: only compared. Everything that stands against it is in what is given back.
    """
    rulebook = call.services.controller.rulebook
    try:
        documents = await read(call.services.controller, text, call.caller.actor, dry_run=not save)
        if key is not None:
            only(documents, key)
        done = await refused(
            rulebook.apply(
                Application(documents=documents, take_over=take_over),
                editing(call.caller),
                dry_run=not save,
                expect=all_new(rulebook, documents) if key is None else same_version(rulebook, key, revision),
            )
        )
    except DocumentError as error:
        return _wrong(text, error.problems)
    except Refusal as error:
        return _wrong(text, error.problems or [Problem(file="", message=error.detail)])
    return Edited(
        excerpts=excerpts(text, (), documents.warnings),
        changes=tuple(done.changes),
        saved=save,
    )


async def submitted(call: Call, key: Key | None) -> tuple[str, Edited]:
    """The text of a form of editor.html, and what came of it. key: as of `edited`."""
    form = call.form
    text = form.one("text").replace("\r\n", "\n")
    save, take_over = form.one("do") == "save", "take_over" in form
    return text, await edited(call, text, key, form.one("revision"), save=save, take_over=take_over)


def saved(found: Edited, kind: str, page: str, where: str) -> Moved | None:
    """Where it was saved: to the document of this kind, /console/PAGE/WHERE/NAME, or to the page."""
    if not found.saved:
        return None
    names = [each.name for each in found.changes if each.kind == kind]
    told = "; ".join([f"{each.kind} {each.name} {each.verb}" for each in found.changes])
    warnings = [warning for each in found.changes for warning in each.warnings]
    return Moved(to=address(page, where, names[0]) if names else address(page), told=". ".join([told, *warnings]) + ".")


def in_force(kept: Kept | None, name: str, revision: str | None) -> dict[str, str]:
    """What an editor says of the document that is edited; None: a new one. revision: as it was sent, or that in force."""
    if kept is None:
        return {"name": "", "revision": "", "source": ""}
    return {"name": name, "revision": str(kept.revision) if revision is None else revision, "source": kept.source}


def same_version(rulebook: Editing, key: Key, revision: str) -> Callable[[], None]:
    """As If-Match. Refusal 412: somebody else has changed it since, or it is gone."""

    def check() -> None:
        kept = rulebook.kept.get(key)
        if kept is None:
            raise Refusal(412, f"{key} was deleted in the meantime")
        if str(kept.revision) != revision:
            by = f" by {kept.changed_by}" if kept.changed_by else ""
            raise Refusal(412, f"{key} was changed{by} in the meantime: open it again, and make your change anew")

    return check


def excerpts(text: str, problems: Iterable[Problem], warnings: Iterable[Problem]) -> tuple[tuple[Line, ...], ...]:
    """The lines that something is found at, with some around them."""
    lines = text.splitlines() or [""]
    wrong, doubtful = _by_line(problems, len(lines)), _by_line(warnings, len(lines))
    shown = sorted(
        {
            near
            for number in (*wrong, *doubtful)
            for near in range(max(1, number - _AROUND), min(len(lines), number + _AROUND) + 1)
        }
    )
    parts: list[list[Line]] = []
    for number in shown:
        line = Line(
            number=number,
            text=lines[number - 1],
            problems=tuple(wrong.get(number, ())),
            warnings=tuple(doubtful.get(number, ())),
        )
        if parts and parts[-1][-1].number == number - 1:
            parts[-1].append(line)
        else:
            parts.append([line])
    return tuple(tuple(part) for part in parts)


def _wrong(text: str, problems: Sequence[Problem]) -> Edited:
    placed = [problem for problem in problems if problem.line]
    return Edited(
        excerpts=excerpts(text, placed, ()),
        problems=tuple(problem for problem in problems if not problem.line),
        count=len(problems),
    )


def _by_line(problems: Iterable[Problem], lines: int) -> dict[int, list[Problem]]:
    """One that is found at the end of a text is at its last line."""
    found: dict[int, list[Problem]] = {}
    for problem in problems:
        if problem.line:
            found.setdefault(min(problem.line, lines), []).append(problem)
    return found


def all_new(rulebook: Editing, documents: Documents) -> Callable[[], None]:
    """To be asked when it is applied. DocumentConflict: what is to be new is there."""

    def check() -> None:
        problems = [
            Problem(
                file="",
                line=thing.source.line,
                path="metadata.name",
                message=f"there is a {key.kind} named {key.name} already: choose another name, or edit that one",
            )
            for thing in _all(documents)
            if (key := name_of(thing)) in rulebook.kept
        ]
        if problems:
            raise DocumentConflict(problems)

    return check


def _all(documents: Documents) -> tuple[Thing, ...]:
    return (
        *documents.rulesets,
        *documents.policies,
        *documents.rules,
        *documents.groups,
        *documents.webhooks,
        *documents.syslogs,
    )
