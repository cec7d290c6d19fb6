"""What the build adds to the package: htmx, as the package django-htmx carries it. It is not kept in the repository.

A wheel gets it this way, and so does a checkout that is installed with `pip install -e`. Run as a program in an
environment that has django-htmx it does the same for the checkout it stands in.
"""

from __future__ import annotations

import shutil
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent
SOURCE = "django_htmx/static/django_htmx/htmx-2.min.js"
TARGET = "src/quell/console/static/vendor/htmx.min.js"


class BrowserLibraries(BuildHookInterface[Any]):
    """Hatchling calls it before it packs."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's interface
        """version: standard or editable."""
        fetch(Path(self.root))
        build_data["artifacts"].append(TARGET)


def fetch(root: Path) -> None:
    """PackageNotFoundError, OSError."""
    target = root / TARGET
    target.parent.mkdir(parents=True, exist_ok=True)
    # Its Python part needs Django; only the file is wanted, so the package is not imported.
    shutil.copyfile(str(distribution("django-htmx").locate_file(SOURCE)), target)


if __name__ == "__main__":
    fetch(ROOT)
