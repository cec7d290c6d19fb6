"""Sessions of `quell login NAME`, one a controller: ~/.config/quell/credentials.toml, for its owner only."""

from __future__ import annotations

import json
import os
import secrets
import time
import tomllib
from pathlib import Path

import msgspec
from msgspec import Struct


class Credential(Struct, frozen=True):
    user: str
    #: Of the session, not a password.
    token: str
    #: Epoch seconds.
    expires: float


def path() -> Path:
    """Where they are, by the XDG base directory specification."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "quell" / "credentials.toml"


def find(url: str) -> Credential | None:
    """None: there is none, it has expired, or it cannot be read."""
    credential = _kept().get(url.rstrip("/"))
    return credential if credential is not None and credential.expires > time.time() else None


def keep(url: str, credential: Credential) -> None:
    """OSError if it cannot be written."""
    _write({**_kept(), url.rstrip("/"): credential})


def drop(url: str) -> None:
    kept = _kept()
    if kept.pop(url.rstrip("/"), None) is not None:
        _write(kept)


def _kept() -> dict[str, Credential]:
    try:
        return msgspec.convert(tomllib.loads(path().read_text("utf-8")), dict[str, Credential])
    except (OSError, ValueError):
        return {}  # not there, not ours to read, or damaged: a login writes it anew


def _write(kept: dict[str, Credential]) -> None:
    """Those that have expired go. Written beside and moved into place, so that nobody reads a half."""
    file = path()
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        for url, credential in kept.items():
            if credential.expires > time.time():
                # A JSON text is a TOML text as well.
                out.write(f"[{json.dumps(url)}]\n")
                out.writelines(
                    f"{name} = {json.dumps(value)}\n" for name, value in msgspec.structs.asdict(credential).items()
                )
    fresh.replace(file)
