"""Documents in one line each, and what applying them would do, without a store."""

from __future__ import annotations

from collections.abc import Mapping

from quell.controller.rulebook import Application, Edition, Editor, Kept, Key, Plan, plan_apply
from quell.documents.load import load_text
from quell.model.audit import Actor

ANN = Editor(actor=Actor(kind="user", name="ann"))
AUTHOR = Editor(actor=Actor(kind="token", name="ci"), operates=False)

Held = Mapping[Key, Kept]


def document(kind: str, name: str, spec: str, more: str = "") -> str:
    return f"{{apiVersion: quell.dev/v1, kind: {kind}, metadata: {{name: {name}{more}}}, spec: {{{spec}}}}}\n---\n"


def rule(name: str, more: str = "") -> str:
    return document("ResponseRule", name, f"event: incident, criteria: [level:Critical], actions: [suppress-log]{more}")


def killing(name: str, more: str = "") -> str:
    return document("ResponseRule", name, f"event: incident, criteria: [process:nc], actions: [agentKillProcess]{more}")


def group(name: str, value: str = "x") -> str:
    return document("Group", name, f'criteria: [{{key: image, op: "=", value: {value}}}]')


def webhook(name: str, more: str = "") -> str:
    return document("Webhook", name, f"url: https://{name}.example.org/in{more}")


def policy(name: str, more: str, rulesets: str = "[]") -> str:
    spec = f"mode: enforce, clusterSelector: {{matchFields: {{name: c}}}}, rulesets: {rulesets}, response: {{{more}}}"
    return document("Policy", name, spec, ", type: cluster")


def ruleset(name: str, value: str = "x") -> str:
    rules = f'rules: [{{target: "container::image", verb: allow, values: [{value}]}}]'
    return document("Ruleset", name, rules, ", type: cluster")


def plan(
    things: Held,
    text: str,
    source: str = "",
    *,
    prune: bool = False,
    take_over: bool = False,
    unquarantine: bool = False,
    editor: Editor = ANN,
    time: float = 100.0,
    **held: list[str],
) -> Plan:
    wanted = Application(
        documents=load_text(text), source=source, prune=prune, take_over=take_over, unquarantine=unquarantine
    )
    revision = 1 + max((kept.revision for kept in things.values()), default=0)
    edition = Edition(
        revision=revision, time=time, editor=editor, held={key.replace("_", "/"): each for key, each in held.items()}
    )
    return plan_apply(things, wanted, edition)


def told(made: Plan) -> dict[str, str]:
    return {str(step.key): step.verb.value for step in made.steps}


def warnings(made: Plan) -> list[str]:
    return [warning for step in made.steps for warning in step.warnings]
