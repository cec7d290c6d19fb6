"""Policies and rulesets made from what was seen, as documents that people read."""

from __future__ import annotations

import pytest
from tests.guardian import connects, listens, seen, selector, service, step, workload

from quell.documents.load import load_text
from quell.documents.write import dump_yaml
from quell.guardian.fingerprint import Fingerprint, Kind, add
from quell.guardian.learning import policy_from, ruleset_from
from quell.model.observation import Observation
from quell.model.policy import Direction, PolicyType, SelectorKind

SH, NGINX, WORKER = step("sh"), step("nginx"), step("nginx", "www-data")


def learned(*some: Observation, kind: Kind = Kind.IMAGE, name: str = "docker.io/library/web:1") -> Fingerprint:
    made = Fingerprint(kind=kind, name=name)
    for each in some:
        add(made, each)
    return made


def test_a_policy_reads_like_one_that_a_person_wrote() -> None:
    made = learned(
        seen(SH),
        seen(SH, step("ls")),
        listens(SH, NGINX, port=80),
        seen(SH, NGINX, WORKER),
        connects(SH, NGINX, WORKER, ip="10.0.0.7", port=80, direction=Direction.INGRESS),
        connects(SH, NGINX, WORKER, ip="10.0.0.5", port=80, direction=Direction.INGRESS),
        connects(SH, NGINX, WORKER, dns="db.shop.svc", port=5432),
        connects(SH, step("curl"), dns="db.shop.svc", port=5432),
    )
    assert (
        dump_yaml([policy_from([made], "web")])
        == """\
apiVersion: quell.dev/v1
kind: Policy
metadata:
  name: web
  type: container
spec:
  mode: audit
  containerSelector:
    matchFields:
      image: docker.io/library/web:1
  processPolicy:
  - id: sh_0
    name: sh
    exe:
    - /usr/bin/sh
    euser:
    - root
    children:
    - id: ls_0
      name: ls
      exe:
      - /usr/bin/ls
    - id: nginx_0
      name: nginx
      exe:
      - /usr/bin/nginx
      listeningSockets:
      - protocol: TCP
        port: 80
      children:
      - id: nginx_1
        name: nginx
        exe:
        - /usr/bin/nginx
        euser:
        - www-data
    - id: curl_0
      name: curl
      exe:
      - /usr/bin/curl
  networkPolicy:
    ingress:
    - from:
      - ipBlock:
          cidr: 10.0.0.5/32
      - ipBlock:
          cidr: 10.0.0.7/32
      processes:
      - nginx_1
      ports:
      - protocol: TCP
        port: 80
    egress:
    - to:
      - dnsSelector:
        - db.shop.svc
      processes:
      - nginx_1
      - curl_0
      ports:
      - protocol: TCP
        port: 5432
  response:
    default:
    - makeRedFlag:
        severity: high
    actions: []
"""
    )


def test_of_nothing_seen_nothing_is_expected() -> None:
    written = policy_from([learned()], "web")
    assert (written.expected.processes, written.expected.ingress, written.expected.egress) == ((), (), ())


def test_a_service_is_known_by_its_control_group_or_its_name() -> None:
    at = service()
    written = policy_from([learned(seen(SH, at=at), kind=Kind.SERVICE, name=at.service_cgroup or "")], "web")
    assert written.type is PolicyType.LINUX_SERVICE
    assert written.scope == (selector(SelectorKind.SERVICE, "cgroup", "systemd:/system.slice/web.service"),)
    written = policy_from([learned(seen(SH, at=at), kind=Kind.SERVICE, name="web.service")], "web")
    assert written.scope == (selector(SelectorKind.SERVICE, "name", "web.service"),)


def test_several_images_share_a_policy_and_a_scope_may_be_narrower() -> None:
    dev = selector(SelectorKind.NAMESPACE, "env", "dev")
    both = [learned(seen(SH), name="a"), learned(seen(SH), seen(NGINX), name="b[1]")]
    written = policy_from(both, "web", [dev])
    assert written.scope == (selector(SelectorKind.CONTAINER, "image", "a", "b[[]1]"), dev)
    assert [node.id for node in written.expected.processes or ()] == ["sh_0", "nginx_0"]
    assert both[0].size == 1, "the fingerprints stay as they are"
    assert both[0].roots[0].count == 1


def test_what_is_no_one_kind_is_refused() -> None:
    of_service = learned(kind=Kind.SERVICE, name="web.service")
    of_cgroup = learned(kind=Kind.SERVICE, name="systemd:/system.slice/web.service")
    for some, said in (
        ([], "images, or"),
        ([learned(), of_service], "images, or"),
        ([of_service, of_cgroup], "either"),
    ):
        with pytest.raises(ValueError, match=said):
            policy_from(some, "web")  # type: ignore[arg-type]


def test_glob_letters_in_what_was_seen_are_letters() -> None:
    written = policy_from([learned(seen(step("[", exe="/usr/bin/[")))], "web")
    [node] = written.expected.processes or ()
    assert (node.name, node.exe, node.id) == ("[[]", ("/usr/bin/[[]",), "[_0")


def test_a_cluster_may_run_what_it_runs_by_namespace() -> None:
    workloads = [
        workload(namespace=namespace, image=image)
        for namespace, image in (
            ("dev", "web:1"),
            ("prod", "web:1"),
            ("dev", "db:1"),
            ("prod", "db:1"),
            ("ops", "agent:2"),
            (None, "web:1"),
            ("ops", None),
        )
    ]
    ruleset, written = ruleset_from("demo", workloads, "demo-images")
    text = dump_yaml([written, ruleset])
    assert (
        text
        == """\
apiVersion: quell.dev/v1
kind: Policy
metadata:
  name: demo-images
  type: cluster
spec:
  mode: audit
  clusterSelector:
    matchFields:
      name: demo
  rulesets:
  - demo-images_ruleset
  response:
    default:
    - makeRedFlag:
        severity: high
    actions: []
---
apiVersion: quell.dev/v1
kind: Ruleset
metadata:
  name: demo-images_ruleset
  type: cluster
spec:
  rules:
  - target: container::image
    verb: allow
    values:
    - web:1
  - target: container::image
    verb: allow
    values:
    - db:1
    - web:1
    namespaceSelector:
      matchExpressions:
      - key: kubernetes.io/metadata.name
        operator: In
        values:
        - dev
        - prod
  - target: container::image
    verb: allow
    values:
    - agent:2
    namespaceSelector:
      matchLabels:
        kubernetes.io/metadata.name: ops
"""
    )
    assert len(load_text(text).policies) == 1
