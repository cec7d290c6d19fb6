"""`python -m quell.conformance FOLDER ...`: a line for each case that fails, then the counts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from quell.conformance import groups, policies, responses
from quell.conformance.case import Case, Form, Unreadable
from quell.errors import DocumentError

#: A file's cases are of the first form whose keys they all have.
FORMS = (
    Form(frozenset(("rules", "event")), responses.judge),
    Form(frozenset(("criteria", "workload")), groups.judge),
    Form(frozenset(("policy",)), policies.judge),
)


def cases(paths: list[Path]) -> Iterator[tuple[Path, Case]]:
    """The cases of these files and of all *.json in these folders; TypeError: a file that holds no cases."""
    for path in paths:
        for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
            held = msgspec.json.decode(file.read_bytes())
            if not isinstance(held, dict) or not isinstance(held.get("cases"), list):
                raise TypeError(f'{file}: expected an object with a list "cases"')
            yield from ((file, case) for case in held["cases"])


def judged(case: Case) -> list[str]:
    """What differs from what the case expects."""
    form = next((form for form in FORMS if form.keys <= set(case)), None)
    if form is None:
        return ["a form of case that the runner does not know"]
    try:
        return form.judge(case)
    except Unreadable as error:
        return [str(error)]
    except DocumentError as error:
        return [f"refused: {error}"]
    except (KeyError, ValueError, TypeError) as error:
        return [f"the case cannot be read: {type(error).__name__}: {error}"]


def main(words: list[str]) -> int:
    """The exit code: 0 all passed, 1 some failed, 2 there was nothing to judge."""
    passed = failed = 0
    try:
        for file, case in cases([Path(word) for word in words]):
            differences = judged(case)
            passed += not differences
            failed += bool(differences)
            if differences:
                print(f"FAIL {file.stem}/{case.get('id')}: {'; '.join(differences)}")  # noqa: T201 - its output
    except (OSError, TypeError, ValueError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - its output
        return 2
    print(f"{passed} passed, {failed} failed")  # noqa: T201 - its output
    return 1 if failed else 0 if passed else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
