"""What waits in the outbox for a cluster's API, where it cannot be carried out; and whose namespace is protected."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.support.kubernetes.kubeconfig import kubeconfig

from quell.controller.controller import Controller
from quell.controller.dispatcher import outbox_item
from quell.controller.kubernetes.actions import ClusterActions
from quell.controller.kubernetes.credentials import configured
from quell.controller.kubernetes.killing import Pace, World
from quell.controller.kubernetes.settings import KubernetesSettings
from quell.controller.live_settings import Wanted
from quell.controller.outcomes import Outcomes
from quell.model.action import AgentAction, KillPod, KillProcess
from quell.model.audit import QUELL
from quell.model.decision import Command, Outcome, OutcomeStatus, Reason
from quell.model.subject import PodTarget
from quell.response.facts import Safety
from quell.settings import Settings
from quell.storage import outbox
from quell.storage.records import OutboxItem
from quell.storage.store import Store

API = "kubernetes:default"
QUICK = Pace(first=0.02, longest=0.05)
WORLD = World(
    safety=Safety,
    machines=lambda _node: (),
    named=lambda _uid: None,
    respects_budgets=True,
    gone_within=1.0,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "quell.db") as opened:
        yield opened


def command(action: AgentAction | None = None, *, agent: str = API, ttl: float = 0.3, **target: str) -> Command:
    """ttl: counts from here; until the controller's side is there, a busy machine takes some tenths of a second."""
    now = time.time()
    return Command(
        id="e1/0",
        agent=agent,
        action=action or KillPod(),
        target=PodTarget(**{"namespace": "shop", "name": "web-1", "uid": "u1", **target}),
        issued=now,
        expires=now + ttl,
        nonce="n",
        event_id="e1",
        asked_by=("rule/8",),
    )


def carried_out(store: Store, folder: Path, item: OutboxItem, settings: KubernetesSettings | None = None) -> Outcome:
    """The outcome, by a controller's side whose API does not answer. settings: of that API."""
    store.submit(lambda connection: outbox.insert(connection, [item])).result()
    file = kubeconfig(folder / "kubeconfig", "http://127.0.0.1:9", user={"token": "t"})
    known = configured(settings or KubernetesSettings(kubeconfig=str(file)), {})

    async def run() -> None:
        recorded = asyncio.Event()
        outcomes = Outcomes(
            store,
            time.time,
            changes=lambda _command, _outcome: (),
            on_recorded=lambda _command, _outcome: recorded.set(),
            on_failure=lambda: None,
        )
        actions = ClusterActions(store, known, outcomes, WORLD, time.time, pace=QUICK)
        actions.start()
        if actions.waiting():
            await asyncio.wait_for(recorded.wait(), 20)
        else:
            await asyncio.wrap_future(store.submit(lambda _connection: None))
        await actions.stop()

    asyncio.run(run())
    (outcome,) = store.outcomes(item.id)
    assert store.outbox() == []
    return outcome


def test_an_api_that_does_not_answer_ends_in_expired(store: Store, tmp_path: Path) -> None:
    outcome = carried_out(store, tmp_path, outbox_item(command(ttl=2.0)))
    assert (outcome.status, outcome.reason) == (OutcomeStatus.EXPIRED, Reason.EXPIRED)
    assert "no answer from the API: ConnectError" in outcome.explanation
    assert "whether an earlier attempt ended it could not be seen" in outcome.explanation


def test_credentials_that_are_not_there_end_in_expired_too(store: Store, tmp_path: Path) -> None:
    gone = KubernetesSettings(kubeconfig=str(tmp_path / "none"))
    outcome = carried_out(store, tmp_path, outbox_item(command(ttl=2.0)), gone)
    assert outcome.status is OutcomeStatus.EXPIRED
    assert "there is no such file" in outcome.explanation


@pytest.mark.parametrize(
    ("settings", "agent"), [(KubernetesSettings(enabled="off"), API), (None, "kubernetes:another")]
)
def test_what_no_api_is_there_for_any_more_expires(
    store: Store, tmp_path: Path, settings: KubernetesSettings | None, agent: str
) -> None:
    outcome = carried_out(store, tmp_path, outbox_item(command(agent=agent)), settings)
    assert outcome.status is OutcomeStatus.EXPIRED
    assert outcome.explanation == f"no API is configured any more for {agent.removeprefix('kubernetes:')}"


def test_a_pod_of_another_cluster_is_not_looked_for(store: Store, tmp_path: Path) -> None:
    """Decided before the name of the API's cluster was known."""
    outcome = carried_out(store, tmp_path, outbox_item(command(cluster="red", ttl=2.0)))
    assert (outcome.status, outcome.reason) == (OutcomeStatus.REFUSED, Reason.NO_TARGET)
    assert outcome.explanation == "the pod is of cluster red, the API that is configured is of blue"


def test_a_uid_that_nobody_has_a_name_for_is_no_target(store: Store, tmp_path: Path) -> None:
    outcome = carried_out(store, tmp_path, outbox_item(command(name="", ttl=2.0)))
    assert (outcome.status, outcome.reason) == (OutcomeStatus.REFUSED, Reason.NO_TARGET)


def test_another_action_is_nothing_for_an_api(store: Store, tmp_path: Path) -> None:
    outcome = carried_out(store, tmp_path, outbox_item(command(KillProcess())))
    assert (outcome.status, outcome.reason) == (OutcomeStatus.FAILED, Reason.UNSUPPORTED)


def test_an_item_of_another_version_does_not_stay(store: Store, tmp_path: Path) -> None:
    item = msgspec.structs.replace(outbox_item(command()), body=b"\xc1")
    outcome = carried_out(store, tmp_path, item)
    assert (outcome.status, outcome.reason) == (OutcomeStatus.FAILED, Reason.UNSUPPORTED)


def test_the_namespace_that_quell_runs_in_is_protected_whatever_it_is_called(tmp_path: Path) -> None:
    account = tmp_path / "account"
    account.mkdir()
    (account / "token").touch()
    (account / "namespace").write_text("security")
    credentials = configured(KubernetesSettings(), {"KUBERNETES_SERVICE_HOST": "192.0.2.1"}, account)

    async def run() -> None:
        controller = Controller.open(tmp_path / "state", Settings(), credentials=credentials)
        controller.start()
        try:
            assert controller.state.safety.protected_namespaces == ("kube-system", "quell", "security")
            async with controller.live.lock:
                await controller.live.change(Wanted(set={"safety.protected_namespaces": ["kube-system"]}), QUELL)
            assert controller.state.safety.protected_namespaces == ("kube-system", "security")
        finally:
            await controller.stop()

    asyncio.run(run())
