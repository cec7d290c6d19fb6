"""What an operator may set about the Kubernetes watch; a group of quell.settings."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Struct

from quell.setting import Unit, setting


class KubernetesSettings(Struct, frozen=True, forbid_unknown_fields=True):
    enabled: Annotated[
        Literal["auto", "on", "off"],
        setting(
            "Whether a cluster's nodes, pods and services are watched. auto: inside a cluster, or if kubeconfig is set; "
            "on: also by $KUBECONFIG or ~/.kube/config.",
            unit=Unit.WORD,
            reason="Inside a cluster nobody has to set anything; a kubeconfig that lies about is another matter.",
            risk="off: rules by owner, pod label or namespace label know only what events and agents say. "
            "on: whatever cluster the current context names is watched.",
        ),
    ] = "auto"
    kubeconfig: Annotated[
        str,
        setting(
            "File with the cluster's address and credentials, or several with : between; empty: the service account.",
            unit=Unit.WORD,
            reason="Inside a cluster there is a service account.",
            risk="A plugin that it names is run as the controller's user.",
        ),
    ] = ""
    context: Annotated[
        str,
        setting(
            "Context of the kubeconfig; empty: the current one at the start.",
            unit=Unit.WORD,
            reason="As kubectl does.",
            risk="Another context can be another cluster.",
        ),
    ] = ""
    disruption_budgets: Annotated[
        Literal["respect", "ignore"],
        setting(
            "Whether agentKillPod leaves a pod alone that its disruption budget cannot spare.",
            unit=Unit.WORD,
            reason="Whoever wrote the budget said how many pods the service needs.",
            risk="ignore: a rule can take a service below what its budget wants. respect: an attacker's pod stays up as "
            "long as its service has none to spare; isolate it as well.",
        ),
    ] = "respect"
    gone_within: Annotated[
        str,
        setting(
            "How long after its grace period a deleted pod may take to be gone before that counts as failed.",
            unit=Unit.DURATION,
            reason="The kubelet needs some seconds for a busy pod's volumes and network.",
            risk="Too low calls slow ends failures; too high is late to say that a node does not end its pods.",
            least="1s",
        ),
    ] = "30s"
    cluster: Annotated[
        str,
        setting(
            "Name of the cluster in the inventory and in events; empty: as in the kubeconfig, inside a cluster none.",
            unit=Unit.WORD,
            reason="A cluster does not know its own name.",
            risk="Where events name the cluster otherwise, each such conflict is noted in their record.",
        ),
    ] = ""
