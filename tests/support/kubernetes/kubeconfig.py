"""Kubeconfigs and service accounts as a machine has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def kubeconfig(file: Path, server: str, *, user: dict[str, Any], cluster: dict[str, Any] | None = None) -> Path:
    """One context, "here", of a cluster called "blue". JSON is YAML."""
    file.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "blue", "cluster": {"server": server, **(cluster or {})}}],
                "users": [{"name": "quell", "user": user}],
                "contexts": [{"name": "here", "context": {"cluster": "blue", "user": "quell"}}],
                "current-context": "here",
            }
        )
    )
    return file


def service_account(folder: Path, token: str, authority: Path) -> Path:
    """The files that Kubernetes mounts into a pod."""
    folder.mkdir()
    (folder / "token").write_text(token)
    (folder / "namespace").write_text("quell")
    (folder / "ca.crt").write_bytes(authority.read_bytes())
    return folder
