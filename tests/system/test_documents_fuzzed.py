"""The document loader under a fuzzer that is guided by coverage: bounded runs, memory and time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").rglob("*.yaml"))
#: Beginnings of what each target puts its bytes behind.
BEGINNINGS = {
    "policy": b"""\
  processPolicy:
  - {id: sh_0, name: sh, exe: [/bin/sh], euser: [root], listeningSockets: [{port: 80, endPort: 81, protocol: TCP}]}
  networkPolicy:
    ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}], processes: [sh_0], ports: [{port: 80}]}]
    egress: [{to: [{dnsSelector: [a.b]}], ports: [{port: 53, protocol: UDP}]}]
  disableConnections: egress
  response:
    default: [{makeRedFlag: {severity: high}}, {}]
    actions: [{agentKillPod: {podSelector: {matchExpressions: [{key: a, operator: In, values: [b]}]}}}]
""",
    "ruleset": b"""\
  - {target: "process::exe", verb: allow, values: ["/bin/*"], processSelector: {name: [sh]}}
  - {target: "container::image", verb: deny, values: [a], namespaceSelector: {matchLabels: {b: c}}}
""",
}


@pytest.mark.parametrize("target", ["text", "rule", "policy", "ruleset"])
def test_guided_by_coverage(target: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris has no wheel for this Python")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, path in enumerate(EXAMPLES):
        (corpus / str(number)).write_bytes(path.read_bytes())
    (corpus / "beginning").write_bytes(BEGINNINGS.get(target, b""))
    limits = ["-runs=6000", "-max_total_time=20", "-rss_limit_mb=700", "-max_len=2048", "-timeout=10", "-seed=7"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "support" / "fuzz_documents.py"), target, *limits, str(corpus)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Done" in done.stderr
