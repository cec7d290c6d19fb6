"""Key files: private, whole or absent, and one for all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from quell.channel.keys import load_or_create_key, public_key, public_text, save_private
from quell.errors import LinkError


def test_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "key"
    first = load_or_create_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_or_create_key(path).private_bytes_raw() == first.private_bytes_raw()
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


def test_two_processes_get_the_same_key(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from quell.channel.keys import load_or_create_key; sys.stdin.readline();"
        "print(load_or_create_key(pathlib.Path(sys.argv[1])).private_bytes_raw().hex())"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "key")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in started:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    assert len({process.communicate(timeout=30)[0] for process in started}) == 1


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    load_or_create_key(path)
    path.chmod(0o640)
    with pytest.raises(LinkError, match="chmod 600"):
        load_or_create_key(path)


def test_no_key_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    save_private(path, b"nothing")
    with pytest.raises(LinkError, match="no private key"):
        load_or_create_key(path)


def test_save_private_replaces(tmp_path: Path) -> None:
    path = tmp_path / "agent.json"
    path.write_bytes(b"old")
    path.chmod(0o644)
    save_private(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600


def test_text_of_a_public_key() -> None:
    key = Ed25519PrivateKey.generate().public_key()
    assert public_key(f" {public_text(key)}\n") == key
    for wrong in ("", "rsa:AAAA", "ed25519:AAAA", "ed25519:?", public_text(key)[:-4]):
        with pytest.raises(LinkError):
            public_key(wrong)
