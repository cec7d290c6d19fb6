"""Real containers for tests: podman as root with a store, locks and settings of its own, apart from the machine's."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

IMAGE = "localhost/quell-containers:1"

_SETTINGS = """\
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=10000:10000"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
tmp_dir = "{folder}/tmp"
"""
_STORAGE = """\
[storage]
driver = "{driver}"
graphroot = "{folder}/graph"
runroot = "{folder}/run"
"""


class Podman:
    def __init__(self, folder: Path, driver: str) -> None:
        self.folder = folder
        settings, storage = folder / "containers.conf", folder / "storage.conf"
        settings.write_text(_SETTINGS.format(folder=folder))
        storage.write_text(_STORAGE.format(folder=folder, driver=driver))
        self.environment = {
            **os.environ,
            "CONTAINERS_CONF": str(settings),
            "CONTAINERS_STORAGE_CONF": str(storage),
        }

    def __call__(self, *words: str) -> str:
        done = subprocess.run(
            ["podman", *words], env=self.environment, capture_output=True, text=True, timeout=90, check=False
        )
        assert done.returncode == 0, f"podman {' '.join(words)}: {done.stderr}"
        return done.stdout.strip()

    def run(self, name: str, *options: str) -> str:
        """The id of a container that sleeps, with no network of its own unless the options say so."""
        network = () if any(option.startswith(("--network", "--pod")) for option in options) else ("--network=none",)
        return self("run", "--detach", "--name", name, *network, *options, IMAGE)


def missing() -> str:
    """Why there can be no real containers here; "" if there can."""
    if os.geteuid() != 0:
        return "real containers need root"
    lacking = [program for program in ("podman", "runc", "busybox") if shutil.which(program) is None]
    return f"not installed: {' '.join(lacking)}" if lacking else ""


@contextmanager
def podman(folder: Path) -> Iterator[Podman]:
    """With an image of one busybox that sleeps. Everything is removed at the end."""
    # Overlay does not stack on the overlay that a machine in a container lives on.
    running = Podman(folder, "overlay" if _can_overlay(folder) else "vfs")
    archive = folder / "image.tar"
    with tarfile.open(archive, "w") as image:
        image.add(shutil.which("busybox") or "", "bin/busybox")
        for applet in ("sh", "sleep"):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            image.addfile(link)
    running("import", "--change", 'ENTRYPOINT ["sleep", "600"]', str(archive), IMAGE)
    try:
        yield running
    finally:
        running("pod", "rm", "--all", "--force", "--time", "0")
        running("rm", "--all", "--force", "--time", "0")
        for mount in (folder / "graph" / "overlay", folder / "graph"):
            subprocess.run(["umount", "--lazy", str(mount)], check=False, capture_output=True)


def _can_overlay(folder: Path) -> bool:
    parts = [folder / name for name in ("lower", "upper", "work", "merged")]
    for part in parts:
        part.mkdir()
    lower, upper, work, merged = map(str, parts)
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    done = subprocess.run(
        ["mount", "-t", "overlay", "-o", options, "overlay", merged], check=False, capture_output=True
    )
    if done.returncode == 0:
        subprocess.run(["umount", merged], check=True)
    return done.returncode == 0
