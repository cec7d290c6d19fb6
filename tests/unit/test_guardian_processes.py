"""Processes and their sockets against processPolicy: what is expected, and what the deviation says. SEMANTICS 5."""

from __future__ import annotations

import msgspec
import pytest
from tests.guardian import IMAGE, listens, node, policy, seen, selector, service, step, workload

from quell.guardian.guard import Guard, event_name
from quell.guardian.merging import merge
from quell.model.details import Deviation
from quell.model.observation import Observation, Seen
from quell.model.policy import PROCESS_DEPTH_LIMIT, Expected, Policy, PolicyType, SelectorKind

SH, NGINX, PYTHON, LS = step("sh"), step("nginx"), step("python3"), step("ls")
WORKER = step("nginx", "www-data")
WEB = policy(
    node("sh", node("nginx", node("ls"), ports=(80,)), users=("root",)),
    node("nginx", users=("root", "www-*"), ports=(443,), identifier="nginx_1"),
)


def compared(observation: Observation, written: Policy = WEB) -> Deviation | None:
    [watch] = Guard([written], []).watches(observation.subject)
    return watch.compare(observation)


def deviates(observation: Observation, written: Policy = WEB) -> Deviation:
    found = compared(observation, written)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "chain",
    [
        (SH,),
        (SH, SH),
        (SH, SH, NGINX),
        (SH, NGINX, NGINX, LS),
        (NGINX,),
        (NGINX, WORKER),
        (WORKER,),
    ],
)
def test_what_a_path_of_the_tree_fits_is_expected_and_copies_stay_on_their_node(
    chain: tuple[tuple[str, str, str], ...],
) -> None:
    assert compared(seen(*chain)) is None
    assert compared(seen(*chain, what=Seen.RUNNING)) is None


def test_a_new_program_is_told_below_the_deepest_node_that_was_reached() -> None:
    found = deviates(seen(SH, NGINX, SH, step("curl")))
    assert found.what == "process"
    assert found.addition == {
        "processPolicy": [
            {
                "policyNode": {
                    "id": "nginx_0",
                    "children": [
                        {
                            "id": "sh_1",
                            "name": "sh",
                            "exe": ["/usr/bin/sh"],
                            "euser": ["root"],
                            "children": [
                                {"id": "curl_0", "name": "curl", "exe": ["/usr/bin/curl"], "euser": ["root"]},
                            ],
                        }
                    ],
                }
            }
        ]
    }
    assert found.message == ("process curl of root (/usr/bin/curl), started by sh, is not expected by policy web")
    assert (found.policy, found.policy_type, found.mode, found.unproven) == ("web", "container", "enforce", "")
    assert event_name(found) == "Process.Profile.Violation"


def test_what_begins_outside_is_a_new_root() -> None:
    found = deviates(seen(LS))
    assert found.addition == {
        "processPolicy": [{"id": "ls_1", "name": "ls", "exe": ["/usr/bin/ls"], "euser": ["root"]}]
    }


@pytest.mark.parametrize(
    "chain",
    [
        (step("sh", exe="/tmp/sh"),),
        (step("SH", exe="/usr/bin/sh"),),
        (step("sh", "nobody"),),
        (SH, step("nginx", "nobody")),
        (SH, LS),
        (NGINX, step("nginx", exe="/tmp/nginx")),
    ],
)
def test_name_executable_user_and_place_all_count(chain: tuple[tuple[str, str, str], ...]) -> None:
    assert deviates(seen(*chain)).unproven == ""


def test_globs_several_executables_and_none() -> None:
    written = policy(
        node("py*", node("any", exe=()), exe=("/usr/bin/python3.[0-9]", "/opt/*/python"), users=("app-?",)),
    )
    app = ("python", "/opt/a/b/python", "app-1")
    assert compared(seen(app), written) is None
    assert compared(seen(("python3", "/usr/bin/python3.9", "app-2")), written) is None
    assert compared(seen(app, ("any", "/var/x", "app-1")), written) is None
    assert deviates(seen(("python3", "/usr/bin/python3.11", "app-2")), written)
    assert deviates(seen(app, ("any", "/var/x", "root")), written), "users are inherited"


def test_repeats_have_one_checksum_and_different_programs_have_not() -> None:
    curl = step("curl")
    first = deviates(seen(SH, curl, pid=1))
    again = deviates(seen(SH, SH, curl, curl, pid=2, what=Seen.RUNNING))
    assert first.checksum == again.checksum
    others = [
        deviates(seen(SH, NGINX, curl)),
        deviates(seen(SH, step("curl", "nobody"))),
        deviates(seen(SH, step("curl", exe="/tmp/curl"))),
        deviates(seen(SH, curl), msgspec.structs.replace(WEB, name="other")),
        deviates(seen(SH, curl), msgspec.structs.replace(WEB, uid="pol:1")),
    ]
    assert len({first.checksum, *(other.checksum for other in others)}) == len(others) + 1
    grown = policy(*WEB.expected.processes or (), node("curl", users=("nobody",)))
    assert deviates(seen(SH, curl), grown).checksum == first.checksum, "ids that are free do not count"


@pytest.mark.parametrize(
    ("chain", "unproven"),
    [
        (((None, "/usr/bin/sh", "root"),), "a process's name is not known"),
        ((("sh", None, "root"),), "the executable of sh is not known"),
        ((SH, ("nginx", "/usr/bin/nginx", None)), "the user of nginx is not known"),
        ((("sh", None, "root"), NGINX), "the executable of sh is not known"),
    ],
)
def test_a_missing_fact_that_could_allow_it_makes_it_unproven(
    chain: tuple[tuple[str, str, str], ...], unproven: str
) -> None:
    found = deviates(seen(*chain))
    assert found.unproven == unproven


def test_a_missing_fact_that_changes_nothing_leaves_it_proved() -> None:
    assert deviates(seen(("nc", None, "root"))).unproven == ""
    assert deviates(seen(("nc", None, "root"))).addition == {}, "what is not known is not written down"
    assert compared(seen(("any", None, None)), policy(node("any", exe=()))) is None, "nothing is asked of it"


def test_without_its_beginning_a_chain_is_expected_for_nobody_and_possible_anywhere() -> None:
    inner = deviates(seen(NGINX, LS, is_whole=False))
    assert inner.unproven == "what started nginx is not known"
    assert inner.addition == {}
    assert deviates(seen(LS, NGINX, is_whole=False)).unproven == "", "nowhere does nginx follow ls"


def test_a_chain_of_any_length_is_compared_in_its_innermost_part() -> None:
    assert compared(seen(*[SH] * 100, NGINX)) is None
    assert deviates(seen(*[SH] * 3000, NGINX)).unproven == "what started sh is not known"
    assert deviates(seen(*[SH] * 3000, step("curl"))).unproven == ""


def test_what_would_be_deeper_than_a_policy_may_be_has_no_addition() -> None:
    chain = [SH, *(step(f"a{n}") for n in range(PROCESS_DEPTH_LIMIT - 1))]
    found = deviates(seen(*chain))
    assert found.addition
    assert compared(seen(*chain), merge(WEB, [found])) is None
    assert deviates(seen(*chain, LS)).addition == {}
    assert deviates(seen(*chain, LS)).unproven == ""


def test_what_is_long_is_compared_without_being_remembered() -> None:
    [watch] = Guard([WEB], []).watches(workload())
    for n in range(3):
        far = step("x", exe=f"/{n}{'y' * 4000}")
        found = watch.compare(seen(SH, far))
        assert found is not None
        assert watch.compare(seen(SH, far)) == found
        assert watch.compare(seen(SH, NGINX)) is None


def test_sockets_of_every_node_that_it_may_be_on_count() -> None:
    assert compared(listens(SH, NGINX, port=80)) is None
    assert compared(listens(NGINX, WORKER, port=443)) is None
    found = deviates(listens(SH, NGINX, port=8080, protocol="UDP"))
    assert found.what == "process"
    assert found.addition == {
        "processPolicy": [{"policyNode": {"id": "nginx_0", "listeningSockets": [{"protocol": "UDP", "port": 8080}]}}]
    }
    assert "listens on UDP 8080" in found.message
    assert deviates(listens(SH, NGINX, port=80, protocol="UDP"))
    assert deviates(listens(SH, NGINX, port=443)), "listed elsewhere"


def test_a_new_program_that_listens_is_told_with_its_socket() -> None:
    found = deviates(listens(SH, step("nc"), port=4444))
    [told] = found.addition["processPolicy"]
    assert told["policyNode"]["children"][0]["listeningSockets"] == [{"protocol": "TCP", "port": 4444}]
    assert found.checksum != deviates(seen(SH, step("nc"))).checksum


def test_without_a_process_policy_processes_are_not_compared_and_an_empty_one_expects_none() -> None:
    nothing_said = policy(expected=Expected(egress=()))
    assert compared(seen(LS), nothing_said) is None
    assert compared(listens(LS, port=1), nothing_said) is None
    found = deviates(seen(SH, LS), policy(expected=Expected(processes=())))
    assert found.addition["processPolicy"][0]["name"] == "sh"


def test_where_processes_are_disabled_every_one_deviates_and_nothing_allows_it() -> None:
    written = policy(expected=Expected(processes=WEB.expected.processes, no_processes=True))
    found = deviates(seen(SH), written)
    assert found.addition == {}
    assert "allows no process" in found.message
    assert deviates(listens(SH, port=80), written).checksum == found.checksum
    assert deviates(seen(SH, NGINX), written).checksum != found.checksum


def test_scopes_choose_among_policies() -> None:
    exact = selector(SelectorKind.CONTAINER, "image", "docker.io/library/web:1", "docker.io/library/web:2")
    pods = selector(SelectorKind.POD, "app", "web")
    units = selector(SelectorKind.SERVICE, "name", "web.service")
    policies = [
        policy(name="glob"),
        policy(name="exact", scope=(exact,)),
        policy(name="other", scope=(selector(SelectorKind.CONTAINER, "image", "docker.io/library/db:1"),)),
        policy(name="pods", scope=(IMAGE, pods)),
        policy(name="unit", type_=PolicyType.LINUX_SERVICE, scope=(units,)),
        policy(name="off", enabled=False),
        policy(name="pending", rulesets=("not there",)),
        Policy(name="hidden", type=PolicyType.TRACE, mode=WEB.mode, scope=(IMAGE,)),
    ]
    guard = Guard(policies, [])

    def names(subject: object) -> list[str]:
        return [watch.policy.name for watch in guard.watches(subject)]  # type: ignore[arg-type]

    assert names(workload()) == ["glob", "exact", "pods"]
    assert names(workload(pod=None)) == ["glob", "exact"], "in no pod, no podSelector takes it"
    assert names(workload(image=None)) == ["glob", "exact", "other", "pods"], "it may be any"
    assert names(service()) == ["unit"]
    assert names(workload(service="web.service")) == ["glob", "exact", "pods"], "a service of Kubernetes is no unit"


def test_a_scope_that_is_not_proved_is_said_by_every_deviation() -> None:
    subject = workload(image=None)
    [watch] = Guard([WEB], []).watches(subject)
    found = watch.compare(seen(LS, at=subject))
    assert found is not None
    assert found.unproven == "it is not known whether policy web is for it"
    assert watch.compare(seen(SH, at=subject)) is None


def test_services_are_hosts() -> None:
    units = selector(SelectorKind.SERVICE, "name", "web.service")
    written = policy(node("sh"), type_=PolicyType.LINUX_SERVICE, scope=(units,))
    assert event_name(deviates(seen(LS, at=service()), written)) == "Host.Process.Violation"


def test_a_pattern_that_cannot_be_read_is_said_at_once() -> None:
    with pytest.raises(ValueError, match="z-a"):
        Guard([policy(node("x[z-a]"))], [])
    with pytest.raises(ValueError, match="z-a"):
        Guard([policy(scope=(selector(SelectorKind.CONTAINER, "image", "[z-a]"),))], [])
