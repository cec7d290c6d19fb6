"""The pages of docs/ that come from the code: `python -m quell.cli.reference FOLDER` writes them (`make docs`)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from quell.api import metrics
from quell.catalogue.names import NAMES
from quell.catalogue.policy_table import ACTION_SELECTORS
from quell.catalogue.table import ACTIONS, ALLOWED, CRITERIA, WRITTEN, CriterionSpec
from quell.cli.exits import MEANINGS
from quell.detectors.produces import producers
from quell.documents.options import Parameter, parameters_of, rule_options
from quell.documents.policy_options import policy_options
from quell.model.event import Category
from quell.settings import SETTINGS, Settings

_NOTICE = "<!-- Written by `make docs` from the code; edit that instead. -->\n"
_NEVER = (
    "What a category can never have is refused when the rule is written. What one event cannot have is refused for that"
    " event (`not-applicable`) while its other actions run."
)
_HOSTS = (
    "Host events take webhook, suppress-log, flags and process actions, never quarantine or pod kill. A process in a"
    " network namespace other than the host's counts as a container."
)
_MATRIX = (
    "From the one table that the validator, `GET /v1/rules/options`, `quell rules options` and completion read too. The"
    " names of events are in the [reference](reference.md#names); how rules live, in [response rules](response-rules.md)."
)
_POLICIES = (
    "From the one table that the validator, `GET /v1/policies/options` and `quell policies options` read too. What policies"
    " are for is in [Policies](policies.md)."
)
_UNUSUAL = (
    "An action with a warning is taken and done; the reference system does not list it for the type. An entry of `default`"
    " has no selector, an entry of `actions` at least one."
)
_SETTINGS = (
    "A TOML file named by `--config` or `QUELL_CONFIG`, one table a group; a variable of the environment wins over it."
    " An unknown group, field or variable is an error that names the nearest one. Durations are written as `30s`, `5m`,"
    " `2h` or `1d`, budgets as `30/1m`. What changes while running is changed by `quell settings set`, unless file or"
    " environment say it: [Settings while running](settings-live.md)."
)
_ELSEWHERE = "What events may be called, and who makes them, is in [Event names](event-names.md)."
_NAMES = """\
What an event may be called, for the `name` criterion. Case does not count. A detector's own names are names too: an event
has both, and a rule may use either. `*`, `?` and ranges are globs.

*Level* is what an event has if its detector gives none. *Origin*: most names are those that response rules are usually
written with; `reference` marks those that only the reference system has, `quell` our own. *Produced by* names Quell
itself ([what it says of itself](own-events.md)), the detectors whose events have the name, or what is still to come that
will produce it. Whatever posts the [native form](event-format.md) may use any name, those of the future included, so a
rule can be written for each of them.
"""
_ORIGINS = {"mission": "", "reference": "reference", "quell": "quell"}
#: By whether it can be changed while running.
_CHANGES = {True: "while running", False: "at the next start"}


def pages() -> Mapping[str, str]:
    """File name -> text."""
    return {
        "cli.md": commands(),
        "event-names.md": names(),
        "metrics.md": metrics.page(),
        "policies-matrix.md": policies(),
        "reference.md": tables(),
        "response-rules-matrix.md": matrix(),
        "settings.md": settings(),
    }


def commands() -> str:
    """Every command with its options, as Typer describes them, and the exit codes."""
    typer = [sys.executable, "-m", "typer", "quell.cli.main", "utils", "docs", "--name", "quell"]
    text = subprocess.run([*typer, "--title", "Command line"], check=True, capture_output=True, text=True).stdout
    codes = _table(("exit code", "meaning"), ((str(code.value), meaning) for code, meaning in MEANINGS.items()))
    return f"{_NOTICE}\n{text.replace('&#x27;', chr(39)).rstrip()}\n\n## Exit codes\n\n{codes}"


def tables() -> str:
    """Criteria, actions, and who may ask for what."""
    sections = [
        f"{_NOTICE}\n# Reference\n",
        "## Criteria\n\nWritten as `type:value` or `{type: ..., value: ...}`; a list as the value means any of them.\n",
        _table(
            ("criterion", "categories", "met when", "example"),
            (
                (
                    _criterion(spec),
                    "all" if spec.categories == frozenset(Category) else _words(spec.categories),
                    spec.description,
                    f"`{spec.example}`",
                )
                for spec in CRITERIA.values()
            ),
        ),
        "## Actions\n\nWritten as a word or as `{word: {parameters}}`.\n",
        _table(
            ("action", "class", "does", "the event must give", "needs", "can be undone", "example"),
            (
                (
                    f"`{spec.word}`",
                    spec.action_class.value,
                    spec.description,
                    "; ".join(spec.needs) or "nothing",
                    "; ".join(spec.permissions) or "nothing",
                    "yes" if spec.reversible else "no",
                    f"`{spec.example}`",
                )
                for spec in ACTIONS.values()
            ),
        ),
        f"## Which category may ask for which action\n\n{_NEVER}\n",
        _table(
            ("action", *(f"`{category}`" for category in Category)),
            ((f"`{action}`", *(cells[category] for category in Category)) for action, cells in ALLOWED.items()),
        ),
        f"## Names\n\n{_ELSEWHERE}\n",
    ]
    return "\n".join(sections)


def names() -> str:
    """Every name of the catalogue, and who makes such events."""
    made = producers()
    sections = [
        f"{_NOTICE}\n# Event names\n",
        _NAMES,
        _table(
            ("name", "category", "kind", "level", "origin", "produced by", "meaning"),
            (
                (
                    f"`{name.name}`"
                    + (f" (also written {_words(name.aliases)})" if name.aliases else "")
                    + (f" (a rule with it also takes {_words(name.covers)})" if name.covers else "")
                    + (f" (stands for `{name.pattern}`)" if name.pattern else ""),
                    ", ".join(f"`{category}`" for category in (name.category, *name.also_category)),
                    name.kind.value if name.kind else "",
                    name.level.value,
                    _ORIGINS[name.origin],
                    ", ".join(map(_producer, made[name.name])) or f"later: {name.later}",
                    name.description,
                )
                for name in NAMES.values()
            ),
        ),
    ]
    return "\n".join(sections)


def _producer(name: str) -> str:
    return "Quell" if name == "quell" else f"`{name}`"


def matrix() -> str:
    """Category by criterion and category by action, with every condition."""
    options = rule_options().categories
    takes = {option.category: {criterion.type for criterion in option.criteria} for option in options}
    sections = [
        f"{_NOTICE}\n# Response rules: what goes with what\n",
        f"{_MATRIX}\n",
        "## Categories\n",
        _table(
            ("category", "also written", "its events"),
            ((f"`{option.category}`", _words(option.words), option.description) for option in options),
        ),
        "## Criteria by category\n\nA criterion that a category does not take is refused when the rule is written.\n",
        _table(
            ("criterion", *(f"`{option.category}`" for option in options)),
            (
                (
                    _criterion(spec),
                    *("yes" if spec.type in takes[option.category] else "no" for option in options),
                )
                for spec in CRITERIA.values()
            ),
        ),
        "## What each criterion says\n\nWhat an event does not have meets nothing.\n",
        _table(
            ("criterion", "after the colon", "met when", "example"),
            (
                (_criterion(spec), WRITTEN[spec.form], spec.description, f"`{spec.example}`")
                for spec in CRITERIA.values()
            ),
        ),
        f"## Actions by category\n\n{_NEVER}\n",
        _table(
            ("action", *(f"`{category}`" for category in Category)),
            ((f"`{action}`", *(cells[category] for category in Category)) for action, cells in ALLOWED.items()),
        ),
        f"{_HOSTS}\n",
        "## What each action is\n",
        _table(
            ("action", "class", "destructive", "can be undone", "parameters", "does", "example"),
            (
                (
                    f"`{spec.word}`",
                    spec.action_class.value,
                    "yes" if spec.destructive else "no",
                    "yes" if spec.reversible else "no",
                    "; ".join(_parameter(parameter) for parameter in parameters_of(spec)) or "none",
                    spec.description,
                    f"`{spec.example}`",
                )
                for spec in ACTIONS.values()
            ),
        ),
    ]
    return "\n".join(sections)


def policies() -> str:
    """What a policy of each type takes, and a ruleset."""
    told = policy_options()
    acting = [option for option in told.types if option.actions]
    sections = [
        f"{_NOTICE}\n# Policies: what goes with what\n",
        f"{_POLICIES}\n",
        "## Types\n",
        _table(
            ("type", "says", "scope", "others taken", "fields"),
            (
                (
                    f"`{option.type}`",
                    option.description,
                    f"`{option.required}`" if option.required else "at least one",
                    _words(option.optional) or "none",
                    ", ".join(f"`{one.name}`" for one in option.lists),
                )
                for option in told.types
            ),
        ),
        _table(
            ("field", "form", "says"),
            (
                (f"`{one.name}`", ", ".join(one.values) or one.form, one.description)
                for one in {one.name: one for option in told.types for one in option.lists}.values()
            ),
        ),
        "## Selectors\n\nEverything in a selector must hold, and all selectors of a scope or an entry.\n",
        _table(
            ("selector", "looks at", "parts", "fields", "example"),
            (
                (
                    f"`{selector.kind}`",
                    selector.description,
                    ", ".join(f"`{part}`" for part in selector.parts),
                    ", ".join(f"`{field}`" for field in selector.fields) or "any label",
                    f"`{selector.example}`",
                )
                for selector in told.selectors
            ),
        ),
        _table(
            ("operator", "values", "holds when"),
            (
                (f"`{operator.name}`", "one or more" if operator.values else "none", operator.description)
                for operator in told.operators
            ),
        ),
        f"## Actions by type\n\n{_UNUSUAL} Its selectors: {_words(ACTION_SELECTORS)}.\n",
        _table(
            ("action", *(f"`{option.type}`" for option in acting), "but not with", "parameters"),
            (
                (
                    f"`{first.word}`",
                    *("yes" if option.actions[position].usual else "warning" for option in acting),
                    _words({selector.value for selector in ACTION_SELECTORS} - {*first.selectors}),
                    "; ".join(_parameter(parameter) for parameter in first.parameters) or "none",
                )
                for position, first in enumerate(acting[0].actions)
            ),
        ),
        "## Rulesets\n",
        f"Types: {_words(told.ruleset_types)}. Verbs: {_words(told.verbs)}.\n",
        _table(
            ("target", "selectors"),
            (
                (f"`{target.target}`", ", ".join(f"`{selector}`" for selector in target.selectors))
                for target in told.targets
            ),
        ),
    ]
    return "\n".join(sections)


def _criterion(spec: CriterionSpec) -> str:
    return f"`{spec.type}<key>`" if spec.type.endswith(":") else f"`{spec.type}`"


def _parameter(parameter: Parameter) -> str:
    bounds = "" if parameter.minimum is None else f" {parameter.minimum} to {parameter.maximum}"
    form = ", ".join(parameter.values) or f"{parameter.form}{bounds}"
    return f"`{parameter.name}`{' (required)' if parameter.required else ''}: {form}"


def settings() -> str:
    """Every setting with all that quell.settings declares of it."""
    sections = [f"{_NOTICE}\n# Settings\n", f"{_SETTINGS}\n"]
    for group in msgspec.structs.fields(Settings):
        found = [one for one in SETTINGS.values() if one.group == group.name]
        sections.append(f"## {group.name}\n")
        sections.append(
            _table(
                ("field", "default", "meaning", "variable"),
                ((f"`{one.field}`", f"`{_json(one.default)}`", one.description, f"`{one.variable}`") for one in found),
            )
        )
        sections.append(
            _table(
                ("setting", "unit", "why this default", "what a wrong value does", "changes"),
                ((f"`{one.name}`", one.unit.value, one.reason, one.risk, _CHANGES[one.live]) for one in found),
            )
        )
    return "\n".join(sections)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _words(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in sorted(words))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def main(folder: Path) -> None:
    for name, text in pages().items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
