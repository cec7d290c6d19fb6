"""A target for atheris: python fuzz_documents.py text|rule [libFuzzer's options] CORPUS.

text: any bytes as a file. rule: the bytes in the place of a rule's criteria, so that more of them get past YAML.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["quell.documents", "quell.catalogue.forms", "quell.controller.rulebook"]):
    from quell.controller.rulebook import alone
    from quell.documents.load import load_text

from quell.errors import DocumentError

HEAD = b"apiVersion: quell.dev/v1\nkind: ResponseRule\nmetadata: {name: r}\nspec:\n  event: "


def text(data: bytes) -> None:
    try:
        alone(load_text(data))
    except DocumentError as error:
        if not error.problems:
            raise AssertionError("an error that names no problem") from error


def rule(data: bytes) -> None:
    text(HEAD + data)


if __name__ == "__main__":
    target = {"text": text, "rule": rule}[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
