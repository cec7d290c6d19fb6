"""rbac: what Quell must be allowed in a Kubernetes cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quell.cli.connection import connect
from quell.cli.output import visible

if TYPE_CHECKING:
    from quell.controller.kubernetes.rbac import Killers
    from quell.controller.kubernetes.settings import KubernetesSettings

_NAME = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"


def rbac(
    context: typer.Context,
    *,
    file: Annotated[
        list[str] | None,
        typer.Option(
            "-f",
            "--file",
            help="Documents to look at in place of a controller's: a YAML file, a folder, or - for standard input.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", envvar="QUELL_CONFIG", help="With -f: the controller's file of settings."),
    ] = None,
    namespace: Annotated[
        list[str] | None,
        typer.Option("--namespace", "-n", help="Pods are to be ended in this one only; again for more of them."),
    ] = None,
    account: Annotated[
        str,
        typer.Option("--service-account", metavar="NAMESPACE/NAME", help="Who gets it: the controller's account."),
    ] = "quell/quell-controller",
) -> None:
    """Print the least that Quell must be allowed in its cluster for the rules and settings in use, as YAML for kubectl.

    Without -f it asks the controller for them; with -f nobody is asked. What only watches (audit), or is disabled, deletes
    nothing and needs nothing for it: comments name it.
    """
    import re

    from quell.controller.kubernetes.rbac import manifests, roles

    owner, _, name = account.partition("/")
    for given in (owner, *(namespace or ())):
        if not re.fullmatch(_NAME, given):
            raise typer.BadParameter(f'expected the name of a namespace, got "{given}"')
    if not re.fullmatch(rf"{_NAME}(\.{_NAME})*", name):
        raise typer.BadParameter(f'expected NAMESPACE/NAME, got "{account}"', param_hint="--service-account")
    killers, settings = _from_files(file, config) if file else _from_controller(context)
    on = settings.enabled != "off"
    made = roles(
        watches=on,
        kills=on and bool(killers.acting),
        budgets=settings.disruption_budgets == "respect",
        namespaces=namespace or (),
    )
    for line in _told(killers, on=on):
        print(f"# {visible(line)}")
    print()
    print(manifests(made, (owner, name)), end="")


def _from_files(files: list[str], config: Path | None) -> tuple[Killers, KubernetesSettings]:
    from quell.cli.documents import read_documents
    from quell.configuration import load_configuration
    from quell.controller.kubernetes.rbac import killers

    _, documents = read_documents(files)
    return killers(documents.rules, documents.policies), load_configuration(config).settings.kubernetes


def _from_controller(context: typer.Context) -> tuple[Killers, KubernetesSettings]:
    import msgspec

    from quell.controller.kubernetes.rbac import killers
    from quell.controller.kubernetes.settings import KubernetesSettings
    from quell.documents.load import load_text

    with connect(context) as client:
        texts = [client.documents.export(kind) for kind in ("rules", "policies")]
        shown = {one.name: one.value for one in client.settings.all()}
    rules, policies = (load_text(text, "the controller's documents") for text in texts)
    fields = [field.name for field in msgspec.structs.fields(KubernetesSettings)]
    settings = KubernetesSettings(**{name: shown[f"kubernetes.{name}"] for name in fields})
    return killers(rules.rules, policies.policies), settings


def _told(killers: Killers, *, on: bool) -> list[str]:
    if not on:
        return ["kubernetes.enabled is off: Quell asks nothing of the cluster's API."]
    lines = [f"agentKillPod is asked for by {', '.join(killers.acting) or 'nothing that acts'}."]
    if killers.others:
        lines.append(f"It only watches, or is disabled, in {', '.join(killers.others)}.")
    return lines
