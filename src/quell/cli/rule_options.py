"""What can be written in a rule, as a page for people."""

from __future__ import annotations

from quell.cli.output import Format, console, print_data, print_rows
from quell.documents.options import CategoryOption, RuleOptions


def print_options(told: RuleOptions, form: Format) -> None:
    if form is not Format.TABLE:
        print_data(told, form)
        return
    screen = console()
    for option in told.categories:
        words = f" (also {', '.join(option.words)})" if option.words else ""
        screen.print(f"{option.category}{words}: {option.description}", style="bold", soft_wrap=True)
        _print_category(option)
    print_rows(
        told.groups,
        form,
        {"group": lambda group: group.name, "kind": lambda group: group.kind, "comment": lambda group: group.comment},
        empty="no groups",
    )
    screen.print()
    print_rows(
        told.webhooks,
        form,
        {
            "webhook": lambda webhook: webhook.name,
            "type": lambda webhook: webhook.type,
            "default": lambda webhook: webhook.default,
        },
        empty="no webhooks",
    )


def _print_category(option: CategoryOption) -> None:
    screen = console()
    screen.print()
    print_rows(
        option.criteria,
        Format.TABLE,
        {
            "criterion": lambda criterion: f"{criterion.type}<key>" if criterion.type == "label:" else criterion.type,
            "example": lambda criterion: criterion.example,
            "written": lambda criterion: criterion.written,
        },
        empty="no criteria",
    )
    screen.print()
    print_rows(
        option.actions,
        Format.TABLE,
        {
            "action": lambda action: action.word,
            "for": lambda action: action.condition,
            "class": lambda action: action.action_class,
            "destructive": lambda action: action.destructive,
            "parameters": lambda action: [parameter.name for parameter in action.parameters],
        },
        empty="no actions",
    )
    screen.print()
    print_rows(
        [(name.name, name.level, name.description) for name in option.names]
        + [(name.name, "", name.source or name.origin) for name in option.dynamic],
        Format.TABLE,
        {"name": lambda row: row[0], "level": lambda row: row[1], "meaning": lambda row: row[2]},
        empty="no names",
    )
    screen.print()
