"""What can be written in a policy, as a page for people."""

from __future__ import annotations

from quell.cli.output import Format, console, print_data, print_rows
from quell.documents.policy_options import PolicyOptions, PolicyTypeOption


def print_options(told: PolicyOptions, form: Format) -> None:
    if form is not Format.TABLE:
        print_data(told, form)
        return
    screen = console()
    for option in told.types:
        screen.print(f"{option.type}: {option.description}", style="bold", soft_wrap=True)
        required = f"{option.required}, " if option.required else "at least one selector, "
        screen.print(f"scope: {required}and any of {', '.join(option.optional) or 'no other'}", soft_wrap=True)
        screen.print()
        _print_type(option)
    screen.print("selectors", style="bold")
    print_rows(
        told.selectors,
        form,
        {
            "selector": lambda selector: selector.kind,
            "fields": lambda selector: selector.fields or "any label",
            "example": lambda selector: selector.example,
        },
        empty="no selectors",
    )
    screen.print()
    screen.print("rules of rulesets", style="bold")
    print_rows(
        told.targets,
        form,
        {"target": lambda target: target.target, "selectors": lambda target: target.selectors},
        empty="no targets",
    )
    screen.print()
    print_rows(told.rulesets, form, {"ruleset": lambda name: name}, empty="no rulesets")
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


def _print_type(option: PolicyTypeOption) -> None:
    screen = console()
    if option.lists:
        print_rows(
            option.lists,
            Format.TABLE,
            {
                "field": lambda field: field.name,
                "values": lambda field: field.values or field.form,
                "meaning": lambda field: field.description,
            },
            empty="",
        )
        screen.print()
    if option.actions:
        print_rows(
            option.actions,
            Format.TABLE,
            {
                "action": lambda action: action.word,
                "usual": lambda action: action.usual,
                "class": lambda action: action.action_class,
                "destructive": lambda action: action.destructive,
                "selectors": lambda action: action.selectors,
                "parameters": lambda action: [parameter.name for parameter in action.parameters],
            },
            empty="",
        )
        screen.print()
