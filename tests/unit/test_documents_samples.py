"""Every file of the shared samples of policies: what it is, and what becomes of it when it is applied, with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from quell.documents.load import load_paths, load_values
from quell.documents.write import to_document
from quell.errors import DocumentError
from quell.model.policy import Expected, Policy, PolicyType, ProcessNode, Ruleset
from quell.model.rule import Source

FOLDER = Path(__file__).resolve().parents[2] / "../shared/samples/policies"


class Loads(NamedTuple):
    """warnings: what each says."""

    type: str
    warnings: tuple[str, ...] = ()


class Refused(NamedTuple):
    """why: (path, message) of each problem."""

    why: tuple[tuple[str, str], ...]


class Fragment(NamedTuple):
    """A piece of a document, by the file's own first line. first: where it begins."""


class Record(NamedTuple):
    """What a system says that it saw; told: why it is no document."""

    told: str


_DIRECT = "image directly in a selector is an older form: write matchFields: {image: ...}"
_WHOLE = Loads("container")
_RECORD = Record("a record, no document")

SAMPLES: dict[str, Loads | Refused | Fragment | Record] = {
    "01_response-actions_main_example.yaml": Loads(
        # The page's own example and its table of actions disagree.
        "cluster",
        ("agentKillProcess is unusual for a cluster policy",),
    ),
    "02_default_response_created_by_spyctl.yaml": Fragment(),
    "03_agentKillProcess_podSelector_dev.fragment.yaml": Fragment(),
    "04_agentKillPod_podSelector_staging.fragment.yaml": Fragment(),
    "05_webserver_policy_full.yaml": Loads("container", (_DIRECT,)),
    "06_cluster_rogue_image_enforce.yaml": Loads("cluster"),
    "06b_cluster_rogue_image_AS_PRINTED_INVALID.yaml": Refused(
        # "actions sits under spec, not under response"
        (("spec.response", 'missing field "actions"'), ("spec", 'unknown field "actions"'))
    ),
    "07_trace_suppression_policy.yaml": Loads("trace"),
    "08_ruleset_empty.yaml": Loads("cluster"),
    "09_rule_namespace_scoped.fragment.yaml": Fragment(),
    "10_selectors_pod_namespace.fragment.yaml": Fragment(),
    "11_webhook_action_OBSOLETE.fragment.yaml": Fragment(),
    "12_disabled_policy.fragment.yaml": Fragment(),
    # "Pre-dates required spec.mode"
    "13_library_pause_policy.yaml": Refused((("spec", 'missing field "mode": add "mode: audit" to spec'),)),
    "14_container_policy_test.yaml": Loads("container", (_DIRECT,)),
    "15_container_policy_enforce_mock.yaml": Loads("container", (_DIRECT,)),
    "16_cluster_policy_applied.yaml": Loads("cluster"),
    "17_cluster_ruleset.yaml": Loads("cluster"),
    "18_cluster_deviation.yaml": Record("a GuardianDeviation is no document but a finding"),
    "19_cluster_ruleset_after_merge.yaml": Loads("cluster"),
    "20_workload_deviations.json": Record("expected a document with apiVersion, kind, metadata and spec, got a list"),
    **{
        f"{name}.yaml": _WHOLE
        for name in (
            "r1_makeRedFlag",
            "r2_makeOpsFlag",
            "r3_agentKillPod_netcat",
            "r4_agentKillPod_all",
            "r5_agentKillProcess_bash",
            "r6_agentKillProcess_all",
            "r7_agentKillProcessGroup_bash",
            "r8_agentKillProcessGroup_all",
            "r9_agentKillProcessTree_all",
            "r10_agentReniceProcess",
        )
    },
    "record_container.json": _RECORD,
    "record_deviation.json": _RECORD,
    "record_fingerprint.json": Record("a SpyderbatFingerprint is no document"),
    "record_opsflag.json": _RECORD,
    # A Kubernetes object within a record of its own: it has a kind.
    "record_pod.json": Record('missing field "apiVersion"'),
    "record_process.json": _RECORD,
    "record_redflag.json": _RECORD,
    "record_spydertrace.json": _RECORD,
}

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the shared samples are not beside this checkout")


def test_every_sample_has_an_expectation_and_every_expectation_a_sample() -> None:
    assert {file.name for file in FOLDER.iterdir()} == set(SAMPLES)


@pytest.mark.parametrize("name", [name for name, sample in SAMPLES.items() if isinstance(sample, Loads)])
def test_whole_documents_load_unchanged(name: str) -> None:
    expected = SAMPLES[name]
    assert isinstance(expected, Loads)
    documents = load_paths([FOLDER / name])
    [thing] = (*documents.policies, *documents.rulesets)
    assert thing.type.value == expected.type
    told = [warning.message for warning in documents.warnings]
    assert len(told) == len(expected.warnings)
    assert all(message.startswith(start) for message, start in zip(told, expected.warnings, strict=True))
    again = load_values([to_document(thing)])
    [back] = (*again.policies, *again.rulesets)
    assert _placeless(back) == _placeless(thing)
    assert again.warnings == tuple(warning for warning in again.warnings if "unusual" in warning.message)


@pytest.mark.parametrize("name", [name for name, sample in SAMPLES.items() if isinstance(sample, Refused)])
def test_wrong_documents_are_refused_for_the_reason_written_in_them(name: str) -> None:
    expected = SAMPLES[name]
    assert isinstance(expected, Refused)
    with pytest.raises(DocumentError) as caught:
        load_paths([FOLDER / name])
    found = caught.value.problems
    assert [problem.path for problem in found] == [path for path, _ in expected.why]
    assert all(problem.message.startswith(message) for problem, (_, message) in zip(found, expected.why, strict=True))


@pytest.mark.parametrize("name", [name for name, sample in SAMPLES.items() if isinstance(sample, Fragment)])
def test_pieces_of_documents_are_told_what_is_missing(name: str) -> None:
    assert "FRAGMENT" in (FOLDER / name).read_text().split("\n")[0] or ".fragment." in name
    with pytest.raises(DocumentError) as caught:
        load_paths([FOLDER / name])
    assert [problem.message for problem in caught.value.problems] == [
        'missing field "apiVersion"',
        'missing field "kind"',
    ]


@pytest.mark.parametrize("name", [name for name, sample in SAMPLES.items() if isinstance(sample, Record)])
def test_records_are_no_documents(name: str) -> None:
    expected = SAMPLES[name]
    assert isinstance(expected, Record)
    with pytest.raises(DocumentError) as caught:
        load_paths([FOLDER / name])
    assert caught.value.problems[0].message.startswith(expected.told)


def test_what_a_large_sample_expects() -> None:
    [policy] = load_paths([FOLDER / "15_container_policy_enforce_mock.yaml"]).policies
    expected = policy.expected
    assert (policy.uid, policy.type) == ("pol:VRQaaJkukIl6Au1C0PrT", PolicyType.CONTAINER)
    assert [node.id for node in expected.processes or ()] == ["sh_0", "python_2"]
    assert len(_below(expected)) == 13
    assert expected.ingress is not None
    assert [len(rule.peers) for rule in expected.ingress] == [7]
    assert [rule.processes for rule in expected.egress or ()] == [(f"python_{n}",) for n in (1, 0, 3, 1, 0, 2)]


def _below(expected: Expected) -> list[ProcessNode]:
    def nodes(several: tuple[ProcessNode, ...]) -> list[ProcessNode]:
        return [one for node in several for one in (node, *nodes(node.children))]

    return nodes(expected.processes or ())


def _placeless(thing: Policy | Ruleset) -> Policy | Ruleset:
    return msgspec.structs.replace(thing, source=Source())
