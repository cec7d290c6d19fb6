"""The steps of deploy/container/Containerfile that make and install the wheel, run as they stand there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


@pytest.mark.timeout(600)
def test_the_containers_steps_make_a_quell_that_runs(tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "container" / "Containerfile").read_text().replace("\\\n", " ")
    for words in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        *names, target = words.split()
        folder = tmp_path / target.strip("/")
        for name in names:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                folder.mkdir(exist_ok=True, parents=True)
                shutil.copy(ROOT / name, folder)
    (step,) = (line for line in re.findall(r"^RUN (.+)$", text, re.MULTILINE) if "pip install" in line)
    constraints = re.findall(r"^ENV PIP_CONSTRAINT=(\S+)$", text, re.MULTILINE)[0]
    for folder in ("/opt/quell", "/source", "/wheels"):
        step, constraints = (each.replace(folder, f"{tmp_path}{folder}") for each in (step, constraints))
    (tmp_path / "opt").mkdir()
    done = subprocess.run(
        ["sh", "-c", step],
        env=os.environ | {"PIP_CONSTRAINT": constraints},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]

    (wheel,) = (tmp_path / "wheels").glob("quell-*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("quell/")}
    source = ROOT / "src"
    wanted = {str(path.relative_to(source)) for path in (source / "quell").rglob("*") if path.is_file()}
    assert packed == {name for name in wanted if "__pycache__" not in name}
    assert any(name.endswith(".sql") for name in packed)
    assert any(name.endswith(".toml") for name in packed)

    quell = tmp_path / "opt" / "quell" / "bin" / "quell"
    bare = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    for words in (["version"], ["agent", "--help"], ["doctor", "--help"]):
        done = subprocess.run([quell, *words], env=bare, cwd="/", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    started = subprocess.Popen(
        [quell, "controller", "--port", "0", "--state", tmp_path / "state"],
        env=bare,
        cwd="/",
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert started.stderr is not None
        assert any(line.startswith("Quell is ready") for line in started.stderr)
    finally:
        started.terminate()
        started.communicate(timeout=30)
    assert started.returncode == 0
