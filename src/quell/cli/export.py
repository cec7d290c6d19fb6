"""export: the documents in force, as files that can be applied elsewhere or kept under version control."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from quell.cli.connection import connect
from quell.errors import QuellError

#: Bytes of a file's name that come from the document's; a longer one is cut and told apart by a hash.
_NAME = 120
_RULES = "responserules.yaml"


def export(
    context: typer.Context,
    *,
    kind: Annotated[str | None, typer.Option("--kind", help="Only this kind: rules, groups, ...")] = None,
    source: Annotated[str | None, typer.Option("--source", help="Only what this source applied.")] = None,
    secrets: Annotated[
        bool, typer.Option("--secrets", help="With the secrets of webhooks in place of (secret). For admins.")
    ] = False,
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", help="A file, or FOLDER/ for a file a document, rules together; default: here."),
    ] = None,
) -> None:
    """Write the documents in force as YAML, which applied to another controller gives the same.

    Rules are written in their order, which is the order they get elsewhere. Without --secrets a controller that has not got these webhooks already will ask for what (secret) stands for.
    """
    with connect(context) as client:
        text = client.documents.export(kind, source, secrets=secrets)
    if output is None:
        sys.stdout.write(text)
    elif output.endswith("/") or Path(output).is_dir():
        print(f"{_write_folder(Path(output), text)} documents in {output}")
    else:
        _write(Path(output), text)


def _write_folder(folder: Path, text: str) -> int:
    """QuellError: other documents are there, which applied with these would come back."""
    from quell.documents.write import SEPARATOR, split

    found: dict[str, list[str]] = {}
    for document in split(text):
        found.setdefault(file_name(document), []).append(document)
    files = {name: SEPARATOR.join(documents) for name, documents in found.items()}
    folder.mkdir(parents=True, exist_ok=True)
    strange = sorted({path.name for path in folder.rglob("*") if path.suffix in {".yaml", ".yml"}} - set(files))
    if strange:
        raise QuellError(
            f"{folder} holds documents that are not in force, such as {strange[0]}: remove them or take another folder"
        )
    for name, document in files.items():
        _write(folder / name, document)
    return sum(map(len, found.values()))


def file_name(document: str) -> str:
    """Such as group-shop.yaml, whatever the document's name has in it. Rules share a file, which keeps their order."""
    import yaml

    loaded = yaml.safe_load(document)
    if loaded["kind"] == "ResponseRule":
        return _RULES
    kind, name = str(loaded["kind"]).lower(), str(loaded["metadata"]["name"])
    written = quote(name, safe=" ")
    if len(written) > _NAME:
        written = f"{written[:_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return f"{kind}-{written}.yaml"


def _write(path: Path, text: str) -> None:
    """Secrets may be in it, so that only the owner may read a new file."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
