"""Every command of the README and the guides is run against a real Quell; what they show is what it prints."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from guide import ROOT, Block, Quell, blocks, pattern

from quell.documents.load import load_text
from quell.errors import DocumentError

GENERATED = {"cli.md", "metrics.md", "policies-matrix.md", "reference.md", "response-rules-matrix.md", "settings.md"}
PAGES = [ROOT / "README.md", *sorted(page for page in (ROOT / "docs").glob("*.md") if page.name not in GENERATED)]
IDS = [page.name for page in PAGES]


def is_command(block: Block) -> bool:
    return block.language in {"console", "bash"}


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(map(is_command, blocks(page)))], ids=lambda page: page.name
)
def test_commands_do_what_the_page_says(page: Path, quell: Quell, tmp_path: Path) -> None:
    if os.geteuid() != 0 and "<!-- run as root -->" in page.read_text():
        pytest.skip("the page isolates a network namespace, which takes root")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for block in blocks(page):
        if "file" in block.directives:
            (tmp_path / block.directives["file"]).write_text(block.text)
        if not is_command(block) or "not run" in block.directives:
            continue
        for command, expected in block.commands():
            done = subprocess.run(
                ["bash", "-c", command],
                check=False,
                env=quell.environment,
                cwd=tmp_path,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=60,
            )
            where = f"{page.name}:{block.line}: {command}"
            assert done.returncode == int(block.directives.get("exit", 0)), f"{where}\n{done.stdout}"
            if expected:
                assert pattern(expected).fullmatch(done.stdout), f"{where}\n{done.stdout}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_documents_are_valid(page: Path) -> None:
    for block in blocks(page):
        if block.language != "yaml" or "apiVersion:" not in block.text:
            continue
        if "broken" in block.directives:
            with pytest.raises(DocumentError):
                load_text(block.text, f"{page.name}:{block.line}")
        else:
            load_text(block.text, f"{page.name}:{block.line}")


def test_what_is_not_run_says_why() -> None:
    left_out = {
        f"{page.name}: {block.commands()[0][0]}": block.directives["not run"]
        for page in PAGES
        for block in blocks(page)
        if "not run" in block.directives
    }
    assert left_out == {
        "README.md: make run     # start it here, watch a real netcat die and a namespace go dark, stay up": (
            "tests/docs/test_demo.py runs the demonstration, and make test is what runs this page"
        ),
        "deploy.md: podman build -f deploy/container/Containerfile -t quell .": "fetches a base image",
        "deploy.md: kubectl apply -k deploy/kubernetes": "needs a cluster",
        "deploy.md: kubectl -n quell delete secret quell-join": "needs a cluster",
        "getting-started.md: python3 -m venv .venv && .venv/bin/pip install -c constraints.txt .": (
            "installs into the reader's environment"
        ),
        "getting-started.md: quell up": "it stays; the test has started one for this page",
        "getting-started.md: nc -l 127.0.0.1 4444": "the demonstration does this, with a netcat of its own",
    }


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
