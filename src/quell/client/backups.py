from __future__ import annotations

import os
import secrets
from pathlib import Path

import httpx

from quell.client.session import Session, problem
from quell.disk import sync_folder
from quell.errors import Unreachable
from quell.storage import archive
from quell.storage.archive import Manifest, Progress, unseen

#: Seconds that a controller may take to make a backup before it answers.
_PATIENCE = 1800.0


class Backups:
    """Copies of everything a controller needs to be the same again."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def save(self, path: Path, *, force: bool = False, told: Progress = unseen) -> Manifest:
        """Takes a backup and keeps it at `path`, mode 0600, once it has come whole and was checked.

        What was acknowledged before the call is in it. force: replace a file that is there. Raises FileExistsError,
        OSError, StoreError (it came damaged).
        """
        if not force and path.exists():
            raise FileExistsError(17, "there is a file already; --force replaces it", str(path))
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            self._download(fresh, told)
            manifest = archive.read(fresh, told=told)
            if force:
                fresh.replace(path)
            else:
                os.link(fresh, path)  # unlike rename, it never replaces a file that has come meanwhile
        finally:
            fresh.unlink(missing_ok=True)
        sync_folder(path.parent)
        return manifest

    def _download(self, to: Path, told: Progress) -> None:
        http = self._session.http
        timeout = httpx.Timeout(30.0, read=_PATIENCE)
        told("prepare", 0, 1)
        with os.fdopen(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            try:
                with http.stream("GET", "/v1/backup", timeout=timeout) as response:
                    told("prepare", 1, 1)
                    if response.is_error:
                        response.read()
                        raise problem(response)
                    total = int(response.headers.get("content-length", 0))
                    for part in response.iter_raw(1 << 18):
                        file.write(part)
                        told("download", file.tell(), total)
            except httpx.TransportError as error:
                raise Unreachable(f"no whole backup came from {http.base_url}: {error}") from error
            file.flush()
            os.fsync(file.fileno())
